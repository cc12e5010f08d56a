"""Whose a task is, learned from what agents answer and asked before they are asked."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from adapters.stores.sql import open_store
from gateway.a2a.sightings import MAX_ID_BYTES
from gateway.a2a.strict import TaskRefs
from gateway.a2a.tasks import MAX_REFERENCES, REFRESH_MS, SKEW_MS, TaskIndex, facts
from gateway.errors import InterlockError, InvalidCall, UpstreamProtocolError
from gateway.ports import TaskQuery, TaskRecord
from gateway.types import Entity, Identity
from tests.a2a.answers import NOW_MS, SEALER, SEND, STREAM, Json, artifact, get, index_on, message, status, task
from tests.fakes import ANA, BO, FakeTaskStore

FOREIGN = "that is not the caller's"


async def found(index: TaskIndex, identity: Identity = ANA, task_id: str = "t1") -> TaskRecord:
    record = await index.find("planner", task_id, identity)
    assert record is not None
    return record


# Learning


async def test_new_task_belongs_to_the_caller_with_all_that_is_known_of_it() -> None:
    index = index_on(FakeTaskStore())
    through = replace(ANA, delegation=("user:ana", "agent:scheduler"))

    await index.learn("planner", through, SEND, {"task": task(timestamp="2027-01-15T07:59:58.5Z")})

    assert await index.find("planner", "t1", through) == TaskRecord(
        agent="planner",
        task_id="t1",
        context_id="c1",
        owner=through.principal,
        subject="user:ana",
        tenant="acme",
        state="TASK_STATE_WORKING",
        parent_id="call-1",
        chain=("user:ana", "agent:scheduler"),
        created_ms=NOW_MS,
        updated_ms=NOW_MS - 1_500,
    )


@pytest.mark.parametrize("value", [{"task": task()}, task(), status(), artifact(), message()])
async def test_task_and_context_are_learned_from_every_kind_of_answer(value: Json) -> None:
    index = index_on(FakeTaskStore())

    await index.learn("planner", ANA, STREAM, value)

    assert (await found(index)).context_id == "c1"
    assert await index.find("planner", "t1", BO) is None
    assert await index.admits("planner", TaskRefs("", "c1"), ANA)
    assert not await index.admits("planner", TaskRefs("", "c1"), BO)


async def test_message_that_names_nothing_makes_nothing() -> None:
    store = FakeTaskStore()

    await index_on(store).learn("planner", ANA, SEND, message("", ""))

    assert store.writes == 0


@pytest.mark.parametrize("value", [{"task": task()}, task(), status(), artifact(), message()])
async def test_task_of_somebody_else_is_withheld_without_naming_them(value: Json) -> None:
    index = index_on(FakeTaskStore())
    await index.learn("planner", ANA, SEND, {"task": task(context_id="")})

    with pytest.raises(UpstreamProtocolError, match=FOREIGN) as caught:
        await index.learn("planner", BO, STREAM, value)

    assert "ana" not in str(caught.value)
    assert "t1" not in str(caught.value)
    assert (await found(index)).owner == ANA.principal


@pytest.mark.parametrize("value", [{"task": task("t2")}, status("t2"), artifact("t2"), message("t2"), message("")])
async def test_context_of_somebody_else_is_withheld_and_its_task_is_nobodys(value: Json) -> None:
    index = index_on(FakeTaskStore())
    await index.learn("planner", ANA, SEND, {"task": task()})

    with pytest.raises(UpstreamProtocolError, match=FOREIGN):
        await index.learn("planner", BO, STREAM, value)

    assert await index.find("planner", "t2", BO) is None
    assert await index.admits("planner", TaskRefs("", "c1"), ANA)


async def test_answer_about_another_task_than_the_one_asked_for_is_withheld() -> None:
    index = index_on(FakeTaskStore())
    await index.learn("planner", ANA, SEND, {"task": task("t1")})
    await index.learn("planner", ANA, SEND, {"task": task("t2")})

    with pytest.raises(UpstreamProtocolError, match="another task"):
        await index.learn("planner", ANA, get("t1"), task("t2", state="COMPLETED"))

    assert (await found(index, task_id="t2")).state == "TASK_STATE_WORKING"


async def test_answers_that_hold_no_task_are_not_read() -> None:
    store = FakeTaskStore()

    await index_on(store).learn("planner", ANA, replace(SEND, method="GetExtendedAgentCard"), {"name": "planner"})

    assert (store.reads, store.writes) == (0, 0)


# States


async def test_long_stream_writes_only_when_the_state_changes() -> None:
    store = FakeTaskStore()
    index = index_on(store)
    await index.learn("planner", ANA, STREAM, {"task": task(state="SUBMITTED")})
    before = store.writes

    await index.learn("planner", ANA, STREAM, status())
    for _ in range(1_000):
        await index.learn("planner", ANA, STREAM, artifact())
        await index.learn("planner", ANA, STREAM, status())
    await index.learn("planner", ANA, STREAM, status(state="COMPLETED"))

    assert store.writes == before + 2
    assert store.reads == 0
    assert (await found(index)).state == "TASK_STATE_COMPLETED"


@pytest.mark.parametrize("end", ["COMPLETED", "FAILED", "CANCELED", "REJECTED"])
async def test_ended_task_stays_ended(end: str) -> None:
    store = FakeTaskStore()
    index = index_on(store)
    await index.learn("planner", ANA, STREAM, status(state=end))
    before = store.writes

    for state in ("WORKING", "COMPLETED", "FAILED", "INPUT_REQUIRED"):
        await index.learn("planner", ANA, STREAM, status(state=state, timestamp="2027-01-15T08:00:00Z"))

    assert (await found(index)).state == (await found(index_on(store))).state == f"TASK_STATE_{end}"
    assert store.writes == before


async def test_task_that_ended_at_another_replica_stays_ended_in_the_store() -> None:
    store = FakeTaskStore()
    here, there = index_on(store), index_on(store)
    await here.learn("planner", ANA, STREAM, status(state="SUBMITTED"))
    await there.learn("planner", ANA, get("t1"), task(state="COMPLETED"))

    await here.learn("planner", ANA, STREAM, status(state="WORKING"))

    assert (await found(index_on(store))).state == "TASK_STATE_COMPLETED"


class _WaitsToNoteWork(FakeTaskStore):
    def __init__(self) -> None:
        super().__init__()
        self.waiting, self.go = anyio.Event(), anyio.Event()

    async def update_task(self, agent: str, task_id: str, *, state: str, updated_ms: int) -> None:
        if state == "TASK_STATE_WORKING":
            self.waiting.set()
            await self.go.wait()
        await super().update_task(agent, task_id, state=state, updated_ms=updated_ms)


async def test_end_that_overtakes_an_earlier_event_is_not_undone() -> None:
    store = _WaitsToNoteWork()
    index = index_on(store)
    await index.learn("planner", ANA, STREAM, status(state="SUBMITTED"))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(index.learn, "planner", ANA, STREAM, status(state="WORKING"))
            await store.waiting.wait()
            await index.learn("planner", ANA, get("t1"), task(state="COMPLETED"))
            store.go.set()

    assert (await found(index)).state == (await found(index_on(store))).state == "TASK_STATE_COMPLETED"


async def test_younger_time_of_the_same_state_is_kept_once_it_matters() -> None:
    index = index_on(FakeTaskStore())
    await index.learn("planner", ANA, STREAM, status(timestamp="2027-01-15T07:00:00Z"))
    first = (await found(index)).updated_ms

    await index.learn("planner", ANA, STREAM, status(timestamp="2027-01-15T07:00:00.999Z"))
    unchanged = (await found(index)).updated_ms
    await index.learn("planner", ANA, STREAM, status(timestamp="2027-01-15T07:00:01Z"))

    assert unchanged == first
    assert (await found(index)).updated_ms == first + REFRESH_MS


async def test_clock_of_an_agent_cannot_run_far_ahead() -> None:
    index = index_on(FakeTaskStore())

    await index.learn("planner", ANA, STREAM, status(timestamp="9999-12-31T23:59:59Z"))

    assert (await found(index)).updated_ms == NOW_MS + SKEW_MS


@pytest.mark.parametrize(
    ("given_state", "kept"),
    [(2, "TASK_STATE_WORKING"), ("TASK_STATE_PAUSED", "TASK_STATE_PAUSED"), ("TASK_STATE_UNSPECIFIED", ""), (None, "")],
)
async def test_states_of_other_spellings_and_versions_are_kept(given_state: object, kept: str) -> None:
    index = index_on(FakeTaskStore())

    await index.learn("planner", ANA, SEND, {"task": {"id": "t1", "status": {"state": given_state}}})

    assert (await found(index)).state == kept


# Asking


async def test_policy_sees_owner_context_state_and_tenant() -> None:
    index = index_on(FakeTaskStore())
    await index.learn("planner", ANA, SEND, {"task": task()})

    seen = facts(await found(index))

    assert seen == {"owner": "user:ana", "context": "c1", "state": "TASK_STATE_WORKING", "tenant": "acme"}


async def test_same_user_through_another_agent_in_another_tenant_or_by_another_issuer_is_somebody_else() -> None:
    index = index_on(FakeTaskStore())
    await index.learn("planner", ANA, SEND, {"task": task()})
    others = [
        replace(ANA, delegation=("user:ana", "agent:scheduler")),
        replace(ANA, tenant="globex"),
        replace(ANA, issuer="https://idp.example"),
        replace(ANA, method="jwt"),
        replace(ANA, subject=Entity("agent", "user:ana")),
        Identity(),
    ]

    assert [await index.find("planner", "t1", other) for other in others] == [None] * len(others)


async def test_new_key_with_other_roles_keeps_its_owners_tasks() -> None:
    index = index_on(FakeTaskStore())
    await index.learn("planner", replace(ANA, credential_id="key-1"), SEND, {"task": task()})

    rotated = replace(ANA, credential_id="key-2", roles=("admin",), scopes=("a2a",))

    assert await index.find("planner", "t1", rotated) is not None


@pytest.mark.parametrize(
    ("refs", "admitted"),
    [
        (TaskRefs(), True),
        (TaskRefs("mine", "c-mine", ("mine", "mine-2")), True),
        (TaskRefs("", "free"), True),
        (TaskRefs("unknown"), False),
        (TaskRefs("theirs"), False),
        (TaskRefs("", "c-theirs"), False),
        (TaskRefs("mine", "c-theirs"), False),
        (TaskRefs("mine", "c-mine", ("mine", "theirs")), False),
        (TaskRefs("", "", ("unknown",)), False),
        (TaskRefs("mine\x00"), False),
        (TaskRefs("m" * 2_000), False),
    ],
)
async def test_request_is_admitted_when_all_that_it_names_is_the_callers(refs: TaskRefs, admitted: bool) -> None:
    store = FakeTaskStore()
    index = index_on(store)
    await index.learn("planner", ANA, SEND, {"task": task("mine", "c-mine")})
    await index.learn("planner", ANA, SEND, {"task": task("mine-2", "c-mine")})
    await index.learn("planner", BO, SEND, {"task": task("theirs", "c-theirs")})
    writes = store.writes

    answers = [await asked.admits("planner", refs, ANA) for asked in (index, index_on(store))]

    assert answers == [admitted, admitted]
    assert store.writes == writes


async def test_tasks_of_one_agent_are_unknown_to_another() -> None:
    index = index_on(FakeTaskStore())
    await index.learn("planner", ANA, SEND, {"task": task()})

    assert not await index.admits("coder", TaskRefs("t1"), ANA)
    await index.learn("coder", BO, SEND, {"task": task()})
    assert (await found(index)).owner == ANA.principal


@pytest.mark.parametrize("context_id", ["c\x00", "c" * (MAX_ID_BYTES + 1), "\ud800"])
async def test_context_that_cannot_be_kept_is_the_callers_fault(context_id: str) -> None:
    index = index_on(FakeTaskStore())

    with pytest.raises(InvalidCall, match="contextId"):
        await index.admits("planner", TaskRefs("", context_id), ANA)
    with pytest.raises(InvalidCall, match="contextId"):
        await index.reserve("planner", context_id, ANA)


async def test_request_refers_to_so_many_tasks_and_no_more() -> None:
    store = FakeTaskStore()
    many = tuple(f"t{number}" for number in range(MAX_REFERENCES + 1))

    with pytest.raises(InvalidCall, match="referenceTaskIds"):
        await index_on(store).admits("planner", TaskRefs("", "", many), ANA)

    assert store.reads == 0


async def test_context_that_is_reserved_is_nobody_elses_before_the_agent_answers() -> None:
    index = index_on(FakeTaskStore())

    first, second = await index.reserve("planner", "c1", ANA), await index.reserve("planner", "c1", BO)

    assert (first, second) == (True, False)
    assert await index.reserve("planner", "c1", ANA)
    assert await index.reserve("planner", "", BO)
    assert not await index.admits("planner", TaskRefs("", "c1"), BO)


async def test_store_that_cannot_answer_is_never_a_yes() -> None:
    store = FakeTaskStore()
    index = index_on(store)
    await index.learn("planner", ANA, SEND, {"task": task()})
    store.fail_with = InterlockError("lost")

    for refs in (TaskRefs("t2"), TaskRefs("", "c2")):
        with pytest.raises(InterlockError, match="lost"):
            await index.admits("planner", refs, ANA)
    for value in ({"task": task("t2")}, status(state="COMPLETED"), message("", "c2")):
        with pytest.raises(InterlockError, match="lost"):
            await index.learn("planner", ANA, STREAM, value)
    with pytest.raises(InterlockError, match="lost"):
        await index.page("planner", ANA, {})

    store.fail_with = None
    assert (await found(index)).state == "TASK_STATE_WORKING"
    assert await index.find("planner", "t2", ANA) is None


async def test_cache_is_bounded_and_what_it_forgot_is_asked_of_the_store() -> None:
    store = FakeTaskStore()
    index = index_on(store, cached=2)
    for task_id in ("t1", "t2", "t3"):
        await index.learn("planner", ANA, SEND, {"task": task(task_id)})

    recent = [await found(index, task_id=task_id) for task_id in ("t3", "t2")]
    reads = store.reads
    forgotten = await found(index, task_id="t1")

    assert [record.task_id for record in recent] == ["t3", "t2"]
    assert (reads, store.reads) == (0, 1)
    assert forgotten.owner == ANA.principal


async def test_missing_task_is_asked_of_the_store_each_time() -> None:
    store = FakeTaskStore()
    here, there = index_on(store), index_on(store)
    assert await here.find("planner", "t1", ANA) is None

    await there.learn("planner", ANA, SEND, {"task": task()})

    assert await here.find("planner", "t1", ANA) is not None


async def test_forgotten_task_is_unknown() -> None:
    store = FakeTaskStore()
    index = index_on(store)
    await index.learn("planner", ANA, SEND, {"task": task()})

    await index.forget("planner", "t1")

    assert await index.find("planner", "t1", ANA) is None
    assert await store.task("planner", "t1") is None


# Push notifications


async def test_notification_of_the_owners_task_updates_it() -> None:
    index = index_on(FakeTaskStore())
    await index.learn("planner", ANA, SEND, {"task": task()})

    noticed = await index.notice("planner", ANA.principal, "t1", status(state="COMPLETED"))

    assert noticed.state == "TASK_STATE_COMPLETED"
    assert await found(index) == noticed


@pytest.mark.parametrize(
    "value",
    [status("t2"), {"task": task("t2")}, artifact("theirs"), status("t1", "c-theirs"), {}, {"statusUpdate": 1}],
)
async def test_notification_of_anything_else_is_refused(value: Json) -> None:
    store = FakeTaskStore()
    index = index_on(store)
    await index.learn("planner", ANA, SEND, {"task": task()})
    await index.learn("planner", BO, SEND, {"task": task("theirs", "c-theirs")})
    before = await found(index)

    with pytest.raises(UpstreamProtocolError):
        await index.notice("planner", ANA.principal, "t1", value)
    with pytest.raises(UpstreamProtocolError):
        await index.notice("planner", BO.principal, "t1", status())
    with pytest.raises(UpstreamProtocolError):
        await index.notice("planner", ANA.principal, "t9", status("t9"))

    assert await found(index) == before
    assert await store.task("planner", "t2") is None


# On a real store


async def test_owners_outlive_a_restart(tmp_path: Path) -> None:
    store = await open_store("", data_dir=tmp_path / "data", clock_s=time.time)
    await TaskIndex(store.tasks, lambda: NOW_MS, SEALER).learn("planner", ANA, SEND, {"task": task()})
    await store.aclose()

    store = await open_store("", data_dir=tmp_path / "data", clock_s=time.time)
    index = TaskIndex(store.tasks, lambda: NOW_MS, SEALER)
    own, theirs = await index.find("planner", "t1", ANA), await index.find("planner", "t1", BO)
    with pytest.raises(UpstreamProtocolError, match=FOREIGN):
        await index.learn("planner", BO, SEND, {"task": task()})
    page = await index.page("planner", ANA, {})
    await store.aclose()

    assert own is not None
    assert theirs is None
    assert page.records == (own,)


async def test_replicas_that_learn_of_a_task_at_once_give_it_to_one_caller(tmp_path: Path) -> None:
    stores = [await open_store("", data_dir=tmp_path / "data", clock_s=time.time) for _ in range(2)]
    indexes = [TaskIndex(store.tasks, lambda: NOW_MS, SEALER) for store in stores]
    given_to: dict[str, list[str]] = {f"t{number}": [] for number in range(20)}

    async def learn(index: TaskIndex, identity: Identity, task_id: str) -> None:
        try:
            await index.learn("planner", identity, SEND, {"task": task(task_id, "")})
        except UpstreamProtocolError:
            return
        given_to[task_id].append(identity.principal)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for task_id in given_to:
                for index, identity in zip(indexes, (ANA, BO), strict=True):
                    group.start_soon(learn, index, identity, task_id)

    counts = [await stores[0].tasks.count_tasks(TaskQuery("planner", who.principal)) for who in (ANA, BO)]
    for store in stores:
        await store.aclose()
    assert all(len(owners) == 1 for owners in given_to.values())
    assert sum(counts) == len(given_to)
