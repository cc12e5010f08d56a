"""The operations of A2A 1.0 as data (specification, sections 5.3, 9 and 11): later versions add rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Target: TypeAlias = Literal["agent", "task", "tasks"]
"""What an operation acts on: the agent, one task (named by `task_id_member`), or the caller's tasks together."""

VERSION: Final = "1.0"
LEGACY_VERSION: Final = "0.3"
SUPPORTED_VERSIONS: Final = (VERSION, LEGACY_VERSION)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `name` is the method of JSON-RPC and gRPC; `routes` are verb and path template of HTTP+JSON."""

    name: str
    action: str
    target: Target
    routes: tuple[tuple[str, str], ...]
    legacy: str
    """The JSON-RPC method of 0.3; empty where 0.3 has none."""
    message: str
    """The protobuf message of the request."""
    task_id_member: str = ""
    streams: bool = False
    push: bool = False


_PUSH_CONFIGS: Final = "/tasks/{taskId}/pushNotificationConfigs"

OPERATIONS: Final[Mapping[str, Operation]] = {
    operation.name: operation
    for operation in (
        Operation(
            "SendMessage", "a2a.message.send", "agent", (("POST", "/message:send"),), "message/send",
            "SendMessageRequest",
        ),
        Operation(
            "SendStreamingMessage", "a2a.message.stream", "agent", (("POST", "/message:stream"),), "message/stream",
            "SendMessageRequest", streams=True,
        ),
        Operation("GetTask", "a2a.tasks.get", "task", (("GET", "/tasks/{id}"),), "tasks/get", "GetTaskRequest", "id"),
        Operation("ListTasks", "a2a.tasks.list", "tasks", (("GET", "/tasks"),), "", "ListTasksRequest"),
        Operation(
            "CancelTask", "a2a.tasks.cancel", "task", (("POST", "/tasks/{id}:cancel"),), "tasks/cancel",
            "CancelTaskRequest", "id",
        ),
        Operation(
            "SubscribeToTask", "a2a.tasks.subscribe", "task",
            (("GET", "/tasks/{id}:subscribe"), ("POST", "/tasks/{id}:subscribe")),  # prose, proto
            "tasks/resubscribe", "SubscribeToTaskRequest", "id", streams=True,
        ),
        Operation(
            "CreateTaskPushNotificationConfig", "a2a.push.create", "task", (("POST", _PUSH_CONFIGS),),
            "tasks/pushNotificationConfig/set", "TaskPushNotificationConfig", "taskId", push=True,
        ),
        Operation(
            "GetTaskPushNotificationConfig", "a2a.push.get", "task", (("GET", _PUSH_CONFIGS + "/{id}"),),
            "tasks/pushNotificationConfig/get", "GetTaskPushNotificationConfigRequest", "taskId", push=True,
        ),
        Operation(
            "ListTaskPushNotificationConfigs", "a2a.push.list", "task", (("GET", _PUSH_CONFIGS),),
            "tasks/pushNotificationConfig/list", "ListTaskPushNotificationConfigsRequest", "taskId", push=True,
        ),
        Operation(
            "DeleteTaskPushNotificationConfig", "a2a.push.delete", "task", (("DELETE", _PUSH_CONFIGS + "/{id}"),),
            "tasks/pushNotificationConfig/delete", "DeleteTaskPushNotificationConfigRequest", "taskId", push=True,
        ),
        Operation(
            "GetExtendedAgentCard", "a2a.card.read", "agent", (("GET", "/extendedAgentCard"),),
            "agent/getAuthenticatedExtendedCard", "GetExtendedAgentCardRequest",
        ),
    )
}  # fmt: skip
"""By name. Reading the public card is an action too (`a2a.card.read`), with the method `card/read`."""

CARD_READ: Final = "card/read"

TERMINAL: Final = frozenset({"TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"})
INTERRUPTED: Final = frozenset({"TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED"})
