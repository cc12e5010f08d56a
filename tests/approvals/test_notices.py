"""Who wants to know is told of every ticket until they took it, over restarts and on one replica at a time."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace

import anyio
import pytest

from adapters.notices.webhook import payload_of, signature
from gateway.approvals.notices import MOST_TICKETS, WORTH_MS, Fate, Notice, Notifier, secret_text, told_of
from gateway.errors import UpstreamUnavailable
from gateway.tickets import Vote
from tests.approvals.worlds import NOW_MS, a_ticket
from tests.fakes import FakeApprovalStore


@dataclass
class FakeMessenger:
    """`Messenger` that answers as told, and keeps what it was given."""

    fates: list[Fate] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    heard: anyio.Event = field(default_factory=anyio.Event)

    async def send(self, notice: Notice) -> Fate:
        fate = self.fates.pop(0) if self.fates else "taken"
        if fate == "taken":
            self.told.append((notice.event, notice.ticket.id))
            self.heard.set()
        return fate


@dataclass
class World:
    """A notifier over fakes."""

    store: FakeApprovalStore = field(default_factory=FakeApprovalStore)
    messenger: FakeMessenger = field(default_factory=FakeMessenger)
    now_ms: int = NOW_MS

    def __post_init__(self) -> None:
        self.notifier = self.another()

    def another(self) -> Notifier:
        """One more, as after a restart or on another replica."""
        return Notifier(self.store, self.messenger, lambda: self.now_ms, lambda: 0.5)


async def test_everything_is_told_once_and_in_order_over_restarts() -> None:
    world = World()
    await world.store.open_ticket(a_ticket(), NOW_MS, 9)
    await world.notifier.round()
    world.store.steal("apr-1", state="denied", votes=(Vote("user:bo", 0, "deny", at_ms=NOW_MS),))

    await world.another().round()
    await world.another().round()

    assert world.messenger.told == [("approval.requested", "apr-1"), ("approval.denied", "apr-1")]


async def test_receiver_that_is_down_is_left_alone_for_longer_and_longer_and_then_told_all() -> None:
    world = World(messenger=FakeMessenger(["unreachable"] * 12))
    await world.store.open_ticket(a_ticket(), NOW_MS, 9)

    waits = [await world.notifier.round() for _ in range(13)]

    assert waits[:4] == [0.75, 1.5, 3.0, 6.0]
    assert waits[11] == 225.0
    assert world.messenger.told == [("approval.requested", "apr-1")]


async def test_notice_that_is_refused_holds_up_no_other() -> None:
    world = World(messenger=FakeMessenger(["refused"]))
    await world.store.open_ticket(a_ticket(), NOW_MS, 9)
    await world.store.open_ticket(a_ticket(id="apr-2", binding="2", created_ms=NOW_MS + 1), NOW_MS, 9)

    await world.notifier.round()
    await world.notifier.round()
    world.now_ms += 300_000
    await world.notifier.round()

    assert world.messenger.told[0] == ("approval.requested", "apr-2")
    assert ("approval.requested", "apr-1") in world.messenger.told[1:]


async def test_notice_that_its_receiver_fails_at_stops_no_other() -> None:
    world = World(messenger=FakeMessenger(["unreachable", "taken", "unreachable"]))
    await world.store.open_ticket(a_ticket(), NOW_MS, 9)
    await world.store.open_ticket(a_ticket(id="apr-2", binding="2", created_ms=NOW_MS + 1), NOW_MS, 9)

    waits = [await world.notifier.round() for _ in range(3)]

    assert world.messenger.told == [("approval.requested", "apr-2"), ("approval.requested", "apr-1")]
    assert waits[:2] == [0.75, 0.75]


async def test_what_became_of_a_ticket_is_told_however_many_were_opened_since() -> None:
    world = World()
    await world.store.open_ticket(a_ticket(), NOW_MS, 9)
    await world.notifier.round()
    for number in range(MOST_TICKETS):
        made = a_ticket(id=f"new-{number}", binding=f"{number}", created_ms=NOW_MS + 1, requester=f"r{number}")
        await world.store.open_ticket(made, NOW_MS, 9)
    world.store.steal("apr-1", state="denied", votes=(Vote("user:bo", 0, "deny", at_ms=NOW_MS),))

    await world.notifier.round()
    await world.notifier.round()

    assert ("approval.denied", "apr-1") in world.messenger.told
    assert len(world.messenger.told) == MOST_TICKETS + 2


async def test_another_replica_does_not_send_what_one_is_at() -> None:
    world = World()
    await world.store.open_ticket(a_ticket(), NOW_MS, 9)
    await world.store.claim_notice("apr-1", "approval.requested", NOW_MS, NOW_MS + 10)

    await world.notifier.round()
    world.now_ms += 10
    before = list(world.messenger.told)
    await world.notifier.round()

    assert before == []
    assert world.messenger.told == [("approval.requested", "apr-1")]


async def test_what_is_a_day_old_is_not_told_any_more() -> None:
    world = World(now_ms=NOW_MS + WORTH_MS + 60_000)
    await world.store.open_ticket(a_ticket(), NOW_MS, 9)

    await world.notifier.round()

    assert world.messenger.told == []


async def test_news_is_told_at_once() -> None:
    world = World()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(world.notifier.run)
            ticket = await world.store.open_ticket(a_ticket(), NOW_MS, 9)
            assert ticket is not None
            world.notifier.changed(ticket)
            await world.messenger.heard.wait()
            group.cancel_scope.cancel()

    assert world.messenger.told == [("approval.requested", "apr-1")]


@pytest.mark.parametrize(
    ("state", "late", "events"),
    [
        ("pending", False, ["requested"]),
        ("pending", True, ["requested", "expired"]),
        ("approved", True, ["requested", "approved"]),
        ("spent", False, ["requested", "approved"]),
        ("denied", False, ["requested", "denied"]),
        ("withdrawn", False, ["requested"]),
    ],
)
def test_what_there_is_to_tell_follows_from_the_ticket(state: str, late: bool, events: list[str]) -> None:
    ticket = replace(a_ticket(), state=state)  # type: ignore[arg-type]  # a state
    now_ms = ticket.expires_ms if late else NOW_MS

    notices = list(told_of(ticket, now_ms))

    assert [notice.event.removeprefix("approval.") for notice in notices] == events
    assert len({notice.id for notice in notices}) == len(notices)


def test_signature_is_that_of_the_standard() -> None:
    # The example of the specification, "Signature scheme" (standardwebhooks 1.0).
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'

    assert signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
    assert secret_text(key) == "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_arguments_are_not_for_the_receiver() -> None:
    payload = payload_of(Notice("approval.requested", a_ticket(), NOW_MS), "http://gate/page")

    assert "shop" not in str(payload)
    assert payload["type"] == "approval.requested"


async def test_store_that_is_away_is_asked_again_later() -> None:
    world = World()
    world.store.fail_with = UpstreamUnavailable("the store is away")

    assert await world.notifier.round() > 0

    world.store.fail_with = None
    await world.store.open_ticket(a_ticket(), NOW_MS, 9)
    await world.notifier.round()
    assert world.messenger.told == [("approval.requested", "apr-1")]


async def test_news_do_not_hurry_a_receiver_that_is_down() -> None:
    world = World(messenger=FakeMessenger(["unreachable"]))
    await world.store.open_ticket(a_ticket(), NOW_MS, 9)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(world.notifier.run)
            world.notifier.changed(a_ticket())
            await world.messenger.heard.wait()
            group.cancel_scope.cancel()

    assert world.messenger.told == [("approval.requested", "apr-1")]
