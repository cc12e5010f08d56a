"""The request messages of A2A 1.0 as tables, taken from `a2a.proto` (package `lf.a2a.v1`).

A member that no table names is left out, as section 5.7 of the specification wants it: policy does not see it, and
the upstream neither. The name in the protocol buffer (`task_id`), which ProtoJSON allows as well, becomes the one in
JSON (`taskId`), unless both stand there; any other spelling that a lenient parser would take for it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.a2a import scalars
from gateway.a2a.malformed import Malformed, shown
from gateway.a2a.scalars import Reader, many

ROLES: Final = ("ROLE_UNSPECIFIED", "ROLE_USER", "ROLE_AGENT")
TASK_STATES: Final = (
    "TASK_STATE_UNSPECIFIED",
    "TASK_STATE_SUBMITTED",
    "TASK_STATE_WORKING",
    "TASK_STATE_COMPLETED",
    "TASK_STATE_FAILED",
    "TASK_STATE_CANCELED",
    "TASK_STATE_INPUT_REQUIRED",
    "TASK_STATE_REJECTED",
    "TASK_STATE_AUTH_REQUIRED",
)
MAX_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Field:
    """One member. Without `explicit` its default (empty, 0, false) means absence and is left out (proto3)."""

    read: Reader
    required: bool = False
    explicit: bool = False
    null_is_a_value: bool = False
    """`google.protobuf.Value`; elsewhere null means absence (ProtoJSON)."""
    omitted: bool = False
    """Checked, and not handed on: `tenant` belongs to the hop, not to the request."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One message: what it may hold, and which members exclude each other."""

    fields: Mapping[str, Field]
    exactly_one: frozenset[str] = frozenset()
    required: tuple[str, ...] = field(init=False)
    spellings: Mapping[str, str] = field(init=False)
    proto_names: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "required", tuple(name for name, item in self.fields.items() if item.required))
        object.__setattr__(self, "spellings", {_folded(name): name for name in self.fields})
        names = {proto_name(name): name for name in self.fields if proto_name(name) != name}
        object.__setattr__(self, "proto_names", names)

    def name_of(self, name: str, path: str, members: Mapping[str, object]) -> str:
        """The member that a name means; empty for an unknown one. Raises `Malformed` for another spelling."""
        if name in self.fields:
            return name
        meant = self.proto_names.get(name)
        if meant is not None and meant not in members:
            return meant
        meant = meant or self.spellings.get(_folded(name))
        if meant is not None:
            raise Malformed(f"{path}.{shown(name)}: write it {meant}" if path else f"{shown(name)}: write it {meant}")
        return ""

    def __call__(self, value: object, path: str) -> dict[str, object]:
        """The message in canonical form: known members only, without defaults. A shape is a `Reader` too."""
        if not isinstance(value, dict):
            raise Malformed(f"{path}: must be an object")
        found: dict[str, object] = {}
        for written, item in value.items():
            if name := self.name_of(written, path, value):
                self._take(found, name, item, path)
        for name in self.required:
            if name not in found:
                raise Malformed(f"{_at(path, name)}: is required and must not be empty")
        if self.exactly_one and len(self.exactly_one & found.keys()) != 1:
            raise Malformed(f"{path}: must have exactly one of {', '.join(sorted(self.exactly_one))}")
        return found

    def _take(self, found: dict[str, object], name: str, item: object, path: str) -> None:
        known = self.fields[name]
        if item is None and not known.null_is_a_value:
            return
        read = known.read(item, f"{path}.{name}" if path else name)
        if (read or known.explicit) and not known.omitted:
            found[name] = read


def proto_name(name: str) -> str:
    """The name in the protocol buffer of a member's name in JSON."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").casefold()


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


_TEXT: Final = Field(scalars.text)
_TEXTS: Final = Field(many(scalars.text))
_FREE: Final = Field(scalars.free_object, explicit=True)
_ID: Final = Field(scalars.identifier)
_NEEDED_ID: Final = Field(scalars.identifier, required=True)
_TENANT: Final = Field(scalars.text, omitted=True)
_HISTORY: Final = Field(scalars.int32(0), explicit=True)

AUTHENTICATION: Final = Shape({"scheme": Field(scalars.text, required=True), "credentials": _TEXT})

PUSH_CONFIG: Final = Shape(
    {
        "tenant": _TENANT,
        "id": _ID,
        "taskId": _ID,
        "url": Field(scalars.text, required=True),
        "token": _TEXT,
        "authentication": Field(AUTHENTICATION, explicit=True),
    }
)

PART: Final = Shape(
    {
        "text": Field(scalars.text, explicit=True),
        "raw": Field(scalars.base64, explicit=True),
        "url": Field(scalars.text, explicit=True),
        "data": Field(scalars.any_value, explicit=True, null_is_a_value=True),
        "metadata": _FREE,
        "filename": _TEXT,
        "mediaType": _TEXT,
    },
    exactly_one=frozenset({"text", "raw", "url", "data"}),
)

MESSAGE: Final = Shape(
    {
        "messageId": _NEEDED_ID,
        "contextId": _ID,
        "taskId": _ID,
        "role": Field(scalars.one_of(ROLES), required=True),
        "parts": Field(many(PART), required=True),
        "metadata": _FREE,
        "extensions": _TEXTS,
        "referenceTaskIds": Field(many(scalars.some_identifier)),
    }
)

CONFIGURATION: Final = Shape(
    {
        "acceptedOutputModes": _TEXTS,
        "taskPushNotificationConfig": Field(PUSH_CONFIG, explicit=True),
        "historyLength": _HISTORY,
        "returnImmediately": Field(scalars.boolean),
    }
)

_TASK: Final = {"tenant": _TENANT, "id": _NEEDED_ID}
_CONFIG_OF_TASK: Final = {"tenant": _TENANT, "taskId": _NEEDED_ID, "id": _NEEDED_ID}

REQUESTS: Final[Mapping[str, Shape]] = {
    "SendMessageRequest": Shape(
        {
            "tenant": _TENANT,
            "message": Field(MESSAGE, required=True, explicit=True),
            "configuration": Field(CONFIGURATION, explicit=True),
            "metadata": _FREE,
        }
    ),
    "GetTaskRequest": Shape({**_TASK, "historyLength": _HISTORY}),
    "ListTasksRequest": Shape(
        {
            "tenant": _TENANT,
            "contextId": _ID,
            "status": Field(scalars.one_of(TASK_STATES)),
            "pageSize": Field(scalars.int32(1, MAX_PAGE), explicit=True),
            "pageToken": _TEXT,
            "historyLength": _HISTORY,
            "statusTimestampAfter": Field(scalars.timestamp, explicit=True),
            "includeArtifacts": Field(scalars.boolean, explicit=True),
        }
    ),
    "CancelTaskRequest": Shape({**_TASK, "metadata": _FREE}),
    "SubscribeToTaskRequest": Shape(_TASK),
    # What an RPC of its own takes: there the task has to be named.
    "TaskPushNotificationConfig": Shape({**PUSH_CONFIG.fields, "taskId": _NEEDED_ID}),
    "GetTaskPushNotificationConfigRequest": Shape(_CONFIG_OF_TASK),
    "DeleteTaskPushNotificationConfigRequest": Shape(_CONFIG_OF_TASK),
    "ListTaskPushNotificationConfigsRequest": Shape(
        {"tenant": _TENANT, "taskId": _NEEDED_ID, "pageSize": Field(scalars.int32(0)), "pageToken": _TEXT}
    ),
    "GetExtendedAgentCardRequest": Shape({"tenant": _TENANT}),
}
"""By the name of the protobuf message (`Operation.message`)."""
