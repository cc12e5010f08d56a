"""Whatever the embedded engine does, the caller sees a value or one kind of failure."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.pdp.bundle import Bundle, PolicyRefused
from adapters.pdp.engine import EngineFailure, RegoEngine, read_yaml
from adapters.pdp.regorus import RegorusPdp, engine_of
from adapters.pdp.trial import TrialEngine
from gateway import codec
from gateway.errors import PolicyEngineUnavailable
from tests.pdp.policies import alone

PERMIT = alone('decision := {"decision": true}')


Elsewhere: TypeAlias = Callable[[Callable[[], RegoEngine]], RegoEngine]


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    """Makes an engine that belongs to a thread which is there until the test is over."""
    release, threads = threading.Event(), list[threading.Thread]()

    def made_by(make: Callable[[], RegoEngine]) -> RegoEngine:
        made, ready = list[RegoEngine](), threading.Event()

        def run() -> None:
            made.append(make())
            ready.set()
            release.wait(30)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        ready.wait(30)
        return made[0]

    yield made_by
    release.set()
    for thread in threads:
        thread.join(30)


def test_an_engine_is_dropped_by_its_own_thread_whoever_collects_it() -> None:
    engine = RegoEngine(PERMIT.modules)
    cycle: list[object] = [engine]
    cycle.append(cycle)
    del engine, cycle

    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join(30)

    answer = RegoEngine(PERMIT.modules).evaluate("data.interlock.decision", b"{}")
    assert codec.loads(answer) == {"decision": True}


def test_an_engine_of_another_thread_is_a_failure_and_not_a_crash(elsewhere: Elsewhere) -> None:
    engine = elsewhere(lambda: RegoEngine(PERMIT.modules))

    with pytest.raises(EngineFailure) as caught:
        engine.evaluate("data.interlock.decision", b"{}")

    assert caught.value.kind == "panic"


async def test_after_a_panic_the_engine_is_replaced(elsewhere: Elsewhere) -> None:
    engines = [elsewhere(lambda: engine_of(PERMIT))]

    def new_engine(bundle: Bundle) -> RegoEngine:
        return engines.pop() if engines else engine_of(bundle)

    pdp = RegorusPdp(PERMIT, new_engine=new_engine)

    with pytest.raises(PolicyEngineUnavailable) as caught:
        await pdp.evaluate("decision", {})
    answer = await pdp.evaluate("decision", {})

    assert caught.value.reason == "engine_panic"
    assert answer.value == {"decision": True}


def test_each_thread_has_an_engine_of_its_own() -> None:
    gc.collect()  # engines that earlier tests left behind belong to this thread: none of the others may drop them
    pdp = RegorusPdp(PERMIT)

    def ask() -> object:
        try:
            return anyio.run(pdp.evaluate, "decision", {}).value
        finally:
            pdp.close()  # by the thread that it belongs to

    with ThreadPoolExecutor(4) as threads:
        values = [future.result(timeout=30) for future in [threads.submit(ask) for _ in range(12)]]

    assert values == [{"decision": True}] * 12


def test_a_policy_that_does_not_parse_is_refused_with_its_place() -> None:
    with pytest.raises(PolicyRefused) as caught:
        RegorusPdp(alone("decision := (("))

    assert (caught.value.faults[0].file, caught.value.faults[0].line) == ("policy.rego", 5)


async def test_a_failure_says_where_and_quotes_nothing() -> None:
    pdp = RegorusPdp(alone("decision := to_number(input.secret)"))

    with pytest.raises(PolicyEngineUnavailable, match=r"policy\.rego:3:") as caught:
        await pdp.evaluate("decision", {"secret": "hunter2"})

    assert "hunter2" not in str(caught.value)


MIXED = """
inner := to_number(input.v)

decision := [inner, r] if { r := inner with input as {"v": input.w} }
"""
TEXTS = st.sampled_from(["1", "2", "x", ""])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.fixed_dictionaries({"v": TEXTS, "w": TEXTS}), min_size=2, max_size=6))
def test_a_failed_evaluation_leaves_nothing_behind(questions: list[dict[str, str]]) -> None:
    used = RegoEngine(alone(MIXED).modules)

    def value(engine: RegoEngine, question: dict[str, str]) -> bytes:
        try:
            return engine.evaluate("data.interlock.decision", codec.dumps(question))
        except EngineFailure as failure:
            return failure.where.encode()

    for question in questions:
        assert value(used, question) == value(RegoEngine(alone(MIXED).modules), question)


def test_a_trial_survives_a_stack_overflow() -> None:
    with TrialEngine(alone("f(x) := f(x)\n\ndecision := f(1)")) as engine, pytest.raises(EngineFailure) as caught:
        engine.evaluate("data.interlock.decision", b"{}")

    assert "SIGSEGV" in caught.value.text or "SIGABRT" in caught.value.text


def test_a_trial_does_not_wait_for_ever() -> None:
    slow = "decision := count([1 | some a in numbers.range(1, 9000); some b in numbers.range(1, 9000); a == b + 10000])"

    with TrialEngine(alone(slow), deadline_s=0.3) as engine, pytest.raises(EngineFailure) as caught:
        engine.evaluate("data.interlock.decision", b"{}")

    assert "0.3 s" in caught.value.text


def test_a_trial_that_was_not_done_in_time_answers_nothing_more() -> None:
    slow = "decision := count([1 | some a in numbers.range(1, 900); some b in numbers.range(1, 900); a == b + 1000])"

    with TrialEngine(alone(slow), deadline_s=0.1) as engine:
        with pytest.raises(EngineFailure):
            engine.evaluate("data.interlock.decision", b"{}")
        engine_is_over = engine.is_over
        for _ in range(2):  # the answer to the first question would come by now
            with pytest.raises(EngineFailure, match="failed") as caught:
                engine.evaluate("data.interlock", b"{}")

    assert engine_is_over
    assert caught.value.text == "not asked any more: not done within 0.1 s"


def test_yaml_is_read() -> None:
    assert read_yaml("a: [1, b]\nc: {d: null}") == {"a": [1, "b"], "c": {"d": None}}


@pytest.mark.parametrize("text", ["a: [", "\t- x: : y", "'"])
def test_what_is_no_yaml_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="YAML"):
        read_yaml(text)
