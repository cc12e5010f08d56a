"""Legacy sessions: their state is sealed in the session id, so a restart or another replica can serve them.

What only lives here, in memory, is what hangs on an open connection: questions that wait for an answer, the stream
for unsolicited messages, subscriptions and the log level.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway import codec
from gateway.errors import InvalidCall
from gateway.events import Events, Subscription
from gateway.listeners.mcp.calls import Seal
from gateway.types import Identity, Resource

SESSION_TTL_S: Final = 7 * 24 * 3600
MAX_LIVE: Final = 10_000
"""Beyond it idle sessions are forgotten (not ended: their ids stay good); those with open connections never are."""
MAX_ENDED: Final = 100_000
MAX_CAPABILITIES: Final = 4_096
"""Bytes of JSON; sealed, they stay below what servers and proxies take as one header line."""


class SessionUnknown(Exception):
    """The session id is not ours, is another principal's, or has ended: HTTP 404, and the client starts anew."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What was agreed at `initialize`."""

    key: str
    view: str
    version: str
    capabilities: Mapping[str, object]


@dataclass(slots=True)
class Session:
    """One legacy session as long as this process knows it."""

    terms: Terms
    waiting: dict[str, asyncio.Future[Mapping[str, object]]] = field(default_factory=dict)
    running: dict[str | int | float, asyncio.Task[object]] = field(default_factory=dict)
    subscriptions: dict[str, Resource] = field(default_factory=dict)
    log_level: str = ""
    listening: bool = False
    changes: Subscription | None = None
    """What feeds the open stream for unsolicited messages."""


class Sessions:
    """Opens, finds and ends sessions."""

    def __init__(self, *, sealer: Seal, events: Events, new_id: Callable[[], str], now_s: Callable[[], int]) -> None:
        self._sealer = sealer
        self._events = events
        self._new_id = new_id
        self._now_s = now_s
        self._live: OrderedDict[str, Session] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._live)

    def start(self, view: str, version: str, capabilities: Mapping[str, object], identity: Identity) -> str:
        """A new session's id. Raises `InvalidCall` when the client's capabilities do not fit into one."""
        terms = {"k": self._new_id(), "w": view, "v": version, "c": capabilities}
        if len(codec.dumps(capabilities)) > MAX_CAPABILITIES:
            raise InvalidCall("the client's capabilities are too large; declare fewer extensions")
        return self._sealer.seal(
            "session", terms, principal=identity.principal, ttl_s=SESSION_TTL_S, now_s=self._now_s()
        )

    def find(self, session_id: str, view: str, identity: Identity) -> Session:
        """The session of that id on this endpoint. Raises `SessionUnknown`."""
        terms = self._terms(session_id, identity)
        if terms.key in self._ended or terms.view != view:
            raise SessionUnknown
        session = self._live.get(terms.key)
        if session is None:
            self._evict()
            session = self._live[terms.key] = Session(terms)
        self._live.move_to_end(terms.key)
        return session

    def _terms(self, session_id: str, identity: Identity) -> Terms:
        try:
            value = self._sealer.open("session", session_id, principal=identity.principal, now_s=self._now_s())
        except InvalidCall as exc:
            raise SessionUnknown from exc
        capabilities = value.get("c") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(capabilities, dict):
            raise SessionUnknown
        return Terms(str(value.get("k")), str(value.get("w")), str(value.get("v")), capabilities)

    def end(self, session: Session) -> None:
        """Forget a session for good: its id is refused from now on."""
        self._ended[session.terms.key] = None
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
        self._live.pop(session.terms.key, None)
        self._drop(session)

    def _evict(self) -> None:
        if len(self._live) < MAX_LIVE:
            return
        for key, session in self._live.items():
            if not session.listening and not session.running:
                del self._live[key]
                self._drop(session)
                return

    def _drop(self, session: Session) -> None:
        running = list(session.running.values())
        session.running.clear()  # so that each call takes its cancellation for one that its client wished
        for task in running:
            task.cancel()
        for waiting in session.waiting.values():
            waiting.cancel()
        for resource in session.subscriptions.values():
            self._events.unwatch(resource.upstream, resource.name)
        session.subscriptions.clear()
        if session.changes is not None:
            session.changes.close()
