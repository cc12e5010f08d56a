"""The agent card at its well-known address: who may read it is for policy, and caches are told what they need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from gateway.a2a.card_shelf import CardPage, CardShelf
from gateway.a2a.cards import Places
from gateway.a2a.directory import AgentEntry, Agents
from gateway.a2a.operations import VERSION
from gateway.errors import UpstreamUnavailable
from gateway.listeners.a2a.answering import Answers, send_reply
from gateway.listeners.a2a.inbound import Inbound, Trace, peer_of
from gateway.listeners.a2a.refusals import Refusal
from gateway.listeners.a2a.rest import RestForm
from gateway.listeners.http import JSON, Header, one, respond
from gateway.types import Result

CARD_PATHS: Final = frozenset({"/.well-known/agent-card.json", "/.well-known/agent.json"})
"""The second is where clients before 0.3 look."""

_VARY: Final[Header] = (b"vary", b"authorization")


@dataclass(frozen=True, slots=True)
class AgentCards:
    """The cards of one agent as they are served at one place."""

    name: str
    agents: Agents
    shelf: CardShelf
    places: Places

    def page(self) -> CardPage:
        """The public card. Raises `UpstreamUnavailable` while there is none."""
        return self.shelf.page(self._entry(), self.places)

    def extended(self, result: Result) -> Result:
        """The agent's card for callers it knows, with our addresses in place of its own."""
        return replace(result, payload=self.shelf.extended(self._entry(), result.payload, self.places))

    def _entry(self) -> AgentEntry:
        entry = self.agents.get(self.name)
        if entry is None or not entry.card:
            why = entry.down if entry is not None else "not configured"
            raise UpstreamUnavailable(f"agent {self.name!r} has no card now: {why}")
        return entry


class CardReads:
    """Serves the public card of one agent."""

    def __init__(self, *, cards: AgentCards, answers: Answers, trace: Trace) -> None:
        self._cards = cards
        self._answers = answers
        self._trace = trace

    async def serve(self, inbound: Inbound) -> None:
        """Answer one GET."""
        form = RestForm(inbound, VERSION)
        outcome = await self._answers.read_card(peer_of(inbound, self._trace, VERSION), self._cards.places.host_url)
        if isinstance(outcome, Refusal):
            await send_reply(inbound, form.failure(outcome), form)
            return
        page = self._cards.page()
        if (
            outcome.payload != page.body
        ):  # policy changed it, so it is this caller's only, and bears no signature that holds
            await respond(inbound.send, 200, (JSON, _VARY, (b"cache-control", b"no-store")), outcome.payload)
        elif page.is_current(one(inbound.headers, b"if-none-match"), one(inbound.headers, b"if-modified-since")):
            await respond(inbound.send, 304, (*page.headers, _VARY), b"")
        else:
            await respond(inbound.send, 200, (JSON, *page.headers, _VARY), page.body)
