"""Tasks of held tool calls, as clients declare them and ask for them (extension `io.modelcontextprotocol/tasks`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from gateway.errors import ApprovalPending
from gateway.listeners.mcp.envelope import Message
from gateway.listeners.mcp.inbound import MissingCapability
from gateway.ports import Exchange
from gateway.types import Call, Credentials, Identity, Result

EXTENSION: Final = "io.modelcontextprotocol/tasks"


class HeldTasks(Protocol):
    """Makes tasks of held calls, and answers for them."""

    async def created(
        self, pending: ApprovalPending, call: Call, message: Message, view: str, identity: Identity
    ) -> Result | None:
        """The task of a call that is held, once it is kept. `None` where there cannot be one."""

    async def asked(
        self, call: Call, message: Message, identity: Identity, credentials: Credentials, exchange: Exchange
    ) -> Result:
        """What a client's `tasks/get`, `tasks/update` or `tasks/cancel` is answered with, once policy permits it."""


def declares(capabilities: Mapping[str, object]) -> bool:
    """Whether the client said, on this request, that it takes tasks."""
    extensions = capabilities.get("extensions")
    return isinstance(extensions, Mapping) and EXTENSION in extensions


def require_tasks(capabilities: Mapping[str, object]) -> None:
    """Raise unless it did ("Protocol Errors")."""
    if not declares(capabilities):
        raise MissingCapability({"extensions": {EXTENSION: {}}})
