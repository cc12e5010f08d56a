"""Threads for a file: one that writes, whose transactions are committed together, and a few that read."""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
from anyio import to_thread

from adapters.memory.sqlite_file import clean, named, reader, unclean, writer
from gateway.memory.ports import MemoryUnavailable

_log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
_READERS: Final = 4
_BATCH: Final = 256


class _Job:
    """A change that somebody waits for."""

    __slots__ = ("cleans", "error", "future", "result", "work")

    def __init__(self, work: Work[Any], *, cleans: bool) -> None:
        self.work, self.cleans = work, cleans
        self.future: Future[Any] = Future()
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        """Tell whoever waits."""
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Writer:
    """Makes changes one after the other. All that wait at once share a commit, and so one wait for the disk."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="memory-writer", daemon=True)
        self._thread.start()

    async def run(self, work: Work[T], *, cleans: bool = False) -> T:
        """Return once the change is on disk; with `cleans`, once no trace of what it deleted is.

        One that raises changes nothing, and disturbs no other.
        """
        if self._closed:
            raise MemoryUnavailable("the memory is closed")
        job = _Job(work, cleans=cleans)
        self._jobs.put(job)
        with named():
            result: T = await asyncio.wrap_future(job.future)
        return result

    async def aclose(self) -> None:
        """Make the changes that wait, then end."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await to_thread.run_sync(self._thread.join)

    def _run(self) -> None:
        connection = _opened(self._file)
        while batch := self._batch():
            connection = connection or _opened(self._file)
            if connection is None:
                _refuse(batch)
            else:
                _commit(connection, batch)
        if connection is not None:
            connection.close()

    def _batch(self) -> list[_Job]:
        """All that wait, at least one; none at the end."""
        job = self._jobs.get()
        jobs = []
        while job is not None:
            if job.future.set_running_or_notify_cancel():
                jobs.append(job)
            if jobs and (len(jobs) == _BATCH or self._jobs.empty()):
                return jobs
            job = self._jobs.get()
        if jobs:
            self._jobs.put(None)
        return jobs


def _opened(file: Path) -> sqlite3.Connection | None:
    """The file, without what a crash left of the last erasure; `None` while it cannot be opened."""
    try:
        connection = writer(file)
    except sqlite3.Error as exc:
        _log.error("the file of the memory cannot be opened: %s", exc)  # its words say all
        return None
    _clean(connection, [])
    return connection


def _refuse(jobs: list[_Job]) -> None:
    for job in jobs:
        job.error = sqlite3.OperationalError("the file cannot be opened")
        job.settle()


def _commit(connection: sqlite3.Connection, jobs: list[_Job]) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            _attempt(connection, job)
        connection.execute("COMMIT")
    except sqlite3.Error as exc:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        for job in jobs:
            job.error = job.error or exc
    for job in jobs:
        if not job.cleans:
            job.settle()
    if cleaning := [job for job in jobs if job.cleans]:
        _clean(connection, cleaning)


def _attempt(connection: sqlite3.Connection, job: _Job) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.result = job.work(connection)
    except Exception as exc:  # noqa: BLE001  # goes to whoever waits; the thread has others to serve
        job.error = exc
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")


def _clean(connection: sqlite3.Connection, jobs: list[_Job]) -> None:
    """Once for all of them. What fails now is tried again with the next, and when the file is opened."""
    try:
        if unclean(connection):
            clean(connection)
    except sqlite3.Error as exc:
        _log.warning("traces of what was erased are still in the files of the memory: %s", exc)
        for job in jobs:
            job.error = job.error or exc
    for job in jobs:
        job.settle()


class Readers:
    """Answers questions in threads, each question on one state of the file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._free: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._limiter = anyio.CapacityLimiter(_READERS)
        self._closed = False

    async def run(self, work: Work[T]) -> T:
        """What the work gives."""
        if self._closed:
            raise MemoryUnavailable("the memory is closed")
        with named():
            return await to_thread.run_sync(self._run, work, limiter=self._limiter)

    def _run(self, work: Work[T]) -> T:
        try:
            connection = self._free.get_nowait()
        except queue.Empty:
            connection = reader(self._file)
        try:
            connection.execute("BEGIN")
            return work(connection)
        finally:
            connection.rollback()
            self._free.put(connection)

    async def aclose(self) -> None:
        """Close what is open, once every question is answered."""
        self._closed = True
        self._limiter.total_tokens = 1
        async with self._limiter:
            while not self._free.empty():
                self._free.get_nowait().close()
