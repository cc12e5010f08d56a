"""A caller's tasks in pages: the right ones, each once, by a token that only its owner can use."""

from __future__ import annotations

import pytest

from gateway.a2a.tasks import TaskIndex
from gateway.errors import InvalidCall
from gateway.types import Identity
from tests.a2a.answers import NOW_MS, SEALER, SEND, Json, index_on, task
from tests.fakes import ANA, BO, FakeTaskStore


async def index_of(count: int, store: FakeTaskStore) -> TaskIndex:
    """An index of so many tasks, t0 the oldest, and one of somebody else."""
    index = index_on(store)
    for number in range(count):
        stamp = f"2027-01-15T07:00:{number:02}Z"
        context, state = ("odd", "COMPLETED") if number % 2 else ("even", "WORKING")
        await index.learn("planner", ANA, SEND, {"task": task(f"t{number}", context, state, timestamp=stamp)})
    await index.learn("planner", BO, SEND, {"task": task("theirs", "c-theirs")})
    return index


async def turned(index: TaskIndex, params: Json, identity: Identity = ANA) -> list[list[str]]:
    pages, token = [], ""
    while True:
        page = await index.page("planner", identity, {**params, "pageToken": token})
        pages.append([record.task_id for record in page.records])
        token = page.next_page_token
        if not token:
            return pages


async def test_pages_hold_the_callers_tasks_newest_first() -> None:
    index = await index_of(5, FakeTaskStore())

    first = await index.page("planner", ANA, {"pageSize": 2})

    assert [record.task_id for record in first.records] == ["t4", "t3"]
    assert (first.total_size, first.page_size) == (5, 2)
    assert await turned(index, {"pageSize": 2}) == [["t4", "t3"], ["t2", "t1"], ["t0"]]
    assert await turned(index, {"pageSize": 5}) == [["t4", "t3", "t2", "t1", "t0"]]
    assert await turned(index, {}, BO) == [["theirs"]]


async def test_page_holds_fifty_tasks_where_no_size_is_given() -> None:
    index = await index_of(51, FakeTaskStore())

    assert [len(page) for page in await turned(index, {})] == [50, 1]


@pytest.mark.parametrize(
    ("params", "tasks"),
    [
        ({"contextId": "odd"}, ["t3", "t1"]),
        ({"status": "TASK_STATE_WORKING"}, ["t4", "t2", "t0"]),
        ({"status": 3}, ["t3", "t1"]),
        ({"status": "TASK_STATE_UNSPECIFIED"}, ["t4", "t3", "t2", "t1", "t0"]),
        ({"statusTimestampAfter": "2027-01-15T07:00:03Z"}, ["t4", "t3"]),
        ({"statusTimestampAfter": "2027-01-15T09:00:03+02:00", "contextId": "odd"}, ["t3"]),
        ({"contextId": "c-theirs"}, []),
        ({"historyLength": 3, "includeArtifacts": True, "contextId": "odd"}, ["t3", "t1"]),
    ],
)
async def test_page_holds_what_the_filters_say(params: Json, tasks: list[str]) -> None:
    index = await index_of(5, FakeTaskStore())

    page = await index.page("planner", ANA, params)

    assert [record.task_id for record in page.records] == tasks
    assert page.total_size == len(tasks)


async def test_tasks_made_meanwhile_shift_no_page() -> None:
    index = await index_of(4, FakeTaskStore())
    first = await index.page("planner", ANA, {"pageSize": 2})

    await index.learn("planner", ANA, SEND, {"task": task("new")})
    second = await index.page("planner", ANA, {"pageSize": 2, "pageToken": first.next_page_token})

    assert [record.task_id for record in (*first.records, *second.records)] == ["t3", "t2", "t1", "t0"]
    assert second.next_page_token == ""


async def test_page_token_holds_at_any_replica_and_for_another_size() -> None:
    store = FakeTaskStore()
    first = await (await index_of(4, store)).page("planner", ANA, {"pageSize": 1})

    rest = await index_on(store).page("planner", ANA, {"pageSize": 9, "pageToken": first.next_page_token})

    assert [record.task_id for record in rest.records] == ["t2", "t1", "t0"]


async def test_page_token_is_of_no_use_to_others_for_others_or_when_changed() -> None:
    store = FakeTaskStore()
    index = await index_of(4, store)
    token = (await index.page("planner", ANA, {"pageSize": 1})).next_page_token
    changed = token[:-3] + ("AAA" if token[-3:] != "AAA" else "BBB")
    foreign = SEALER.seal("cursor", {"t": 1}, principal=ANA.principal, ttl_s=60, now_s=NOW_MS // 1000)
    uses: list[tuple[str, Identity, Json]] = [
        ("planner", BO, {"pageToken": token}),
        ("coder", ANA, {"pageToken": token}),
        ("planner", ANA, {"pageToken": token, "contextId": "odd"}),
        ("planner", ANA, {"pageToken": token, "status": "TASK_STATE_WORKING"}),
        ("planner", ANA, {"pageToken": changed}),
        ("planner", ANA, {"pageToken": foreign}),
        ("planner", ANA, {"pageToken": "x"}),
        ("planner", ANA, {"pageToken": "é"}),
    ]

    for agent, identity, params in uses:
        with pytest.raises(InvalidCall, match="page"):
            await index.page(agent, identity, params)
    with pytest.raises(InvalidCall, match="expired"):
        await index_on(store, NOW_MS + 4_000_000).page("planner", ANA, {"pageToken": token})


async def test_page_token_shows_nothing_of_the_list() -> None:
    index = await index_of(4, FakeTaskStore())

    token = (await index.page("planner", ANA, {"pageSize": 1})).next_page_token

    assert token.isascii()
    assert "t3" not in token


@pytest.mark.parametrize(
    "params",
    [
        {"pageSize": 0},
        {"pageSize": 101},
        {"pageSize": -1},
        {"pageSize": True},
        {"pageSize": 1.5},
        {"pageSize": "5"},
        {"pageToken": 5},
        {"contextId": ["c"]},
        {"contextId": "c\x00"},
        {"status": "working"},
        {"status": []},
        {"statusTimestampAfter": "yesterday"},
        {"statusTimestampAfter": 5},
    ],
)
async def test_list_that_asks_wrongly_is_told_which_member(params: Json) -> None:
    with pytest.raises(InvalidCall, match=next(iter(params))):
        await index_on(FakeTaskStore()).page("planner", ANA, params)
