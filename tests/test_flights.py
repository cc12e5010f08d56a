"""What a permit asks of a box holds while its call runs in it, and what it grants ends with the call."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from gateway.authz.egress import read_egress
from gateway.authz.isolation import read_sandbox
from gateway.boxes import HOST, BoxFacts, Level
from gateway.errors import IsolationUnavailable, PolicyDenied, UpstreamTimeout
from gateway.flights import Flight, Flights
from gateway.types import Authorized, Call, Identity, Obligation, Permit, Resource
from tests.fakes import ANA, BO, FakeRelay
from tests.spine import TOOL, a_call

BOX = BoxFacts("b1", "bubblewrap", "0.8.0", Level.PROCESS, "sha256:e", {"memory_mb": 512, "cpus": 1, "processes": 64})


def authorized(
    *obligations: Obligation, identity: Identity = ANA, call: Call | None = None, resource: Resource = TOOL
) -> Authorized:
    made = call or a_call(resource=resource)
    return Authorized(made, identity, Permit("d1", made.digest, obligations))


def sandbox(level: str = "process", **limits: float) -> Obligation:
    return read_sandbox({"level": level, "limits": limits} if limits else {"level": level})


def egress(*hosts: str, **more: object) -> Obligation:
    return read_egress({"hosts": list(hosts), **more})


async def test_call_without_obligations_runs_anywhere_and_its_box_is_noted() -> None:
    flights, relay, elsewhere = Flights(), FakeRelay(), FakeRelay()

    with flights.hold(BOX, authorized(), relay) as flight:
        held = flights.of("b1")
    with flights.hold(None, authorized(), elsewhere) as remote, flights.hold(HOST, authorized(), elsewhere) as host:
        beside = (flights.of(""), remote, host)

    assert held == (flight,)
    assert flights.of("b1") == ()
    assert beside == ((), None, None)
    assert relay.notes == {"sandbox": BOX.note()}
    assert elsewhere.notes == {}


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (None, "reached over HTTP"),
        (HOST, "runs at level none"),
        (BOX, "runs at level process"),
        (replace(BOX, level=Level.VM_EMULATED), "runs at level vm-emulated"),
    ],
)
async def test_weaker_box_than_policy_asks_for_is_refused(box: BoxFacts | None, words: str) -> None:
    flights = Flights()

    with (
        pytest.raises(IsolationUnavailable, match=words) as caught,
        flights.hold(box, authorized(sandbox("gvisor")), FakeRelay()),
    ):
        pytest.fail("it was let in")

    assert "isolation of level gvisor" in str(caught.value)
    assert "'files'" in str(caught.value)
    assert flights.of("b1") == ()


@pytest.mark.parametrize("level", [Level.GVISOR, Level.VM])
async def test_box_as_strong_as_asked_or_stronger_is_taken(level: Level) -> None:
    with Flights().hold(replace(BOX, level=level), authorized(sandbox("gvisor")), FakeRelay()) as flight:
        assert flight is not None


async def test_refused_call_has_its_box_in_its_record_all_the_same() -> None:
    relay = FakeRelay()

    with pytest.raises(IsolationUnavailable), Flights().hold(BOX, authorized(sandbox("vm")), relay):
        pytest.fail("it was let in")

    assert relay.notes == {"sandbox": BOX.note()}


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"memory_mb": 511}, "memory_mb of at most 511, and the box of upstream 'files' may use 512"),
        ({"cpus": 0.5}, "cpus of at most 0.5"),
        ({"processes": 63}, "processes of at most 63"),
    ],
)
async def test_box_that_may_use_more_than_policy_grants_is_refused(limits: dict[str, float], words: str) -> None:
    with (
        pytest.raises(IsolationUnavailable, match=words),
        Flights().hold(BOX, authorized(sandbox("process", **limits)), FakeRelay()),
    ):
        pytest.fail("it was let in")


async def test_limit_that_is_not_known_of_a_box_counts_as_none() -> None:
    unlimited = replace(BOX, limits={})

    with (
        pytest.raises(IsolationUnavailable, match="may use any"),
        Flights().hold(unlimited, authorized(sandbox(memory_mb=512)), FakeRelay()),
    ):
        pytest.fail("it was let in")


async def test_limits_of_a_box_within_those_of_policy_are_fine() -> None:
    permit = sandbox(memory_mb=512, cpus=1, processes=64, wall_s=5)

    with Flights().hold(BOX, authorized(permit), FakeRelay()) as flight:
        assert flight is not None


async def test_call_that_runs_longer_than_policy_gives_it_is_ended() -> None:
    flights, slow = Flights(), authorized(sandbox(wall_s=1))
    ended = False

    async def work() -> None:
        nonlocal ended
        with flights.hold(BOX, slow, FakeRelay()):
            try:
                await anyio.sleep_forever()
            finally:
                ended = True

    with anyio.fail_after(5), pytest.raises(UpstreamTimeout, match="'read' did not end within the 1 s"):
        await work()

    assert ended
    assert flights.of("b1") == ()


async def test_time_out_of_the_calls_own_is_not_taken_for_policys() -> None:
    with (
        pytest.raises(TimeoutError, match="a socket"),
        Flights().hold(BOX, authorized(sandbox(wall_s=60)), FakeRelay()),
    ):
        raise TimeoutError("a socket")


@pytest.mark.parametrize("box", [None, HOST])
async def test_egress_obligation_is_refused_where_nothing_could_hold_a_server_to_it(box: BoxFacts | None) -> None:
    with (
        pytest.raises(PolicyDenied, match="obligation_unsupported") as caught,
        Flights().hold(box, authorized(egress("api.example.org")), FakeRelay()),
    ):
        pytest.fail("it was let in")

    assert caught.value.reasons[0].code == "obligation_unsupported"


async def test_call_grants_what_its_permit_says_and_one_without_grants_nothing() -> None:
    flights = Flights()

    granting = flights.hold(BOX, authorized(egress("api.example.org")), FakeRelay())
    with granting as first, flights.hold(BOX, authorized(), FakeRelay()) as plain:
        assert isinstance(first, Flight)
        assert isinstance(plain, Flight)
        assert first.grants("api.example.org", 443)
        assert not first.grants("api.example.org", 80)
        assert not first.grants("example.org", 443)
        assert not plain.grants("api.example.org", 443)


async def test_call_is_held_to_what_the_permit_of_its_cause_asks_for_too() -> None:
    flights = Flights()
    inner = authorized(sandbox(wall_s=60), egress("a.example.org", "b.example.org"))
    outer = authorized(sandbox(memory_mb=512), egress("b.example.org", max_connections=3))

    with flights.hold_all(BOX, (inner, outer), FakeRelay()) as flight:
        assert flight is not None
        assert flight.authorized is inner
        assert flight.grants("b.example.org", 443)
        assert not flight.grants("a.example.org", 443)
        assert flight.egress is not None
        assert flight.egress.max_connections == 3

    with pytest.raises(IsolationUnavailable), flights.hold_all(BOX, (inner, authorized(sandbox("vm"))), FakeRelay()):
        pytest.fail("it was let in")


async def test_connections_of_a_call_end_with_it() -> None:
    scope = anyio.CancelScope()

    with Flights().hold(BOX, authorized(), FakeRelay()) as flight:
        assert flight is not None
        flight.connections.add(scope)
        assert not scope.cancel_called

    assert scope.cancel_called


async def test_connections_of_a_call_that_fails_end_with_it() -> None:
    scope, held = anyio.CancelScope(), Flights().hold(BOX, authorized(), FakeRelay())
    flight = held.__enter__()
    assert flight is not None
    flight.connections.add(scope)
    fault = PolicyDenied("no")

    taken = held.__exit__(PolicyDenied, fault, None)

    assert not taken
    assert scope.cancel_called


async def test_calls_in_one_box_come_and_go_in_any_order() -> None:
    flights = Flights()
    first = flights.hold(BOX, authorized(), FakeRelay())
    second = flights.hold(BOX, authorized(), FakeRelay())
    one, two = first.__enter__(), second.__enter__()
    assert flights.of("b1") == (one, two)

    first.__exit__(None, None, None)
    left = flights.of("b1")
    second.__exit__(None, None, None)

    assert left == (two,)
    assert flights.of("b1") == ()


OTHERS = {
    "another caller": authorized(identity=BO),
    "another role": authorized(identity=replace(ANA, roles=("admin",))),
    "another tenant": authorized(identity=replace(ANA, tenant="other")),
    "another key": authorized(identity=replace(ANA, credential_id="k2")),
    "another tool": authorized(resource=replace(TOOL, id="files/write")),
    "another type": authorized(resource=replace(TOOL, type="prompt")),
    "another upstream": authorized(resource=replace(TOOL, upstream="other")),
    "another action": authorized(call=replace(a_call(), action="mcp.prompts.get")),
    "another session": authorized(call=replace(a_call(), session_id="s2")),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
async def test_call_of_another_cause_is_told_apart_and_ends_the_connections_of_those_before(other: Authorized) -> None:
    flights, scope = Flights(), anyio.CancelScope()

    with flights.hold(BOX, authorized(), FakeRelay()) as first:
        assert first is not None
        first.connections.add(scope)
        with flights.hold(BOX, other, FakeRelay()) as second:
            assert second is not None
            assert not first.same_cause(second)
            assert scope.cancel_called


async def test_same_caller_doing_the_same_again_is_one_cause_whatever_the_arguments() -> None:
    flights, scope = Flights(), anyio.CancelScope()
    again = authorized(call=replace(a_call({"path": "/tmp/y"}), id="c2"))

    with flights.hold(BOX, authorized(), FakeRelay()) as first:
        assert first is not None
        first.connections.add(scope)
        with flights.hold(BOX, again, FakeRelay()) as second:
            assert second is not None
            assert first.same_cause(second)
            assert not scope.cancel_called
        assert not scope.cancel_called


async def test_calls_in_different_boxes_have_nothing_to_do_with_each_other() -> None:
    flights, scope = Flights(), anyio.CancelScope()

    with flights.hold(BOX, authorized(), FakeRelay()) as first:
        assert first is not None
        first.connections.add(scope)
        with flights.hold(replace(BOX, id="b2"), authorized(identity=BO), FakeRelay()) as second:
            assert flights.of("b2") == (second,)
            assert flights.of("b1") == (first,)
        assert not scope.cancel_called
