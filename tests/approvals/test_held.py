"""A held call that is asked after is carried out once, whoever asks and whatever ends meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import anyio
import pytest
from anyio.abc import TaskGroup

from gateway.approvals.held import KEPT_MS, LEASE_MS, UNKNOWN, Followed, HeldCalls, Outcome
from gateway.errors import ApprovalPending, UpstreamUnavailable
from gateway.tickets import HeldCall
from gateway.types import Call
from tests.approvals.waiting import Waiting
from tests.approvals.worlds import ANA, BO, NOW_MS, a_call, needs

DONE = Outcome({"result": {"done": True}})


@dataclass
class Made:
    """The making of a kept call: it spends the ticket as the gate does, unless told not to."""

    waiting: Waiting
    ticket_id: str
    outcome: Outcome = DONE
    spends: bool = True
    calls: list[Mapping[str, object]] = field(default_factory=list)
    going_on: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint

    async def __call__(self, kept: Mapping[str, object], settle: Callable[[Outcome], Awaitable[None]]) -> Outcome:
        self.calls.append(kept)
        if self.spends:
            await self.waiting.decided(self.ticket_id, "spent")
        await self.going_on()
        return self.outcome


@pytest.fixture
async def group() -> AsyncIterator[TaskGroup]:
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


async def held(waiting: Waiting, calls: HeldCalls, call: Call | None = None) -> HeldCall:
    """A call of Ana's that is held and kept."""
    try:
        await waiting.gate.admit(call or a_call(), ANA, needs())
    except ApprovalPending as pending:
        followed = await calls.keep(pending, ANA, {"protocol": "mcp", "params": {"secret": "word"}})
        assert followed is not None
        return followed.held
    raise AssertionError("the call was not held")


async def followed(calls: HeldCalls, held: HeldCall, run: Made) -> Followed:
    with anyio.fail_after(5):
        return await calls.follow(await calls.latest(held), run)


async def test_call_waits_until_people_agree_and_is_then_carried_out_once(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    run = Made(waiting, kept.ticket_id)

    before = await followed(calls, kept, run)
    await waiting.approved(kept.ticket_id)
    after = [await followed(calls, kept, run) for _ in range(3)]

    assert before.state == "waiting"
    assert "group:finance" in before.message
    assert [each.told for each in after] == [{"result": {"done": True}}] * 3
    assert len(run.calls) == 1


async def test_two_who_ask_at_once_on_two_replicas_carry_it_out_once(group: TaskGroup) -> None:
    waiting = Waiting()
    one, two = waiting.calls(group), waiting.calls(group, instance="two")
    kept = await held(waiting, one)
    run = Made(waiting, kept.ticket_id)
    await waiting.approved(kept.ticket_id)

    async with anyio.create_task_group() as both:
        for calls in (one, one, two, two):
            both.start_soon(followed, calls, kept, run)

    assert len(run.calls) == 1
    assert (await followed(two, kept, run)).state == "done"


async def test_nothing_of_call_or_result_lies_in_the_store_readable(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    await waiting.approved(kept.ticket_id)

    await followed(calls, kept, Made(waiting, kept.ticket_id, Outcome({"result": "word"})))

    (row,) = waiting.store.kept.values()
    assert b"word" not in row.sealed_call + row.sealed_result


async def test_only_its_owner_finds_it_until_it_expires(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)

    assert await calls.find(kept.ticket_id, ANA, "mcp") == kept
    assert await calls.find(kept.ticket_id, BO, "mcp") is None
    assert await calls.find(kept.ticket_id, ANA, "a2a") is None
    assert await calls.find("apr-none", ANA, "mcp") is None
    waiting.now_ms = kept.expires_ms
    assert await calls.find(kept.ticket_id, ANA, "mcp") is None


async def test_denial_ends_it_with_the_reason(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    run = Made(waiting, kept.ticket_id)

    await waiting.denied(kept.ticket_id)
    told = await followed(calls, kept, run)

    assert told.state == "failed"
    assert told.message == "user:bo said no: not today"
    assert run.calls == []


async def test_time_that_is_over_ends_it(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    await waiting.approved(kept.ticket_id)

    waiting.now_ms = kept.expires_ms - KEPT_MS
    run = Made(waiting, kept.ticket_id)
    told = await followed(calls, kept, run)

    assert told.fault is not None
    assert told.fault.code == "approval_expired"
    assert run.calls == []


async def test_approval_that_the_same_call_used_up_is_not_used_again(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    await waiting.approved(kept.ticket_id)
    await waiting.decided(kept.ticket_id, "spent")

    told = await followed(calls, kept, Made(waiting, kept.ticket_id))

    assert told.fault is not None
    assert told.fault.code == "approval_used"


async def test_call_taken_back_is_not_carried_out_and_nobody_can_agree_to_it(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    run = Made(waiting, kept.ticket_id)

    back = await calls.withdraw(kept)

    assert back.state == "withdrawn"
    assert (await waiting.ticket(kept.ticket_id)).state == "withdrawn"
    assert (await followed(calls, kept, run)).state == "withdrawn"
    assert run.calls == []


async def test_call_that_was_carried_out_cannot_be_taken_back(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    await waiting.approved(kept.ticket_id)
    await followed(calls, kept, Made(waiting, kept.ticket_id))

    assert (await calls.withdraw(await calls.latest(kept))).state == "done"


async def test_process_that_died_after_the_ticket_was_spent_leaves_it_unknown_for_good(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    dead = replace(kept, state="running", runner="dead", lease_ms=waiting.now_ms + LEASE_MS)
    assert await waiting.store.change_held(dead)
    await waiting.approved(kept.ticket_id)
    await waiting.decided(kept.ticket_id, "spent")
    run = Made(waiting, kept.ticket_id)

    meanwhile = await followed(calls, kept, run)
    waiting.now_ms += LEASE_MS
    after = [await followed(calls, kept, run) for _ in range(2)]

    assert meanwhile.state == "running"
    assert [each.message for each in after] == [UNKNOWN] * 2
    assert run.calls == []


async def test_process_that_died_before_the_ticket_was_spent_did_nothing_and_another_one_does(
    group: TaskGroup,
) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    await waiting.approved(kept.ticket_id)
    assert await waiting.store.change_held(replace(kept, state="running", runner="dead", lease_ms=NOW_MS))
    run = Made(waiting, kept.ticket_id)

    told = await followed(calls, kept, run)

    assert told.state == "done"
    assert len(run.calls) == 1


@pytest.mark.parametrize(("spent", "state"), [(True, "failed"), (False, "waiting")])
async def test_gateway_that_is_stopped_meanwhile_says_so_at_once(spent: bool, state: str) -> None:
    waiting, begun = Waiting(), anyio.Event()

    async def forever() -> None:
        begun.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as first:
        calls = waiting.calls(first, settle_s=0.01)
        kept = await held(waiting, calls)
        await waiting.approved(kept.ticket_id)
        run = Made(waiting, kept.ticket_id, spends=spent, going_on=forever)
        assert (await followed(calls, kept, run)).state == "running"
        await begun.wait()
        first.cancel_scope.cancel()

    assert waiting.store.kept[kept.ticket_id].state == state


async def test_client_that_leaves_while_it_is_carried_out_loses_nothing(group: TaskGroup) -> None:
    waiting, go_on = Waiting(), anyio.Event()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    await waiting.approved(kept.ticket_id)
    run = Made(waiting, kept.ticket_id, going_on=go_on.wait)

    with anyio.move_on_after(0.01):
        await calls.follow(kept, run)
    go_on.set()

    assert (await followed(calls, kept, run)).told == {"result": {"done": True}}
    assert len(run.calls) == 1


async def test_call_that_could_not_be_made_yet_is_made_when_it_is_asked_after_again(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    await waiting.approved(kept.ticket_id)
    away = Made(waiting, kept.ticket_id, Outcome({"error": {}}, again=True), spends=False)

    before = await followed(calls, kept, away)
    after = await followed(calls, kept, Made(waiting, kept.ticket_id))

    assert before.state == "waiting"
    assert after.told == {"result": {"done": True}}


async def test_failure_after_the_ticket_was_spent_is_never_tried_again(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    await waiting.approved(kept.ticket_id)
    run = Made(waiting, kept.ticket_id, Outcome({"error": {"code": 1}}, again=True))

    told = [await followed(calls, kept, run) for _ in range(2)]

    assert [each.told for each in told] == [{"error": {"code": 1}}] * 2
    assert len(run.calls) == 1


async def test_call_that_is_held_without_a_ticket_is_not_kept(group: TaskGroup) -> None:
    waiting = Waiting()

    assert await waiting.calls(group).keep(ApprovalPending("held"), ANA, {}) is None
    assert waiting.store.kept == {}


async def test_what_came_of_a_call_is_kept_when_the_store_is_back(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    await waiting.approved(kept.ticket_id)

    async def lost() -> None:
        waiting.store.fail_once = UpstreamUnavailable("away")

    run = Made(waiting, kept.ticket_id, going_on=lost)

    assert (await followed(calls, kept, run)).told == {"result": {"done": True}}
    assert len(run.calls) == 1


async def test_ticket_that_is_forgotten_ends_what_waits_for_it(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    waiting.now_ms = kept.expires_ms
    await waiting.tickets.prune_tickets(waiting.now_ms)

    told = await followed(calls, kept, Made(waiting, kept.ticket_id))

    assert told.fault is not None
    assert told.fault.code == "approval_expired"


async def running(waiting: Waiting, calls: HeldCalls, runner: str) -> HeldCall:
    """A call that people agreed to and that a process is about to carry out."""
    kept = await held(waiting, calls)
    await waiting.approved(kept.ticket_id)
    assert await waiting.store.change_held(replace(kept, state="running", runner=runner, lease_ms=waiting.now_ms))
    return kept


async def test_call_uses_its_ticket_up_before_the_effect_whether_or_not_the_gate_did(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await running(waiting, calls, "one")

    await calls.begin(kept)
    await calls.begin(kept)  # as after the gate

    assert (await waiting.ticket(kept.ticket_id)).state == "spent"


async def test_call_that_another_process_took_over_is_not_begun(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await running(waiting, calls, "two")

    for state in ("approved", "spent"):
        assert (await waiting.ticket(kept.ticket_id)).state == state
        with pytest.raises(ApprovalPending):
            await calls.begin(kept)
        await waiting.decided(kept.ticket_id, "spent")


async def test_call_that_was_taken_back_meanwhile_is_not_begun(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await running(waiting, calls, "one")
    await waiting.decided(kept.ticket_id, "withdrawn")

    with pytest.raises(ApprovalPending):
        await calls.begin(kept)


async def test_call_whose_time_is_over_meanwhile_is_not_begun(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await running(waiting, calls, "one")
    waiting.now_ms = (await waiting.ticket(kept.ticket_id)).expires_ms

    with pytest.raises(ApprovalPending):
        await calls.begin(kept)


async def test_approval_that_waits_for_the_next_round_of_another_call_is_used_already(group: TaskGroup) -> None:
    waiting = Waiting()
    calls = waiting.calls(group)
    kept = await held(waiting, calls)
    await waiting.approved(kept.ticket_id)
    waiting.tickets.steal(kept.ticket_id, spent_ms=NOW_MS)  # as the gate gives it back
    run = Made(waiting, kept.ticket_id)

    told = await followed(calls, kept, run)

    assert told.fault is not None
    assert told.fault.code == "approval_used"
    assert run.calls == []
