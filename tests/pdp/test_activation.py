"""Only a policy that was checked and tested decides, and the change happens between two questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from adapters.pdp.activation import ActivePdp, Engine, EngineSpec, build_engine
from adapters.pdp.bundle import PolicyRefused, bundle_of, load_bundle
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer, Entrypoint
from tests.pdp.policies import LIBRARY, composed

POLICIES = Path(__file__).parents[2] / "policies"
ALLOW = 'allow if input.subject.id == "a"'
SLOW = "allow if { walk(input, [_, value]); value == 1 }"


class Gate:
    """A decision point that answers when it is let."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open = anyio.Event()
        self.entered = anyio.Event()
        self.closed = False

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
        self.entered.set()
        await self.open.wait()
        if self.closed:
            raise PolicyEngineUnavailable("closed too early")
        return Answer({"decision": True}, self.name, "gate")

    def close(self) -> None:
        self.closed = True

    @property
    def engine(self) -> Engine:
        return Engine(self, self.name, "remote", resource=self)


async def test_without_a_policy_everything_is_refused() -> None:
    with pytest.raises(PolicyEngineUnavailable, match="no policy is loaded"):
        await ActivePdp().evaluate("decision", {})


async def test_the_shipped_policy_is_built_cheap_and_cached() -> None:
    bundle = load_bundle([POLICIES / "lib", POLICIES / "starter"])
    active = ActivePdp()

    with anyio.fail_after(60):
        active.activate(await build_engine(EngineSpec(), bundle))
        first = await active.evaluate("decision", {"subject": {"id": "a"}})
        second = await active.evaluate("decision", {"subject": {"id": "a"}})

    assert active.engine is not None
    assert active.engine.isolation == "inline"
    assert (first.cached, second.cached) == (False, True)
    assert active.revision == bundle.revision
    assert not active.may_read(("resource", "properties", "result"))
    active.close()


@pytest.mark.parametrize(("rules", "isolation"), [(ALLOW, "inline"), (SLOW, "process")])
async def test_where_a_policy_runs_is_found_by_what_it_may_cost(rules: str, isolation: str) -> None:
    with anyio.fail_after(60):
        engine = await build_engine(EngineSpec(), composed(rules))
        answer = await engine.evaluate("decision", {"subject": {"id": "a"}, "x": 1})

    assert engine.isolation == isolation
    assert answer.value == {"decision": True, "context": {}}
    engine.close()


async def test_configuration_can_force_the_place() -> None:
    with anyio.fail_after(60):
        inline = await build_engine(EngineSpec(isolation="inline"), composed(SLOW))
        process = await build_engine(EngineSpec(isolation="process"), composed(ALLOW))

    assert (inline.isolation, process.isolation) == ("inline", "process")
    inline.close()
    process.close()


async def test_no_cache_means_no_cached_answer() -> None:
    with anyio.fail_after(60):
        engine = await build_engine(EngineSpec(cache_entries=0), composed(ALLOW))
        answers = [await engine.evaluate("decision", {"subject": {"id": "a"}}) for _ in range(2)]

    assert not any(answer.cached for answer in answers)
    engine.close()


async def test_a_policy_with_faults_is_refused_with_each() -> None:
    with anyio.fail_after(60), pytest.raises(PolicyRefused) as caught:
        await build_engine(EngineSpec(), composed("a := http.send({})\n\nb := nope(1)"))

    assert [fault.line for fault in caught.value.faults] == [3, 5]


async def test_a_policy_whose_own_test_fails_is_refused() -> None:
    files = {"lib.rego": LIBRARY, "team.rego": f"package rules.team\n\n{ALLOW}\n"}
    tests = {"team_test.rego": 'package rules.team_test\n\ntest_it if data.rules.team.allow with input as {"x": 1}\n'}

    with anyio.fail_after(60), pytest.raises(PolicyRefused) as caught:
        await build_engine(EngineSpec(), bundle_of(files, tests=tests))

    fault = caught.value.faults[0]
    assert (fault.file, fault.line) == ("team_test.rego", 3)
    assert "test_it" in fault.message


async def test_a_policy_whose_case_fails_is_refused() -> None:
    files = {"lib.rego": LIBRARY, "team.rego": f"package rules.team\n\n{ALLOW}\n"}
    cases = {"cases/a.yaml": "- name: nobody may\n  input: {subject: {id: a}}\n  expect: {decision: false}\n"}

    with anyio.fail_after(60), pytest.raises(PolicyRefused, match="nobody may"):
        await build_engine(EngineSpec(), bundle_of(files, cases=cases))


async def test_a_refused_policy_leaves_the_active_one_deciding() -> None:
    active = ActivePdp()
    with anyio.fail_after(60):
        active.activate(await build_engine(EngineSpec(), composed(ALLOW)))
        with pytest.raises(PolicyRefused):
            active.activate(await build_engine(EngineSpec(), composed("a := ((")))
        answer = await active.evaluate("decision", {"subject": {"id": "a"}})

    assert answer.value == {"decision": True, "context": {}}
    active.close()


async def test_a_question_under_way_is_answered_by_the_policy_it_was_put_to() -> None:
    old, new, active = Gate("old"), Gate("new"), ActivePdp()
    new.open.set()
    active.activate(old.engine)
    answers: list[Answer] = []

    async def ask() -> None:
        answers.append(await active.evaluate("decision", {}))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await old.entered.wait()
            active.activate(new.engine)
            during = (await active.evaluate("decision", {})).revision
            still_open = not old.closed
            old.open.set()

    assert [answer.revision for answer in answers] == ["old"]
    assert during == "new"
    assert still_open
    assert old.closed
    assert not new.closed


async def test_an_idle_policy_is_closed_when_it_is_replaced() -> None:
    old, new, active = Gate("old"), Gate("new"), ActivePdp()

    active.activate(old.engine)
    active.activate(new.engine)

    assert old.closed
    assert not new.closed


async def test_a_closed_holder_refuses_everything() -> None:
    gate, active = Gate("one"), ActivePdp()

    active.activate(gate.engine)
    active.close()

    assert gate.closed
    with pytest.raises(PolicyEngineUnavailable):
        await active.evaluate("decision", {})


def test_nothing_is_known_of_a_remote_policy() -> None:
    gate = Gate("remote")

    assert gate.engine.may_read(("anything",))
    assert ActivePdp().may_read(("anything",))
