"""Takes the record of a call without making the call wait, unless policy asked for it to be on disk first.

One flusher writes what was taken, in order: after 100 ms, at 256 records, or at once when a `commit` waits. While
the log cannot be written the journal says no to every call, keeps what it took, and tries again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Final, Protocol

import anyio
from anyio import to_thread
from anyio.abc import TaskStatus

from gateway.audit.log import AuditLog
from gateway.errors import AuditUnavailable
from gateway.ports import CallRecord, Recorder

_log = logging.getLogger(__name__)
_MAX_BACKOFF_S: Final = 5.0
_FIRST_BACKOFF_S: Final = 0.1


class RecordSink(Protocol):
    """Gets every record that the journal takes, once, in order, whether or not the log could be written.

    Called in a worker thread, never twice at the same time. What it raises is logged and harms nobody.
    """

    def take(self, records: Sequence[CallRecord]) -> None: ...


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """How much may wait, and for how long."""

    queue_records: int = 16_384
    batch_records: int = 256
    flush_s: float = 0.1
    commit_timeout_s: float = 5.0
    drain_s: float = 10.0
    """At shutdown: how long to try to write what is left."""


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """What `/readyz` and metrics show."""

    healthy: bool
    error: str
    """Why it is not healthy; empty when it is."""
    queued: int
    size: int
    """Entries in the log."""
    refused: int
    """Calls that were told that their record is not safe."""


class _Waiting:
    """Somebody who waits for a record to be on disk."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: AuditUnavailable | None = None


class _Item:
    """A record in the queue."""

    __slots__ = ("record", "shown", "waiting")

    def __init__(self, record: CallRecord, waiting: _Waiting | None) -> None:
        self.record, self.waiting, self.shown = record, waiting, False


class Journal:
    """The `Recorder` of the gateway. Used on one event loop; `run` must be started in the app's task group."""

    def __init__(self, log: AuditLog, *, sinks: Sequence[RecordSink] = (), limits: JournalLimits | None = None) -> None:
        self._log, self._sinks, self._limits = log, tuple(sinks), limits or JournalLimits()
        self._queue: deque[_Item] = deque()
        self._some = anyio.Event()
        self._urgent = anyio.Event()
        self._error = ""
        self._refused = 0
        self._closed = False

    @property
    def status(self) -> JournalStatus:
        """How the journal is doing, now."""
        return JournalStatus(not self._error, self._error, len(self._queue), self._log.size, self._refused)

    @property
    def accepting(self) -> bool:
        """Whether one more record could be kept, now. Ask before the effect of a call, not after it."""
        return not (self._error or self._closed or len(self._queue) >= self._limits.queue_records)

    def record(self, record: CallRecord) -> None:
        """Take a record without waiting.

        Raises `AuditUnavailable` when the queue is full (the record is lost to the log), or while the log cannot be
        written (the record is kept and will be written when it can).
        """
        self._take(_Item(record, None))
        if self._error:
            self._refused += 1
            raise AuditUnavailable(self._error)

    async def commit(self, record: CallRecord) -> None:
        """Return once the record is on disk for good, under a signed checkpoint.

        Raises `AuditUnavailable` otherwise, within `commit_timeout_s`.
        """
        if self._error:
            self._refused += 1
            raise AuditUnavailable(self._error)
        waiting = _Waiting()
        self._take(_Item(record, waiting))
        self._urgent.set()
        with anyio.move_on_after(self._limits.commit_timeout_s):
            await waiting.done.wait()
        if not waiting.done.is_set():
            waiting.error = AuditUnavailable(f"the audit log took longer than {self._limits.commit_timeout_s} s")
        if waiting.error is not None:
            self._refused += 1
            raise waiting.error

    def _take(self, item: _Item) -> None:
        queue, limits = self._queue, self._limits
        if self._closed or len(queue) >= limits.queue_records:
            self._refused += 1
            raise AuditUnavailable("the audit journal is closed" if self._closed else "the audit queue is full")
        queue.append(item)
        self._some.set()
        if len(queue) >= limits.batch_records:
            self._urgent.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled; then write what is left, and close the log."""
        task_status.started()
        backoff_s = _FIRST_BACKOFF_S
        try:
            while True:
                await self._due()
                if await self._flush():
                    backoff_s = _FIRST_BACKOFF_S
                else:
                    await anyio.sleep(backoff_s)
                    backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
        finally:
            with anyio.CancelScope(shield=True):
                await self._shut()

    async def _due(self) -> None:
        if self._error:
            return  # the pause before this attempt is over
        with anyio.move_on_after(self._log.limits.checkpoint_s if self._log.checkpoint_due else inf):
            await self._some.wait()
        if self._queue:
            with anyio.move_on_after(self._limits.flush_s):
                await self._urgent.wait()

    async def _flush(self) -> bool:
        """Write the next batch, or the checkpoint that is due. False when the log could not be written."""
        batch = list(islice(self._queue, self._limits.batch_records))
        failure: AuditUnavailable | None = None
        with anyio.CancelScope(shield=True):  # a batch that is written must leave the queue, whatever happens
            try:
                await to_thread.run_sync(self._write, batch)
            except AuditUnavailable as exc:
                failure = exc
            self._settle(batch, failure)
            await self._show(batch)
        return failure is None

    def _write(self, batch: Sequence[_Item]) -> None:
        """In a worker thread."""
        if self._error:
            self._log.mark("resumed", {"refused": self._refused, "error": self._error})
        if batch:
            durable = any(item.waiting for item in batch)
            self._log.append([item.record for item in batch], durable=durable)
        else:
            self._log.checkpoint()

    def _settle(self, batch: Sequence[_Item], failure: AuditUnavailable | None) -> None:
        if failure is None:
            self._leave_queue(batch)
        else:
            self._refuse_waiting(failure)
        self._some, self._urgent = anyio.Event(), anyio.Event()
        if self._queue:
            self._some.set()
        if len(self._queue) >= self._limits.batch_records or any(item.waiting for item in self._queue):
            self._urgent.set()

    def _leave_queue(self, batch: Sequence[_Item]) -> None:
        if self._error:
            _log.warning("audit: the log can be written again; %d calls were refused so far", self._refused)
            self._error = ""
        for item in batch:
            self._queue.popleft()
            if item.waiting is not None:
                item.waiting.done.set()

    def _refuse_waiting(self, failure: AuditUnavailable) -> None:
        if not self._error:
            _log.error("audit: %s; calls are refused until it can", failure)
        self._error = str(failure)
        kept = deque[_Item]()
        for item in self._queue:
            if item.waiting is None:
                kept.append(item)
            else:
                item.waiting.error = failure
                item.waiting.done.set()
        self._queue = kept

    async def _show(self, batch: Sequence[_Item]) -> None:
        fresh = [item.record for item in batch if not item.shown]
        for item in batch:
            item.shown = True
        if fresh and self._sinks:
            await to_thread.run_sync(self._hand_over, fresh)

    def _hand_over(self, records: Sequence[CallRecord]) -> None:
        for sink in self._sinks:
            try:
                sink.take(records)
            except Exception:  # noqa: BLE001  # not ours: nothing is known of what it raises, and audit must not stop
                _log.exception("audit: %s failed on %d records", type(sink).__name__, len(records))

    async def _shut(self) -> None:
        with anyio.move_on_after(self._limits.drain_s):
            await self._drain()
        self._closed = True
        self._refuse_waiting_at_end()
        try:
            await to_thread.run_sync(self._log.close)
        except AuditUnavailable as exc:
            _log.error("audit: the last checkpoint is missing: %s", exc)

    async def _drain(self) -> None:
        pause_s = 0.0
        while True:
            await anyio.sleep(pause_s)
            written = await self._flush()  # at least once: calls that end with us leave their record meanwhile
            if not self._queue:
                return
            pause_s = 0.0 if written else _FIRST_BACKOFF_S

    def _refuse_waiting_at_end(self) -> None:
        if self._queue:
            _log.critical("audit: %d records are lost, because %s", len(self._queue), self._error)
            self._refuse_waiting(AuditUnavailable("the gateway stopped before the audit log could be written"))


_: type[Recorder] = Journal
