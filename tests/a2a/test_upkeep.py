"""Tasks that ended long ago and webhooks that came to nothing are forgotten, and only those."""

from __future__ import annotations

from dataclasses import replace

import anyio

from gateway.a2a.push_records import PushRecords
from gateway.app.upkeep import DAY_S, KEPT_MS, forget_in_time
from gateway.errors import UpstreamUnavailable
from gateway.identity.push_seal import PushSealer
from gateway.ports import TaskRecord
from tests.fakes import FakeTaskStore

NOW_MS = 1_800_000_000_000
OLD = TaskRecord("planner", "old", "c", owner="user:ana", subject="user:ana", state="TASK_STATE_COMPLETED")


class Failing(FakeTaskStore):
    """A store that does not answer the first time."""

    async def prune(self, before_ms: int) -> int:
        self.writes += 1
        if self.writes == 1:
            raise UpstreamUnavailable("no answer")
        return await super().prune(before_ms)


async def kept(store: FakeTaskStore, *, rounds: int) -> list[float]:
    """Do the upkeep so many times; gives how long it waited in between."""
    waits: list[float] = []
    records = PushRecords(store, PushSealer([b"k" * 32]), lambda: NOW_MS)

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == rounds:
            scope.cancel()
        await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5), anyio.CancelScope() as scope:
        await forget_in_time(store, records, lambda: ["planner"], lambda: NOW_MS, wait=wait)
    return waits


async def test_only_tasks_that_ended_long_ago_are_forgotten() -> None:
    store = FakeTaskStore()
    long_ago = NOW_MS - KEPT_MS - 1
    await store.claim_task(replace(OLD, created_ms=long_ago, updated_ms=long_ago))
    await store.claim_task(replace(OLD, task_id="fresh", created_ms=long_ago, updated_ms=NOW_MS - KEPT_MS + 1))
    running = replace(OLD, task_id="runs", state="TASK_STATE_WORKING", created_ms=long_ago, updated_ms=long_ago)
    await store.claim_task(running)

    await kept(store, rounds=1)

    assert [await store.task("planner", task_id) for task_id in ("old", "runs")] == [None, running]
    assert await store.task("planner", "fresh") is not None


async def test_store_that_fails_once_is_asked_again_a_day_later() -> None:
    store = Failing()
    await store.claim_task(replace(OLD, created_ms=1, updated_ms=1))
    store.writes = 0

    waits = await kept(store, rounds=2)

    assert waits == [DAY_S, DAY_S]
    assert await store.task("planner", "old") is None
