"""What hostile agents answer is read, or refused with what is wrong with it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.a2a.sightings import MAX_ID_BYTES, instant_ms, is_id, sighted
from gateway.errors import UpstreamProtocolError
from gateway.types import Identity
from tests.a2a.answers import STREAM, Json, index_on, status, task
from tests.fakes import ANA, BO, FakeTaskStore


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"task": None},
        {"task": []},
        {"task": {}},
        {"task": {"id": ""}},
        {"task": {"id": 7}},
        {"task": {"id": "t\n1"}},
        {"task": {"id": "t\x00"}},
        {"task": {"id": "\ud800"}},
        {"task": {"id": "é" * (MAX_ID_BYTES // 2 + 1)}},
        {"task": {"id": "t1", "contextId": {}}},
        {"task": {"id": "t1", "contextId": "c" * (MAX_ID_BYTES + 1)}},
        {"task": {"id": "t1", "status": "done"}},
        {"task": {"id": "t1", "status": {"state": "working"}}},
        {"task": {"id": "t1", "status": {"state": True}}},
        {"task": {"id": "t1", "status": {"state": 99}}},
        {"task": {"id": "t1", "status": {"state": ["TASK_STATE_WORKING"]}}},
        {"task": {"id": "t1", "status": {"timestamp": 5}}},
        {"task": task(), "statusUpdate": status("theirs")["statusUpdate"]},
        {"statusUpdate": {"contextId": "c1"}},
        {"message": {"taskId": ["t1"]}},
        {"id": "push-1", "taskId": "t1", "url": "https://client.example"},
    ],
)
async def test_answer_that_is_none_is_refused_and_keeps_nothing(value: Json) -> None:
    store = FakeTaskStore()

    with pytest.raises(UpstreamProtocolError, match="the agent answered with"):
        await index_on(store).learn("planner", ANA, STREAM, value)

    assert store.writes == 0


KEYS = st.sampled_from(
    ["task", "message", "statusUpdate", "artifactUpdate", "id", "taskId", "contextId", "status", "state", "timestamp"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["t1", "c1"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(KEYS | st.text(), children, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OBJECTS)
@example({"task": {"id": "t1", "status": {"timestamp": "2027-02-30T00:00:00Z"}}})
def test_any_value_is_read_or_refused_and_never_crashes(value: Json) -> None:
    try:
        seen = sighted(value)
    except UpstreamProtocolError:
        return

    assert seen.task_id == "" or is_id(seen.task_id)
    assert seen.context_id == "" or is_id(seen.context_id)
    assert seen.stamp_ms >= 0


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from([ANA, BO]), OBJECTS | KEYS.map(lambda key: {key: task()})), max_size=8))
async def test_no_sequence_of_answers_moves_a_task_to_another_owner(answers: list[tuple[Identity, Json]]) -> None:
    store = FakeTaskStore()
    index = index_on(store, cached=2)
    owners: dict[str, str] = {}

    for identity, value in answers:
        try:
            await index.learn("planner", identity, STREAM, value)
        except UpstreamProtocolError:
            continue
        task_id = sighted(value).task_id
        if task_id:
            owners.setdefault(task_id, identity.principal)
            assert owners[task_id] == identity.principal

    for task_id, owner in owners.items():
        record = await store.task("planner", task_id)
        assert record is not None
        assert record.owner == owner


@given(
    st.text() | st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]\d\d:\d\d)\Z")
)
def test_any_text_is_a_time_or_none(text: str) -> None:
    instant = instant_ms(text)

    assert instant is None or 0 <= instant < 253_402_400_000_000


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:01Z", 1_000),
        ("1970-01-01T01:00:00.123456789+01:00", 123),
        ("1969-12-31T00:00:00Z", 0),
        ("2023-10-27", None),
        ("2023-10-27T10:00:00", None),
        ("2023-10-27T10:00:60Z", None),
        ("0001-01-01T00:00:00+23:59", 0),
    ],
)
def test_time_is_read_as_rfc_3339_says(text: str, instant: int | None) -> None:
    assert instant_ms(text) == instant
