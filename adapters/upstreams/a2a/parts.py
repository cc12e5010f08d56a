"""What calls to an agent work with, as protocols, and what is kept of all that it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

from adapters.upstreams.a2a.caller import Caller, Heard, Reply, Terms
from adapters.upstreams.a2a.view import state_of, task_id_of
from gateway import codec
from gateway.a2a.directory import AgentEntry, Interface
from gateway.a2a.operations import INTERRUPTED, TERMINAL
from gateway.a2a.pages import TaskPage
from gateway.codec import JsonObject, JsonValue
from gateway.errors import UpstreamProtocolError
from gateway.identity.chain import Hops
from gateway.spending import root_of
from gateway.types import Authorized, Call, Identity, Result


class CardSource(Protocol):
    """Fetches and checks the agent's card. Raises `InterlockError` when there is none that may be used."""

    async def described(self) -> AgentEntry: ...

    async def aclose(self) -> None: ...


class TaskLearner(Protocol):
    """Keeps whose tasks are whose (`gateway.a2a.tasks.TaskIndex`)."""

    async def learn(self, agent: str, identity: Identity, call: Call, value: Mapping[str, object]) -> None: ...

    async def page(self, agent: str, identity: Identity, params: Mapping[str, object]) -> TaskPage: ...


class PushRelay(Protocol):
    """Puts the gateway's own webhook in place of the caller's, and back (`gateway.a2a.push`)."""

    async def outgoing(self, authorized: Authorized, params: Mapping[str, object]) -> Mapping[str, object]: ...

    async def incoming(self, authorized: Authorized, value: JsonValue) -> JsonValue:
        """A result or an event as the caller is to see it; the same object where nothing of it changes."""

    async def failed(self, authorized: Authorized) -> None:
        """The agent refused the call."""

    def over(self, authorized: Authorized) -> None:
        """The call ended, however it did."""


class Chain(Protocol):
    """Tells the agent on whose behalf it is called, and remembers what it works on (`gateway.identity.chain`)."""

    def entering(self, authorized: Authorized, agent: str) -> AbstractContextManager[str]:
        """The token for a call. Raises `PolicyDenied` for a loop."""

    def works_on(self, agent: str, task_id: str, hops: Hops) -> None: ...

    def ended(self, agent: str, task_id: str) -> None: ...


class NoPush:
    """Leaves everything as it is: where no push notifications are relayed."""

    async def outgoing(self, authorized: Authorized, params: Mapping[str, object]) -> Mapping[str, object]:
        """The same."""
        return params

    async def incoming(self, authorized: Authorized, value: JsonValue) -> JsonValue:
        """The same."""
        return value

    async def failed(self, authorized: Authorized) -> None:
        """Nothing was made."""

    def over(self, authorized: Authorized) -> None:
        """Nothing was awaited."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What an agent's calls work with."""

    tasks: TaskLearner
    chain: Chain
    push: PushRelay = field(default_factory=NoPush)
    grpc: Callable[[str, Interface, Terms], Caller] | None = None
    """Makes a caller over gRPC, by the agent's name; without it, such interfaces are not used."""


@dataclass(frozen=True, slots=True)
class Learning:
    """Keeps what the agent `name` says, before anybody hears of it."""

    name: str
    parts: Parts

    async def take(self, authorized: Authorized, value: JsonObject) -> JsonValue:
        """Keep a result or an event; returns it as the caller is to see it.

        Raises `UpstreamProtocolError` for one that is not the caller's.
        """
        call, identity = authorized.call, authorized.identity
        await self.parts.tasks.learn(self.name, identity, call, value)
        task_id, state = _seen(value)
        if task_id and state:
            self._work(authorized, task_id, state)
        return await self.parts.push.incoming(authorized, value)

    async def take_reply(self, authorized: Authorized, reply: Reply) -> Result:
        """The same for a whole answer: in the agent's bytes, where nothing of it changes."""
        if reply.value is None:
            await self.parts.push.failed(authorized)
            return reply.result
        shown = await self.take(authorized, reply.value)
        return reply.result if shown is reply.value else replace(reply.result, payload=codec.dumps(shown))

    async def take_event(self, authorized: Authorized, heard: Heard) -> Heard:
        """The same for an event."""
        shown = await self.take(authorized, heard.value)
        if shown is heard.value:
            return heard
        if not isinstance(shown, dict):
            raise UpstreamProtocolError(f"agent {self.name!r} sent an event that cannot be shown")
        return Heard(codec.dumps(shown), shown)

    def _work(self, authorized: Authorized, task_id: str, state: str) -> None:
        """An agent that goes on working, though the call is over, is still in the chain of that call."""
        if state in TERMINAL or state in INTERRUPTED:
            self.parts.chain.ended(self.name, task_id)
            return
        identity = authorized.identity
        delegation = identity.delegation or (identity.subject.id,)
        hops = Hops(delegation, (*identity.hops, self.name), root_of(authorized.call, identity))
        self.parts.chain.works_on(self.name, task_id, hops)


def _seen(value: JsonObject) -> tuple[str, str]:
    """Task and state, as far as a result or an event says."""
    for kind in ("task", "statusUpdate"):
        part = value.get(kind)
        if isinstance(part, dict):
            return task_id_of(value), state_of(part)
    named = value.get("id")
    return (named, state_of(value)) if isinstance(named, str) else ("", "")
