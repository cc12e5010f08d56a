"""The quality guard: what it notices, what it lets pass, and how an alarm ends."""

from __future__ import annotations

import random

import pytest

from gateway.routing.guard import Canary, PageHinkley, QualityGuard, Signal


def _answers(guard: QualityGuard, rate: float, count: int, chance: random.Random, signal: Signal) -> int | None:
    """So many answers, each of which fails at this rate; the number of the one that raised the alarm."""
    for number in range(count):
        if guard.answered({signal: chance.random() < rate}, now_s=float(number)) is not None:
            return number
    return None


@pytest.mark.parametrize("signal", ["schema_failure", "refusal"])
def test_a_rate_that_rises_raises_an_alarm_soon(signal: Signal) -> None:
    delays = []
    for seed in range(20):
        guard, chance = QualityGuard(), random.Random(seed)
        assert _answers(guard, 0.03, 1_000, chance, signal) is None
        delay = _answers(guard, 0.30, 400, chance, signal)
        assert delay is not None
        assert guard.alarm is not None
        assert signal in guard.alarm.words
        delays.append(delay)

    assert sorted(delays)[10] < 60
    assert max(delays) < 150


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1])
def test_a_steady_rate_raises_no_alarm(rate: float) -> None:
    raised = [_answers(QualityGuard(), rate, 5_000, random.Random(seed), "refusal") for seed in range(20)]

    assert [number for number in raised if number is not None] == []


def test_a_test_forgets_what_was_normal_when_it_is_reset() -> None:
    test = PageHinkley(warm_up=1, limit=1.0, delta=0.1)
    assert not test.add(0.0)
    assert any(test.add(1.0) for _ in range(10))

    test.reset()

    assert not any(test.add(1.0) for _ in range(1_000))


def test_a_fall_of_the_canaries_raises_an_alarm_and_says_by_how_much() -> None:
    guard = QualityGuard()
    guard.canary(Canary(45, 50), now_s=1.0)

    alarm = guard.canary(Canary(30, 50), now_s=2.0)

    assert alarm is not None
    assert (alarm.signal, alarm.since_s) == ("canary", 2.0)
    assert "30 of 50 canaries pass; 45 of 50 did" in alarm.words


def test_a_canary_run_that_is_a_little_worse_is_luck() -> None:
    guard = QualityGuard(baseline=Canary(45, 50))

    assert guard.canary(Canary(42, 50), now_s=1.0) is None
    assert guard.alarm is None


def test_an_alarm_ends_after_two_canary_runs_in_a_row_that_pass() -> None:
    guard = QualityGuard(baseline=Canary(45, 50))
    guard.canary(Canary(20, 50), now_s=1.0)

    for passed, stands in ((45, True), (20, True), (45, True), (44, False)):
        guard.canary(Canary(passed, 50), now_s=2.0)
        assert (guard.alarm is not None) is stands


def test_an_alarm_ends_when_a_person_says_so() -> None:
    guard = QualityGuard(baseline=Canary(50, 50))
    guard.canary(Canary(0, 50), now_s=1.0)

    guard.resume()

    assert guard.alarm is None


def test_answers_while_an_alarm_stands_raise_no_second_one() -> None:
    guard, chance = QualityGuard(baseline=Canary(50, 50)), random.Random(1)
    first = guard.canary(Canary(0, 50), now_s=1.0)
    _answers(guard, 0.0, 200, chance, "refusal")

    assert _answers(guard, 1.0, 200, chance, "refusal") is None
    assert guard.alarm == first


def test_what_one_tenant_asks_for_steps_no_other_tenant_up() -> None:
    guard, chance = QualityGuard(baseline=Canary(50, 50)), random.Random(1)
    _answers(guard.of("one"), 0.0, 200, chance, "schema_failure")
    _answers(guard.of("other"), 0.0, 200, chance, "schema_failure")

    assert _answers(guard.of("one"), 1.0, 200, chance, "schema_failure") is not None
    assert guard.of("one").alarm is not None
    assert guard.of("other").alarm is None
    assert guard.alarm is None


def test_canaries_speak_for_every_tenant_and_end_the_alarm_of_each() -> None:
    guard, chance = QualityGuard(baseline=Canary(50, 50)), random.Random(1)
    for _ in range(5):
        guard.canary(Canary(50, 50), now_s=1.0)
    _answers(guard.of("one"), 0.0, 200, chance, "refusal")
    _answers(guard.of("one"), 1.0, 200, chance, "refusal")

    guard.canary(Canary(50, 50), now_s=2.0)
    after_one = guard.of("one").alarm
    guard.canary(Canary(50, 50), now_s=3.0)
    after_two = guard.of("one").alarm
    guard.canary(Canary(0, 50), now_s=4.0)

    assert after_one is not None
    assert after_two is None
    assert guard.of("one").alarm == guard.of("new").alarm == guard.alarm is not None


def test_a_canary_set_without_prompts_is_refused() -> None:
    for passed, total in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="canary"):
            Canary(passed, total)
