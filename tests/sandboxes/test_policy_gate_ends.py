"""Each connection of a box is over when its call is, and leaves one record whatever becomes of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from gateway.app.egress import _Nobody
from gateway.authz.egress import read_egress
from gateway.errors import (
    InterlockError,
    InvalidCall,
    PolicyDenied,
    UpstreamUnavailable,
)
from gateway.tickets import Approval
from gateway.types import Authorized, Call, Identity, Permit
from sandboxes.ceiling import Ceiling
from tests.authz.test_policies import authz_on, library_with
from tests.fakes import (
    ANA,
    BO,
    FakeDecider,
    FakeRelay,
    permit_for,
)
from tests.sandboxes.egress_world import ask, echo, origin, serving, status_of, tunnel
from tests.sandboxes.gate_world import API, BOX, GRANT, Carried, World, egress, permitting
from tests.spine import a_call


async def test_connection_ends_with_its_call_and_is_recorded_as_cancelled() -> None:
    world, carried = World(), Carried(lasting=True)
    async with anyio.create_task_group() as group, world.calls({}) as (end,):
        group.start_soon(world.connect, carried)
        await carried.begun.wait()
        end.set()

    (record,) = world.records
    assert (record.notes or {})["egress"] == {
        **{"address": "203.0.113.7", "sent": 3, "received": 0, "ended": "cancelled"}
    }


@pytest.mark.parametrize("which", [0, 1])
async def test_connection_ends_with_the_first_of_the_calls_that_ran_when_it_was_made(which: int) -> None:
    world, carried = World(), Carried(lasting=True)
    async with anyio.create_task_group() as group, world.calls({}, {}) as ends:
        group.start_soon(world.connect, carried)
        await carried.begun.wait()
        ends[which].set()
        await anyio.wait_all_tasks_blocked()
        ended = len(world.records)

    assert ended == 1


async def test_connection_ends_when_a_call_of_another_cause_begins_in_its_box() -> None:
    world, carried = World(), Carried(lasting=True)
    async with anyio.create_task_group() as group, world.calls({"egress": (GRANT,)}):
        group.start_soon(world.connect, carried)
        await carried.begun.wait()
        async with world.calls({"identity": BO}):
            await anyio.wait_all_tasks_blocked()
            ended = len(world.records)

    assert ended == 1


async def test_connection_that_nobody_caused_outlives_calls() -> None:
    world, carried = World(), Carried(lasting=True)
    async with anyio.create_task_group() as group:
        group.start_soon(world.connect, carried)
        await carried.begun.wait()
        async with world.calls({}):
            pass
        lives = world.records == []
        carried.end.set()

    assert lives


async def test_connection_whose_call_ended_while_policy_was_asked_is_refused() -> None:
    world = World()
    await _while_asking(world, lambda ends: ends[0].set())

    (record,) = world.records
    assert (record.outcome, record.reasons[0]) == ("denied", "gateway.egress:call_over")


async def test_same_call_again_does_not_take_over_what_was_asked_for_the_one_before() -> None:
    world = World()

    async def replaced(ends: Sequence[anyio.Event]) -> None:
        ends[0].set()
        await anyio.wait_all_tasks_blocked()
        again.enter_context(_held(world))

    with ExitStack() as again:
        await _while_asking(world, replaced)

    assert world.records[0].reasons[0] == "gateway.egress:call_over"


def _held(world: World) -> AbstractContextManager[object]:
    call = a_call()
    return world.flights.hold(BOX, Authorized(call, ANA, Permit("d9", call.digest)), FakeRelay())


async def _while_asking(world: World, do: Callable[[Sequence[anyio.Event]], object]) -> None:
    """Connect, and do something while policy thinks."""
    asking, answer = anyio.Event(), anyio.Event()
    inner = world.decider

    class Slow(FakeDecider):
        async def decide(self, call: Call, identity: Identity, approval: Approval | None = None) -> Permit:
            if call.action == "egress.connect":
                asking.set()
                await answer.wait()
            return await inner.decide(call, identity)

    world.pipeline._authz = Slow()
    carried = Carried()
    async with anyio.create_task_group() as group, world.calls({}) as ends:
        group.start_soon(_refused, world, carried)
        await asking.wait()
        done = do(ends)
        if hasattr(done, "__await__"):
            await done
        await anyio.wait_all_tasks_blocked()
        answer.set()
        await anyio.wait_all_tasks_blocked()
    assert carried.terms is None


async def _refused(world: World, carried: Carried) -> None:
    with pytest.raises(PolicyDenied):
        await world.connect(carried)


# -- What is refused --


async def test_refused_connection_is_not_carried_and_leaves_one_record() -> None:
    decider = FakeDecider()
    world = World(decider)

    def refuse(call: Call, identity: Identity) -> Permit:
        if call.action == "egress.connect":
            raise PolicyDenied("no connections", decision_id="d7")
        return permit_for(call, identity)

    decider.decide_with = refuse
    carried = Carried()
    async with world.calls({}):
        with pytest.raises(PolicyDenied, match="no connections"):
            await world.connect(carried)

    assert carried.terms is None
    (record,) = world.records
    assert (record.outcome, record.decision_id) == ("denied", "d7")


async def test_nothing_is_carried_without_a_record() -> None:
    world, carried = World(), Carried()
    world.trail.fail_with = "disk full"

    with pytest.raises(InterlockError):
        await world.connect(carried)

    assert carried.terms is None


async def test_failed_connection_is_recorded_with_what_was_carried() -> None:
    world = World()

    with pytest.raises(UpstreamUnavailable):
        await world.connect(Carried(UpstreamUnavailable("nobody there")))

    (record,) = world.records
    assert (record.outcome, record.error) == ("failed", "upstream_unavailable")
    assert (record.notes or {})["egress"] == {
        **{"address": "203.0.113.7", "sent": 3, "received": 0, "ended": "cancelled"}
    }


async def test_connection_that_is_cancelled_from_outside_is_recorded() -> None:
    world, carried = World(), Carried(lasting=True)

    async with anyio.create_task_group() as group:
        group.start_soon(world.connect, carried)
        await carried.begun.wait()
        group.cancel_scope.cancel()

    (record,) = world.records
    assert record.outcome == "cancelled"
    assert "egress" in (record.notes or {})


async def test_nobody_is_behind_a_boxs_own_connection() -> None:
    nobody = _Nobody()

    await nobody.notify("notifications/progress", {})
    with pytest.raises(InvalidCall):
        await nobody.ask(a_call())


# -- Over the real stages --

RULES = """
allow if input.action.name == "mcp.tools.call"
allow if {
    input.action.name == "egress.connect"
    input.subject.id == "user:ana"
    input.resource.properties.host == "anas.example.org"
    input.resource.properties.caller.id == "files/read"
}
allow if {
    input.action.name == "egress.connect"
    input.subject.type == "sandbox"
    input.resource.properties.host == "updates.example.org"
}
deny contains "never there" if {
    input.action.name == "egress.connect"
    input.resource.properties.host == "evil.example.org"
}
"""


@pytest.mark.parametrize(
    ("host", "calls", "fine"),
    [
        ("anas.example.org", [{}], True),
        ("anas.example.org", [{"identity": BO}], False),
        ("anas.example.org", [{}, {"identity": BO}], False),
        ("anas.example.org", [], False),
        ("updates.example.org", [], True),
        ("updates.example.org", [{}], False),
        ("updates.example.org", [{}, {"identity": BO}], True),
        ("api.example.org", [{"egress": (GRANT,)}], True),
        ("api.example.org", [{"egress": (GRANT,)}, {"identity": BO}], False),
        ("api.example.org", [{"egress": (GRANT,)}, {"identity": BO, "egress": (GRANT,)}], True),
        ("api.example.org", [], False),
        ("evil.example.org", [{"egress": (read_egress({"hosts": ["evil.example.org"]}),)}], False),
    ],
)
async def test_rules_see_the_caller_and_the_grants_of_calls(
    host: str, calls: list[Mapping[str, object]], fine: bool
) -> None:
    world = World(authz_on(library_with(net=RULES)))
    carried = Carried()
    async with world.calls(*calls):
        with nullcontext() if fine else pytest.raises(PolicyDenied):
            await world.connect(carried, replace(API, host=host))

    assert (carried.terms is not None) == fine
    assert [record.outcome for record in world.records] == ["ok" if fine else "denied"]


async def test_tunnel_through_the_proxy_dies_with_the_call_that_it_was_for(tmp_path: Path) -> None:
    async with origin(echo) as port:
        world = World(permitting(egress(ranges=["127.0.0.1/32"])))
        async with serving(tmp_path, world.gate, box_id="b1", uid=os.geteuid()) as path:
            async with world.calls({}) as (end,), tunnel(path, f"127.0.0.1:{port}") as stream:
                await stream.send(b"hello")
                heard = await stream.receive()
                end.set()
                with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
            world.ceiling = Ceiling.of([])
            refused = await ask(path, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())

    assert heard == b"hello"
    assert status_of(refused) == 403
    cancelled, denied = world.records
    assert (cancelled.notes or {})["egress"]["ended"] == "cancelled"  # type: ignore[index]  # it is an object
    assert denied.reasons[0] == "gateway.egress:outside_environment"


async def test_box_that_is_not_known_yet_is_refused_by_the_proxy_and_may_try_again(tmp_path: Path) -> None:
    async with origin(echo) as port:
        world = World(permitting(egress(ranges=["127.0.0.1/32"])))
        known = world.resident
        world.gate._residents = lambda box_id: known("b2")
        async with serving(tmp_path, world.gate, box_id="b1", uid=os.geteuid()) as path:
            refused = await ask(path, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
            world.gate._residents = known
            async with tunnel(path, f"127.0.0.1:{port}") as stream:
                await stream.send(b"x")
                heard = await stream.receive()

    assert (status_of(refused), heard) == (403, b"x")
