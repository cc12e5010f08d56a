"""What every task store promises, held against the fake, SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias
from uuid import uuid4

import anyio
import pytest

from gateway.ports import PushRecord, TaskQuery, TaskRecord, TaskStore
from tests.contracts.conftest import Replicas
from tests.fakes import FakeTaskStore

Opener: TypeAlias = Callable[[], Awaitable[TaskStore]]
"""Opens one more store on the same state, as another replica would."""

ANA, BO = "jwt\x1fhttps://idp\x1fuser\x1fana\x1facme", "jwt\x1fhttps://idp\x1fuser\x1fbo\x1facme"
TASK = TaskRecord(
    "planner", "t1", "c1", ANA, "ana", "acme", "TASK_STATE_WORKING", "call-1", ("user:ana", "agent:x"), 100, 200
)
PUSH = PushRecord("planner", "t1", "p1", ANA, "relay-1", b"\x00sealed\xff", 300)
MINE = TaskQuery("planner", ANA)


@pytest.fixture
def another(replicas: Replicas) -> Opener:
    fake = FakeTaskStore()

    async def opened() -> TaskStore:
        return fake if replicas is None else (await replicas()).tasks

    return opened


@pytest.fixture
async def store(another: Opener) -> TaskStore:
    return await another()


async def ids(store: TaskStore, query: TaskQuery) -> list[str]:
    return [record.task_id for record in await store.tasks(query)]


async def test_new_store_knows_nothing(store: TaskStore) -> None:
    assert await store.task("planner", "t1") is None
    assert list(await store.tasks(MINE)) == []
    assert await store.count_tasks(MINE) == 0
    assert await store.context_owner("planner", "c1") == ""
    assert list(await store.pushes("planner", "t1")) == []
    assert await store.push_of_relay("relay-1") is None


async def test_task_comes_back_as_it_was_claimed_from_every_replica(another: Opener) -> None:
    first, second = await another(), await another()

    claimed = await first.claim_task(TASK)

    assert claimed == TASK
    assert await second.task("planner", "t1") == TASK
    assert list(await second.tasks(MINE)) == [TASK]


async def test_task_stays_with_who_claimed_it_first(store: TaskStore) -> None:
    await store.claim_task(TASK)

    held = await store.claim_task(replace(TASK, owner=BO, subject="bo", state="TASK_STATE_FAILED"))

    assert held == TASK
    assert await store.task("planner", "t1") == TASK
    assert await store.count_tasks(replace(MINE, owner=BO)) == 0


async def test_context_is_claimed_with_its_task(store: TaskStore) -> None:
    await store.claim_task(TASK)
    await store.claim_task(replace(TASK, task_id="t2", context_id=""))

    assert await store.context_owner("planner", "c1") == ANA
    assert await store.context_owner("planner", "") == ""
    assert await store.claim_task(replace(TASK, task_id="t3")) is not None


async def test_new_task_in_a_context_of_somebody_else_is_not_kept(store: TaskStore) -> None:
    await store.claim_context("planner", "c1", BO, 1)

    assert await store.claim_task(TASK) is None
    assert await store.task("planner", "t1") is None
    assert await store.context_owner("planner", "c1") == BO


async def test_known_task_claims_no_further_context(store: TaskStore) -> None:
    await store.claim_task(TASK)

    for owner in (ANA, BO):
        assert await store.claim_task(replace(TASK, owner=owner, context_id="c2")) == TASK

    assert await store.context_owner("planner", "c2") == ""


async def test_agents_have_tasks_and_contexts_of_their_own(store: TaskStore) -> None:
    await store.claim_task(TASK)
    await store.claim_context("planner", "c1", ANA, 1)

    theirs = replace(TASK, agent="coder", owner=BO)
    other = await store.claim_task(theirs)

    assert other == theirs
    assert await store.context_owner("coder", "c1") == BO
    assert await store.task("planner", "t1") == TASK
    assert await store.context_owner("planner", "c1") == ANA


async def test_task_that_two_replicas_claim_at_once_has_one_owner(another: Opener) -> None:
    stores = [await another() for _ in range(4)]
    holders: dict[str, set[str]] = {f"t{number}": set() for number in range(10)}

    async def claim(replica: int, task_id: str) -> None:
        record = replace(TASK, task_id=task_id, context_id=task_id, owner=f"owner {replica}")
        held = await stores[replica].claim_task(record)
        assert held is not None
        holders[task_id].add(held.owner)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as claims:
            for task_id in holders:
                for replica in range(4):
                    claims.start_soon(claim, replica, task_id)

    assert all(len(owners) == 1 for owners in holders.values())
    for task_id, owners in holders.items():
        kept = await stores[0].task("planner", task_id)
        assert kept is not None
        assert {kept.owner} == owners == {await stores[0].context_owner("planner", task_id)}


async def test_context_that_two_replicas_claim_at_once_has_one_owner(another: Opener) -> None:
    stores = [await another() for _ in range(4)]
    holders: list[str] = []

    async def claim(replica: int) -> None:
        holders.append(await stores[replica].claim_context("planner", "c1", f"owner {replica}", 1))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as claims:
            for replica in range(4):
                claims.start_soon(claim, replica)

    assert len(holders) == 4
    assert set(holders) == {await stores[0].context_owner("planner", "c1")}


async def test_state_of_a_task_is_noted(store: TaskStore) -> None:
    await store.claim_task(TASK)

    await store.update_task("planner", "t1", state="TASK_STATE_INPUT_REQUIRED", updated_ms=900)

    assert await store.task("planner", "t1") == replace(TASK, state="TASK_STATE_INPUT_REQUIRED", updated_ms=900)


@pytest.mark.parametrize("end", ["COMPLETED", "FAILED", "CANCELED", "REJECTED"])
async def test_terminal_state_is_final(store: TaskStore, end: str) -> None:
    await store.claim_task(TASK)
    await store.update_task("planner", "t1", state=f"TASK_STATE_{end}", updated_ms=300)

    for state in ("TASK_STATE_WORKING", "TASK_STATE_COMPLETED", "TASK_STATE_FAILED", ""):
        await store.update_task("planner", "t1", state=state, updated_ms=400)

    assert await store.task("planner", "t1") == replace(TASK, state=f"TASK_STATE_{end}", updated_ms=300)


async def test_state_of_an_unknown_task_is_not_kept(store: TaskStore) -> None:
    await store.update_task("planner", "t1", state="TASK_STATE_WORKING", updated_ms=1)

    assert await store.task("planner", "t1") is None


async def test_tasks_come_newest_first_and_then_by_id(store: TaskStore) -> None:
    for task_id, updated_ms in (("b", 5), ("Z", 5), ("é", 5), ("a", 5), ("old", 1), ("new", 9), ("\U0001f600", 5)):
        await store.claim_task(replace(TASK, task_id=task_id, updated_ms=updated_ms))

    assert await ids(store, MINE) == ["new", "\U0001f600", "é", "b", "a", "Z", "old"]


async def test_pages_hold_every_task_once(store: TaskStore) -> None:
    for number in range(10):
        await store.claim_task(replace(TASK, task_id=f"t{number}", updated_ms=number // 3))
    seen: list[str] = []
    before = None

    for _ in range(4):
        page = await store.tasks(replace(MINE, before=before, limit=3))
        seen += [record.task_id for record in page]
        before = (page[-1].updated_ms, page[-1].task_id)

    assert seen == await ids(store, MINE)
    assert len(set(seen)) == 10
    assert list(await store.tasks(replace(MINE, before=before))) == []
    assert await store.count_tasks(replace(MINE, before=before, limit=3)) == 10


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (MINE, ["t4", "t3", "t1"]),
        (replace(MINE, context_id="c2"), ["t3"]),
        (replace(MINE, state="TASK_STATE_FAILED"), ["t4"]),
        (replace(MINE, updated_after_ms=30), ["t4", "t3"]),
        (replace(MINE, updated_after_ms=31), ["t4"]),
        (replace(MINE, context_id="c2", state="TASK_STATE_FAILED"), []),
        (replace(MINE, owner=BO), ["t2"]),
        (replace(MINE, owner=""), []),
        (replace(MINE, agent="coder"), ["t5"]),
    ],
)
async def test_only_what_is_asked_for_is_found(store: TaskStore, query: TaskQuery, found: list[str]) -> None:
    for record in (
        replace(TASK, updated_ms=10),
        replace(TASK, task_id="t2", context_id="c-bo", owner=BO, updated_ms=20),
        replace(TASK, task_id="t3", context_id="c2", updated_ms=30),
        replace(TASK, task_id="t4", state="TASK_STATE_FAILED", updated_ms=40),
        replace(TASK, task_id="t5", agent="coder", updated_ms=50),
    ):
        await store.claim_task(record)

    assert await ids(store, query) == found
    assert await store.count_tasks(query) == len(found)


async def test_dropped_task_is_gone_with_its_configurations(store: TaskStore) -> None:
    other = replace(PUSH, task_id="t2", relay_id="relay-2")
    for task_id in ("t1", "t2"):
        await store.claim_task(replace(TASK, task_id=task_id))
    await store.put_push(PUSH)
    await store.put_push(other)

    await store.drop_task("planner", "t1")

    assert await store.task("planner", "t1") is None
    assert list(await store.pushes("planner", "t1")) == []
    assert await ids(store, MINE) == ["t2"]
    assert list(await store.pushes("planner", "t2")) == [other]


async def test_only_old_tasks_that_ended_are_pruned(store: TaskStore) -> None:
    ended = replace(TASK, state="TASK_STATE_COMPLETED", created_ms=10, updated_ms=20)
    for record in (
        ended,
        replace(ended, task_id="running", state="TASK_STATE_WORKING"),
        replace(ended, task_id="waiting", state="TASK_STATE_INPUT_REQUIRED"),
        replace(ended, task_id="fresh", updated_ms=50),
        replace(ended, task_id="said to be old", created_ms=50),
    ):
        await store.claim_task(record)
    await store.put_push(PUSH)
    await store.put_push(replace(PUSH, task_id="running", relay_id="relay-2"))
    await store.claim_context("planner", "c1", ANA, 1)

    pruned = await store.prune(50)

    assert pruned == 1
    assert set(await ids(store, MINE)) == {"running", "waiting", "fresh", "said to be old"}
    assert await store.push_of_relay("relay-1") is None
    assert await store.push_of_relay("relay-2") is not None
    assert await store.context_owner("planner", "c1") == ANA
    assert await store.prune(50) == 0


async def test_push_configuration_is_found_by_task_and_by_relay(store: TaskStore) -> None:
    second = replace(PUSH, config_id="p0", relay_id="relay-2", created_ms=301)
    await store.put_push(second)
    await store.put_push(PUSH)

    assert list(await store.pushes("planner", "t1")) == [PUSH, second]
    assert await store.push_of_relay("relay-2") == second
    assert list(await store.pushes("coder", "t1")) == []


async def test_push_configuration_of_the_same_id_is_replaced(store: TaskStore) -> None:
    await store.put_push(PUSH)
    new = replace(PUSH, relay_id="relay-9", sealed=b"new", owner=BO)

    await store.put_push(new)

    assert list(await store.pushes("planner", "t1")) == [new]
    assert await store.push_of_relay("relay-1") is None


async def test_push_configuration_is_dropped_once(store: TaskStore) -> None:
    await store.put_push(PUSH)

    answers = [await store.drop_push("planner", "t1", "p1") for _ in range(2)]

    assert answers == [True, False]
    assert list(await store.pushes("planner", "t1")) == []


async def test_longest_ids_and_principals_are_kept(store: TaskStore) -> None:
    long = "".join(chr(0x4E00 + (number * 7919) % 20_000) for number in range(341))  # 1,023 bytes, hard to compress
    owner = "\x1f".join(uuid4().hex for _ in range(200))
    record = replace(TASK, task_id=long, context_id=long, owner=owner)
    push = replace(PUSH, task_id=long, config_id=long)

    await store.claim_task(record)
    await store.claim_context("planner", long, owner, 1)
    await store.put_push(push)

    assert list(await store.tasks(TaskQuery("planner", owner, context_id=long))) == [record]
    assert await store.context_owner("planner", long) == owner
    assert list(await store.pushes("planner", long)) == [push]


async def test_claims_of_many_tasks_at_once_are_all_kept(store: TaskStore) -> None:
    with anyio.fail_after(60):
        async with anyio.create_task_group() as claims:
            for number in range(40):
                claims.start_soon(store.claim_task, replace(TASK, task_id=f"t{number}"))

    assert await store.count_tasks(MINE) == 40
