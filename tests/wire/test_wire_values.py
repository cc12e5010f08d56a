"""The parts of the wire code that hold no connection."""

from __future__ import annotations

import random

from adapters.upstreams.wire.backoff import Backoff
from sandboxes.host.last_words import LastWords


def test_delays_double_to_a_limit_and_are_jittered_by_up_to_half() -> None:
    least, most = Backoff(first_s=1, max_s=10, random=lambda: 0.0), Backoff(first_s=1, max_s=10, random=lambda: 1.0)

    assert [least.failed(ran_s=0) for _ in range(6)] == [0.5, 1, 2, 4, 5, 5]
    assert [most.failed(ran_s=0) for _ in range(6)] == [1, 2, 4, 8, 10, 10]


def test_healthy_time_or_reset_starts_the_delays_over() -> None:
    backoff = Backoff(first_s=1, max_s=100, healthy_s=30, random=lambda: 1.0)

    delays = [backoff.failed(ran_s=ran) for ran in (0, 0, 29, 30, 0)]
    backoff.reset()

    assert delays == [1, 2, 4, 1, 2]
    assert backoff.failed(ran_s=0) == 1


def test_delay_stays_bounded_after_many_failures() -> None:
    backoff = Backoff(max_s=60, random=random.Random(1).random)

    assert all(0 < backoff.failed(ran_s=0) <= 60 for _ in range(5_000))


def test_last_words_hold_no_secret_and_no_control_character() -> None:
    words = LastWords(1_000, ["s3cret-value", "on"])

    words.add(b"\x1b[1;31merror\x07 on s3cret-value\r\n")
    words.add(b'{"api_key": "abcdef", "Authorization": "Bearer zzz", "token=qqq"}\n\xff')

    assert words.text().startswith("error on ***\n")
    assert not any(secret in words.text() for secret in ("s3cret", "abcdef", "zzz", "qqq", "\x1b", "\x07"))


def test_tail_is_the_last_lines_and_bounded() -> None:
    words = LastWords(10_000)

    words.add(b"one\n\n  two\nthree\nfour" + b"x" * 500)

    assert words.tail(max_chars=100) == "…" + "x" * 100
    assert words.tail(lines=2).startswith("…")
