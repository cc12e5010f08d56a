"""One POST body and its headers, checked against each other and turned into a request (MCP 2026-07-28, basic)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway import codec
from gateway.headers import decode_value
from gateway.listeners.mcp.methods import MODERN_VERSIONS, SUPPORTED_VERSIONS
from gateway.listeners.mcp.wire import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    RequestId,
    RpcError,
)

META_PREFIX: Final = "io.modelcontextprotocol/"
VERSION_META: Final = META_PREFIX + "protocolVersion"
CAPABILITIES_META: Final = META_PREFIX + "clientCapabilities"
CLIENT_INFO_META: Final = META_PREFIX + "clientInfo"
LOG_LEVEL_META: Final = META_PREFIX + "logLevel"
SUBSCRIPTION_META: Final = META_PREFIX + "subscriptionId"

_ROUTING: Final = (b"mcp-protocol-version", b"mcp-method", b"mcp-name")
_NAMED_BY: Final = {
    **{"tools/call": "name", "prompts/get": "name", "resources/read": "uri"},
    **dict.fromkeys(("tasks/get", "tasks/update", "tasks/cancel"), "taskId"),
}

Object: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Message:
    """A JSON-RPC message from a client: a request (with an id), a notification, or (legacy) a response."""

    raw: Object
    method: str
    params: Object
    request_id: RequestId = None
    is_request: bool = False
    is_response: bool = False


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a modern request says of itself and of its client (basic/index, "Per-request protocol fields")."""

    version: str
    capabilities: Mapping[str, object]
    client_info: Mapping[str, object]
    log_level: str
    progress_token: object


def parse(body: bytes) -> Message:
    """Decode one JSON-RPC message. Raises `RpcError` for anything else, batches included."""
    try:
        raw = codec.loads(body)
    except ValueError:
        raise RpcError(PARSE_ERROR, "Parse error: the body is not JSON") from None
    if not isinstance(raw, dict) or raw.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, "The body must be one JSON-RPC 2.0 message; batches are not supported")
    return _message(raw)  # type: ignore[arg-type]  # a JSON object is an `Object`


def _message(raw: Object) -> Message:
    method = raw.get("method")
    if method is None and "id" in raw and ("result" in raw or "error" in raw):
        return Message(raw, "", {}, request_id=_id_of(raw), is_response=True)
    params = raw.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict):
        raise RpcError(INVALID_REQUEST, "A JSON-RPC message needs a string `method` and, if any, object `params`")
    if "id" not in raw:
        return Message(raw, method, params)
    return Message(raw, method, params, request_id=_id_of(raw), is_request=True)


def _id_of(raw: Object) -> RequestId:
    request_id = raw["id"]
    if isinstance(request_id, bool) or not isinstance(request_id, str | int):
        raise RpcError(INVALID_REQUEST, "The request `id` must be a string or an integer")
    return request_id


def open_envelope(message: Message, headers: Mapping[bytes, list[bytes]]) -> Envelope:
    """Check the envelope of a modern request and its agreement with the headers.

    Raises `RpcError` with the code that the specification names: -32602, -32020 or -32022.
    """
    for name in _ROUTING:
        if len(headers.get(name, ())) > 1:
            raise RpcError(HEADER_MISMATCH, f"Header mismatch: {name.decode()} appears more than once")
    meta = _meta_of(message)
    _agree(message, meta, headers)
    version = meta[VERSION_META]
    if version not in MODERN_VERSIONS:
        raise unsupported(version)
    return _envelope(meta)


def _meta_of(message: Message) -> Object:
    meta = message.params.get("_meta")
    if not isinstance(meta, dict):
        raise RpcError(INVALID_PARAMS, f"params._meta must carry {VERSION_META!r} and {CAPABILITIES_META!r}")
    missing = [key for key in (VERSION_META, CAPABILITIES_META) if key not in meta]
    if missing:
        raise RpcError(INVALID_PARAMS, f"params._meta is missing {', '.join(missing)}")
    return meta


def _agree(message: Message, meta: Object, headers: Mapping[bytes, list[bytes]]) -> None:
    version = _header(headers, b"mcp-protocol-version")
    if version is None or version != meta[VERSION_META]:
        raise RpcError(HEADER_MISMATCH, "Header mismatch: MCP-Protocol-Version does not match the body's _meta")
    if _header(headers, b"mcp-method") != message.method:
        raise RpcError(HEADER_MISMATCH, "Header mismatch: Mcp-Method is missing or does not match the body's method")
    key = _NAMED_BY.get(message.method)
    if key is None:
        return
    named = _header(headers, b"mcp-name")
    if named is None or decode_value(named) != message.params.get(key):
        raise RpcError(HEADER_MISMATCH, f"Header mismatch: Mcp-Name is missing or does not match params.{key}")


def _header(headers: Mapping[bytes, list[bytes]], name: bytes) -> str | None:
    values = headers.get(name)
    return values[0].decode("latin-1") if values else None


def unsupported(version: object) -> RpcError:
    """The negotiation error that lists what this endpoint speaks (basic/versioning)."""
    data = {"supported": list(SUPPORTED_VERSIONS), "requested": version if isinstance(version, str) else str(version)}
    return RpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", data)


def _envelope(meta: Object) -> Envelope:
    capabilities, info = meta[CAPABILITIES_META], meta.get(CLIENT_INFO_META, {})
    level = meta.get(LOG_LEVEL_META, "")
    if not isinstance(capabilities, dict) or not isinstance(info, dict) or not isinstance(level, str):
        raise RpcError(
            INVALID_PARAMS, "params._meta: clientCapabilities and clientInfo must be objects, logLevel a string"
        )
    return Envelope(str(meta[VERSION_META]), capabilities, info, level, meta.get("progressToken"))
