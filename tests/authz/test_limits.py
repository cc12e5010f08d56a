"""Rates are kept over any stretch of time, and what is remembered of callers is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authz.obligations import Rate
from gateway.authz.rate import RateLimiter
from gateway.authz.sessions import MAX_LABELS, Sessions
from gateway.errors import QuotaExceeded
from gateway.types import Entity, Identity
from tests.authz.makers import IDENTITY, Clock, call_of


def rate(limit: int, window_s: int, key: str = "") -> Rate:
    return Rate("rate", {}, limit, window_s, key)


def admitted(limiter: RateLimiter, rates: list[Rate], calls: int, caller: str = "ana") -> int:
    count = 0
    for _ in range(calls):
        try:
            limiter.charge(rates, caller, "tool")
        except QuotaExceeded:
            continue
        count += 1
    return count


def test_a_limit_admits_exactly_so_many_at_once() -> None:
    limiter = RateLimiter(Clock())

    assert admitted(limiter, [rate(3, 60)], 10) == 3


@pytest.mark.parametrize(("limit", "window_s"), [(7, 1), (3, 60), (30_000, 1), (29_999, 1), (1, 86_400)])
def test_no_limit_admits_one_more(limit: int, window_s: int) -> None:
    limiter = RateLimiter(Clock(123_456_789_123))

    assert admitted(limiter, [rate(limit, window_s)], limit + 2) == limit


def test_time_gives_calls_back() -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    assert admitted(limiter, [rate(2, 60)], 3) == 2

    clock.advance_s(30.001)

    assert admitted(limiter, [rate(2, 60)], 3) == 1


def test_the_wait_that_is_named_is_enough() -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    assert admitted(limiter, [rate(1, 60)], 1) == 1
    with pytest.raises(QuotaExceeded, match="more than 1 calls in 60 s") as caught:
        limiter.charge([rate(1, 60)], "ana", "tool")

    clock.advance_s(caught.value.retry_after_s)

    assert admitted(limiter, [rate(1, 60)], 1) == 1


def test_callers_and_resources_are_counted_apart_and_a_key_together() -> None:
    limiter = RateLimiter(Clock())
    limiter.charge([rate(1, 60)], "ana", "tool")

    limiter.charge([rate(1, 60)], "bo", "tool")
    limiter.charge([rate(1, 60)], "ana", "other")
    limiter.charge([rate(1, 60, "team")], "ana", "tool")

    with pytest.raises(QuotaExceeded):
        limiter.charge([rate(1, 60, "team")], "bo", "tool")


def test_a_refused_call_is_charged_nowhere() -> None:
    limiter = RateLimiter(Clock())
    limiter.charge([rate(1, 3_600)], "ana", "tool")
    assert admitted(limiter, [rate(2, 60), rate(1, 3_600)], 5) == 0

    assert admitted(limiter, [rate(2, 60)], 5) == 2


def test_when_memory_is_full_new_callers_are_refused_and_old_ones_kept() -> None:
    clock = Clock()
    limiter = RateLimiter(clock, max_buckets=2)
    assert admitted(limiter, [rate(1, 60)], 1, "a") + admitted(limiter, [rate(1, 60)], 1, "b") == 2
    assert admitted(limiter, [rate(1, 60)], 1, "c") == 0
    assert admitted(limiter, [rate(1, 60)], 1, "a") == 0

    clock.advance_s(61)

    assert admitted(limiter, [rate(1, 60)], 1, "c") == 1


@given(st.integers(1, 5), st.lists(st.integers(0, 700), max_size=40))
def test_over_any_window_at_most_twice_the_limit_passes(limit: int, pauses_ms: list[int]) -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    passed: list[int] = []
    for pause in pauses_ms:
        clock.advance_s(pause / 1_000)
        if admitted(limiter, [rate(limit, 1)], 1):
            passed.append(clock.now)

    for start in passed:
        assert sum(start <= moment < start + 1_000_000_000 for moment in passed) <= 2 * limit


def test_sessions_of_other_callers_and_ids_are_others() -> None:
    sessions = Sessions(Clock())
    sessions.add_labels(call_of(session_id="s"), IDENTITY, ["pii"])

    stranger = Identity(Entity("agent", "other"))

    assert sessions.of(call_of(session_id="s"), IDENTITY).labels == ("pii",)
    assert sessions.of(call_of(session_id="s"), stranger).labels == ()
    assert sessions.of(call_of(session_id="t"), IDENTITY).labels == ()


def test_an_idle_session_is_forgotten() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    sessions.add_labels(call_of(), IDENTITY, ["pii"])
    clock.advance_s(3_000)
    assert sessions.of(call_of(), IDENTITY).labels == ("pii",)

    clock.advance_s(3_601)

    assert sessions.of(call_of(), IDENTITY).labels == ()


def test_only_so_many_sessions_are_remembered() -> None:
    sessions = Sessions(Clock(), max_sessions=2)
    for name in "ab":
        sessions.add_labels(call_of(session_id=name), IDENTITY, [name])
    assert sessions.of(call_of(session_id="a"), IDENTITY).labels == ("a",)

    sessions.of(call_of(session_id="c"), IDENTITY)

    assert sessions.of(call_of(session_id="a"), IDENTITY).labels == ("a",)
    assert sessions.of(call_of(session_id="b"), IDENTITY).labels == ()


def test_labels_only_grow_and_say_when_there_are_too_many() -> None:
    sessions = Sessions(Clock())
    sessions.add_labels(call_of(), IDENTITY, ["b"])
    sessions.add_labels(call_of(), IDENTITY, ["a", "b"])
    assert sessions.of(call_of(), IDENTITY).labels == ("a", "b")

    sessions.add_labels(call_of(), IDENTITY, [f"{number:03}" for number in range(MAX_LABELS)])
    sessions.add_labels(call_of(), IDENTITY, ["a"])

    assert sessions.of(call_of(), IDENTITY).labels[-1] == "overflow"
    assert len(sessions.of(call_of(), IDENTITY).labels) == MAX_LABELS + 1

    sessions.add_labels(call_of(), IDENTITY, ["000"])

    assert sessions.of(call_of(), IDENTITY).labels[-1] == "overflow", "what was left out does not come back"
