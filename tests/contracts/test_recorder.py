"""What every recorder promises, held against the fake and the journal on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
import pytest

from gateway.audit.journal import Journal, JournalLimits
from gateway.audit.log import AuditLog
from gateway.audit.reader import Filter, Tail, at
from gateway.audit.segment import segment_path
from gateway.audit.verify import read_entry
from gateway.errors import AuditUnavailable
from gateway.ports import CallRecord, Recorder
from gateway.types import Call, Resource
from tests.fakes import FakeRecorder


class Accepting(Recorder, Protocol):
    """A recorder that can be asked beforehand, as the pipeline does."""

    @property
    def accepting(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Case:
    """One recorder, what it has kept for good, and how to take its disk away."""

    recorder: Accepting
    kept: Callable[[], list[str]]
    fill_disk: Callable[[], None]
    free_disk: Callable[[], None]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["fake", "journal"])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    if request.param == "fake":
        fake = FakeRecorder()
        yield Case(
            fake,
            lambda: [record.call.id for record in fake.records],
            lambda: setattr(fake, "fail_with", "disk full"),
            lambda: setattr(fake, "fail_with", ""),
        )
        return
    journal = Journal(AuditLog.open(tmp_path), limits=JournalLimits(flush_s=0.01))
    async with anyio.create_task_group() as group:
        await group.start(journal.run)
        yield Case(journal, lambda: list(_ids_in(tmp_path)), lambda: _fill(tmp_path), lambda: _free(tmp_path))
        group.cancel_scope.cancel()


def _ids_in(data: Path) -> Iterator[str]:
    for body in Tail(data / "audit", Filter(action="mcp.tools.call")).last(1_000):
        yield str(at(read_entry(body), "call", "id"))


def _fill(data: Path) -> None:
    _execute(data, "CREATE TRIGGER full BEFORE INSERT ON entry BEGIN SELECT RAISE(ABORT, 'disk full'); END")


def _free(data: Path) -> None:
    _execute(data, "DROP TRIGGER full")


def _execute(data: Path, statement: str) -> None:
    with closing(sqlite3.connect(segment_path(data / "audit", 1))) as db, db:
        db.execute(statement)


def a_record(number: int, outcome: str = "ok") -> CallRecord:
    call = Call(f"call-{number}", "mcp.tools.call", "tools/call", Resource("tool", "warehouse/query"))
    return CallRecord(call, None, outcome, ended_ns=number)


async def test_committed_record_is_kept_when_commit_returns(case: Case) -> None:
    with anyio.fail_after(5):
        await case.recorder.commit(a_record(1, "intent"))

    assert case.kept() == ["call-1"]


async def test_records_are_kept_in_order(case: Case) -> None:
    with anyio.fail_after(5):
        for number in range(20):
            case.recorder.record(a_record(number))
        await case.recorder.commit(a_record(20))

    assert case.kept() == [f"call-{number}" for number in range(21)]


async def test_record_that_cannot_be_kept_is_refused_and_never_swallowed(case: Case) -> None:
    case.fill_disk()

    with anyio.fail_after(5):
        with pytest.raises(AuditUnavailable, match="disk full"):
            await case.recorder.commit(a_record(1))
        with pytest.raises(AuditUnavailable, match="disk full"):
            case.recorder.record(a_record(2))

    assert not case.recorder.accepting


async def test_recorder_accepts_again_once_it_can(case: Case) -> None:
    case.fill_disk()
    with anyio.fail_after(10):
        with pytest.raises(AuditUnavailable):
            await case.recorder.commit(a_record(1))
        case.free_disk()
        while not case.recorder.accepting:
            await anyio.lowlevel.checkpoint()
        await case.recorder.commit(a_record(2))

    assert case.kept() == ["call-2"]
