"""Kill switches: what each stops, and what none of them may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from timeit import repeat

import anyio
import pytest

from gateway.approvals.switch_desk import switch_in
from gateway.approvals.switches import KillSwitches
from gateway.errors import InvalidCall
from gateway.tickets import Switch, SwitchKind
from gateway.types import Call, Entity, Identity, Resource
from tests.approvals.worlds import ANA, OP, a_call, person
from tests.fakes import FakeApprovalStore

BOT = replace(
    person("bot", kind="agent"), on_behalf_of=Entity("user", "user:ana"), delegation=("user:ana", "agent:bot")
)
TO_AGENT = replace(a_call(), resource=Resource("agent", "planner", "planner", "planner"), protocol="a2a")


def a_switch(kind: SwitchKind, value: str = "") -> Switch:
    return Switch(kind, value, "", "user:op", 1)


def stopped(switch: Switch, call: Call, identity: Identity) -> bool:
    switches = KillSwitches()
    switches.take([switch])
    return switches.refusal(call, identity) is not None


@pytest.mark.parametrize(
    ("switch", "call", "identity", "stops"),
    [
        (a_switch("everything"), a_call(), ANA, True),
        (a_switch("subject", "user:ana"), a_call(), ANA, True),
        (a_switch("subject", "user:ana"), a_call(), BOT, True),
        (a_switch("subject", "user:bo"), a_call(), ANA, False),
        (a_switch("subject", "user:di"), a_call(), replace(BOT, delegation=("user:ana", "user:di", "agent:bot")), True),
        (a_switch("agent", "agent:bot"), a_call(), BOT, True),
        (a_switch("agent", "bot"), a_call(), BOT, True),
        (a_switch("agent", "planner"), a_call(), replace(ANA, hops=("planner",)), True),
        (a_switch("agent", "agent:planner"), TO_AGENT, ANA, True),
        (a_switch("agent", "planner"), a_call(), ANA, False),
        (a_switch("upstream", "bank"), a_call(), ANA, True),
        (a_switch("upstream", "bank/pay"), a_call(), ANA, False),
        (a_switch("tool", "bank/pay"), a_call(), ANA, True),
        (a_switch("tool", "pay"), a_call(), ANA, False),
    ],
)
def test_switch_stops_what_it_names_and_nothing_else(
    switch: Switch, call: Call, identity: Identity, stops: bool
) -> None:
    assert stopped(switch, call, identity) is stops


@pytest.mark.parametrize("action", ["approvals.list", "approvals.read", "switches.list"])
@pytest.mark.parametrize("switch", [a_switch("everything"), a_switch("subject", "user:op")])
def test_looking_is_never_stopped(action: str, switch: Switch) -> None:
    assert not stopped(switch, a_call(action=action), OP)


@pytest.mark.parametrize("action", ["approvals.approve", "approvals.deny", "switches.set", "switches.clear"])
def test_things_are_put_right_while_everything_is_stopped_but_not_by_who_is_stopped(action: str) -> None:
    assert not stopped(a_switch("everything"), a_call(action=action), OP)
    assert stopped(a_switch("subject", "user:op"), a_call(action=action), OP)


def test_several_switches_stand_beside_one_another() -> None:
    switches = KillSwitches()

    assert switches.take([a_switch("tool", "a/b"), a_switch("tool", "bank/pay")])
    assert not switches.take([a_switch("tool", "a/b"), a_switch("tool", "bank/pay")])
    assert switches.refusal(a_call(), ANA) is not None
    assert switches.take([a_switch("tool", "a/b")])
    assert switches.refusal(a_call(), ANA) is None


def test_nothing_is_paid_while_no_switch_is_set() -> None:
    switches, call = KillSwitches(), a_call()

    quickest_s = min(repeat(lambda: switches.refusal(call, ANA), number=1_000, repeat=20)) / 1_000

    assert quickest_s < 1e-5


async def test_what_was_known_stays_in_force_while_the_store_is_away() -> None:
    store, switches = FakeApprovalStore(), KillSwitches()
    await store.put_switch(a_switch("everything"))
    await switches.follow(store)
    store.fail_with = InvalidCall("away")

    with pytest.raises(InvalidCall):
        await switches.follow(store)

    assert switches.refusal(a_call(), ANA) is not None


@pytest.mark.parametrize(
    ("kind", "value"),
    [("all", ""), (None, ""), ("everything", "x"), ("tool", ""), ("tool", "a\nb"), ("tool", " a"), ("tool", "a" * 513)],
)
def test_switch_that_names_nothing_is_none(kind: object, value: object) -> None:
    with pytest.raises(InvalidCall):
        switch_in(kind, value)


async def test_look_at_the_store_that_took_long_does_not_undo_a_switch_that_was_set_meanwhile() -> None:
    asked, go = anyio.Event(), anyio.Event()

    class Slow(FakeApprovalStore):
        async def switches(self) -> Sequence[Switch]:
            found = await super().switches()
            if not asked.is_set():
                asked.set()
                await go.wait()
            return found

    store, switches = Slow(), KillSwitches()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(switches.follow, store)
            await asked.wait()
            await store.put_switch(a_switch("everything", ""))
            group.start_soon(switches.follow, store)
            await anyio.wait_all_tasks_blocked()
            go.set()

    assert switches.refusal(a_call(), ANA) is not None
