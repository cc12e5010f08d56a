"""A call on a legacy upstream that asks back in its middle, cut into rounds for a client that cannot be asked live.

The upstream's request stays open ("parked") while the client gathers the answer and calls again (MCP 2026-07-28,
patterns/mrtr). Only the principal whose call it was can take it up, for the same call, within its time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup

from adapters.upstreams.mcp.link import METHOD_NOT_FOUND, Link, News, Object, Reply, Request
from adapters.upstreams.mcp.telling import is_for_client
from gateway.boxes import BoxFacts
from gateway.errors import InvalidCall, QuotaExceeded, UpstreamUnavailable
from gateway.ports import Relay

QUESTIONS: Final = frozenset({"elicitation/create", "sampling/createMessage", "roots/list"})
"""What a server may ask its client for."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the upstream's; `method` and `params` as it put them, `key` ours."""

    key: str
    method: str
    params: Object


@dataclass(frozen=True, slots=True)
class _Open:
    """A question that waits. The first answer counts."""

    question: Question
    answered: anyio.Event
    replies: list[Object]


class Turn:
    """One request to a legacy upstream, from its start to its answer, over any number of questions."""

    def __init__(self, link: Link, request: Request, news: News) -> None:
        self._link = link
        self._request = request
        self._news = news
        self._open: dict[str, _Open] = {}
        self._scope = anyio.CancelScope()
        self._stirred = anyio.Event()
        self._reply: Reply | None = None
        self._failure: Exception | None = None
        self._over = False
        self.screened: set[str] = set()
        """Keys of the questions that policy has let through to the client."""
        self.relay: Relay | None = None
        """The client's side of the round that runs now; `None` while parked."""

    @property
    def box(self) -> BoxFacts | None:
        """What the upstream's side of it runs in."""
        return self._link.box

    async def run(self) -> None:
        """Carry the request through. To be run in a task group that outlives the rounds."""
        try:
            with self._scope:
                self._reply = await self._link.request(self._request, self._told, self._asked)
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is raised in the round that waits for it
            self._failure = exc
        finally:
            self._over = True
            self._stirred.set()

    async def step(self) -> Reply | None:
        """Wait for the reply, or for a question that is still open (`None`). Raises what the request raised."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._reply is not None:
                return self._reply
            if self._over:
                raise UpstreamUnavailable("the call that waited for input has ended; start it again")
            if self._open:
                return None
            self._stirred = anyio.Event()
            await self._stirred.wait()

    def cancel(self) -> None:
        """Give the upstream's request up; the upstream is told."""
        self._scope.cancel()

    def answer(self, key: str, reply: Object) -> bool:
        """Answer one open question; false when there is none of that key, or it has its answer."""
        waiting = self._open.pop(key, None)
        if waiting is None:
            return False
        waiting.replies.append(reply)
        waiting.answered.set()
        return True

    @property
    def open_questions(self) -> dict[str, Question]:
        """What still waits for an answer, by key."""
        return {key: waiting.question for key, waiting in self._open.items()}

    async def _told(self, method: str, params: Object) -> None:
        if not is_for_client(method):
            self._news(method, params)
        elif self.relay is not None:
            await self.relay.notify(method, params)

    async def _asked(self, method: str, params: Object) -> Object:
        if method not in QUESTIONS:
            return {"error": {"code": METHOD_NOT_FOUND, "message": "Method not found"}}
        key = f"q{secrets.token_hex(4)}"
        waiting = self._open[key] = _Open(Question(key, method, params), anyio.Event(), [])
        self._stirred.set()
        try:
            await waiting.answered.wait()
        finally:
            self._open.pop(key, None)  # the upstream no longer waits: it withdrew the question, or is gone
        return waiting.replies[0]


@dataclass(slots=True)
class _Parked:
    owner: str
    digest: str
    turn: Turn
    deadline: float


@dataclass(slots=True)
class ParkingLot:
    """Turns that wait for their client to come back. Bounded; one that is not fetched in time is ended."""

    group: TaskGroup
    ttl_s: float
    max_per_owner: int
    max_in_all: int = 1_024
    monotonic: Callable[[], float] = time.monotonic
    _parked: dict[str, _Parked] = field(default_factory=dict)

    def park(self, turn: Turn, owner: str, digest: str) -> str:
        """Keep a turn, and say under which id. Raises `QuotaExceeded` when there are too many."""
        self.expire()
        retry_after_s = int(self.ttl_s) + 1
        if sum(parked.owner == owner for parked in self._parked.values()) >= self.max_per_owner:
            words = f"you have {self.max_per_owner} calls that wait for input; answer or abandon some first"
            raise QuotaExceeded(words, retry_after_s=retry_after_s)
        if len(self._parked) >= self.max_in_all:
            raise QuotaExceeded(f"{self.max_in_all} calls wait for input already", retry_after_s=retry_after_s)
        parked_id = secrets.token_urlsafe(18)
        self._parked[parked_id] = _Parked(owner, digest, turn, self.monotonic() + self.ttl_s)
        turn.relay = None
        return parked_id

    def take(self, parked_id: str, owner: str, digest: str) -> Turn:
        """Fetch a turn back, once. Raises `InvalidCall` when it is not there for this owner and call."""
        self.expire()
        parked = self._parked.get(parked_id)
        if parked is None or parked.owner != owner or parked.digest != digest:
            raise InvalidCall("the call that waited for this input is over; start it again without requestState")
        del self._parked[parked_id]
        return parked.turn

    def expire(self) -> None:
        """End the turns whose time is up."""
        now = self.monotonic()
        for parked_id, parked in list(self._parked.items()):
            if parked.deadline <= now:
                del self._parked[parked_id]
                parked.turn.cancel()

    def __len__(self) -> int:
        return len(self._parked)
