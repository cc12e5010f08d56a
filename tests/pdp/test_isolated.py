"""A policy that does not end is ended, and until there is a new worker the answer is no."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from adapters.pdp.bundle import Bundle, PolicyRefused
from adapters.pdp.isolated import MAX_WAITING, IsolatedPdp
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer
from tests.pdp.policies import alone

SLOW = """
decision := {"decision": true} if not input.slow

decision := {"decision": true, "n": n} if {
	input.slow
	n := count([1 | some a in numbers.range(1, 9000); some b in numbers.range(1, 9000); a == b + 10000])
}

decision := {"decision": true, "long": strings.reverse(sprintf("%0*d", [1, 1]))} if input.star
"""


@asynccontextmanager
async def running(bundle: Bundle, *, timeout_s: float = 0.3, memory_bytes: int = 2 << 30) -> AsyncIterator[IsolatedPdp]:
    pdp = IsolatedPdp(bundle, timeout_s=timeout_s, memory_bytes=memory_bytes)
    with anyio.fail_after(30):
        await pdp.start()
        try:
            yield pdp
        finally:
            pdp.close()


async def until_ready(pdp: IsolatedPdp) -> Answer:
    """The first answer after a restart; every one before it must have been refused at once."""
    with anyio.fail_after(20):
        while True:
            try:
                return await pdp.evaluate("decision", {})
            except PolicyEngineUnavailable:
                await anyio.sleep(0.01)


async def test_an_evaluation_that_takes_too_long_is_killed() -> None:
    async with running(alone(SLOW)) as pdp:
        worker = pdp.pid

        with pytest.raises(PolicyEngineUnavailable) as caught:
            await pdp.evaluate("decision", {"slow": True})
        ended = not _is_running(worker)

        assert caught.value.reason == "timeout"
        assert ended


async def test_questions_are_refused_at_once_while_the_worker_restarts() -> None:
    async with running(alone(SLOW)) as pdp:
        with pytest.raises(PolicyEngineUnavailable):
            await pdp.evaluate("decision", {"slow": True})

        with anyio.fail_after(5), pytest.raises(PolicyEngineUnavailable) as caught:
            await pdp.evaluate("decision", {})

        assert caught.value.reason == "pdp_unavailable"


async def test_a_killed_worker_is_replaced() -> None:
    async with running(alone(SLOW)) as pdp:
        worker = pdp.pid

        os.kill(worker, signal.SIGKILL)
        answer = await until_ready(pdp)

        assert answer.value == {"decision": True}
        assert pdp.pid != worker
        assert pdp.restarts >= 1


async def test_a_worker_that_is_killed_during_a_question_is_a_no() -> None:
    async with running(alone(SLOW), timeout_s=20) as pdp:
        failed: list[str] = []

        async def ask() -> None:
            with pytest.raises(PolicyEngineUnavailable) as caught:
                await pdp.evaluate("decision", {"slow": True})
            failed.append(caught.value.reason)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            os.kill(pdp.pid, signal.SIGKILL)

        assert failed == ["pdp_unavailable"]


async def test_a_worker_that_times_out_comes_back() -> None:
    async with running(alone(SLOW)) as pdp:
        with pytest.raises(PolicyEngineUnavailable):
            await pdp.evaluate("decision", {"slow": True})

        answer = await until_ready(pdp)

        assert answer.value == {"decision": True}


async def test_questions_behind_a_slow_one_do_not_wait_for_ever() -> None:
    async with running(alone(SLOW)) as pdp:
        reasons: list[str] = []

        async def ask(question: dict[str, object]) -> None:
            with pytest.raises(PolicyEngineUnavailable) as caught:
                await pdp.evaluate("decision", question)
            reasons.append(caught.value.reason)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                slow: dict[str, object] = {"slow": True}
                group.start_soon(ask, slow)
                await anyio.wait_all_tasks_blocked()
                for _ in range(5):
                    group.start_soon(ask, {})

        assert len(reasons) == 6
        assert set(reasons) <= {"timeout", "pdp_unavailable"}


async def test_too_many_waiting_questions_are_refused() -> None:
    async with running(alone(SLOW), timeout_s=2) as pdp:
        reasons: list[str] = []

        async def ask() -> None:
            try:
                await pdp.evaluate("decision", {"slow": True})
            except PolicyEngineUnavailable as exc:
                reasons.append(str(exc))

        async with anyio.create_task_group() as group:
            for _ in range(MAX_WAITING + 5):
                group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            refused = sum("too many" in reason for reason in reasons)
            group.cancel_scope.cancel()

        assert refused == 4


async def test_a_caller_that_gives_up_does_not_take_the_worker_along() -> None:
    async with running(alone(SLOW), timeout_s=5) as pdp:
        with anyio.move_on_after(0.001):
            await pdp.evaluate("decision", {"big": ["x"] * 1000})
        answer = await pdp.evaluate("decision", {})

        assert answer.value == {"decision": True}
        assert pdp.restarts == 0


async def test_a_question_larger_than_the_socket_buffer_is_answered() -> None:
    async with running(alone('decision := {"decision": true, "n": count(input.text)}'), timeout_s=5) as pdp:
        answer = await pdp.evaluate("decision", {"text": "x" * 2_000_000})

        assert answer.value == {"decision": True, "n": 2_000_000}


async def test_an_answer_that_is_too_large_is_refused() -> None:
    async with running(
        alone('decision := {"decision": true, "n": [input.text, input.text, input.text]}'), timeout_s=5
    ) as pdp:
        with pytest.raises(PolicyEngineUnavailable) as caught:
            await pdp.evaluate("decision", {"text": "x" * 2_000_000})

        assert caught.value.reason == "policy_output_invalid"


async def test_a_policy_that_eats_memory_is_ended() -> None:
    bomb = 'decision := {"decision": true, "n": count(numbers.range(1, 400000000))}'
    async with running(alone(bomb), timeout_s=20) as pdp:
        with pytest.raises(PolicyEngineUnavailable):
            await pdp.evaluate("decision", {})


async def test_a_policy_that_does_not_load_is_refused() -> None:
    pdp = IsolatedPdp(alone("decision := (("))

    with anyio.fail_after(20), pytest.raises(PolicyRefused) as caught:
        await pdp.start()

    assert caught.value.faults[0].line == 5
    assert pdp.pid == 0


async def test_before_the_start_and_after_the_end_the_answer_is_no() -> None:
    pdp = IsolatedPdp(alone(SLOW))

    with pytest.raises(PolicyEngineUnavailable):
        await pdp.evaluate("decision", {})
    with anyio.fail_after(20):
        await pdp.start()
    pdp.close()
    with pytest.raises(PolicyEngineUnavailable):
        await pdp.evaluate("decision", {})

    assert pdp.pid == 0
    assert not pdp.ready


async def test_the_worker_has_no_environment_to_leak() -> None:
    async with running(alone(SLOW)) as pdp:
        environment = await anyio.Path(f"/proc/{pdp.pid}/environ").read_bytes()

    assert environment.replace(b"\0", b"") in {b"", b"LC_CTYPE=C.UTF-8"}


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
