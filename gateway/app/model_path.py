"""The governed path for the model listener: who carries its calls out, and what it is told of their permits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway import codec
from gateway.errors import InvalidCall
from gateway.listeners.models.endpoint import Told
from gateway.listeners.models.listing import ACTION as LIST
from gateway.listeners.models.listing import Chooser, Directory, described
from gateway.listeners.models.replays import Answer
from gateway.models.calls import may_stream
from gateway.ports import Exchange, Relay, Upstream
from gateway.types import Authorized, Call, Credentials, Identity, Resource, Result, Usage


class Handler(Protocol):
    """The governed path. `by` carries a call out instead of the upstream that its resource belongs to."""

    async def handle(
        self, call: Call, credentials: Credentials | Identity, exchange: Exchange, *, by: Upstream | None = None
    ) -> Result: ...


class ModelPath:
    """Takes the calls of model clients along it. `carrier` finds what carries a permitted call out."""

    def __init__(
        self, handler: Handler, directory: Directory, chooser: Chooser, carrier: Callable[[Call], Upstream]
    ) -> None:
        self._handler = handler
        self._chooser = chooser
        self._carrier = carrier
        self._lister = ModelLister(directory, chooser)

    async def handle(
        self, call: Call, credentials: Credentials, exchange: Exchange, told: Told, kept: Answer | None = None
    ) -> Result:
        """One call; with `kept`, its answer is that one. `told` hears of the permit."""
        return await self._handler.handle(call, credentials, exchange, by=_Noted(self._carriers(kept), told))

    async def visible(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]:
        """Which of these the identity may use."""
        return await self._chooser.visible(call, identity, candidates)

    def _carriers(self, kept: Answer | None) -> Callable[[Call], Upstream]:
        if kept is not None:
            return lambda _: Replayed(kept)
        return lambda call: self._lister if call.action == LIST else self._carrier(call)


class _Noted:
    """Carries a call out as usual, once the listener was told of the permit."""

    def __init__(self, carrier: Callable[[Call], Upstream], told: Told) -> None:
        self._carrier = carrier
        self._told = told

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        self._told(authorized.call, authorized.permit.decision_id)
        return await self._carrier(authorized.call).execute(authorized, relay)


class Replayed:
    """Carries a call out by giving the answer that there is."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """The same events and the same result, for nothing."""
        if self._answer.events and not may_stream(authorized.permit):
            raise InvalidCall("policy wants this answer whole by now: ask again under another Idempotency-Key")
        relay.note("replayed", value=True)
        for event in self._answer.events:
            await relay.emit(event)
        return Result(self._answer.result.payload, usage=Usage())


class ModelLister:
    """Carries out `model.list`: what the list shows is what may be called."""

    def __init__(self, directory: Directory, chooser: Chooser) -> None:
        self._directory = directory
        self._chooser = chooser

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """The models, as `{"models": [...]}`."""
        every = self._directory.listed()
        seen = await self._chooser.visible(authorized.call, authorized.identity, every) if every else frozenset()
        return Result(codec.dumps({"models": [described(every[index]) for index in sorted(seen)]}))
