"""Notifications are sent in order, again when they fail, and never at the cost of somebody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.a2a.push_outbox import MAX_WAIT_S, Delivered, Letter, Limits, Outbox, Receipt, Slip
from gateway.errors import UpstreamUnavailable

OK = Receipt("delivered", 200)
BUSY = Receipt("retry", 503)
NO = Receipt("refused", 410)
LIMITS = Limits()


def slip(body: bytes = b"1", relay: str = "r1", owner: str = "ana", agent: str = "planner") -> Slip:
    return Slip(agent, owner, "t1", "cfg", relay, body, b"application/json")


@dataclass
class Post:
    """Receivers that answer as they are told, and a clock that only counts."""

    answers: dict[bytes, list[Receipt]] = field(default_factory=dict)
    hang: frozenset[str] = frozenset()
    gone: set[str] = field(default_factory=set)
    waits: list[float] = field(default_factory=list)
    tried: list[bytes] = field(default_factory=list)
    fates: list[Delivered] = field(default_factory=list)
    settled: anyio.Event = field(default_factory=anyio.Event)
    until: int = 1
    at_once: int = 0
    most_at_once: int = 0

    async def addressed(self, slip: Slip) -> Letter | None:
        return None if slip.relay in self.gone else Letter(slip.relay, (), slip.body)

    async def deliver(self, letter: Letter) -> Receipt:
        self.tried.append(letter.body)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if letter.url in self.hang:
                await anyio.sleep_forever()
            await anyio.lowlevel.checkpoint()
        finally:
            self.at_once -= 1
        answers = self.answers.get(letter.body, [])
        return answers.pop(0) if answers else OK

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        await anyio.lowlevel.checkpoint()

    def note(self, delivered: Delivered) -> None:
        self.fates.append(delivered)
        if len(self.fates) >= self.until:
            self.settled.set()

    async def all_settled(self, count: int) -> None:
        self.until = count
        if len(self.fates) < count:
            self.settled = anyio.Event()
            with anyio.fail_after(5):
                await self.settled.wait()

    def fate_of(self) -> list[tuple[bytes, str, int]]:
        return [(each.slip.body, each.fate, each.tries) for each in self.fates]


@asynccontextmanager
async def outbox_on(
    post: Post, limits: Limits = LIMITS, wait: Callable[[float], Awaitable[None]] | None = None
) -> AsyncIterator[Outbox]:
    outbox = Outbox(
        post.addressed, post.deliver, note=post.note, random=lambda: 1.0, limits=limits, wait=wait or post.wait
    )
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(outbox.run)
            await anyio.wait_all_tasks_blocked()
            yield outbox
            outbox.close()


async def test_what_fails_is_tried_again_with_growing_waits() -> None:
    post = Post({b"1": [BUSY, BUSY, BUSY]})

    async with outbox_on(post) as outbox:
        outbox.put(slip())
        await post.all_settled(1)

    assert post.fate_of() == [(b"1", "delivered", 4)]
    assert post.waits == [1.0, 2.0, 4.0]


async def test_five_failures_are_enough_and_the_next_notification_gets_one_try() -> None:
    post = Post({b"1": [BUSY] * 9, b"2": [BUSY] * 9, b"4": [BUSY]})

    async with outbox_on(post) as outbox:
        for body in (b"1", b"2", b"3", b"4"):
            outbox.put(slip(body))
        await post.all_settled(4)

    assert post.fate_of() == [
        (b"1", "gave_up", 5),
        (b"2", "gave_up", 1),
        (b"3", "delivered", 1),
        (b"4", "delivered", 2),
    ]


async def test_refusal_is_final_and_the_next_one_still_goes_out() -> None:
    post = Post({b"1": [NO]})

    async with outbox_on(post) as outbox:
        outbox.put(slip(b"1"))
        outbox.put(slip(b"2"))
        await post.all_settled(2)

    assert post.fate_of() == [(b"1", "refused", 1), (b"2", "delivered", 1)]


async def test_retry_after_is_honoured_within_bounds() -> None:
    post = Post({b"1": [replace(BUSY, retry_after_s=30), replace(BUSY, retry_after_s=1e9), replace(BUSY, status=500)]})

    async with outbox_on(post) as outbox:
        outbox.put(slip())
        await post.all_settled(1)

    assert post.waits == [30, MAX_WAIT_S, 4.0]


async def test_notifications_of_a_configuration_keep_their_order_through_retries() -> None:
    bodies = [b"%d" % number for number in range(20)]
    post = Post({body: [BUSY] for body in bodies[::3]})

    async with outbox_on(post) as outbox:
        for body in bodies:
            outbox.put(slip(body))
        await post.all_settled(20)

    assert [each.slip.body for each in post.fates] == bodies
    assert list(dict.fromkeys(post.tried)) == bodies


async def test_receiver_that_hangs_holds_up_nobody_elses() -> None:
    post = Post(hang=frozenset(f"dead{number}" for number in range(200)))
    limits = Limits(at_once=16, at_once_per_owner=4, drain_s=0.01)

    async with outbox_on(post, limits) as outbox:
        for number in range(200):
            outbox.put(slip(b"stuck", f"dead{number}", owner="bo"))
        outbox.put(slip(b"fine", "alive"))
        await post.all_settled(1)
        delivered = list(post.fates)

    assert [each.slip.body for each in delivered] == [b"fine"]
    assert post.most_at_once <= 5
    assert {each.fate for each in post.fates[1:]} == {"lost"}
    assert len(post.fates) == 201


async def test_deleted_configuration_is_withdrawn_between_tries() -> None:
    post = Post({b"1": [BUSY] * 9})

    async def delete_meanwhile(seconds: float) -> None:
        post.gone.add("r1")
        await anyio.lowlevel.checkpoint()

    async with outbox_on(post, wait=delete_meanwhile) as outbox:
        outbox.put(slip())
        await post.all_settled(1)

    assert post.fate_of() == [(b"1", "withdrawn", 2)]
    assert post.tried == [b"1"]


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        (Limits(waiting=3, drain_s=0), 3),
        (Limits(waiting_per_agent=4, drain_s=0), 4),
        (Limits(waiting_per_config=5, drain_s=0), 5),
        (Limits(waiting_bytes=6, drain_s=0), 6),
    ],
)
async def test_what_does_not_fit_is_not_taken(limits: Limits, fits: int) -> None:
    post = Post(hang=frozenset({"r1"}))

    async with outbox_on(post, limits) as outbox:
        taken = [outbox.put(slip()) for _ in range(10)]

    assert taken == [True] * fits + [False] * (10 - fits)
    assert outbox.waiting == 0


async def test_agent_that_filled_its_share_leaves_room_for_others() -> None:
    post = Post(hang=frozenset({"r1"}))

    async with outbox_on(post, Limits(waiting_per_agent=2, drain_s=0)) as outbox:
        taken = [outbox.put(slip()) for _ in range(3)] + [outbox.put(slip(relay="r2", agent="other"))]

    assert taken == [True, True, False, True]


async def test_going_down_gives_what_waits_one_last_try_and_takes_nothing_new() -> None:
    post = Post({b"1": [BUSY] * 9})

    async def forever(seconds: float) -> None:
        await anyio.sleep_forever()

    async with outbox_on(post, wait=forever) as outbox:
        outbox.put(slip())
        await anyio.wait_all_tasks_blocked()

    assert post.fate_of() == [(b"1", "gave_up", 2)]
    assert not outbox.put(slip())


async def test_going_down_does_not_wait_for_a_receiver_that_hangs() -> None:
    post = Post(hang=frozenset({"r1"}))

    async with outbox_on(post, Limits(drain_s=0.01)) as outbox:
        outbox.put(slip(b"1"))
        outbox.put(slip(b"2"))
        await anyio.wait_all_tasks_blocked()

    assert [(body, fate) for body, fate, _ in post.fate_of()] == [(b"1", "lost"), (b"2", "lost")]
    assert outbox.waiting == 0


async def test_nothing_is_taken_before_it_runs() -> None:
    post = Post()
    outbox = Outbox(post.addressed, post.deliver, note=post.note, random=lambda: 0.0)

    assert not outbox.put(slip())


@given(st.lists(st.tuples(st.sampled_from(["r1", "r2", "r3"]), st.lists(st.sampled_from([BUSY, NO]), max_size=6))))
def test_every_notification_has_exactly_one_fate_in_order(plan: list[tuple[str, list[Receipt]]]) -> None:
    async def main() -> None:
        post = Post({b"%d" % number: list(answers) for number, (_, answers) in enumerate(plan)})
        async with outbox_on(post) as outbox:
            for number, (relay, _) in enumerate(plan):
                outbox.put(slip(b"%d" % number, relay))
            await post.all_settled(len(plan))
        for relay in ("r1", "r2", "r3"):
            sent = [each.slip.body for each in post.fates if each.slip.relay == relay]
            assert sent == [b"%d" % number for number, (wanted, _) in enumerate(plan) if wanted == relay]
        assert len(post.fates) == len(plan)
        assert outbox.waiting == 0

    anyio.run(main)


async def test_store_that_cannot_be_read_is_asked_again_and_stops_nobody() -> None:
    post = Post()
    failures = [UpstreamUnavailable("locked"), UpstreamUnavailable("locked")]

    async def addressed(slip: Slip) -> Letter | None:
        if slip.relay == "r1" and failures:
            raise failures.pop()
        return await Post.addressed(post, slip)

    post.addressed = addressed  # type: ignore[method-assign]  # what the outbox asks
    async with outbox_on(post) as outbox:
        outbox.put(slip(b"1"))
        outbox.put(slip(b"2", "r2"))
        await post.all_settled(2)

    assert sorted(post.fate_of()) == [(b"1", "delivered", 3), (b"2", "delivered", 1)]
