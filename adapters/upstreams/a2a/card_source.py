"""Fetches an agent's card from its upstream, finds out who signed it, and says what the agent is now."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio

from adapters.upstreams.wire.http import Headers, HttpPool, split_url
from gateway import codec
from gateway.a2a.card_check import (
    MAX_CARD_BYTES,
    Card,
    CardRefused,
    check_card,
    check_echoes,
    frozen,
    interfaces_of,
    is_legacy,
    read_card,
)
from gateway.a2a.card_shape import core_forms, core_of, signed_forms
from gateway.a2a.cards import chosen_skills
from gateway.a2a.directory import AgentEntry
from gateway.a2a.operations import VERSION
from gateway.a2a.v03 import card_from_03
from gateway.a2a.v03_shapes import NotConvertible
from gateway.errors import UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.identity.card_signatures import SignatureRefused, keys_of, signatures_of, verify
from gateway.identity.discovery import KeySource, KeysUnavailable
from gateway.identity.jwks import KeySetMap

log = logging.getLogger("interlock.upstreams")

Judge: TypeAlias = Callable[[AgentEntry], Awaitable[AgentEntry]]
"""Marks an agent pinned or quarantined, by what was accepted of it."""

TIMEOUT_S: Final = 10.0
MAX_ETAG: Final = 1_024
_HINTS: Final[Mapping[int, str]] = {
    **dict.fromkeys((301, 302, 303, 307, 308), " (redirects are not followed: name the place that it leads to)"),
    **dict.fromkeys((401, 403), " (it wants credentials: give the agent `headers`)"),
}


@dataclass(frozen=True, slots=True)
class FetchedCard:
    """A card as its upstream sent it."""

    raw: bytes
    etag: bytes = b""


@dataclass(frozen=True, slots=True)
class NotModified:
    """The upstream says that its card is the one whose tag we sent."""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What configuration says of an agent, whatever its card says."""

    name: str
    labels: tuple[str, ...] = ()
    risk: str = "medium"
    skills: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CardSource:
    """One agent's card, at the address that configuration names. `pool` leads to that address's origin."""

    url: str
    pool: HttpPool
    keys: KeySource
    """Reads the key sets that signatures name."""
    headers: Headers = ()
    trusted: KeySetMap = field(default_factory=dict)
    """Keys that are known without being fetched, by key id and algorithm."""
    timeout_s: float = TIMEOUT_S

    async def fetch(self, etag: bytes = b"") -> FetchedCard | NotModified:
        """The card now. Raises the `Upstream*` errors; a redirect is one."""
        _, target = split_url(self.url)
        conditional = ((b"if-none-match", etag),) if etag else ()
        headers = (*self.headers, (b"accept", b"application/json"), (b"a2a-version", VERSION.encode()), *conditional)
        answer = await self.pool.open("GET", target, headers, None, deadline_s=self.timeout_s)
        async with answer:
            if answer.status == 304 and etag:
                return NotModified()
            if answer.status != 200:
                raise _not_a_card(answer.status)
            found = answer.headers.get(b"etag", b"")
            raw = await answer.read(MAX_CARD_BYTES)
        return FetchedCard(raw, found if len(found) <= MAX_ETAG else b"")

    async def described(self, fetched: FetchedCard, facts: CardFacts, judge: Judge, *, now_s: int) -> AgentEntry:
        """The agent as this card describes it, judged.

        Raises `CardRefused` for a card that cannot be used or is signed by nobody we can name, and
        `UpstreamUnavailable` when the keys that its signature names cannot be read now.
        """
        raw = read_card(fetched.raw)
        covered, signed_by = await self._verified(raw)
        card = _modern(covered)
        check_card(card)
        chosen_skills(card, facts.skills)
        entry = AgentEntry(
            facts.name,
            card=frozen(card),
            interfaces=interfaces_of(card),
            digest=digest_of(card),
            signed_by=signed_by,
            labels=facts.labels,
            risk=facts.risk,
            fetched_s=now_s,
            skills=facts.skills,
            raw=fetched.raw if signed_by else b"",
        )
        return await judge(entry)

    async def _verified(self, raw: Card) -> tuple[Card, str]:
        """What of the card its signature covers, and whose that is; all of it, by nobody, where it is not signed."""
        try:
            if not signatures_of(raw):
                return _unsigned(raw), ""
            keys = await self._keys(raw)
            return _covered(raw, keys)
        except SignatureRefused as exc:
            raise CardRefused(f"the agent card: {exc}") from exc

    async def _keys(self, raw: Card) -> KeySetMap:
        known = {(signature.key_id, signature.algorithm) for signature in signatures_of(raw)}
        if known & self.trusted.keys():
            return self.trusted
        try:
            with anyio.fail_after(self.timeout_s):
                return await keys_of(raw, self.url, self.keys)
        except KeysUnavailable as exc:
            raise UpstreamUnavailable(f"the keys that the agent card is signed with: {exc}") from exc
        except TimeoutError as exc:
            raise UpstreamTimeout("the keys that the agent card is signed with did not come in time") from exc


def _modern(card: Card) -> Card:
    if not is_legacy(card):
        return card
    try:
        return card_from_03(card)
    except NotConvertible as exc:
        raise CardRefused(f"the card is not one of A2A 0.3: {exc}") from exc


def digest_of(card: Card) -> str:
    """`sha256:` over the canonical card without its signatures."""
    return "sha256:" + hashlib.sha256(codec.jcs(_unsigned(card))).hexdigest()


def _covered(raw: Card, keys: KeySetMap) -> tuple[Card, str]:
    """A signature over everything, or over the members of 1.0 alone: then nothing else of the card is used."""
    try:
        return _unsigned(raw), verify(raw, keys, signed_forms(raw))
    except SignatureRefused:
        if is_legacy(raw):
            raise
    signed_by = verify(raw, keys, core_forms(raw))
    check_echoes(raw)
    return core_of(raw), signed_by


def _unsigned(card: Card) -> Mapping[str, object]:
    return {name: value for name, value in card.items() if name != "signatures"}


def _not_a_card(status: int) -> UpstreamProtocolError | UpstreamUnavailable:
    """Callers read it too, so it does not say where: who runs the gateway sees `card_url` beside it."""
    if status in {408, 425, 429} or status >= 500:
        return UpstreamUnavailable(f"there is no agent card at its card_url now, which answers {status}")
    return UpstreamProtocolError(
        f"there is no agent card at its card_url, which answers {status}{_HINTS.get(status, '')}"
    )
