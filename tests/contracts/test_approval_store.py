"""What every approval store promises, held against the fake, SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol, TypeAlias

import anyio
import pytest

from gateway.tickets import (
    WITHDRAWN_COUNTS_MS,
    ApprovalStore,
    NoticeStore,
    Stage,
    StandingGrant,
    Switch,
    Ticket,
    TicketQuery,
    TicketState,
    Vote,
)
from gateway.types import FrozenDict, freeze
from tests.contracts.conftest import Replicas
from tests.fakes import FakeApprovalStore


class Store(ApprovalStore, NoticeStore, Protocol):
    """Both ports, which one thing fills."""


Opener: TypeAlias = Callable[[], Awaitable[Store]]
"""Opens one more store on the same state, as another replica would."""


def frozen(value: object) -> FrozenDict:
    held = freeze(value)
    assert isinstance(held, FrozenDict)
    return held


ANA = "jwt\x1fhttps://idp\x1fuser\x1fana\x1facme"
TICKET = Ticket(
    id="apr-1",
    binding="b" * 64,
    requester=ANA,
    subjects=("user:ana", "agent:x"),
    stages=(Stage("group:finance", 2), Stage("user:bo")),
    title="pay \x00 \ud800 an invoice",
    created_ms=1_000,
    expires_ms=9_000,
    shown=frozen({"arguments": {"to": "bo", "big": 10**30, "half": 0.5, "none": None, "list": [1, [2]], "\x00": "é"}}),
    covers=(frozen({"approvers": "group:finance", "quorum": 2}),),
    scopes=("exact", "any"),
)
GRANT = StandingGrant(
    id="gr-1",
    scope="s" * 64,
    requester=ANA,
    any_arguments=True,
    granted_by=("user:bo",),
    ticket_id="apr-1",
    shown=frozen({"action": "mcp.tools.call"}),
    created_ms=1_000,
    expires_ms=9_000,
    idle_ms=2_000,
    used_ms=1_000,
    uses_left=2,
)
EVERYTHING = Switch("everything", "", "an incident", "user:op", 5)


@pytest.fixture
def another(replicas: Replicas) -> Opener:
    fake = FakeApprovalStore()

    async def opened() -> Store:
        return fake if replicas is None else (await replicas()).approvals

    return opened


@pytest.fixture
async def store(another: Opener) -> Store:
    return await another()


async def opened(store: Store, **changes: object) -> Ticket:
    ticket = await store.open_ticket(replace(TICKET, **changes), 1_000, 100)  # type: ignore[arg-type]  # fields of it
    assert ticket is not None
    return ticket


async def test_new_store_knows_nothing(store: Store) -> None:
    assert await store.ticket("apr-1") is None
    assert await store.live_ticket(TICKET.binding, 0) is None
    assert list(await store.tickets(TicketQuery())) == []
    assert list(await store.grants(0)) == []
    assert list(await store.switches()) == []
    assert not await store.change_ticket(TICKET)


async def test_ticket_comes_back_as_it_was_opened_from_every_replica(another: Opener) -> None:
    first, second = await another(), await another()

    assert await first.open_ticket(TICKET, 1_000, 1) == TICKET

    assert await second.ticket("apr-1") == TICKET
    assert await second.live_ticket(TICKET.binding, 1_000) == TICKET
    assert list(await second.tickets(TicketQuery())) == [TICKET]


async def test_changes_come_back_too(store: Store) -> None:
    await opened(store)
    vote = Vote("user:bo", 0, "approve", "fine \x00", 2_000)
    changed = replace(
        TICKET, state="approved", votes=(vote,), edited=frozen({}), spent_ms=3, standing=frozen({"uses": 3})
    )

    assert await store.change_ticket(changed)

    assert await store.ticket("apr-1") == replace(changed, version=1)


async def test_second_ticket_with_a_binding_is_the_first_one(store: Store) -> None:
    await opened(store)

    again = await store.open_ticket(replace(TICKET, id="apr-2"), 1_001, 1)

    assert again == TICKET
    assert await store.ticket("apr-2") is None


async def test_ticket_is_live_until_its_time_and_then_another_takes_its_place(store: Store) -> None:
    await opened(store)

    assert await store.live_ticket(TICKET.binding, 8_999) == TICKET
    assert await store.live_ticket(TICKET.binding, 9_000) is None
    second = await store.open_ticket(replace(TICKET, id="apr-2", expires_ms=20_000), 9_000, 1)
    assert second is not None
    assert second.id == "apr-2"
    late = replace(TICKET, votes=(Vote("user:bo", 0, "approve"),))
    assert await store.change_ticket(late)
    live = await store.live_ticket(TICKET.binding, 9_001)
    assert live is not None
    assert live.id == "apr-2"


@pytest.mark.parametrize(
    ("state", "live"),
    [("pending", True), ("approved", True), ("denied", True), ("spent", False), ("withdrawn", False)],
)
async def test_what_is_spent_or_withdrawn_is_not_met_again(store: Store, state: TicketState, live: bool) -> None:
    await opened(store)

    await store.change_ticket(replace(TICKET, state=state))

    assert (await store.live_ticket(TICKET.binding, 1_000) is not None) is live
    again = await store.open_ticket(replace(TICKET, id="apr-2"), 1_000, 100)
    assert again is not None
    assert again.id == ("apr-1" if live else "apr-2")


async def test_one_that_is_given_back_is_met_again(store: Store) -> None:
    await opened(store)
    assert await store.change_ticket(replace(TICKET, state="spent", spent_ms=2_000))

    assert await store.change_ticket(replace(TICKET, state="approved", version=1))

    live = await store.live_ticket(TICKET.binding, 2_000)
    assert live is not None
    assert (live.id, live.state) == ("apr-1", "approved")


async def test_one_that_is_given_back_late_does_not_stand_in_the_way_of_its_successor(store: Store) -> None:
    await opened(store)
    assert await store.change_ticket(replace(TICKET, state="spent", spent_ms=2_000))
    await opened(store, id="apr-2")

    await store.change_ticket(replace(TICKET, state="approved", version=1))

    live = await store.live_ticket(TICKET.binding, 2_000)
    assert live is not None
    assert live.id == "apr-2"


async def test_change_from_an_old_version_changes_nothing(another: Opener) -> None:
    first, second = await another(), await another()
    await opened(first)

    answers = [await first.change_ticket(replace(TICKET, state="approved")), await second.change_ticket(TICKET)]

    assert answers == [True, False]
    assert await first.ticket("apr-1") == replace(TICKET, state="approved", version=1)


async def test_of_many_that_change_a_ticket_at_once_one_wins(another: Opener) -> None:
    stores = [await another() for _ in range(4)]
    await opened(stores[0])
    won: list[bool] = []

    async def spend(store: Store) -> None:
        won.append(await store.change_ticket(replace(TICKET, state="spent")))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for store in stores * 4:
                group.start_soon(spend, store)

    assert sorted(won) == [False] * 15 + [True]


async def test_calls_that_ask_at_the_same_time_get_the_same_ticket(another: Opener) -> None:
    stores = [await another() for _ in range(4)]
    got: set[str] = set()

    async def ask(store: Store, number: int) -> None:
        ticket = await store.open_ticket(replace(TICKET, id=f"apr-{number}"), 1_000, 1)
        got.add(ticket.id if ticket is not None else "")

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(16):
                group.start_soon(ask, stores[number % 4], number)

    assert len(got) == 1
    assert "" not in got
    assert len(await stores[0].tickets(TicketQuery())) == 1


async def test_nobody_has_more_tickets_waiting_than_they_may_even_at_once(another: Opener) -> None:
    stores = [await another() for _ in range(4)]

    async def ask(store: Store, number: int) -> None:
        await store.open_ticket(replace(TICKET, id=f"apr-{number}", binding=f"{number:064}"), 1_000, 3)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(ask, stores[number % 4], number)

    assert len(await stores[0].tickets(TicketQuery())) == 3


async def test_only_what_waits_counts_against_the_most(store: Store) -> None:
    await opened(store, id="over", binding="1", expires_ms=2_000)
    done = await opened(store, id="done", binding="2")
    await store.change_ticket(replace(done, state="approved"))
    await opened(store, id="other", binding="3", requester="jwt\x1fbo")
    await opened(store, id="waits", binding="4")

    assert await store.open_ticket(TICKET, 2_000, 1) is None
    assert await store.open_ticket(TICKET, 2_000, 2) == TICKET


async def test_what_is_taken_back_counts_for_an_hour(store: Store) -> None:
    back = await opened(store, id="back", binding="1")
    await store.change_ticket(replace(back, state="withdrawn"))
    late = TICKET.created_ms + WITHDRAWN_COUNTS_MS

    assert await store.open_ticket(TICKET, late - 1, 1) is None
    assert await store.open_ticket(TICKET, late, 1) == TICKET


async def test_only_tickets_that_are_asked_for_are_found_newest_first(store: Store) -> None:
    await opened(store, id="a", binding="1", created_ms=10)
    await opened(store, id="c", binding="2", created_ms=20, expires_ms=2_000)
    await opened(store, id="b", binding="3", created_ms=20, requester="jwt\x1fbo")
    await store.change_ticket(replace(TICKET, id="a", binding="1", created_ms=10, state="denied"))

    async def ids(query: TicketQuery) -> list[str]:
        return [ticket.id for ticket in await store.tickets(query)]

    assert await ids(TicketQuery()) == ["c", "b", "a"]
    assert await ids(TicketQuery(limit=1)) == ["c"]
    assert await ids(TicketQuery(state="denied")) == ["a"]
    assert await ids(TicketQuery(state="pending", alive_at_ms=2_000)) == ["b"]
    assert await ids(TicketQuery(requester=ANA)) == ["c", "a"]


async def test_grant_is_used_up_on_every_replica(another: Opener) -> None:
    first, second = await another(), await another()
    await first.put_grant(GRANT)

    left = [await second.grant_for(["other", GRANT.scope], 1_500)]
    for store in (first, second):
        assert await store.use_grant(GRANT.id, 1_500)
        left.append(await first.grant_for([GRANT.scope], 1_500))

    assert left == [GRANT, replace(GRANT, uses_left=1, used_ms=1_500), None]
    assert not await first.use_grant(GRANT.id, 1_500)
    assert list(await second.grants(1_500)) == []


async def test_use_of_a_grant_is_taken_once_however_many_ask(another: Opener) -> None:
    stores = [await another() for _ in range(4)]
    await stores[0].put_grant(replace(GRANT, uses_left=3))
    used: list[bool] = []

    async def use(store: Store) -> None:
        used.append(await store.use_grant(GRANT.id, 1_000))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for store in stores * 3:
                group.start_soon(use, store)

    assert sum(used) == 3


async def test_narrowest_grant_is_found_first_and_then_the_one_that_ends_first(store: Store) -> None:
    await store.put_grant(replace(GRANT, id="any", scope="any", expires_ms=2_000))
    await store.put_grant(replace(GRANT, id="later", scope="exact", expires_ms=8_000, uses_left=1))
    await store.put_grant(replace(GRANT, id="soon", scope="exact", expires_ms=5_000, uses_left=1))

    found: list[str] = []
    while (grant := await store.grant_for(["exact", "any"], 1_000)) is not None:
        found.append(grant.id)
        await store.drop_grant(grant.id)

    assert found == ["soon", "later", "any"]


@pytest.mark.parametrize(("now_ms", "holds"), [(2_999, True), (3_000, False), (9_000, False)])
async def test_grant_fades_with_disuse(store: Store, now_ms: int, holds: bool) -> None:
    await store.put_grant(GRANT)

    assert bool(await store.grants(now_ms)) is holds
    assert (await store.grant_for([GRANT.scope], now_ms) is not None) is holds
    assert await store.use_grant(GRANT.id, now_ms) is holds


async def test_use_keeps_a_grant_from_fading_but_not_beyond_its_end(store: Store) -> None:
    await store.put_grant(replace(GRANT, uses_left=9))

    used = [await store.use_grant(GRANT.id, now_ms) for now_ms in (2_500, 4_400, 6_300, 8_200, 9_000)]

    assert used == [True, True, True, True, False]


async def test_grant_is_dropped_once(store: Store) -> None:
    await store.put_grant(GRANT)

    assert [await store.drop_grant("gr-1") for _ in range(2)] == [True, False]
    assert not await store.use_grant(GRANT.id, 1_000)


async def test_switches_are_set_again_and_cleared_on_every_replica(another: Opener) -> None:
    first, second = await another(), await another()
    tool = Switch("tool", "bank/pay", "", "user:op", 6)
    await first.put_switch(tool)
    await first.put_switch(EVERYTHING)
    await first.put_switch(replace(EVERYTHING, reason="still", set_ms=7))

    assert list(await second.switches()) == [replace(EVERYTHING, reason="still", set_ms=7), tool]
    assert [await second.drop_switch("everything", "") for _ in range(2)] == [True, False]
    assert list(await first.switches()) == [tool]


async def test_what_is_long_over_is_forgotten(store: Store) -> None:
    await opened(store)
    await opened(store, id="apr-2", binding="2", expires_ms=50_000)
    await store.put_grant(GRANT)
    await store.put_grant(replace(GRANT, id="gr-2", expires_ms=50_000, idle_ms=0))
    for ticket_id in ("apr-1", "apr-2"):
        await store.settle_notice(ticket_id, "approval.requested")

    assert await store.prune_tickets(9_000) == 0
    assert await store.prune_tickets(9_001) == 2

    assert [ticket.id for ticket in await store.tickets(TicketQuery())] == ["apr-2"]
    assert [grant.id for grant in await store.grants(9_001)] == ["gr-2"]
    assert await store.sent_notices(["apr-1", "apr-2"]) == {("apr-2", "approval.requested")}


async def test_notice_is_for_one_replica_at_a_time_until_it_arrived(another: Opener) -> None:
    first, second = await another(), await another()

    assert await first.claim_notice("apr-1", "approval.requested", 100, 200)
    assert not await second.claim_notice("apr-1", "approval.requested", 199, 300)
    assert await second.claim_notice("apr-1", "approval.denied", 199, 300)
    assert await second.claim_notice("apr-1", "approval.requested", 200, 300)
    await second.settle_notice("apr-1", "approval.requested")
    assert not await first.claim_notice("apr-1", "approval.requested", 10_000, 10_100)
    assert await first.sent_notices(["apr-1", "apr-2"]) == {("apr-1", "approval.requested")}
    assert await first.sent_notices(["apr-2"]) == frozenset()


async def test_notice_that_did_not_arrive_is_anybodys_again(another: Opener) -> None:
    first, second = await another(), await another()
    await first.claim_notice("apr-1", "approval.requested", 100, 200)

    await first.release_notice("apr-1", "approval.requested")

    assert await second.claim_notice("apr-1", "approval.requested", 101, 200)
    await second.settle_notice("apr-1", "approval.requested")
    await first.release_notice("apr-1", "approval.requested")
    assert not await first.claim_notice("apr-1", "approval.requested", 300, 400)


@pytest.mark.parametrize(
    ("state", "now_ms", "arrived", "left"),
    [
        ("pending", 1_000, (), True),
        ("pending", 1_000, ("requested",), False),
        ("pending", TICKET.expires_ms, ("requested",), True),
        ("pending", TICKET.expires_ms, ("requested", "expired"), False),
        ("approved", 1_000, ("requested",), True),
        ("spent", 1_000, ("requested", "approved"), False),
        ("denied", 1_000, ("requested",), True),
        ("withdrawn", TICKET.expires_ms, ("requested",), False),
    ],
)
async def test_tickets_of_which_all_was_told_are_not_asked_for(
    store: Store, state: TicketState, now_ms: int, arrived: tuple[str, ...], left: bool
) -> None:
    await opened(store, state=state)
    await store.claim_notice("apr-1", "approval.other", 1, 2)
    for event in arrived:
        await store.settle_notice("apr-1", f"approval.{event}")

    found = await store.tickets(TicketQuery(untold_at_ms=now_ms))

    assert [ticket.id for ticket in found] == (["apr-1"] if left else [])


async def test_tickets_are_gone_through_page_by_page(store: Store) -> None:
    for number, created_ms in enumerate((5, 7, 7, 7, 9)):
        await opened(store, id=f"apr-{number}", binding=f"{number}", created_ms=created_ms)

    first = await store.tickets(TicketQuery(limit=3))
    rest = await store.tickets(TicketQuery(limit=3, before=(first[-1].created_ms, first[-1].id)))

    assert [ticket.id for ticket in (*first, *rest)] == ["apr-4", "apr-3", "apr-2", "apr-1", "apr-0"]
