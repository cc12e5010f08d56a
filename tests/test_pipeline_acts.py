"""What a call causes of the gateway's own, such as a connection, travels the same path; what is noted is recorded."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.errors import InputTooLarge, InterlockError, PolicyDenied, UpstreamTimeout
from gateway.ports import Relay
from gateway.types import Authorized, Call, Credentials, Identity, Permit, Resource, Result
from tests.fakes import ANA, FakeUpstream, permit_for
from tests.spine import World, a_call, refusing

ENDPOINT = Resource("endpoint", "api.example.org:443", "files", "api.example.org")


def acting(params: Mapping[str, object] | None = None, *, by: FakeUpstream | None = None) -> FakeUpstream:
    """An upstream that connects somewhere during the call and gives what came of it as its result."""

    async def act(authorized: Authorized, relay: Relay) -> Result:
        if authorized.call.action == "egress.connect":
            return Result(b'{"by":"the upstream of its resource"}')
        return await relay.act("egress.connect", "egress/connect", ENDPOINT, params or {"port": 443}, by=by)

    return FakeUpstream(act)


def no_connections(call: Call, identity: Identity) -> Permit:
    if call.action == "egress.connect":
        raise PolicyDenied("no connections", decision_id="d2")
    return permit_for(call, identity)


async def test_act_of_a_call_is_a_call_of_its_own_decided_and_recorded_below_it() -> None:
    carrier = FakeUpstream(payload=b'{"by":"the carrier"}')
    world = World(upstream=acting(by=carrier))

    result = await world.handle()

    parent, act = world.decider.asked
    assert result.payload == b'{"by":"the carrier"}'
    assert (act.action, act.method, act.resource, act.params) == (
        *("egress.connect", "egress/connect", ENDPOINT),
        {"port": 443},
    )
    assert (act.parent_id, act.session_id) == (parent.id, parent.session_id)
    assert act.id not in {"", parent.id}
    assert [seen.call for seen in carrier.executed] == [act]
    assert carrier.executed[0].permit.call_digest == act.digest
    acted, called = world.trail.records
    assert (acted.call, acted.outcome, acted.identity) == (act, "ok", ANA)
    assert (called.call.id, called.outcome) == (parent.id, "ok")
    assert len(world.decider.inspected) == 2


async def test_act_that_nobody_is_named_for_is_carried_out_by_the_upstream_of_its_resource() -> None:
    world = World(upstream=acting())

    result = await world.handle()

    assert result.payload == b'{"by":"the upstream of its resource"}'
    assert [seen.call.action for seen in world.upstream.executed] == ["mcp.tools.call", "egress.connect"]


async def test_act_that_policy_refuses_is_not_carried_out() -> None:
    carrier = FakeUpstream()
    world = World(upstream=acting(by=carrier))
    world.decider.decide_with = no_connections

    with pytest.raises(PolicyDenied):
        await world.handle()

    assert carrier.executed == []
    acted, called = world.trail.records
    assert (acted.outcome, acted.decision_id, acted.call.parent_id) == ("denied", "d2", called.call.id)
    assert called.outcome == "denied"


async def test_call_may_go_on_without_what_it_was_refused() -> None:
    world = World()
    world.decider.decide_with = no_connections

    async def try_to_connect(authorized: Authorized, relay: Relay) -> Result:
        try:
            return await relay.act("egress.connect", "egress/connect", ENDPOINT, {}, by=FakeUpstream())
        except PolicyDenied:
            return Result(b'{"offline":true}')

    world.upstream.answer = try_to_connect

    result = await world.handle()

    assert result.payload == b'{"offline":true}'
    assert [record.outcome for record in world.trail.records] == ["denied", "ok"]


async def test_act_too_large_for_policy_is_not_carried_out() -> None:
    carrier = FakeUpstream()
    world = World(upstream=acting({"values": list(range(3_000))}, by=carrier))

    with pytest.raises(InputTooLarge):
        await world.handle()

    assert carrier.executed == []


async def test_call_is_carried_out_by_whom_the_caller_of_the_pipeline_names() -> None:
    world, carrier = World(), FakeUpstream(payload=b'{"by":"the carrier"}')

    result = await world.pipeline.handle(a_call(resource=ENDPOINT), ANA, world.exchange, by=carrier)

    assert result.payload == b'{"by":"the carrier"}'
    assert world.upstream.executed == []
    assert world.record.identity == ANA


async def test_no_carrier_is_a_way_round_policy_or_identity() -> None:
    world, carrier = World(), FakeUpstream()
    world.decider.decide_with = no_connections
    connect = Call("c9", "egress.connect", "egress/connect", ENDPOINT)

    for credentials in (ANA, Credentials("stranger")):
        with pytest.raises(InterlockError):
            await world.pipeline.handle(connect, credentials, world.exchange, by=carrier)

    assert carrier.executed == []
    assert [record.error for record in world.trail.records] == ["policy_denied", "unauthenticated"]


NOTE = {"driver": "gvisor", "level": "gvisor"}


@pytest.mark.parametrize("fault", [None, UpstreamTimeout("slow"), PolicyDenied("no"), RuntimeError("a bug")])
async def test_note_stands_in_the_record_whatever_becomes_of_the_call(fault: Exception | None) -> None:
    world = World()

    async def note(authorized: Authorized, relay: Relay) -> Result:
        relay.note("sandbox", {"driver": "a first word"})
        relay.note("sandbox", NOTE)
        relay.note("more", 1)
        if fault is not None:
            raise fault
        return Result(b"{}")

    world.upstream.answer = note
    if fault is None:
        await world.handle()
    else:
        with pytest.raises(type(fault)):
            await world.handle()

    assert world.record.notes == {"sandbox": NOTE, "more": 1}


async def test_note_of_an_act_is_not_one_of_its_parent() -> None:
    async def noting(authorized: Authorized, relay: Relay) -> Result:
        relay.note("egress", {"sent": 7})
        return Result(b"{}")

    world = World(upstream=acting(by=FakeUpstream(noting)))

    await world.handle()

    acted, called = world.trail.records
    assert (acted.notes, called.notes) == ({"egress": {"sent": 7}}, None)


async def test_call_that_never_reached_its_upstream_has_no_notes() -> None:
    world = World()
    world.decider.decide_with = refusing(PolicyDenied("no"))

    with pytest.raises(PolicyDenied):
        await world.handle()

    assert world.record.notes is None
