"""Requests as A2A defines them and in one form only, so that what policy reads is what the upstream reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from gateway import codec
from gateway.a2a.malformed import Malformed, shown
from gateway.a2a.operations import Operation
from gateway.a2a.shapes import REQUESTS, proto_name
from gateway.codec import JsonObject
from gateway.types import FrozenDict, freeze

__all__ = ["MAX_JSON_DEPTH", "Malformed", "TaskRefs", "canonical_request", "parse_json", "tasks_named", "tenant_in"]

MAX_JSON_DEPTH: Final = 64
"""Levels of a body. Parameters have a tighter limit of their own (`gateway.types.freeze`)."""

_SPACE_AS_QUOTE: Final = bytes(0x22 if byte in b" \t\n\r" else byte for byte in range(256))


@dataclass(frozen=True, slots=True)
class TaskRefs:
    """The tasks and the context that a request names; empty where it names none."""

    task_id: str = ""
    context_id: str = ""
    reference_task_ids: tuple[str, ...] = ()


def parse_json(body: bytes, max_depth: int = MAX_JSON_DEPTH) -> JsonObject:
    """The object that a body is, if every parser reads the same from it (RFC 8259 section 4, RFC 7493).

    UTF-8 only, no name twice in an object, no lone surrogates, no number beyond a double; integers stay exact.
    """
    try:
        value = codec.loads(body)
    except ValueError as exc:
        raise Malformed("the body is not JSON (RFC 8259, UTF-8, finite numbers)", "parse") from exc
    if not isinstance(value, dict):
        raise Malformed("the body must be one JSON object; batches are not part of A2A", "request")
    names = _count_names(value, max_depth)
    # A quote or space before the colon ends every name, and seldom stands in a text: as many of them as names means
    # that none stood twice.
    if names != body.count(b":") and names != body.translate(_SPACE_AS_QUOTE).count(b'":'):
        _refuse_duplicates(body)
    return value


def _count_names(value: object, max_depth: int) -> int:
    """How many members all objects have together. A name that stood twice is counted once."""
    names = 0
    level: list[object] = [value]
    for _ in range(max_depth + 1):
        below: list[object] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                members = cast("dict[str, object]", item)
                names += len(members)
                below.extend(members.values())
            elif kind is list:
                below.extend(cast("list[object]", item))
        if not below:
            return names
        level = below
    raise Malformed(f"the body is nested deeper than {max_depth} levels", "parse")


def _refuse_duplicates(body: bytes) -> None:
    """The exact check, at twice the cost: text may hold what looks like the end of a name, so counting may be wrong."""
    json.loads(body, object_pairs_hook=_without_duplicates)


def _without_duplicates(members: list[tuple[str, object]]) -> None:
    names: set[str] = set()
    for name, _ in members:
        if name in names:
            raise Malformed(f"the member {shown(name)} stands twice in one object; write it once", "parse")
        names.add(name)


def canonical_request(operation: Operation, params: Mapping[str, object]) -> FrozenDict:
    """The request as the upstream is to get it: known members in canonical form, without `tenant`, frozen.

    Raises `Malformed` with the path of what is wrong, and `InputTooLarge` for what policy cannot be asked about.
    """
    tenant_in(params)
    request = REQUESTS[operation.message](params, "")
    _check_inline_push(request)
    return cast("FrozenDict", freeze(request))


def _check_inline_push(request: Mapping[str, object]) -> None:
    """A push configuration inside a message is for that message's task, whichever it becomes."""
    named = _inside(request, "configuration", "taskPushNotificationConfig").get("taskId", "")
    if named and named != _inside(request, "message").get("taskId"):
        raise Malformed("configuration.taskPushNotificationConfig.taskId: leave it out; the message names the task")


def tenant_in(params: Mapping[str, object]) -> str:
    """The tenant that a request names, or empty. Raises `Malformed` when it names two."""
    tenant = _text(params.get("tenant"), "tenant")
    nested = _inside(params, "configuration", "taskPushNotificationConfig").get("tenant")
    inner = _text(nested, "configuration.taskPushNotificationConfig.tenant")
    if inner and inner != tenant:
        raise Malformed("configuration.taskPushNotificationConfig.tenant: must be the request's own tenant")
    return tenant


def _text(value: object, path: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise Malformed(f"{path}: must be a string")


def tasks_named(operation: Operation, params: Mapping[str, object]) -> TaskRefs:
    """What a canonical request names, for the question whose it is."""
    if operation.message == "SendMessageRequest":
        message = _inside(params, "message")
        listed = message.get("referenceTaskIds")
        references = tuple(map(str, listed)) if isinstance(listed, (list, tuple)) else ()
        return TaskRefs(_named(message, "taskId"), _named(message, "contextId"), references)
    task_id = _named(params, operation.task_id_member) if operation.task_id_member else ""
    return TaskRefs(task_id, _named(params, "contextId"))


def _named(params: Mapping[str, object], name: str) -> str:
    value = params.get(name, "")
    return value if isinstance(value, str) else ""


def _inside(value: object, *names: str) -> Mapping[str, object]:
    """The object at a path, or an empty one."""
    for name in names:
        value = value.get(name, value.get(proto_name(name))) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
