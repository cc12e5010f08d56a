"""Held calls and kill switches on the governed path: carried out once, as agreed to, and stopped at once."""

from __future__ import annotations

from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from gateway.authz.obligations import obligations_in
from gateway.budgets.ledger import Ledger
from gateway.errors import ApprovalPending, PolicyDenied, QuotaExceeded
from gateway.ports import Relay
from gateway.spending import NOTHING, StandingQuery
from gateway.tickets import Approval, StandingGrant, Switch, Ticket, TicketQuery, Vote
from gateway.types import Authorized, Call, Identity, Permit, Result
from tests.approvals.worlds import ANA, NOW_MS, PAY, Holding, World, a_call, frozen, needs
from tests.fake_budgets import FakeBudgetStore

KILL = Switch("tool", "bank/pay", "", "user:op", 1)


async def agree(world: World, ticket_id: str, **changes: object) -> Ticket:
    """The ticket as its approver left it."""
    world.store.steal(ticket_id, state="approved", votes=(Vote("user:bo", 0, "approve"),), **changes)
    ticket = await world.store.ticket(ticket_id)
    assert ticket is not None
    return ticket


async def test_held_call_reaches_nothing_and_tells_its_ticket() -> None:
    world = World()

    pending = await world.held()

    assert world.upstream.executed == []
    assert pending.ticket_id.startswith("apr-")
    assert pending.url == f"http://gate/approvals/{pending.ticket_id}/page"
    assert pending.expires_ms == NOW_MS + 600_000
    assert world.herald.told == [("opened", pending.ticket_id)]
    assert world.trail.records[0].outcome == "denied"


async def test_call_made_again_meets_its_ticket() -> None:
    world = World()

    tickets = {(await world.held()).ticket_id for _ in range(3)}

    assert len(tickets) == 1
    assert len(world.herald.told) == 1


async def test_approved_call_is_carried_out_once_and_its_record_names_the_approval() -> None:
    world = World()
    pending = await world.held()
    await agree(world, pending.ticket_id)

    await world.make()
    again = await world.held()

    assert len(world.upstream.executed) == 1
    assert again.ticket_id != pending.ticket_id
    assert world.trail.records[1].notes == {"approval": {"id": pending.ticket_id, "approvers": ["user:bo"]}}


async def test_of_calls_that_race_for_an_approval_one_is_carried_out() -> None:
    world = World()
    await agree(world, (await world.held()).ticket_id)
    fates: list[str] = []

    async def race() -> None:
        try:
            await world.make()
            fates.append("done")
        except ApprovalPending:
            fates.append("held")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(race)

    assert sorted(fates) == ["done"] + ["held"] * 7
    assert len(world.upstream.executed) == 1


class Charging(Holding):
    """Sets a budget on what it permits."""

    calls = 1

    async def decide(self, call: Call, identity: Identity, approval: Approval | None = None) -> Permit:
        permit = await super().decide(call, identity, approval)
        limits = {"scope": "subject", "calls": self.calls}
        return replace(permit, obligations=obligations_in([{"type": "budget", "properties": limits}]))


async def test_approval_is_left_as_it_is_where_the_budget_is_used_up() -> None:
    decider = Charging()
    world = World(decider=decider)
    world.pipeline.budgets = Ledger(FakeBudgetStore(), clock_ms=lambda: world.now_ms)
    ticket = await agree(world, (await world.held()).ticket_id)
    decider.calls = 0

    with pytest.raises(QuotaExceeded):
        await world.make()
    kept = await world.store.ticket(ticket.id)
    decider.calls = 1
    await world.make()

    assert kept is not None
    assert kept.state == "approved"
    assert world.trail.records[1].notes is None
    assert len(world.upstream.executed) == 1


async def test_use_of_a_standing_grant_is_left_where_the_budget_is_used_up() -> None:
    decider = Charging()
    world = World(decider=decider)
    world.pipeline.budgets = Ledger(FakeBudgetStore(), clock_ms=lambda: world.now_ms)
    ticket = await world.store.ticket((await world.held()).ticket_id)
    assert ticket is not None
    grant = StandingGrant("g", ticket.scopes[1], "", True, (), ticket.id, ticket.shown, 0, 9**9, 0, 0, 1)
    await world.store.put_grant(grant)
    decider.calls = 0

    with pytest.raises(QuotaExceeded):
        await world.make()
    kept = await world.store.grants(world.now_ms)
    decider.calls = 9
    await world.make()
    await world.held()

    assert kept == [grant]
    assert len(world.upstream.executed) == 1


async def test_standing_grant_that_was_taken_back_meanwhile_carries_nothing_out() -> None:
    world = World()
    ticket = await world.store.ticket((await world.held()).ticket_id)
    assert ticket is not None
    grant = StandingGrant("g", ticket.scopes[1], "", True, (), ticket.id, ticket.shown, 0, 9**9, 0, 0, 1)
    await world.store.put_grant(grant)
    found = await world.gate.admit(a_call(), ANA, needs())
    await world.store.drop_grant("g")

    with pytest.raises(ApprovalPending, match="make the call again"):
        await world.gate.spend(found)


async def test_budget_is_given_back_where_the_approval_was_used_meanwhile() -> None:
    store = FakeBudgetStore()
    world = World(decider=Charging())
    world.pipeline.budgets = Ledger(store, clock_ms=lambda: world.now_ms)
    ticket = await agree(world, (await world.held()).ticket_id)
    world.store.before_change = lambda: world.store.steal(ticket.id, state="spent")

    with pytest.raises(ApprovalPending):
        await world.make()

    (standing,) = await store.standings(StandingQuery(world.now_ms))
    assert world.upstream.executed == []
    assert (standing.spent, standing.held) == (NOTHING, NOTHING)


async def test_approval_that_another_replica_used_meanwhile_is_none() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    await agree(world, ticket_id)
    world.store.before_change = lambda: world.store.steal(ticket_id, state="spent")

    with pytest.raises(ApprovalPending):
        await world.make()

    assert world.upstream.executed == []


@pytest.mark.parametrize(
    "other",
    [
        a_call({"to": "me", "sum": 1}),
        a_call(resource=replace(PAY, catalog=frozen({"definition_digest": "d2"}))),
        a_call(resource=replace(PAY, id="bank/refund")),
    ],
)
async def test_approval_is_for_no_other_call(other: Call) -> None:
    world = World()
    await agree(world, (await world.held()).ticket_id)

    await world.held(other)

    assert world.upstream.executed == []


async def test_approval_is_for_nobody_else() -> None:
    world = World()
    await agree(world, (await world.held()).ticket_id)

    await world.held(who="bo")

    assert world.upstream.executed == []


async def test_policy_that_changed_meanwhile_still_refuses() -> None:
    world = World()
    await agree(world, (await world.held()).ticket_id)
    world.decider.again = needs(approvers="group:other")

    with pytest.raises(ApprovalPending) as caught:
        await world.make()

    assert caught.value.ticket_id == ""
    assert world.upstream.executed == []


async def test_new_revision_asks_again() -> None:
    world = World()
    first = await world.held()
    await agree(world, first.ticket_id)
    world.decider.needs = needs("r2")

    assert (await world.held()).ticket_id != first.ticket_id


async def test_denial_is_told_with_its_reason() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    world.store.steal(ticket_id, state="denied", votes=(Vote("user:bo", 0, "deny", "not today"),))

    with pytest.raises(PolicyDenied, match="user:bo said no: not today") as caught:
        await world.make()

    assert caught.value.reasons[0].code == "approval_denied"


async def test_time_approves_nothing_and_takes_approvals_away() -> None:
    world = World()
    first = await world.held()
    world.now_ms += 600_000
    second = await world.held()
    await agree(world, second.ticket_id)
    world.now_ms += 600_000

    third = await world.held()

    assert len({first.ticket_id, second.ticket_id, third.ticket_id}) == 3
    assert world.upstream.executed == []


async def test_arguments_of_an_approver_are_what_is_decided_and_carried_out() -> None:
    world = World()
    await agree(world, (await world.held()).ticket_id, edited=frozen({"to": "shop", "sum": 0}))

    await world.make()

    assert world.upstream.executed[0].call.arguments == {"to": "shop", "sum": 0}
    assert world.decider.asked[-1].arguments == {"to": "shop", "sum": 0}


async def test_edited_call_that_policy_holds_for_another_reason_has_a_ticket_of_its_own() -> None:
    world = World()
    first = await world.held()
    await agree(world, first.ticket_id, edited=frozen({"to": "shop", "sum": 10**6}))
    world.decider.again = needs(approvers="group:board", title="much")

    second = await world.held()
    held_for = await world.store.ticket(second.ticket_id)
    await agree(world, second.ticket_id)
    await world.make()

    assert held_for is not None
    assert held_for.shown["arguments"] == {"to": "shop", "sum": 10**6}
    assert [each.call.arguments["sum"] for each in world.upstream.executed] == [10**6]
    assert [ticket.state for ticket in await world.store.tickets(TicketQuery())] == ["spent", "spent"]
    then = {"id": second.ticket_id, "approvers": ["user:bo"]}
    noted = {"approval": {"id": first.ticket_id, "approvers": ["user:bo"], "then": [then]}}
    assert world.trail.records[-1].notes == noted


async def test_edits_that_lead_in_a_circle_end() -> None:
    world = World()
    other = {"to": "me", "sum": 1}
    first, second = await world.held(), await world.held(a_call(other))
    await agree(world, first.ticket_id, edited=frozen(other))
    await agree(world, second.ticket_id, edited=a_call().arguments)
    world.decider.again = world.decider.needs
    for ticket in (first, second):
        world.store.steal(ticket.ticket_id, covers=(frozen({"other": 1}),))

    with pytest.raises(ApprovalPending):
        await world.make()

    assert world.upstream.executed == []


@pytest.mark.parametrize("request_", [{"approvers": "finance"}, {"approvers": "group:x", "quorum": 0}])
async def test_hold_that_names_nobody_is_a_refusal_that_says_so(request_: dict[str, object]) -> None:
    world = World()
    world.decider.needs = needs(**request_)

    with pytest.raises(PolicyDenied) as caught:
        await world.make()

    assert caught.value.reasons[0].code == "hold_invalid"


async def test_call_that_cannot_be_shown_is_refused() -> None:
    world = World()

    with pytest.raises(PolicyDenied) as caught:
        await world.make(a_call({"many": list(range(1_990))}))

    assert caught.value.reasons[0].code == "hold_invalid"
    assert list(await world.store.tickets(TicketQuery())) == []


async def test_nobody_has_endless_calls_waiting() -> None:
    world = World(max_pending=2)
    for number in range(2):
        await world.held(a_call({"sum": number}))

    with pytest.raises(PolicyDenied) as caught:
        await world.make(a_call({"sum": 3}))
    await world.held(a_call({"sum": 3}), who="bo")

    assert caught.value.reasons[0].code == "too_many_pending"


async def test_standing_grant_is_used_without_a_new_ticket_and_ends() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    ticket = await world.store.ticket(ticket_id)
    assert ticket is not None
    await world.store.put_grant(
        StandingGrant("grant-1", ticket.scopes[1], "", True, ("user:bo",), ticket_id, ticket.shown, 0, 9**9, 0, 0, 2)
    )

    await world.make()
    await world.make(a_call({"to": "other", "sum": 2}))
    await world.held()

    assert len(world.upstream.executed) == 2
    assert world.trail.records[1].notes == {"approval": {"id": "grant-1", "approvers": ["user:bo"]}}


async def test_what_people_denied_no_grant_carries_out() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    ticket = await world.store.ticket(ticket_id)
    assert ticket is not None
    grant = StandingGrant("g", ticket.scopes[1], "", True, (), ticket_id, ticket.shown, 0, 9**9, 0, 0, 2)
    await world.store.put_grant(grant)
    world.store.steal(ticket_id, state="denied")

    with pytest.raises(PolicyDenied):
        await world.make()


async def test_store_that_cannot_answer_approves_nothing() -> None:
    world = World()
    await agree(world, (await world.held()).ticket_id)
    world.store.fail_with = PolicyDenied("the store is away")

    with pytest.raises(PolicyDenied):
        await world.make()

    assert world.upstream.executed == []


async def flying(world: World, seen: list[str]) -> None:
    """A call that lasts until it is ended."""
    try:
        await world.make()
    except PolicyDenied as denied:
        seen.append(denied.reasons[0].code)
        await anyio.lowlevel.checkpoint()  # the cancellation is over: what comes after it may wait
        seen.append("answered")


async def test_kill_switch_ends_calls_in_flight_with_an_answer_and_a_record() -> None:
    world, seen = World(), list[str]()
    world.decider.needs = None
    started = anyio.Event()

    async def forever(authorized: Authorized, relay: Relay) -> Result:
        started.set()
        await anyio.sleep_forever()
        raise AssertionError

    world.upstream.answer = forever
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(flying, world, seen)
            await started.wait()
            world.switches.take([KILL])
            ended = world.pipeline.end_killed()

    assert ended == 1
    assert seen == ["killed", "answered"]
    assert [(record.outcome, record.error) for record in world.trail.records] == [("denied", "policy_denied")]


async def test_kill_switch_that_an_upstream_swallows_is_still_a_refusal() -> None:
    world, seen = World(), list[str]()
    world.decider.needs = None
    started = anyio.Event()

    async def stubborn(authorized: Authorized, relay: Relay) -> Result:
        started.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return Result(b"{}")
        raise AssertionError

    world.upstream.answer = stubborn
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(flying, world, seen)
            await started.wait()
            world.switches.take([KILL])
            world.pipeline.end_killed()

    assert seen == ["killed", "answered"]


async def test_kill_switch_ends_a_call_inside_another_and_the_outer_one_with_it() -> None:
    world, seen = World(), list[str]()
    world.decider.needs = None
    started = anyio.Event()

    async def outer(authorized: Authorized, relay: Relay) -> Result:
        if authorized.call.action == "sandbox.exec":
            started.set()
            await anyio.sleep_forever()
        return await relay.act("sandbox.exec", "sandbox/exec", PAY, {})

    world.upstream.answer = outer
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(flying, world, seen)
            await started.wait()
            world.switches.take([Switch("everything", "", "", "user:op", 1)])
            ended = world.pipeline.end_killed()

    assert ended == 1
    assert seen == ["killed", "answered"]
    assert len(world.trail.records) == 2


async def test_call_that_waits_for_people_is_refused_while_a_switch_is_set() -> None:
    world = World()
    await agree(world, (await world.held()).ticket_id)
    world.switches.take([KILL])

    with pytest.raises(PolicyDenied, match="a kill switch is set for tool bank/pay"):
        await world.make()

    world.switches.take([])
    await world.make()
    assert len(world.upstream.executed) == 1
