"""Tells those who want to know what becomes of tickets, until they took it: what is to be told follows from the store.

There is no queue that could be lost or run full: what a ticket gives to tell, less what arrived, is what is left to
send, after a restart as well and on whichever replica. Calls never wait for it.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

import anyio

from gateway.errors import InterlockError
from gateway.tickets import ApprovalStore, NoticeStore, Ticket, TicketQuery

log = logging.getLogger("interlock.approvals")

Event: TypeAlias = Literal["approval.requested", "approval.approved", "approval.denied", "approval.expired"]
Fate: TypeAlias = Literal["taken", "refused", "unreachable"]

WEBHOOKS: Final = "webhooks"
"""The name of the key that webhooks are signed with, in the state store."""
LOOK_S: Final = 15.0
"""How often the store is looked at unasked: for what expired, and for what other replicas left behind."""
LEASE_MS: Final = 60_000
"""How long a notice is one replica's to send; longer than a try takes."""
WORTH_MS: Final = 24 * 3_600_000
"""How long after its event a notice is tried."""
MOST_WAIT_S: Final = 300.0
MOST_TICKETS: Final = 1_000
"""Of which something is told in one round; what is left of others is told in the next."""
_REFUSED_AGAIN_MS: Final = 300_000


def secret_text(key: bytes) -> str:
    """The key as receivers of Standard Webhooks are given it."""
    return "whsec_" + base64.b64encode(key).decode()


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that became of a ticket. `id` is the same at every try, so that receivers can tell."""

    event: Event
    ticket: Ticket
    at_ms: int

    @property
    def id(self) -> str:
        """Of the message."""
        return "msg_" + hashlib.sha256(f"{self.ticket.id}\x00{self.event}".encode()).hexdigest()[:32]


class Messenger(Protocol):
    """Tries once to deliver a notice, within its deadline. Does not raise."""

    async def send(self, notice: Notice) -> Fate: ...


class Store(ApprovalStore, NoticeStore, Protocol):
    """Where tickets are, and what was told of them."""


@dataclass(slots=True)
class Notifier:
    """Sends what is to be told. `random` gives numbers from 0 to 1."""

    store: Store
    messenger: Messenger
    clock_ms: Callable[[], int]
    random: Callable[[], float]
    _wake: anyio.Event = field(default_factory=anyio.Event)
    _failures: int = 0
    _refused: dict[str, int] = field(default_factory=dict)
    _failed: dict[str, int] = field(default_factory=dict)
    """Ticket -> how often it was not taken. Those come last, so that one that its receiver fails at stops no other."""

    def changed(self, _: Ticket) -> None:
        """Look at the store soon."""
        self._wake.set()

    async def run(self) -> None:
        """Send, until cancelled."""
        while True:
            wait_s = await self.round()
            with anyio.move_on_after(wait_s):
                await self._wake.wait()
                if self._failures:  # being woken is no reason to hurry a receiver that is down
                    await anyio.sleep(wait_s)
            self._wake = anyio.Event()

    async def round(self) -> float:
        """Try everything that is left to send once; how long to wait then, in seconds."""
        try:
            for notice in await self._left():
                if not await self._tried(notice):
                    self._failures += 1
                    return self._backoff_s()
        except (InterlockError, TimeoutError) as exc:
            log.warning("notices about approvals wait for the state store: %s", exc)
            return LOOK_S
        self._failures = 0
        return LOOK_S

    async def _left(self) -> list[Notice]:
        now_ms = self.clock_ms()
        asked = TicketQuery(untold_at_ms=now_ms, alive_at_ms=now_ms - WORTH_MS, limit=MOST_TICKETS)
        tickets = await self.store.tickets(asked)
        notices = [each for ticket in reversed(tickets) for each in told_of(ticket, now_ms)]
        worth = [notice for notice in notices if now_ms - notice.at_ms < WORTH_MS]
        sent = await self.store.sent_notices([notice.ticket.id for notice in worth]) if worth else frozenset()
        self._refused = {key: until for key, until in self._refused.items() if until > now_ms}
        left = [each for each in worth if (each.ticket.id, each.event) not in sent and each.id not in self._refused]
        self._failed = {each.ticket.id: self._failed.get(each.ticket.id, 0) for each in left}
        return sorted(left, key=lambda each: self._failed[each.ticket.id])

    async def _tried(self, notice: Notice) -> bool:
        """Whether to go on with the next one."""
        now_ms, ticket_id = self.clock_ms(), notice.ticket.id
        if not await self.store.claim_notice(ticket_id, notice.event, now_ms, now_ms + LEASE_MS):
            return True
        fate = await self.messenger.send(notice)
        if fate == "taken":
            self._failures = 0
            await self.store.settle_notice(ticket_id, notice.event)
            return True
        await self.store.release_notice(ticket_id, notice.event)
        log.warning("%s of ticket %s was not taken (%s); it is tried again", notice.event, ticket_id, fate)
        if fate == "refused":
            self._refused[notice.id] = now_ms + _REFUSED_AGAIN_MS
            return True
        self._failed[ticket_id] = self._failed.get(ticket_id, 0) + 1
        return False

    def _backoff_s(self) -> float:
        """1 s, 2 s, 4 s ... 5 min, of which a random half is left out so that replicas do not keep step."""
        longest = min(MOST_WAIT_S, 2.0 ** min(self._failures - 1, 16))
        return longest * (0.5 + self.random() / 2)


def told_of(ticket: Ticket, now_ms: int) -> Iterator[Notice]:
    """Everything that there is to tell of a ticket now, in order."""
    yield Notice("approval.requested", ticket, ticket.created_ms)
    last_ms = max((vote.at_ms for vote in ticket.votes), default=ticket.created_ms)
    match ticket.state:
        case "approved" | "spent":
            yield Notice("approval.approved", ticket, last_ms)
        case "denied":
            yield Notice("approval.denied", ticket, last_ms)
        case "pending" if now_ms >= ticket.expires_ms:
            yield Notice("approval.expired", ticket, ticket.expires_ms)
