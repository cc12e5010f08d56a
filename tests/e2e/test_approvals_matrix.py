"""Whatever happens between the word of people and a call, it takes effect at most once, and never without that word.

Real gateway processes, real clients, and upstreams that count. Every row is tried over each protocol.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import anyio
import httpx2
import pytest
from anyio import to_thread

from tests.e2e.approval_doors import DOORS, RULES, TILL, Door, Made, World, held, prepared, till
from tests.e2e.counting_agent import AGENT
from tests.e2e.eventually import eventually
from tests.e2e.place import as_process, interlock, rules
from tests.servers.agent import card_of

pytestmark = pytest.mark.slow

Between = Callable[[Door, World, str], Awaitable[None]]
"""What happens to a ticket before its call is made again."""
Fate = Literal["done", "the same ticket", "a new ticket", "refused"]


@dataclass(frozen=True, slots=True)
class Row:
    """`what` is asked for and held; then something happens; then `then_what` is asked for by `who`."""

    between: Between
    fate: Fate
    effects: int
    what: str = "shop"
    then_what: str = ""
    who: str = "ana"


async def nothing(door: Door, world: World, ticket: str) -> None:
    """Nobody decides."""


async def approved(door: Door, world: World, ticket: str) -> None:
    assert world.vote("bo", ticket) == (200, "approved")


async def denied(door: Door, world: World, ticket: str) -> None:
    assert world.vote("bo", ticket, "deny") == (200, "denied")


async def expired(door: Door, world: World, ticket: str) -> None:
    await world.until(ticket, "expired")
    assert world.vote("bo", ticket) == (409, "approval_expired")


async def approved_and_expired(door: Door, world: World, ticket: str) -> None:
    assert world.vote("bo", ticket) == (200, "approved")
    await world.until(ticket, "expired")


async def used(door: Door, world: World, ticket: str) -> None:
    await approved(door, world, ticket)
    assert (await door.make(world, "used")).done


async def approved_by_who_asks(door: Door, world: World, ticket: str) -> None:
    for key in ("ana", "ana again"):
        assert world.vote(key, ticket) == (403, "approval_own")


async def approved_by_who_is_not_asked(door: Door, world: World, ticket: str) -> None:
    assert world.vote("op", ticket) == (403, "approval_not_asked")
    assert world.ask("dan", "POST", f"/approvals/{ticket}/approve", {}).status_code == 404


async def approved_by_two_at_once(door: Door, world: World, ticket: str) -> None:
    answers: list[tuple[int, str]] = []

    async def vote(who: str) -> None:
        answers.append(await to_thread.run_sync(world.vote, who, ticket))

    async with anyio.create_task_group() as group:
        group.start_soon(vote, "bo")
        group.start_soon(vote, "cy")
    assert sorted(answers) == [(200, "approved"), (409, "approval_over")]


async def approved_by_one_of_two(door: Door, world: World, ticket: str) -> None:
    assert world.vote("bo", ticket) == (200, "pending")
    assert world.vote("bo", ticket) == (409, "approval_voted")


async def approved_by_both(door: Door, world: World, ticket: str) -> None:
    await approved_by_one_of_two(door, world, ticket)
    assert world.vote("cy", ticket) == (200, "approved")


async def approved_then_stopped(door: Door, world: World, ticket: str) -> None:
    await approved(door, world, ticket)
    switch = {"kind": "subject", "value": "user:ana"}
    assert world.ask("op", "PUT", "/switches", switch).status_code == 200
    try:
        stopped = await door.make(world, "stopped")
    finally:
        assert world.ask("op", "DELETE", "/switches", switch).status_code == 200
    assert not stopped.done
    assert "kill switch" in stopped.text or "403" in stopped.text  # some clients say no more


async def approved_then_another_revision(door: Door, world: World, ticket: str) -> None:
    await approved(door, world, ticket)
    _policy(world, f"# {ticket}")
    probe = await held(door, world, "probe")

    async def reloaded() -> bool:
        return (await held(door, world, "probe")) != probe

    await eventually(reloaded, within_s=30)


async def approved_then_forbidden(door: Door, world: World, ticket: str) -> None:
    await approved(door, world, ticket)
    name = f"forbidden {door.name}"
    _policy(world, f'deny contains "forbidden" if {{ some text in said; startswith(text, "{name}") }}')

    async def reloaded() -> bool:
        return "apr-" not in (await door.make(world, f"{name} probe")).text

    await eventually(reloaded, within_s=30)


def _policy(world: World, more: str) -> None:
    rules(world.place.directory, all=f"{RULES}\n{more}\n")


ROWS: Final[dict[str, Row]] = {
    "nobody decides": Row(nothing, "the same ticket", 0, "nobody"),
    "approve": Row(approved, "done", 1, "approve"),
    "deny": Row(denied, "refused", 0, "deny"),
    "expire before the vote": Row(expired, "a new ticket", 0, "soon"),
    "expire after the vote": Row(approved_and_expired, "a new ticket", 0, "soon approved"),
    "replayed ticket": Row(used, "a new ticket", 1, "used"),
    "changed arguments": Row(approved, "a new ticket", 0, "shop", then_what="shop "),
    "somebody else's call": Row(approved, "a new ticket", 0, "theirs", who="dan"),
    "self-approval": Row(approved_by_who_asks, "the same ticket", 0, "own"),
    "approval of who is not asked": Row(approved_by_who_is_not_asked, "the same ticket", 0, "others"),
    "two approvers racing": Row(approved_by_two_at_once, "done", 1, "race of approvers"),
    "quorum, the same person twice": Row(approved_by_one_of_two, "the same ticket", 0, "two, one"),
    "quorum": Row(approved_by_both, "done", 1, "two, both"),
    "kill switch": Row(approved_then_stopped, "done", 1, "stopped"),
    "changed policy": Row(approved_then_another_revision, "a new ticket", 0, "revision"),
    "policy that forbids by now": Row(approved_then_forbidden, "refused", 0, "forbidden"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with prepared(tmp_path_factory.mktemp("matrix")) as made, as_process(made.place):
        yield made


@pytest.mark.parametrize("door", DOORS, ids=lambda door: str(door.name))
@pytest.mark.parametrize("name", ROWS)
async def test_held_call_takes_effect_as_people_said_and_no_other_way(world: World, door: Door, name: str) -> None:
    row, before = ROWS[name], await door.effects(world)
    what = f"{row.what} {door.name}" if row.what not in {"used", "stopped"} else row.what
    ticket = await held(door, world, what)

    await row.between(door, world, ticket)
    again = await door.make(world, f"{row.then_what} {door.name}" if row.then_what else what, row.who)

    assert fate_of(again, ticket) == row.fate, again
    assert await door.effects(world) - before == row.effects


@pytest.mark.parametrize("door", DOORS, ids=lambda door: str(door.name))
async def test_of_callers_that_race_for_one_approval_one_takes_effect(world: World, door: Door) -> None:
    before = await door.effects(world)
    ticket = await held(door, world, f"race {door.name}")
    await approved(door, world, ticket)
    told: list[Made] = []

    async def make() -> None:
        told.append(await door.make(world, f"race {door.name}"))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(make)

    assert sorted(each.done for each in told) == [False, False, False, True]
    assert await door.effects(world) - before == 1


@pytest.mark.parametrize("door", DOORS, ids=lambda door: str(door.name))
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "restart"])
def test_end_of_the_gateway_at_no_step_makes_a_call_take_effect_twice(
    tmp_path: Path, door: Door, end: signal.Signals
) -> None:
    with prepared(tmp_path) as made:
        anyio.run(_ended_at_each_step, made, door, end)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: str(door.name))
def test_approval_is_not_for_what_the_tool_or_agent_became_meanwhile(tmp_path: Path, door: Door) -> None:
    with prepared(tmp_path) as made:
        anyio.run(_redefined, made, door)


async def _redefined(world: World, door: Door) -> None:
    tickets: dict[str, str] = {}
    with as_process(world.place):
        for what in ("tried", "kept"):
            tickets[what] = await held(door, world, what)
            await approved(door, world, tickets[what])
    world.till.process.terminate()
    world.till.process.wait(30)
    world.agent.show(card_of(world.agent.port, description="Counts further than it was asked to."))
    with till(world.place.directory, port=world.till.port, says="Pays twice"):
        with as_process(world.place):
            await eventually(lambda: _noticed(door, world, tickets["tried"]), within_s=20)
            interlock(world.place, "pins", "accept", TILL, "--all", "--data", str(world.place.state))
            interlock(world.place, "agents", "accept", AGENT)
        with as_process(world.place):
            assert await held(door, world, "kept") != tickets["kept"]
    assert await door.effects(world) == 0


async def _noticed(door: Door, world: World, ticket: str) -> bool:
    told = await door.make(world, "tried")
    assert not told.done
    gone = "quarantined" in told.text or "HTTP 403" in told.text
    return gone or told.ticket not in {"", ticket}


async def _ended_at_each_step(world: World, door: Door, end: signal.Signals) -> None:
    with as_process(world.place) as gateway:
        unvoted = await held(door, world, "before the vote")
        gateway.send_signal(end)
        gateway.wait(30)
    with as_process(world.place) as gateway:
        voted = await held(door, world, "after the vote")
        await approved(door, world, unvoted)
        await approved(door, world, voted)
        gateway.send_signal(end)
        gateway.wait(30)
    assert await door.effects(world) == 0
    with as_process(world.place) as gateway:
        await _carried_out(door, world, "before the vote")
        await _carried_out(door, world, "after the vote")
        assert await door.effects(world) == 2
        await _ended_before_the_effect(door, world, lambda: gateway.send_signal(end))
        gateway.wait(60)
    with as_process(world.place) as gateway:
        ticket = await held(door, world, "before the effect")
        effects = await door.effects(world)
        assert effects in (2, 3)
        assert (await door.make(world, "before the effect")).ticket == ticket
        await _ended_before_the_answer(door, world, effects, lambda: gateway.send_signal(end))
        gateway.wait(60)
    with as_process(world.place):
        await held(door, world, "slow before the answer")
        assert await door.effects(world) == effects + 1


async def _carried_out(door: Door, world: World, what: str) -> None:
    async def made() -> bool:
        return (await door.make(world, what)).done

    await eventually(made, within_s=60)


async def _ended_before_the_effect(door: Door, world: World, end: Callable[[], None]) -> None:
    """What has the effect stands still, so that the approval is used and nothing happened when the gateway ends."""
    ticket = await held(door, world, "before the effect")
    await approved(door, world, ticket)
    async with anyio.create_task_group() as group:
        async with _standing_still(door, world):
            group.start_soon(_tried, door, world, "before the effect")
            await world.until(ticket, "spent")
            end()
        group.cancel_scope.cancel()


async def _ended_before_the_answer(door: Door, world: World, effects: int, end: Callable[[], None]) -> None:
    await approved(door, world, await held(door, world, "slow before the answer"))

    async def happened() -> bool:
        return await door.effects(world) == effects + 1

    async with anyio.create_task_group() as group:
        group.start_soon(_tried, door, world, "slow before the answer")
        await eventually(happened, within_s=60)
        end()
        group.cancel_scope.cancel()


@asynccontextmanager
async def _standing_still(door: Door, world: World) -> AsyncIterator[None]:
    process = door.process(world)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


async def _tried(door: Door, world: World, what: str) -> None:
    with suppress(httpx2.HTTPError, TimeoutError, ExceptionGroup):  # its gateway ends in the middle
        await door.make(world, what)


def fate_of(made: Made, ticket: str) -> Fate:
    """What became of a call that was held as `ticket` once."""
    if made.done:
        return "done"
    if not made.ticket:
        return "refused"
    return "the same ticket" if made.ticket == ticket else "a new ticket"
