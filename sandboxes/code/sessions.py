"""The sessions in which code runs: each has one owner and one box, and neither is ever another's."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio

from gateway.boxes import Level
from gateway.errors import (
    InterlockError,
    IsolationUnavailable,
    QuotaExceeded,
    UnknownResource,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from sandboxes.code.client import AgentClient
from sandboxes.code.environment import Environment
from sandboxes.code.pool import end_all

log = logging.getLogger("interlock.sandbox")

OpenBox: TypeAlias = Callable[[Environment, Level, str], Awaitable[AgentClient]]
"""(environment, least level, session) -> a box of its own for a session. Raises `SandboxFailure` or `Upstream*`."""
LOST: Final = "its files are lost; leave session out to start another"


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many sessions there may be, and for how long. Times are seconds."""

    sessions: int = 50
    per_owner: int = 5
    max_age_s: float = 4 * 3600.0
    wait_s: float = 60.0
    """How long a call waits for the one before it in the same session."""


@dataclass(eq=False, slots=True)
class Session:
    """One box and its files, for one owner. `ended` says why it is over."""

    id: str
    owner: str
    environment: Environment
    started_at: float
    used_at: float
    default: bool = False
    """It is what its owner means by naming no session."""
    box: AgentClient | None = None
    users: int = 0
    ended: str = ""
    turn: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def alive(self) -> bool:
        """Whether its box, if it has one yet, still runs."""
        return not self.ended and (self.box is None or self.box.alive)


class Sessions:
    """Knows every session. Nothing here tells one owner that another's session exists."""

    def __init__(
        self,
        open_box: OpenBox,
        limits: SessionLimits,
        *,
        new_id: Callable[[], str],
        now: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._open_box = open_box
        self._limits = limits
        self._new_id = new_id
        self._now = now
        self._sessions: dict[tuple[str, str], Session] = {}
        self._changed = anyio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, owner: str, session_id: str) -> Session:
        """The owner's session of that id.

        Raises `UnknownResource`, for one of somebody else just the same, and `UpstreamUnavailable` for one whose box
        is dead.
        """
        session = self._sessions.get((owner, session_id))
        if session is not None and self._overdue(session):
            self._end(session, "was unused for too long or reached its greatest age")
            session = None
        if session is None:
            raise UnknownResource(
                f"session {session_id[:80]!r} does not exist or is not yours; sessions end when they are unused "
                "for a while. Leave session out to start one"
            )
        self._check(session)
        return session

    def get(self, owner: str, session_id: str) -> Session | None:
        """The owner's session of that id, if it is still there."""
        return self._sessions.get((owner, session_id))

    def default(self, owner: str, environment: str) -> Session | None:
        """What the owner means by naming none, if it is there. Raises `UpstreamUnavailable` when its box is dead."""
        for session in self._sessions.values():
            if session.default and (session.owner, session.environment.name) == (owner, environment):
                if self._overdue(session):
                    self._end(session, "was unused for too long or reached its greatest age")
                    return None
                self._check(session)
                return session
        return None

    def begin(self, owner: str, environment: Environment, *, default: bool) -> Session:
        """A new session; its box is started by the first use. Raises `QuotaExceeded`; nobody else's is taken away."""
        if self._closed:
            raise UpstreamUnavailable("the sandbox service is going down; try again later")
        for dead in [session for session in self._sessions.values() if not session.alive or self._overdue(session)]:
            self._end(dead, "ended by itself")
        own = sum(session.owner == owner for session in self._sessions.values())
        if own >= self._limits.per_owner:
            raise QuotaExceeded(
                f"you have {own} sandbox sessions, which is the limit; end one with end_session, or use one of them",
                retry_after_s=60,
            )
        if len(self._sessions) >= self._limits.sessions:
            raise QuotaExceeded("all sandbox sessions are taken; try again later", retry_after_s=60)
        now = self._now()
        session = Session(self._new_id(), owner, environment, now, now, default)
        self._sessions[owner, session.id] = session
        self._changed.set()
        return session

    @asynccontextmanager
    async def use(self, session: Session, needed: Level) -> AsyncIterator[AgentClient]:
        """The session's box, for one call at a time. A fault of the box ends the session and says so.

        Raises `UpstreamTimeout` when the calls before take too long, `IsolationUnavailable` when the box is weaker
        than needed, and what starting a box raises.
        """
        session.users += 1
        try:
            await self._turn(session)
            try:
                box = await self._box(session, needed)
                with self._blamed(session):
                    yield box
            finally:
                session.turn.release()
        finally:
            session.users -= 1
            session.used_at = self._now()
            if not session.alive:
                self._end(session, "was given up")
            self._changed.set()

    def discard(self, session: Session) -> None:
        """End a session at once, without waiting for what is left of it."""
        self._end(session, "was given up")

    async def end(self, session: Session) -> None:
        """End a session, whatever runs in it. Returns when nothing of its box is left."""
        self._end(session, "was ended")
        if session.box is not None:
            await end_all([session.box])

    async def run(self) -> None:
        """End what is idle or too old. Cancelled, no session is left."""
        try:
            while True:
                self._changed = anyio.Event()
                for session in [session for session in self._sessions.values() if self._overdue(session)]:
                    self._end(session, "was unused for too long or reached its greatest age")
                due = min((self._due(session) for session in self._sessions.values()), default=None)
                with anyio.move_on_after(None if due is None else max(0.0, due - self._now())):
                    await self._changed.wait()
        finally:
            self._closed = True
            left = list(self._sessions.values())
            for session in left:
                self._end(session, "ended with the sandbox service")
            await end_all([session.box for session in left if session.box is not None])

    async def _turn(self, session: Session) -> None:
        try:
            with anyio.fail_after(self._limits.wait_s):
                await session.turn.acquire()
        except TimeoutError as exc:
            words = f"session {session.id!r} was busy with another call for {self._limits.wait_s:g} s; try again later"
            raise UpstreamTimeout(words) from exc

    async def _box(self, session: Session, needed: Level) -> AgentClient:
        self._check(session)
        if session.box is None:
            session.box = await self._opened(session, needed)
        level = session.box.facts.level
        if not level.holds(needed):
            raise IsolationUnavailable(
                f"session {session.id!r} runs at isolation level {level.value!r}, but policy asks for "
                f"{needed.value!r} for this call; leave session out to start another"
            )
        return session.box

    async def _opened(self, session: Session, needed: Level) -> AgentClient:
        least = max(needed, session.environment.level, key=lambda level: level.rank)
        try:
            box = await self._open_box(session.environment, least, session.id)
        except BaseException:
            self._end(session, "could not be started")
            raise
        if session.ended:  # meanwhile, by its owner or by us
            box.kill()
            self._check(session)
        return box

    @contextmanager
    def _blamed(self, session: Session) -> Iterator[None]:
        """A fault while the box is used is told as the end of the session, if it is that."""
        try:
            yield
        except InterlockError as exc:
            self._check(session, exc)
            raise

    def _check(self, session: Session, cause: InterlockError | None = None) -> None:
        """Raise `UpstreamUnavailable` if the session is over, in its own words."""
        if session.alive:
            return
        if not session.ended:
            reason = session.box.lost if session.box is not None and session.box.lost else "the box ended by itself"
            self._end(session, f"is over: {reason}")
        raise UpstreamUnavailable(f"session {session.id!r} {session.ended}; {LOST}") from cause

    def _end(self, session: Session, why: str) -> None:
        session.ended = session.ended or why
        if self._sessions.pop((session.owner, session.id), None) is not None:
            log.info("session %s of environment %r %s", session.id[:6], session.environment.name, session.ended)
        if session.box is not None:
            session.box.kill()

    def _due(self, session: Session) -> float:
        oldest = session.started_at + self._limits.max_age_s
        return oldest if session.users else min(oldest, session.used_at + session.environment.idle_s)

    def _overdue(self, session: Session) -> bool:
        return self._now() >= self._due(session)
