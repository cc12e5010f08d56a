"""Requests of A2A 0.3 as those of 1.0, and back. Both ways are strict: what is not known is refused by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.a2a.operations import OPERATIONS
from gateway.a2a.v03_objects import (
    CANCEL,
    CONFIG,
    CONFIGS,
    JSON,
    NAMED_CONFIG,
    NOTHING,
    QUERY,
    SUBSCRIBE,
)
from gateway.a2a.v03_shapes import Kind, NotConvertible

METHODS: Final[Mapping[str, str]] = {
    operation.legacy: operation.name for operation in OPERATIONS.values() if operation.legacy
}
"""The JSON-RPC methods of 0.3, and the operations of 1.0 that they are."""

_REQUESTS: Final[Mapping[str, Kind]] = {
    "SendMessage": Kind(JSON.send.up, JSON.send.down),
    "SendStreamingMessage": Kind(JSON.send.up, JSON.send.down),
    "GetTask": Kind(QUERY.up, QUERY.down),
    "CancelTask": Kind(CANCEL.up, CANCEL.down),
    "SubscribeToTask": Kind(SUBSCRIBE.up, SUBSCRIBE.down),
    "CreateTaskPushNotificationConfig": JSON.task_push,
    "GetTaskPushNotificationConfig": Kind(CONFIG.up, CONFIG.down),
    "ListTaskPushNotificationConfigs": Kind(CONFIGS.up, CONFIGS.down),
    "DeleteTaskPushNotificationConfig": Kind(NAMED_CONFIG.up, NAMED_CONFIG.down),
    "GetExtendedAgentCard": Kind(NOTHING.up, NOTHING.down),
}


class UnknownMethod(NotConvertible):
    """The method is none of 0.3's, or the operation is one that 0.3 does not have (JSON-RPC -32601)."""


def request_from_03(method: str, params: object) -> tuple[str, dict[str, object]]:
    """The operation of 1.0 and its request for a JSON-RPC request of 0.3. `params` may be `None` (absent)."""
    name = METHODS.get(method)
    if name is None:
        raise UnknownMethod("the method is not one of A2A 0.3")
    return name, upgraded(name, {} if params is None else params)


def upgraded(name: str, params: object) -> dict[str, object]:
    """The 1.0 request of an operation for the `params` of 0.3."""
    converted = _as_object(_REQUESTS[name].up(params, "", True))
    return with_config_id(converted) if name in _CONFIG_OF_TASK else converted


def request_to_03(name: str, params: object) -> tuple[str, dict[str, object]]:
    """The JSON-RPC method of 0.3 and its params, for a request of 1.0 in canonical form (without `tenant`)."""
    operation = OPERATIONS.get(name)
    if operation is None or not operation.legacy:
        raise UnknownMethod(f"{name} is not an operation of A2A 0.3")
    return operation.legacy, _as_object(_REQUESTS[name].down(params, "", True))


_CONFIG_OF_TASK: Final = ("CreateTaskPushNotificationConfig", "GetTaskPushNotificationConfig")


def with_config_id(request: dict[str, object]) -> dict[str, object]:
    """0.3 lets peers leave out the id of a push configuration, and gives the one of a task the task's id; 1.0 asks."""
    return request if request.get("id") else {**request, "id": request["taskId"]}


def _as_object(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, Mapping) else {}
