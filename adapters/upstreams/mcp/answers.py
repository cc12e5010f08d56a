"""What an upstream's answer becomes for the client, whichever eras the two are of."""

from __future__ import annotations

from typing import Final

from adapters.upstreams.mcp.link import HEADER_MISMATCH, UNSUPPORTED_VERSION, Object, Reply
from gateway import codec
from gateway.errors import UpstreamProtocolError
from gateway.types import Call, Result

_LEGACY_NOT_FOUND: Final = -32002
_LEGACY_URL_ELICITATION: Final = -32042
_OF_THIS_HOP: Final = frozenset({HEADER_MISMATCH, UNSUPPORTED_VERSION, _LEGACY_URL_ELICITATION})
"""Errors about what the gateway sent, or that clients no longer know: neither is theirs to act on."""


def result_of(call: Call, reply: Reply, label: str) -> Result:
    """The result of a completed exchange, in the modern shape; what needs no change keeps its bytes.

    Codes that 2026-07-28 retired are replaced (basic/index, "Error Codes"). What policy let one principal read is
    never announced as cacheable for others (server/utilities/caching, "Security").
    """
    if reply.error is not None:
        return Result(codec.dumps(_error_of(reply.error)), "rpc_error")
    result = reply.result
    kind = result.get("resultType", "complete")
    if kind != "complete":
        raise UpstreamProtocolError(f"upstream {label!r} answered with the unknown resultType {str(kind)[:40]!r}")
    payload = _uncached(result) if call.method == "resources/read" else _complete(reply)
    return Result(payload, "tool_error" if result.get("isError") is True else "ok")


def _complete(reply: Reply) -> bytes:
    raw, result = reply.raw, reply.result
    if not raw:
        return codec.dumps(result if "resultType" in result else {"resultType": "complete", **result})
    if "resultType" in result:
        return raw
    return b'{"resultType":"complete",' + raw[1:] if result else b'{"resultType":"complete"}'


def _uncached(result: Object) -> bytes:
    ttl = result.get("ttlMs")
    known = type(ttl) is int and ttl >= 0
    fresh = {"ttlMs": ttl if known else 0, "cacheScope": "private"}
    return codec.dumps({"resultType": "complete", **result, **fresh})


def _error_of(error: Object) -> dict[str, object]:
    shaped = dict(error)
    if error.get("code") == _LEGACY_NOT_FOUND:
        shaped["code"] = -32602
    elif error.get("code") in _OF_THIS_HOP:
        shaped["code"] = UpstreamProtocolError.rpc_code
    return shaped


def reply_to(result: Result) -> dict[str, object]:
    """A client's answer to a question, as the JSON-RPC response that the upstream gets."""
    value = codec.loads(result.payload)
    return {"error" if result.outcome == "rpc_error" else "result": value}
