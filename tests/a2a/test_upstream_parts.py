"""The pure parts of the upstream side: results cut out of responses, tasks merged from events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams.a2a.answers import status_error
from adapters.upstreams.a2a.envelope import one_line, opened
from adapters.upstreams.a2a.view import View, missed
from gateway.errors import InterlockError, UpstreamProtocolError
from tests.a2a.agents import artifact, status, task

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(['"}', ',"id":7}', "\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
ORDERS = st.permutations(["jsonrpc", "id", "result"])


@given(value=VALUES, order=ORDERS, extra=VALUES, indent=st.sampled_from([None, 1]), with_extra=st.booleans())
def test_result_is_cut_out_as_it_was_written(
    value: object, order: list[str], extra: object, indent: int | None, with_extra: bool
) -> None:
    members: dict[str, object] = {"jsonrpc": "2.0", "id": 7, "result": value}
    message = {name: members[name] for name in order} | ({"x": extra} if with_extra else {})
    written = json.dumps(message, indent=indent)

    found = opened(written.encode(), 7, "planner")

    assert found.raw.decode() in written
    assert json.loads(found.raw) == value == found.value
    assert json.loads(one_line(found.raw)) == value


@given(data=st.binary(max_size=80) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_a_response_or_a_protocol_error(data: bytes) -> None:
    try:
        opened(data, 7, "planner")
    except UpstreamProtocolError:
        return


@pytest.mark.parametrize("depth", [900, 2_000, 100_000])
def test_deep_nesting_is_no_way_to_break_the_reader(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    try:
        assert opened(b'{"jsonrpc":"2.0","id":7,"x":0,"result":%b}' % nested, 7, "planner").raw == nested
    except UpstreamProtocolError:
        return


@given(status=st.integers(300, 599), data=VALUES.map(lambda value: json.dumps({"error": value}).encode()))
def test_whatever_rest_error_comes_has_a_code_and_a_message(status: int, data: bytes) -> None:
    try:
        error = json.loads(status_error("planner", status, data, {}).payload)
    except InterlockError:
        return

    assert isinstance(error["code"], int)
    assert isinstance(error["message"], str)


def view_of(*events: bytes, max_bytes: int = 10_000) -> View:
    view = View(max_bytes=max_bytes)
    for event in events:
        view.take(json.loads(event), len(event))
    return view


def test_view_is_the_task_with_all_that_happened_since() -> None:
    view = view_of(task("SUBMITTED"), artifact("one", append=False), artifact("two"), status("WORKING"))

    assert view.task is not None
    assert view.task["artifacts"] == [{"artifactId": "a1", "parts": [{"text": "one"}, {"text": "two"}]}]
    assert view.task["status"] == {"state": "TASK_STATE_WORKING"}


def test_view_of_a_task_that_grows_too_large_knows_its_state_only() -> None:
    view = view_of(task(), *[artifact("x" * 100) for _ in range(20)], status("COMPLETED"), max_bytes=1_000)

    assert view.task is None
    assert view.over


def test_nothing_was_missed_where_the_task_is_as_it_was_seen() -> None:
    seen = view_of(task(), artifact("one", append=False))
    now: dict[str, Any] = json.loads(task(artifacts=[{"artifactId": "a1", "parts": [{"text": "one"}]}]))

    assert missed(seen, now["task"]) == []


@given(VALUES)
def test_whatever_an_agent_sends_the_view_takes(value: Any) -> None:
    view = view_of(task())
    for kind in ("task", "statusUpdate", "artifactUpdate", "message"):
        view.take({kind: value}, 10)
        view.take(
            {kind: {"artifact": value, "status": value, "append": True, "artifacts": value, "history": value}}, 10
        )
        missed(view, value if isinstance(value, dict) else {})
