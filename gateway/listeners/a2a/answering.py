"""What both bindings do with an operation: carry it out for its client, and answer in the binding's form."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from gateway.a2a.errors import A2aError
from gateway.a2a.malformed import Malformed
from gateway.a2a.operations import CARD_READ, Operation
from gateway.errors import InterlockError, Unauthenticated
from gateway.listeners.a2a.calls import AgentCalls, Peer, Sink
from gateway.listeners.a2a.inbound import Inbound
from gateway.listeners.a2a.refusals import INTERNAL, Refusal, Refused, refusal_of, refusal_of_upstream
from gateway.listeners.http import ClientWatch, EventStream, Header, Reply, respond
from gateway.types import Result

log = logging.getLogger("interlock.a2a")

_T = TypeVar("_T")


class Form(Protocol):
    """How one binding, in one version, writes the answer to one request."""

    @property
    def headers(self) -> tuple[Header, ...]:
        """What every answer bears, a stream too."""

    def success(self, result: Result) -> Reply:
        """The whole response."""

    def failure(self, refusal: Refusal) -> Reply:
        """The whole response to a request that is refused or failed."""

    def sink(self, stream: EventStream) -> Sink:
        """Where the events of the answer go."""

    def last(self, refusal: Refusal) -> bytes:
        """The event that tells of a failure once the stream has begun."""


class Answers:
    """Answers the operations of one agent's clients. `challenge` puts into a 401 what the caller needs to know."""

    def __init__(self, *, calls: AgentCalls, challenge: Callable[[Unauthenticated], Unauthenticated]) -> None:
        self._calls = calls
        self._challenge = challenge

    async def answer(
        self, inbound: Inbound, operation: Operation, params: Mapping[str, object], peer: Peer, form: Form
    ) -> None:
        """Serve one request that has been read."""
        stream = EventStream(inbound.send, form.headers) if operation.streams else None
        carried = self._carried(inbound, operation, params, peer, stream, form)
        outcome = await self._guarded(carried, operation.name)
        if outcome is None:
            return
        if stream is not None and not isinstance(outcome, Refusal):
            await stream.write(b"")  # a stream without events is one, too
        if stream is not None and stream.open:
            await stream.close(form.last(outcome) if isinstance(outcome, Refusal) else b"")
            return
        if stream is not None:
            stream.closed = True  # what comes too late must not begin a second response
        await send_reply(inbound, self._reply(outcome, form), form)

    async def read_card(self, peer: Peer, host_url: str) -> Result | Refusal:
        """The public card for a caller who may read it."""
        return await self._guarded(self._calls.read_card(peer, host_url), CARD_READ)

    def _reply(self, outcome: Result | Refusal, form: Form) -> Reply:
        if isinstance(outcome, Refusal):
            return form.failure(outcome)
        try:
            return form.success(outcome)
        except InterlockError as error:
            return form.failure(refusal_of(error))

    async def _guarded(self, outcome: Awaitable[_T], what: str) -> _T | Refusal:
        """What becomes of a request: its outcome, or what its client is told."""
        try:
            return await outcome
        except Unauthenticated as error:
            return refusal_of(self._challenge(error))
        except (InterlockError, A2aError, Malformed, Refused) as error:
            return refusal_of(error)
        except Exception:
            log.exception("a %s request failed", what[:100])
            return INTERNAL

    async def _carried(
        self,
        inbound: Inbound,
        operation: Operation,
        params: Mapping[str, object],
        peer: Peer,
        stream: EventStream | None,
        form: Form,
    ) -> Result | Refusal | None:
        with ClientWatch(inbound.receive, stream.keep_alive if stream else None) as watch:
            sink = form.sink(stream) if stream else None
            result = await self._calls.carry_out(operation, params, peer, sink)
        if watch.left:
            return None
        if result.outcome == "rpc_error":
            return refusal_of_upstream(result.payload, result.headers)
        return result


async def send_reply(inbound: Inbound, reply: Reply, form: Form) -> None:
    """One complete response."""
    await respond(inbound.send, reply.status, (*form.headers, *reply.headers), reply.body)
