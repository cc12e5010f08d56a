"""Published cards as they go out: signed once, and kept with what HTTP caches need (specification, section 8.6)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate, parsedate_to_datetime
from typing import Final, TypeAlias

from gateway import codec
from gateway.a2a.card_check import Card, check_card, frozen, read_card, usable_interfaces
from gateway.a2a.card_shape import core_of
from gateway.a2a.cards import Places, Security, may_be_verbatim, published
from gateway.a2a.directory import AgentEntry

MAX_AGE_S: Final = 60
MAX_PAGES: Final = 1_024
MEDIA_TYPE: Final = "application/json"

Sign: TypeAlias = Callable[[Mapping[str, object], bytes], Mapping[str, object]]
"""The card with one signature over these bytes (`gateway.identity.card_keys.CardKeys.sign`)."""


@dataclass(frozen=True, slots=True)
class CardPage:
    """One card as bytes, with its validators."""

    body: bytes
    etag: str
    last_modified_s: int

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers of a 200 and of a 304. Who may read a card is for policy, so no cache is to be shared."""
        return (
            (b"etag", self.etag.encode()),
            (b"last-modified", formatdate(self.last_modified_s, usegmt=True).encode()),
            (b"cache-control", f"private, max-age={MAX_AGE_S}".encode()),
        )

    def is_current(self, if_none_match: str = "", if_modified_since: str = "") -> bool:
        """Whether a client that sends these headers has this card already, so that 304 is the answer."""
        return is_current(self.etag, self.last_modified_s, if_none_match, if_modified_since)


def is_current(etag: str, last_modified_s: int, if_none_match: str, if_modified_since: str) -> bool:
    """RFC 9110 section 13.2.2: tags first, weakly compared; the date counts only where no tag is sent."""
    if if_none_match:
        tags = [tag.strip() for tag in if_none_match.split(",")]
        return "*" in tags or any(tag.removeprefix("W/") == etag for tag in tags)
    try:
        return last_modified_s <= int(parsedate_to_datetime(if_modified_since).timestamp())
    except (TypeError, ValueError, OverflowError):
        return False


class CardShelf:
    """Makes the page of each agent once per card and place."""

    def __init__(self, sign: Sign, security: Security, *, max_pages: int = MAX_PAGES) -> None:
        self._sign = sign
        self._security = security
        self._max_pages = max_pages
        self._pages: OrderedDict[tuple[object, ...], CardPage] = OrderedDict()

    def page(self, entry: AgentEntry, places: Places) -> CardPage:
        """The agent's card. Raises `CardRefused` when it has none that may be used."""
        key = (entry.name, entry.digest, entry.raw, entry.skills, entry.quarantine, places)
        page = self._pages.get(key)
        if page is None:
            page = self._made(entry, places)
            self._pages[key] = page
            while len(self._pages) > self._max_pages:
                self._pages.popitem(last=False)
        self._pages.move_to_end(key)
        return page

    def extended(self, entry: AgentEntry, result: bytes, places: Places) -> bytes:
        """An extended card that the upstream answered, for our callers. Raises `CardRefused` for one that is none."""
        card = {name: value for name, value in read_card(result).items() if name != "signatures"}
        check_card(card)
        interfaces = (*entry.interfaces, *usable_interfaces(card))  # none of either's addresses is handed on
        shown = replace(entry, card=frozen(card), interfaces=interfaces, raw=b"")
        return codec.dumps(self._signed(shown, places))

    def _made(self, entry: AgentEntry, places: Places) -> CardPage:
        body = entry.raw if may_be_verbatim(entry, places) else codec.dumps(self._signed(entry, places))
        return CardPage(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', entry.fetched_s)

    def _signed(self, entry: AgentEntry, places: Places) -> Card:
        card = published(
            entry,
            base_url=places.base_url,
            host_url=places.host_url,
            grpc_url=places.grpc_url,
            security=self._security.schemes,
            requirements=self._security.requirements,
            legacy=places.legacy,
        )
        return self._sign(card, codec.jcs(core_of(card)))
