"""The breaker opens on failures, lets one probe through, and closes on success."""

from __future__ import annotations

from adapters.pdp.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def broken(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(5):
        breaker.failed()
    return breaker


def test_five_failures_in_a_row_open_it() -> None:
    breaker = Breaker(Clock())

    for _ in range(4):
        breaker.failed()
    before = breaker.may_ask()
    breaker.failed()

    assert before
    assert not breaker.may_ask()
    assert breaker.state == "open"


def test_a_success_in_between_starts_the_count_anew() -> None:
    breaker = Breaker(Clock())

    for _ in range(3):
        for _ in range(4):
            breaker.failed()
        breaker.succeeded()

    assert breaker.may_ask()


def test_half_of_the_last_twenty_failing_opens_it() -> None:
    breaker = Breaker(Clock())

    for _ in range(9):
        breaker.failed()
        breaker.succeeded()
    breaker.succeeded()
    before = breaker.may_ask()
    breaker.failed()

    assert before
    assert not breaker.may_ask()


def test_failures_long_ago_do_not_count() -> None:
    clock = Clock()
    breaker = Breaker(clock)

    for _ in range(9):
        breaker.failed()
        breaker.succeeded()
    clock.now += 11
    for _ in range(2):
        breaker.succeeded()
        breaker.failed()

    assert breaker.may_ask()


def test_after_two_seconds_one_probe_goes_through() -> None:
    clock = Clock()
    breaker = broken(clock)

    clock.now += 1.99
    early = breaker.may_ask()
    clock.now += 0.01
    answers = [breaker.may_ask() for _ in range(3)]

    assert not early
    assert answers == [True, False, False]
    assert breaker.state == "half_open"


def test_a_good_probe_closes_it() -> None:
    clock = Clock()
    breaker = broken(clock)

    clock.now += 2
    breaker.may_ask()
    breaker.succeeded()

    assert breaker.state == "closed"
    assert breaker.may_ask()


def test_a_bad_probe_opens_it_again() -> None:
    clock = Clock()
    breaker = broken(clock)

    clock.now += 2
    breaker.may_ask()
    breaker.failed()
    clock.now += 1

    assert not breaker.may_ask()


def test_a_probe_that_is_never_heard_of_makes_room_for_another() -> None:
    clock = Clock()
    breaker = broken(clock)

    clock.now += 2
    breaker.may_ask()
    clock.now += 2

    assert breaker.may_ask()
