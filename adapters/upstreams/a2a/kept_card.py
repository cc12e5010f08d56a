"""One agent's card, fetched anew only where it changed, and judged each time: an operator may have accepted it."""

from __future__ import annotations

from collections.abc import Callable

from adapters.upstreams.a2a.card_source import CardFacts, CardSource, FetchedCard, Judge, NotModified
from adapters.upstreams.a2a.parts import CardSource as Describing
from gateway.a2a.directory import AgentEntry
from gateway.errors import UpstreamProtocolError


class KeptCard:
    """What `A2aAgent` asks for its agent's card."""

    def __init__(self, source: CardSource, facts: CardFacts, judge: Judge, clock_s: Callable[[], float]) -> None:
        self._source = source
        self._facts = facts
        self._judge = judge
        self._clock_s = clock_s
        self._last: FetchedCard | None = None

    async def described(self) -> AgentEntry:
        """The agent as its card describes it now. Raises `InterlockError` when there is none that may be used."""
        last = self._last
        fetched = await self._source.fetch(last.etag if last is not None else b"")
        if not isinstance(fetched, NotModified):
            last = fetched
        if last is None:  # it was not asked what changed
            raise UpstreamProtocolError(f"the address of agent {self._facts.name!r}'s card answered without a card")
        entry = await self._source.described(last, self._facts, self._judge, now_s=int(self._clock_s()))
        self._last = last  # only now: one that was refused is to be fetched again
        return entry

    async def aclose(self) -> None:
        """Close the connections to where the card is."""
        await self._source.pool.aclose()


_: type[Describing] = KeptCard
