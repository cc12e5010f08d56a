"""What an upstream's answer becomes for the client, whichever eras the two are of."""

from __future__ import annotations

from collections.abc import Mapping

from adapters.upstreams.mcp.link import Object
from gateway import codec
from gateway.errors import UpstreamProtocolError
from gateway.types import Call, Result

_LEGACY_NOT_FOUND = -32002
_LEGACY_URL_ELICITATION = -32042
_CACHED = frozenset({"resources/read"})


def result_of(call: Call, message: Object, label: str) -> Result:
    """The result of a completed exchange, in the modern shape.

    Codes that 2026-07-28 retired are replaced (basic/index, "Error Codes"). What policy let one principal read is
    never announced as cacheable for others (server/utilities/caching, "Security").
    """
    error = message.get("error")
    if isinstance(error, Mapping):
        return Result(codec.dumps(_error_of(error)), "rpc_error")
    result = message.get("result")
    if not isinstance(result, dict):
        raise UpstreamProtocolError(f"upstream {label!r} answered without a result")
    kind = result.get("resultType", "complete")
    if kind != "complete":
        raise UpstreamProtocolError(f"upstream {label!r} answered with the unknown resultType {str(kind)[:40]!r}")
    shaped: dict[str, object] = {"resultType": "complete", **result}
    if call.method in _CACHED:
        shaped["ttlMs"] = _ttl_of(result)
        shaped["cacheScope"] = "private"
    return Result(codec.dumps(shaped), "tool_error" if result.get("isError") is True else "ok")


def _ttl_of(result: Object) -> int:
    ttl = result.get("ttlMs")
    return ttl if isinstance(ttl, int) and not isinstance(ttl, bool) and ttl >= 0 else 0


def _error_of(error: Object) -> dict[str, object]:
    shaped = dict(error)
    if error.get("code") == _LEGACY_NOT_FOUND:
        shaped["code"] = -32602
    elif error.get("code") == _LEGACY_URL_ELICITATION:
        shaped["code"] = -31502
    return shaped


def reply_to(result: Result) -> dict[str, object]:
    """A client's answer to a question, as the JSON-RPC response that the upstream gets."""
    value = codec.loads(result.payload)
    return {"error" if result.outcome == "rpc_error" else "result": value}
