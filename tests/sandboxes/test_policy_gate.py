"""Each connection of a box is a call: decided for whoever caused it, and bounded by what everybody says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network

import anyio
import anyio.lowlevel
import pytest

from gateway.authz.egress import read_egress
from gateway.boxes import caller_of
from gateway.errors import (
    PolicyDenied,
    QuotaExceeded,
    SandboxFailure,
)
from gateway.types import Entity, Identity
from sandboxes.ceiling import Ceiling
from sandboxes.egress.gate import MIB, Terms
from tests.fakes import (
    ANA,
    BO,
)
from tests.sandboxes.gate_world import API, BOX, GRANT, Carried, World, egress, permitting
from tests.spine import TOOL, a_call


async def test_connection_is_a_call_of_the_caller_in_whose_call_it_is_made() -> None:
    world = World()
    async with world.calls({}):
        carried = await world.connect()

    asked = world.asked
    assert (asked.action, asked.method, asked.parent_id, asked.session_id) == (
        *("egress.connect", "egress/connect", "c0", "s1"),
    )
    resource = asked.resource
    assert (resource.type, resource.id, resource.upstream, resource.name) == (
        *("endpoint", "api.example.org:443", "files", "api.example.org"),
    )
    assert asked.params == {
        "host": "api.example.org",
        "port": 443,
        "scheme": "tunnel",
        "box": {"driver": "bubblewrap", "level": "process"},
        "caller": caller_of(replace(a_call(), id="c0")),
        "granted": False,
    }
    assert asked.params["caller"]["catalog"] == {"risk": "low"}  # type: ignore[index]  # it is an object
    assert carried.terms == Terms()
    (record,) = world.records
    assert (record.outcome, record.identity, record.call) == ("ok", ANA, asked)


async def test_record_says_in_which_box_and_what_was_carried() -> None:
    world = World()
    async with world.calls({}):
        await world.connect()

    traffic = {"address": "203.0.113.7", "sent": 3, "received": 5, "ended": "closed"}
    assert world.records[0].notes == {"sandbox": BOX.note(), "egress": traffic}


async def test_box_that_no_call_runs_in_connects_as_itself_without_tenant_or_roles() -> None:
    world = World()

    await world.connect()

    assert (world.asked.parent_id, world.asked.session_id, world.asked.protocol) == ("", "", "egress")
    assert world.asked.params["caller"] == {}
    assert world.asked.params["granted"] is False
    assert world.records[0].identity == Identity(Entity("sandbox", "files"))


@pytest.mark.parametrize(
    "other",
    [
        {"identity": BO},
        {"identity": replace(ANA, roles=("admin",))},
        {"call": replace(a_call(), id="x", session_id="s2")},
        {"call": replace(a_call(resource=replace(TOOL, id="files/write")), id="x")},
    ],
)
async def test_connection_while_calls_of_several_causes_run_is_nobodys(other: Mapping[str, object]) -> None:
    world = World()
    async with world.calls({}, other):
        await world.connect()

    assert world.asked.params["caller"] == {}
    assert world.records[0].identity == Identity(Entity("sandbox", "files"))


async def test_connection_while_one_caller_does_the_same_several_times_is_the_oldest_calls() -> None:
    world = World()
    async with world.calls({}, {"call": replace(a_call({"path": "/y"}), id="later")}):
        await world.connect()

    assert world.asked.parent_id == "c0"
    assert world.records[0].identity == ANA


async def test_box_that_does_not_run_is_refused_before_anything_is_asked() -> None:
    world = World()

    with pytest.raises(SandboxFailure):
        await world.gate.connect("b2", API, Carried())

    assert world.trail.records == []


# -- What is granted --


async def test_call_grants_its_box_what_its_permit_says_while_it_runs() -> None:
    world = World()
    async with world.calls({"egress": (GRANT,)}):
        await world.connect()
        during = world.asked.params["granted"]
        await world.connect(to=replace(API, port=80))
        other_port = world.asked.params["granted"]
    await world.connect()

    assert (during, other_port, world.asked.params["granted"]) == (True, False, False)


async def test_calls_that_run_at_once_grant_only_what_all_of_them_do() -> None:
    both = read_egress({"hosts": ["api.example.org", "b.example.org"]})
    world = World()
    async with world.calls({"egress": (GRANT,)}, {"identity": BO, "egress": (both,)}):
        await world.connect()
        shared = world.asked.params["granted"]
        await world.connect(to=replace(API, host="b.example.org"))
        not_shared = world.asked.params["granted"]
    async with world.calls({"egress": (GRANT,)}, {"identity": BO}):
        await world.connect()

    assert (shared, not_shared, world.asked.params["granted"]) == (True, False, False)


async def test_ranges_are_those_of_the_connections_permit_and_those_that_all_granting_calls_agree_on() -> None:
    world = World(permitting(egress(ranges=["192.168.7.0/24"])))
    wide = egress(hosts=["api.example.org"], ranges=["10.1.0.0/16", "10.9.0.0/16"])
    narrow = egress(hosts=["api.example.org"], ranges=["10.1.2.0/24"])
    async with world.calls({"egress": (wide,)}, {"egress": (narrow,), "call": replace(a_call(), id="x")}):
        granted = await world.connect()
        elsewhere = await world.connect(to=replace(API, host="other.example.org"))

    assert granted.terms is not None
    assert elsewhere.terms is not None
    assert granted.terms.ranges == (ip_network("192.168.7.0/24"), ip_network("10.1.2.0/24"))
    assert elsewhere.terms.ranges == (ip_network("192.168.7.0/24"),)


async def test_of_the_caps_the_least_counts_also_those_of_calls_that_do_not_grant() -> None:
    world = World(permitting(egress(max_mb=5, max_s=60)))
    capped = egress(hosts=["elsewhere.example.org"], max_mb=7, max_s=30)
    async with world.calls({"egress": (capped,)}):
        carried = await world.connect()
    alone = await world.connect()

    assert carried.terms == Terms(max_bytes=5 * MIB, max_s=30)
    assert alone.terms == Terms(max_bytes=5 * MIB, max_s=60)


async def test_no_cap_of_policys_is_above_the_gateways_own() -> None:
    world = World(permitting(egress(max_mb=1 << 20, max_s=86_400)))

    carried = await world.connect()

    assert carried.terms == Terms()


async def test_environment_bounds_what_policy_permits() -> None:
    world = World(ceiling=Ceiling.of(["api.example.org"]))

    await world.connect()
    with pytest.raises(PolicyDenied, match="its environment does not let it"):
        await world.connect(to=replace(API, host="evil.example.org"))

    fine, refused = world.records
    assert (fine.outcome, refused.outcome, refused.reasons[0]) == ("ok", "denied", "gateway.egress:outside_environment")
    assert "egress" not in (refused.notes or {})


async def test_connections_at_a_time_are_bounded_by_the_least_that_anybody_says() -> None:
    world = World(permitting(egress(max_connections=3)))
    one = egress(hosts=["api.example.org"], max_connections=1)
    first = Carried(lasting=True)
    async with world.calls({"egress": (one,)}), anyio.create_task_group() as group:
        group.start_soon(world.connect, first)
        await first.begun.wait()
        with pytest.raises(QuotaExceeded, match="1 connections at a time"):
            await world.connect()
        first.end.set()
        await anyio.wait_all_tasks_blocked()
        await world.connect()

    assert [record.outcome for record in world.records] == ["denied", "ok", "ok"]


async def test_connections_of_a_box_that_no_call_runs_in_are_bounded_too() -> None:
    world = World(permitting(egress(max_connections=2)))
    lasting = [Carried(lasting=True), Carried(lasting=True)]
    async with anyio.create_task_group() as group:
        for carried in lasting:
            group.start_soon(world.connect, carried)
            await carried.begun.wait()
        with pytest.raises(QuotaExceeded, match="2 connections at a time"):
            await world.connect()
        async with world.calls({}):
            await world.connect()  # those count by their call
        lasting[0].end.set()
        await anyio.wait_all_tasks_blocked()
        await world.connect()
        lasting[1].end.set()

    assert [record.outcome for record in world.records].count("ok") == 4


# -- What ends it --
