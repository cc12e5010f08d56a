"""Held messages, as their clients ask after them: the task that stands in for one, and the agent's behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from gateway import codec
from gateway.a2a.operations import Operation
from gateway.approvals.held import Followed
from gateway.errors import ApprovalPending
from gateway.ports import Exchange
from gateway.tickets import HeldCall
from gateway.types import Call, Credentials, FrozenDict, Identity, Result

SENDS: Final = frozenset({"SendMessage", "SendStreamingMessage"})
_OPAQUE: Final = frozenset({"parts", "metadata", "artifacts", "artifact"})
"""What agents and clients wrote: nothing is renamed in it."""


@dataclass(frozen=True, slots=True)
class Named:
    """A held message of the caller's that a request names. `real_id` is the agent's task behind it, if there is one."""

    held: HeldCall
    real_id: str
    context_id: str
    followed: Followed

    @property
    def id(self) -> str:
        """What its clients know it by."""
        return self.held.ticket_id


class HeldMessages(Protocol):
    """Makes tasks of the held messages to agents, and answers for them."""

    async def created(
        self, pending: ApprovalPending, call: Call, identity: Identity, extensions: tuple[str, ...]
    ) -> Mapping[str, object] | None:
        """The task of a message that is held, once it is kept. `None` where there cannot be one."""

    async def named(self, operation: Operation, call: Call, identity: Identity) -> Named | None:
        """The held message that a request is about, if it is the caller's and to this agent."""

    async def asked(
        self,
        named: Named,
        call: Call,
        identity: Identity,
        credentials: Credentials,
        exchange: Exchange,
    ) -> Result:
        """What a request about a held message is answered with that nothing has come of yet, once policy permits it."""


@dataclass(slots=True)
class Renamed:
    """Passes events on under the id that the client knows the task by."""

    sink: Callable[[bytes], Awaitable[None]]
    real_id: str
    held_id: str

    async def emit(self, event: bytes) -> None:
        """One event."""
        await self.sink(renamed(event, self.real_id, self.held_id))


def on_real(named: Named, operation: Operation, call: Call) -> Call:
    """The same request about the agent's task behind a held message."""
    if operation.task_id_member:
        return replace(call, params=FrozenDict({**call.params, operation.task_id_member: named.real_id}))
    message = call.params.get("message")
    sent = dict(message) if isinstance(message, FrozenDict) else {}
    if sent.get("contextId") == named.context_id:  # of ours; the agent made its own
        sent.pop("contextId")
    sent["taskId"] = named.real_id
    return replace(call, params=FrozenDict({**call.params, "message": FrozenDict(sent)}))


def renamed(payload: bytes, real_id: str, held_id: str) -> bytes:
    """A result or an event about the agent's task, as one about the held message's."""
    return codec.dumps(with_id(codec.loads(payload), real_id, held_id))


def with_id(value: object, real_id: str, held_id: str) -> object:
    """The same value with the one id in place of the other, wherever a task is named."""
    if isinstance(value, list):
        return [with_id(item, real_id, held_id) for item in value]
    if not isinstance(value, dict):
        return value
    known = {"taskId", "id"} if "status" in value or "contextId" in value else {"taskId"}
    return {
        name: held_id
        if name in known and inner == real_id
        else inner
        if name in _OPAQUE
        else with_id(inner, real_id, held_id)
        for name, inner in value.items()
    }
