"""What somebody would try who has an approval and wants more of it, who floods, and who was stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import anyio
import anyio.lowlevel
import pytest

from gateway import codec
from gateway.errors import ApprovalPending, InvalidCall, PolicyDenied, UnknownResource
from gateway.ports import Relay
from gateway.tickets import Approval, StandingGrant, Switch, Ticket, TicketQuery
from gateway.types import Authorized, Call, Credentials, Resource, Result
from tests.approvals.attackers import calls_of, ticket_of, vote
from tests.approvals.worlds import ANA, BO, NOW_MS, PAY, World, a_call, a_ticket, frozen, needs
from tests.fakes import FakeExchange

ROUND = frozen({"state": {"s": "1"}, "responses": {}})
"""What a later round of a call comes with: the state that its upstream left, unsealed."""
EVERYTHING = Switch("everything", "", "", "user:op", 1)


# ---- what is agreed to, stretched ----


async def test_arguments_of_an_approver_are_narrowed_and_refused_as_those_of_any_call() -> None:
    world = World()
    held = await world.held()
    await vote(world, "bo", held.ticket_id, arguments={"to": "me", "sum": 10**6})
    world.decider.again = needs(approvers="group:board", title="much")

    other = await world.held()

    assert other.ticket_id != held.ticket_id
    assert world.upstream.executed == []


@pytest.mark.parametrize("arguments", [[], "x", 7, [["to", "me"]]])
async def test_arguments_that_are_no_object_are_none(arguments: object) -> None:
    world = World()
    held = await world.held()

    with pytest.raises(InvalidCall):
        await vote(world, "bo", held.ticket_id, arguments=arguments)

    assert (await ticket_of(world, held)).state == "pending"


async def test_uses_of_a_standing_grant_are_counted_however_many_calls_race() -> None:
    world = World()
    offer = {"uses": 3, "expires_s": 100, "idle_s": 50, "any_arguments": True}
    world.decider.needs = needs(approvers="group:finance", standing=offer)
    held = await world.held()
    with pytest.raises(InvalidCall):
        await vote(world, "bo", held.ticket_id, standing={**offer, "uses": 4})
    await vote(world, "bo", held.ticket_id, standing=offer)
    fates: list[bool] = []

    async def race(number: int) -> None:
        try:
            await world.make(a_call({"sum": number}))
            fates.append(True)
        except ApprovalPending:
            fates.append(False)

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(race, number)

    assert sum(fates) == 3
    assert len(world.upstream.executed) == 3


async def test_standing_grant_that_was_not_used_for_long_is_over() -> None:
    world = World()
    ticket = await ticket_of(world, await world.held())
    grant = StandingGrant("g", ticket.scopes[1], "", True, (), "t", ticket.shown, 0, 9**12, 50_000, NOW_MS, 9)
    await world.store.put_grant(grant)
    world.now_ms += 50_000

    await world.held()

    assert world.upstream.executed == []


# ---- floods ----


async def test_call_that_is_too_long_to_be_read_is_neither_stored_nor_held() -> None:
    world = World()

    with pytest.raises(PolicyDenied) as caught:
        await world.make(a_call({"text": "x" * (4 << 20)}))

    assert caught.value.reasons[0].code == "hold_invalid"
    assert len(str(caught.value)) < 500
    assert not await world.store.tickets(TicketQuery())


async def test_sessions_and_keys_of_one_caller_share_what_may_wait() -> None:
    world = World(max_pending=3)
    world.identifier.known["ana again"] = replace(ANA, credential_id="k2")
    for number in range(3):
        await world.held(a_call({"sum": number}, session_id=f"s{number}"), who="ana again" if number else "ana")

    with pytest.raises(PolicyDenied) as caught:
        await world.make(a_call({"sum": 9}, session_id="s9"))

    assert caught.value.reasons[0].code == "too_many_pending"


async def test_list_never_holds_many_whole_tickets_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    for number in range(250):
        await world.store.open_ticket(a_ticket(id=f"apr-{number}", binding=str(number)), NOW_MS, 999)
    tickets, pages = world.store.tickets, list[int]()

    async def counted(query: TicketQuery) -> Sequence[Ticket]:
        found = await tickets(query)
        pages.append(len(found))
        return found

    monkeypatch.setattr(world.store, "tickets", counted)
    listed = codec.loads((await calls_of(world).listed("approvals/list", {}, Credentials("bo"))).payload)

    assert isinstance(listed, dict)
    assert len(cast("list[object]", listed["approvals"])) == 250
    assert pages == [100, 100, 50]


# ---- kill switches ----


@pytest.mark.parametrize(
    ("kind", "value", "call"),
    [
        ("subject", "user:ana", a_call()),
        ("upstream", "bank", a_call()),
        ("tool", "bank/pay", a_call()),
        ("agent", "planner", a_call(resource=Resource("agent", "planner", "planner"))),
        ("agent", "agent:planner", a_call(resource=Resource("a2a_task", "t1", "planner"))),
        ("everything", "", a_call(action="egress.connect", resource=Resource("endpoint", "example.org:443"))),
        ("everything", "", a_call(action="mcp.tools.list", resource=Resource("mcp_server", "*"))),
    ],
)
async def test_switch_is_met_by_every_kind_of_call(kind: object, value: str, call: Call) -> None:
    world = World()
    world.decider.needs = None
    world.switches.take([Switch(kind, value, "", "user:op", 1)])  # type: ignore[arg-type]  # one of them

    with pytest.raises(PolicyDenied, match="kill switch"):
        await world.make(call)


async def test_switch_does_not_lock_out_whoever_clears_it() -> None:
    world = World()
    world.switches.take([EVERYTHING])
    await world.store.put_switch(EVERYTHING)

    await calls_of(world).switch("switches/clear", {"kind": "everything", "value": ""}, Credentials("op"))
    world.decider.needs = None
    await world.make()

    assert len(world.upstream.executed) == 1


async def test_who_sets_a_switch_for_themselves_is_refused_and_their_connection_goes_on() -> None:
    world = World()

    with pytest.raises(PolicyDenied, match="kill switch"):
        await calls_of(world).switch("switches/set", {"kind": "subject", "value": "user:op"}, Credentials("op"))
    await anyio.lowlevel.checkpoint()  # a cancellation that was left behind would come up here

    assert [switch.value for switch in await world.store.switches()] == ["user:op"]


async def test_second_switch_does_not_cut_off_what_a_call_that_ends_already_puts_away() -> None:
    world, started, ending, go_on = World(), anyio.Event(), anyio.Event(), anyio.Event()
    world.decider.needs = None
    seen: list[object] = []

    async def tidy(authorized: Authorized, relay: Relay) -> Result:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                ending.set()
                await go_on.wait()
                seen.append("put away")
        raise AssertionError

    async def flying() -> None:
        with pytest.raises(PolicyDenied):
            await world.make()
        task = asyncio.current_task()
        seen.append(task.cancelling() if task is not None else None)

    world.upstream.answer = tidy
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(flying)
            await started.wait()
            world.switches.take([Switch("tool", "bank/pay", "", "user:op", 1)])
            ended = [world.pipeline.end_killed()]
            await ending.wait()
            world.switches.take([EVERYTHING])
            ended.append(world.pipeline.end_killed())
            go_on.set()

    assert ended == [1, 0]
    assert seen == ["put away", 0]


async def test_switch_ends_calls_that_a_call_in_flight_makes_in_tasks_of_their_own() -> None:
    world, seen = World(), list[str]()
    world.decider.needs = None
    started = anyio.Event()

    async def outer(authorized: Authorized, relay: Relay) -> Result:
        if authorized.call.action == "sandbox.exec":
            started.set()
            await anyio.sleep_forever()
        async with anyio.create_task_group() as group:
            group.start_soon(relay.act, "sandbox.exec", "sandbox/exec", PAY, {})
        return Result(b"{}")

    async def flying() -> None:
        try:
            await world.make()
        except PolicyDenied as denied:
            seen.append(denied.reasons[0].code)

    world.upstream.answer = outer
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(flying)
            await started.wait()
            world.switches.take([EVERYTHING])
            world.pipeline.end_killed()

    assert seen == ["killed"]
    assert [record.outcome for record in world.trail.records] == ["denied", "denied"]


# ---- calls in rounds, and what is not there ----


async def test_round_that_asks_its_client_for_more_gives_the_word_back_and_the_last_one_keeps_it() -> None:
    world = World()
    held = await world.held()
    await vote(world, "bo", held.ticket_id)
    world.upstream.answer = _asking

    await world.make()
    await world.make(a_call(resume=ROUND))
    world.upstream.answer = None
    await world.make(a_call(resume=ROUND))
    again = await world.held(a_call(resume=ROUND))

    assert again.ticket_id != held.ticket_id
    assert len(world.upstream.executed) == 3


@pytest.mark.parametrize(
    "resume",
    [
        None,
        frozen({"state": {}, "responses": {"q": {"action": "accept"}}}),
        frozen({"state": {"s": None}, "responses": {}}),
    ],
)
async def test_call_whose_upstream_asks_for_more_is_not_begun_twice_on_one_word(resume: object) -> None:
    world = World()
    held = await world.held()
    await vote(world, "bo", held.ticket_id)
    world.upstream.answer = _asking
    await world.make()

    again = await world.held(a_call(resume=resume))

    assert again.ticket_id != held.ticket_id
    assert (await ticket_of(world, held)).state == "spent"
    assert len(world.upstream.executed) == 1


async def test_round_gives_no_use_of_a_standing_grant_back_and_no_word_that_is_gone() -> None:
    world = World()
    ticket = await ticket_of(world, await world.held())
    grant = StandingGrant("g", ticket.scopes[1], "", True, (), "t", ticket.shown, 0, 9**12, 0, NOW_MS, 1)
    await world.store.put_grant(grant)
    world.upstream.answer = _asking

    await world.make()
    await world.gate.give_back(Approval("apr-none", (), ()))
    await world.held()

    assert len(world.upstream.executed) == 1


async def _asking(authorized: Authorized, relay: Relay) -> Result:
    return Result(b"{}", "input_required")


@pytest.mark.parametrize(
    ("method", "kind", "error"),
    [
        ("approvals/withdraw", "approval", InvalidCall),
        ("approvals/drop", "approval", UnknownResource),
        ("approvals/read", "approval", UnknownResource),
        ("switches/flip", "switch", InvalidCall),
    ],
)
async def test_what_is_not_there_is_not_done(method: str, kind: str, error: type[Exception]) -> None:
    world = World()
    params = frozen({"kind": "everything", "value": ""})
    facts = frozen({"granted": True})
    call = Call("v", "approvals.read", method, Resource(kind, "apr-none"), params, protocol="interlock", facts=facts)

    with pytest.raises(error):
        await world.pipeline.handle(call, BO, FakeExchange())


async def test_many_with_nothing_allowed_to_wait_are_told_so() -> None:
    world = World(max_pending=0)

    with pytest.raises(PolicyDenied) as caught:
        await world.make()

    assert caught.value.reasons[0].code == "too_many_pending"


async def test_call_that_another_just_like_it_was_faster_than_waits_on_the_same_ticket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    first = await world.held()
    live, unseen = world.store.live_ticket, [None]

    async def late(binding: str, now_ms: int) -> Ticket | None:
        return unseen.pop() if unseen else await live(binding, now_ms)

    monkeypatch.setattr(world.store, "live_ticket", late)

    again = await world.held()

    assert again.ticket_id == first.ticket_id
    assert world.herald.told == [("opened", first.ticket_id)]
