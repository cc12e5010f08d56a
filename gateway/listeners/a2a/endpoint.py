"""The A2A endpoint of one agent as an ASGI application: guards first, then what the path and the verb ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.a2a.card_shelf import CardShelf
from gateway.a2a.cards import Places
from gateway.a2a.directory import Agents
from gateway.a2a.operations import VERSION
from gateway.a2a.tasks import TaskIndex
from gateway.errors import InterlockError, Unauthenticated
from gateway.listeners.a2a.answering import Answers, send_reply
from gateway.listeners.a2a.calls import AgentCalls
from gateway.listeners.a2a.card import CARD_PATHS, AgentCards, CardReads
from gateway.listeners.a2a.holds import HeldMessages
from gateway.listeners.a2a.inbound import Inbound, Trace, inbound_of
from gateway.listeners.a2a.jsonrpc import JsonRpc
from gateway.listeners.a2a.refusals import INVALID_REQUEST, Refused, invalid, not_allowed, nothing_here, refusal_of
from gateway.listeners.a2a.rest import Rest, RestForm
from gateway.listeners.guards import Guards
from gateway.listeners.http import ClientLeft, Headers, Receive, Scope, Send, headers_of, respond
from gateway.listeners.mcp.quiet import Handler
from gateway.ports import Identifier

_PUSH: Final = "/push/"


class Pushes(Protocol):
    """Takes the notifications that an agent sends to our webhook."""

    async def received(self, agent: str, relay_id: str, headers: Headers, body: bytes) -> int:
        """The HTTP status to answer with."""


@dataclass(frozen=True, slots=True)
class A2aParts:
    """What the A2A endpoints of one gateway stand on."""

    agents: Agents
    tasks: TaskIndex
    handler: Handler
    identifier: Identifier
    guards: Guards
    shelf: CardShelf
    pushes: Pushes
    new_id: Callable[[], str]
    trace: Trace
    holds: HeldMessages | None = None
    """Held calls that clients ask after; without it, they make them again."""


class A2aEndpoint:
    """One agent at one place: JSON-RPC at its base, HTTP+JSON below it, its card and its webhook.

    `calls` is what other bindings of the same agent make theirs with.
    """

    def __init__(
        self, parts: A2aParts, *, name: str, places: Places, challenge: Callable[[Unauthenticated], Unauthenticated]
    ) -> None:
        self._name = name
        self._guards = parts.guards
        self._pushes = parts.pushes
        cards = AgentCards(name, parts.agents, parts.shelf, places)
        self.calls = AgentCalls(
            name=name,
            agents=parts.agents,
            tasks=parts.tasks,
            handler=parts.handler,
            identifier=parts.identifier,
            extended=cards.extended,
            new_id=parts.new_id,
            holds=parts.holds,
        )
        answers = Answers(calls=self.calls, challenge=challenge)
        limit = parts.guards.max_body_bytes
        self._rpc = JsonRpc(answers=answers, trace=parts.trace, max_body_bytes=limit)
        self._rest = Rest(answers=answers, trace=parts.trace, max_body_bytes=limit)
        self._cards = CardReads(cards=cards, answers=answers, trace=parts.trace)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        """Serve one request. `path` is what follows the agent's base, percent-encoded as it came (ASGI `raw_path`)."""
        headers = headers_of(scope)
        inbound = inbound_of(scope, path, headers, receive, send)
        try:
            refusal = self._guards.refusal(headers)
            if refusal is not None:
                raise invalid(INVALID_REQUEST, refusal[1], status=refusal[0])
            await self._serve(inbound)
        except (Refused, InterlockError) as error:
            form = RestForm(inbound, VERSION)
            await send_reply(inbound, form.failure(refusal_of(error)), form)
        except ClientLeft:
            return

    async def _serve(self, inbound: Inbound) -> None:
        path, verb = inbound.path.removesuffix("/"), inbound.verb
        if not path:
            _require(verb, "POST")
            await self._rpc.serve(inbound)
        elif path in CARD_PATHS:
            _require(verb, "GET")
            await self._cards.serve(inbound)
        elif path.startswith(_PUSH):
            _require(verb, "POST")
            await self._receive(inbound, path[len(_PUSH) :])
        else:
            await self._rest.serve(inbound)

    async def _receive(self, inbound: Inbound, relay_id: str) -> None:
        """A notification. Who sent it is for the relay to find out: the agent has no credentials here."""
        if not relay_id or "/" in relay_id:
            raise nothing_here()
        body = await inbound.body(self._guards.max_body_bytes, "application/json", "application/a2a+json")
        status = await self._pushes.received(self._name, relay_id, inbound.headers, body)
        await respond(inbound.send, status, (), b"")


def _require(verb: str, wanted: str) -> None:
    if verb != wanted:
        raise not_allowed((wanted,))
