"""What is kept of a session, in process: its scratchpad, and what it recalled, which is what its writes derive from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.memory.records import Version

IDLE_S: Final = 3_600.0
MAX_SESSIONS: Final = 10_000
MAX_RECALLED: Final = 256
MAX_SCRATCH: Final = 128
MAX_CHARS: Final = 256 * 1024
"""Of all texts of one session: every write is compared with them."""
MAX_CHARS_OF_ALL: Final = 64 * 1024 * 1024


@dataclass(slots=True)
class _Scratch:
    version: Version
    until: float


@dataclass(slots=True)
class Session:
    """One caller's session. What was recalled stands oldest first."""

    seen: float = 0.0
    recalled: OrderedDict[str, Version] = field(default_factory=OrderedDict)
    scratch: OrderedDict[str, _Scratch] = field(default_factory=OrderedDict)
    counted: int = 0
    """Its share of what all have, as last counted."""

    @property
    def chars(self) -> int:
        """The length of all its texts."""
        jotted = sum(len(each.version.text) for each in self.scratch.values())
        return jotted + sum(len(one.text) for one in self.recalled.values())


class Sessions:
    """By caller and session; idle ones go after an hour, and so does what is on their scratchpads."""

    def __init__(self, now_s: Callable[[], float], *, idle_s: float = IDLE_S, most: int = MAX_SESSIONS) -> None:
        self._now_s, self._idle_s, self._most = now_s, idle_s, most
        self._kept: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._chars = 0

    def of(self, principal: str, session_id: str) -> Session:
        """The session, made when there is none."""
        key, now = (principal, session_id), self._now_s()
        found = self._kept.get(key)
        if found is None or now - found.seen > self._idle_s:
            self._chars -= found.counted if found else 0
            found = self._kept[key] = Session()
        self._kept.move_to_end(key)
        found.seen = now
        while len(self._kept) > self._most:
            self._drop_oldest()
        return found

    def _drop_oldest(self) -> None:
        _, oldest = self._kept.popitem(last=False)
        self._chars -= oldest.counted

    def _count(self, session: Session) -> None:
        """Keep a session, and all of them, within what may be kept: what is oldest goes first."""
        chars = session.chars
        while chars > MAX_CHARS:
            _, each = session.recalled.popitem(last=False) if session.recalled else (None, None)
            if each is None:
                _, jotted = session.scratch.popitem(last=False)
                each = jotted.version
            chars -= len(each.text)
        self._chars += chars - session.counted
        session.counted = chars
        while self._chars > MAX_CHARS_OF_ALL and len(self._kept) > 1:
            self._drop_oldest()

    def recalled(self, session: Session, versions: Iterable[Version]) -> None:
        """Remember what was handed out."""
        for version in versions:
            session.recalled[version.id] = version
            session.recalled.move_to_end(version.id)
        while len(session.recalled) > MAX_RECALLED:
            session.recalled.popitem(last=False)
        self._count(session)

    def jot(self, session: Session, version: Version, seconds: float) -> None:
        """Put something on the scratchpad, in place of what has its key."""
        for old in [each for each in session.scratch.values() if each.version.key == version.key]:
            del session.scratch[old.version.record]
        session.scratch[version.record] = _Scratch(version, self._now_s() + seconds)
        while len(session.scratch) > MAX_SCRATCH:
            session.scratch.popitem(last=False)
        self._count(session)

    def scratch(self, session: Session) -> Sequence[Version]:
        """What is on it now, newest first."""
        now = self._now_s()
        for record in [record for record, each in session.scratch.items() if each.until <= now]:
            del session.scratch[record]
        return [each.version for each in reversed(session.scratch.values())]

    def wipe(self, session: Session, record: str) -> bool:
        """Take something off the scratchpad; whether it was there."""
        return session.scratch.pop(record, None) is not None

    def forget(self, tenant: str, records: Iterable[str]) -> None:
        """Keep nothing of records that were erased."""
        gone = set(records)
        for session in self._kept.values():
            for name in [name for name, one in session.recalled.items() if one.tenant == tenant and one.record in gone]:
                del session.recalled[name]

    def forget_subject(self, tenant: str, subject: str) -> None:
        """Keep nothing that is about somebody, or theirs."""
        for session in self._kept.values():
            for name in [name for name, one in session.recalled.items() if _concerns(one, tenant, subject)]:
                del session.recalled[name]
            for name in [name for name, one in session.scratch.items() if _concerns(one.version, tenant, subject)]:
                del session.scratch[name]


def _concerns(version: Version, tenant: str, subject: str) -> bool:
    return version.tenant == tenant and (subject in version.subjects or version.source.on_behalf_of == subject)
