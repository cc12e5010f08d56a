"""The objects of A2A 0.3 beside those of 1.0, as tables: in the JSON of 0.3, and in its HTTP+JSON dialect.

0.3 has two dialects. JSON-RPC speaks the JSON of the specification's types (`kind`, `input-required`, `user`);
HTTP+JSON speaks protobuf messages as JSON (`content`, `TASK_STATE_CANCELLED`, resource names), which peers may
write in snake_case. `Dialect` holds the tables of one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.a2a.operations import INTERRUPTED, TERMINAL
from gateway.a2a.v03_parts import PART, PROTO_PART
from gateway.a2a.v03_shapes import (
    COUNT,
    FREE,
    HISTORY,
    OPPOSITE,
    TEXT,
    TEXTS,
    TIME,
    TRUTH,
    Kind,
    Member,
    NotConvertible,
    Shape,
    anything,
    below,
    items,
    listed,
    named,
)

STATES: Final = {
    "submitted": "TASK_STATE_SUBMITTED",
    "working": "TASK_STATE_WORKING",
    "input-required": "TASK_STATE_INPUT_REQUIRED",
    "completed": "TASK_STATE_COMPLETED",
    "canceled": "TASK_STATE_CANCELED",
    "failed": "TASK_STATE_FAILED",
    "rejected": "TASK_STATE_REJECTED",
    "auth-required": "TASK_STATE_AUTH_REQUIRED",
    "unknown": "TASK_STATE_UNSPECIFIED",
}
_PROTO_STATES: Final = {
    **{new: new for new in STATES.values() if new != "TASK_STATE_CANCELED"},
    "TASK_STATE_CANCELLED": "TASK_STATE_CANCELED",
}
_ROLES: Final = {"user": "ROLE_USER", "agent": "ROLE_AGENT"}
_PROTO_ROLES: Final = {role: role for role in _ROLES.values()}

FINAL: Final = TERMINAL | INTERRUPTED
"""The states after which a stream ends (specification of 1.0, section 11.7): `final` of 0.3 says that it does."""

_CONFIG_NAME = re.compile(r"tasks/([^/]+)/pushNotificationConfigs/([^/]+)")


@dataclass(frozen=True, slots=True)
class Dialect:
    """The tables of one dialect."""

    message: Shape
    task: Shape
    status_update: Kind
    artifact_update: Shape
    push: Shape
    """A push configuration without its task."""
    task_push: Kind
    """A push configuration with its task, as results have it."""
    send: Shape


def _first(value: object, where: str, strict: bool) -> object:
    schemes = [TEXT.up(item, f"{where}[{index}]", strict) for index, item in enumerate(items(value, where))]
    return schemes[0] if schemes else None  # 1.0 has room for one


def _alone(value: object, where: str, strict: bool) -> object:
    return [TEXT.down(value, where, strict)]


def _ending(shape: Shape) -> Kind:
    def down(value: object, where: str, strict: bool) -> object:
        out = shape.down(value, where, strict)
        status = value.get("status") if isinstance(value, Mapping) else None
        state = status.get("state") if isinstance(status, Mapping) else None
        return {**out, "final": isinstance(state, str) and state in FINAL}

    return Kind(shape.up, down)


def _waiting(shape: Shape, *, by_default: bool) -> Kind:
    """`blocking` is always said: what leaving it out means differs between the versions and the dialects."""

    def up(value: object, where: str, strict: bool) -> object:
        out = shape.up(value, where, strict)
        return out if by_default else {"returnImmediately": True, **out}

    def down(value: object, where: str, strict: bool) -> object:
        return {"blocking": True, **shape.down(value, where, strict)}

    return Kind(up, down)


def _beside_task(push: Shape) -> Kind:
    """`{taskId, pushNotificationConfig: {..}}` of 0.3; 1.0 has the members of both in one object."""
    outer = Shape(
        (Member("taskId", TEXT, need=True), Member("pushNotificationConfig", Kind(push.up, push.down), need=True))
    )

    def up(value: object, where: str, strict: bool) -> object:
        found = outer.up(value, where, strict)
        config = found.pop("pushNotificationConfig")
        beside = {name: item for name, item in found.items() if name not in push.reserved}
        return {**beside, **_members(config), "taskId": found["taskId"]}

    def down(value: object, where: str, strict: bool) -> object:
        config = push.down(value, where, strict)
        task_id = value.get("taskId") if isinstance(value, Mapping) else None
        return {"taskId": TEXT.down(task_id, below(where, "taskId"), strict), "pushNotificationConfig": config}

    return Kind(up, down)


def _by_name(push: Shape) -> Kind:
    """`{name: "tasks/../pushNotificationConfigs/..", pushNotificationConfig: {..}}` of 0.3's HTTP+JSON."""
    outer = Shape(
        (Member("name", TEXT, need=True), Member("pushNotificationConfig", Kind(push.up, push.down), need=True)),
        snake=True,
    )

    def up(value: object, where: str, strict: bool) -> object:
        found = outer.up(value, where, strict)
        match = _CONFIG_NAME.fullmatch(str(found["name"]))
        if match is None:
            raise NotConvertible(f"{below(where, 'name')}: must be tasks/{{task}}/pushNotificationConfigs/{{id}}")
        config = {"id": match.group(2), **_members(found["pushNotificationConfig"])}
        if config["id"] != match.group(2):
            raise NotConvertible(f"{below(where, 'name')}: names another configuration than the one that it stands by")
        return {**config, "taskId": match.group(1)}

    def down(value: object, where: str, strict: bool) -> object:
        config = push.down(value, where, strict)
        task_id = TEXT.down(value.get("taskId") if isinstance(value, Mapping) else None, below(where, "taskId"), strict)
        if "id" not in config:
            raise NotConvertible(f"{below(where, 'id')}: is required")
        return {"name": f"tasks/{task_id}/pushNotificationConfigs/{config['id']}", "pushNotificationConfig": config}

    return Kind(up, down)


def _members(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _dialect(*, proto: bool) -> Dialect:
    message = _message(proto=proto)
    status = Kind(*_both(_status(message, proto=proto)))
    artifact = Kind(*_both(_artifact(proto=proto)))
    push = _push(proto=proto)
    ids = (Member("taskId", TEXT, need=True), Member("contextId", TEXT, fill=str))
    metadata = Member("metadata", FREE)
    return Dialect(
        message,
        Shape(
            (
                Member("id", TEXT, need=True),
                Member("contextId", TEXT, fill=str),
                Member("status", status, need=True, fill=_unknown_status(proto=proto)),
                Member("artifacts", listed(artifact)),
                Member("history", listed(Kind(*_both(message)))),
                metadata,
            ),
            tag="" if proto else "task",
            snake=proto,
        ),
        _ending(
            Shape(
                (*ids, Member("status", status, need=True, fill=_unknown_status(proto=proto)), metadata),
                tag="" if proto else "status-update",
                only_old={"final": TRUTH.up},
                snake=proto,
            )
        ),
        Shape(
            (
                *ids,
                Member("artifact", artifact, need=True),
                Member("append", TRUTH),
                Member("lastChunk", TRUTH),
                metadata,
            ),
            tag="" if proto else "artifact-update",
            snake=proto,
        ),
        push,
        _by_name(push) if proto else _beside_task(push),
        _send(message, push, proto=proto),
    )


def _both(shape: Shape) -> tuple[Callable[[object, str, bool], object], Callable[[object, str, bool], object]]:
    return shape.up, shape.down


def _unknown_status(*, proto: bool) -> Callable[[], object]:
    return lambda: {"state": "TASK_STATE_UNSPECIFIED" if proto else "unknown"}


def _message(*, proto: bool) -> Shape:
    members = (
        Member("messageId", TEXT, need=True),
        Member("contextId", TEXT),
        Member("taskId", TEXT),
        Member("role", named(_PROTO_ROLES if proto else _ROLES, "ROLE_AGENT" if proto else "agent"), need=True),
        Member("metadata", FREE),
        Member("extensions", TEXTS),
    )
    if proto:  # protobuf leaves out empty lists, and this message has no references to other tasks
        parts = Member("content", listed(PROTO_PART), "parts")
        return Shape((*members, parts), only_new={"referenceTaskIds": TEXTS.down}, snake=True)
    parts = Member("parts", listed(PART), need=True, fill=list)
    return Shape((*members, parts, Member("referenceTaskIds", TEXTS)), tag="message")


def _status(message: Shape, *, proto: bool) -> Shape:
    states = named(_PROTO_STATES, "TASK_STATE_UNSPECIFIED") if proto else named(STATES, "unknown")
    return Shape(
        (
            Member("state", states, need=not proto, fill=None if proto else lambda: "unknown"),
            Member("message", Kind(*_both(message)), also=("update",) if proto else ()),
            Member("timestamp", TIME),
        ),
        snake=proto,
    )


def _artifact(*, proto: bool) -> Shape:
    return Shape(
        (
            Member("artifactId", TEXT, need=True),
            Member("name", TEXT),
            Member("description", TEXT),
            Member("parts", listed(PROTO_PART if proto else PART), need=not proto, fill=None if proto else list),
            Member("metadata", FREE),
            Member("extensions", TEXTS),
        ),
        snake=proto,
    )


def _push(*, proto: bool) -> Shape:
    authentication = Shape(
        (Member("schemes", Kind(_first, _alone), "scheme", fill=list), Member("credentials", TEXT)), snake=proto
    )
    return Shape(
        (
            Member("url", TEXT, need=True),
            Member("id", TEXT),
            Member("token", TEXT),
            Member("authentication", Kind(*_both(authentication))),
        ),
        only_new={"taskId": TEXT.down, "tenant": anything},
        snake=proto,
    )


def _send(message: Shape, push: Shape, *, proto: bool) -> Shape:
    configuration = Shape(
        (
            Member("acceptedOutputModes", TEXTS),
            Member("historyLength", HISTORY),
            Member("blocking", OPPOSITE, "returnImmediately"),
            Member(
                "pushNotification" if proto else "pushNotificationConfig",
                Kind(*_both(push)),
                "taskPushNotificationConfig",
            ),
        ),
        snake=proto,
    )
    return Shape(
        (
            Member("message", Kind(*_both(message)), need=True, also=("request",) if proto else ()),
            Member("configuration", _waiting(configuration, by_default=not proto)),
            Member("metadata", FREE),
        ),
        snake=proto,
    )


JSON: Final = _dialect(proto=False)
PROTO: Final = _dialect(proto=True)

QUERY: Final = Shape((Member("id", TEXT, need=True), Member("historyLength", HISTORY)), only_old={"metadata": FREE.up})
CANCEL: Final = Shape((Member("id", TEXT, need=True), Member("metadata", FREE)))
SUBSCRIBE: Final = Shape((Member("id", TEXT, need=True),), only_old={"metadata": FREE.up})
CONFIG: Final = Shape(
    (Member("id", TEXT, "taskId", need=True), Member("pushNotificationConfigId", TEXT, "id")),
    only_old={"metadata": FREE.up},
)
NAMED_CONFIG: Final = Shape(
    (Member("id", TEXT, "taskId", need=True), Member("pushNotificationConfigId", TEXT, "id", need=True)),
    only_old={"metadata": FREE.up},
)


def _first_page(value: object, where: str, _strict: bool) -> object:
    if value != "":
        raise NotConvertible(f"{where}: an agent of A2A 0.3 gives all of its configurations at once")
    return None


CONFIGS: Final = Shape(
    (Member("id", TEXT, "taskId", need=True),),
    only_old={"metadata": FREE.up},
    only_new={"pageSize": COUNT.down, "pageToken": _first_page},
)
NOTHING: Final = Shape(())
