"""Results, events and errors of A2A 0.3 as those of 1.0, and back. Unknown members stay; what cannot be is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.a2a.errors import DOMAIN, EXTENSION_SUPPORT_REQUIRED, FAULTS, VERSION_NOT_SUPPORTED
from gateway.a2a.v03_cards import card_from_03, card_to_dual
from gateway.a2a.v03_objects import JSON
from gateway.a2a.v03_shapes import Kind, NotConvertible, Shape, entries, items, listed

_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
_VALUE: Final = "type.googleapis.com/google.protobuf.Value"

_INVALID_REQUEST: Final = -32600
_UNKNOWN_TO_03: Final = frozenset({EXTENSION_SUPPORT_REQUIRED.code, VERSION_NOT_SUPPORTED.code})


def _kind(shape: Shape) -> Kind:
    return Kind(shape.up, shape.down)


_REPLIES: Final[Mapping[str, tuple[str, Kind]]] = {
    "task": ("task", _kind(JSON.task)),
    "message": ("message", _kind(JSON.message)),
}
_EVENTS: Final[Mapping[str, tuple[str, Kind]]] = {
    **_REPLIES,
    "status-update": ("statusUpdate", JSON.status_update),
    "artifact-update": ("artifactUpdate", _kind(JSON.artifact_update)),
}
"""By `kind` of 0.3: the member of 1.0 that holds the object, and its table."""

_PLAIN: Final[Mapping[str, Kind]] = {
    "GetTask": _kind(JSON.task),
    "CancelTask": _kind(JSON.task),
    "CreateTaskPushNotificationConfig": JSON.task_push,
    "GetTaskPushNotificationConfig": JSON.task_push,
}
_CONFIGS: Final = listed(JSON.task_push)


def result_to_03(name: str, result: object) -> object:
    """What JSON-RPC of 0.3 has as `result`, for the result of an operation of 1.0 (`None`: JSON's `null`)."""
    match name:
        case "SendMessage":
            return _flat(_REPLIES, result)
        case "DeleteTaskPushNotificationConfig":
            return None
        case "ListTaskPushNotificationConfigs":
            return _CONFIGS.down(entries(result, "").get("configs") or [], "configs", False)
        case "GetExtendedAgentCard":
            return card_to_dual(result)
    if name not in _PLAIN:
        raise NotConvertible(f"{name} has no result in A2A 0.3")
    return _PLAIN[name].down(result, "", False)


def result_from_03(name: str, result: object) -> object:
    """The result of an operation of 1.0, for what an agent of 0.3 has as `result`."""
    match name:
        case "SendMessage":
            return _wrapped(_REPLIES, result)
        case "DeleteTaskPushNotificationConfig":
            return {}
        case "ListTaskPushNotificationConfigs":
            return {"configs": _CONFIGS.up(items(result, ""), "", False)}
        case "GetExtendedAgentCard":
            return card_from_03(result)
    if name not in _PLAIN:
        raise NotConvertible(f"{name} has no result in A2A 0.3")
    return _PLAIN[name].up(result, "", False)


def event_to_03(event: object) -> object:
    """What a stream of 0.3 has as `result`, for a `StreamResponse` of 1.0."""
    return _flat(_EVENTS, event)


def event_from_03(event: object) -> object:
    """The `StreamResponse` of 1.0 for an event of 0.3. Its `final` is left out: 1.0 ends the stream instead."""
    return _wrapped(_EVENTS, event)


def _flat(kinds: Mapping[str, tuple[str, Kind]], value: object) -> object:
    source = entries(value, "")
    found = [(member, kind) for member, kind in kinds.values() if source.get(member) is not None]
    if len(found) != 1:
        raise NotConvertible(f"must have exactly one of {', '.join(member for member, _ in kinds.values())}")
    member, kind = found[0]
    return kind.down(source[member], member, False)


def _wrapped(kinds: Mapping[str, tuple[str, Kind]], value: object) -> object:
    source = entries(value, "")
    kind = source.get("kind") or _guessed(source)
    if not isinstance(kind, str) or kind not in kinds:
        raise NotConvertible(f"kind: must be one of {', '.join(kinds)}")
    member, converted = kinds[kind]
    return {member: converted.up(value, "", False)}


def _guessed(source: Mapping[str, object]) -> str:
    """Early servers of 0.3 leave `kind` out."""
    if "messageId" in source:
        return "message"
    return "task" if "id" in source else ""


def error_to_03(error: object) -> dict[str, object]:
    """A JSON-RPC error object of 1.0 as 0.3 has it: without the codes and details that are new, all else as it is."""
    out = _error(error)
    if out["code"] in _UNKNOWN_TO_03:
        out["code"] = _INVALID_REQUEST  # the caller's fault in both versions
    data = out.pop("data", None)
    plain = _plain_details(data) if isinstance(data, (list, tuple)) else data
    return out if plain is None else {**out, "data": plain}


def error_from_03(error: object) -> dict[str, object]:
    """A JSON-RPC error object of 0.3 as 1.0 has it: with the `ErrorInfo` of its code, its data among the details."""
    out = _error(error)
    data = out.pop("data", None)
    details = list(data) if _typed(data) and isinstance(data, (list, tuple)) else []
    fault = FAULTS.get(out["code"] if isinstance(out["code"], int) else 0)
    if fault is not None and not any(detail.get("@type") == _ERROR_INFO for detail in details):
        details.insert(0, {"@type": _ERROR_INFO, "reason": fault.reason, "domain": DOMAIN, "metadata": {}})
    if data is not None and not _typed(data):
        details.append({"@type": _VALUE, "value": data})
    return {**out, "data": details} if details else out


def _error(error: object) -> dict[str, object]:
    source = entries(error, "error")
    code, message = source.get("code"), source.get("message")
    if isinstance(code, bool) or not isinstance(code, int):
        raise NotConvertible("error.code: must be a whole number")
    if message is not None and not isinstance(message, str):
        raise NotConvertible("error.message: must be a string")
    return {**source, "message": message or ""}


def _typed(data: object) -> bool:
    return isinstance(data, (list, tuple)) and all(isinstance(item, Mapping) and "@type" in item for item in data)


def _plain_details(details: list[object] | tuple[object, ...]) -> object:
    """Clients of 0.3 know no typed details: they get the facts of the first, or the value that was wrapped."""
    for detail in details:
        if isinstance(detail, Mapping) and detail.get("@type") == _VALUE:
            return detail.get("value")
    facts = [item for item in details if isinstance(item, Mapping) and item.get("@type") == _ERROR_INFO]
    metadata = facts[0].get("metadata") if facts else None
    if metadata:
        return metadata
    others = [item for item in details if item not in facts]
    return others or None
