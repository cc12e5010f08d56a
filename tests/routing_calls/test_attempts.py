"""Which model is asked next, when, and what the caller is told where none answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest

from gateway import codec
from gateway.errors import (
    ApprovalPending,
    InterlockError,
    InvalidCall,
    PolicyDenied,
    QuotaExceeded,
    UnknownResource,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.models import ProviderRefused
from gateway.ports import Relay
from gateway.routing.attempts import NoModel
from gateway.types import Authorized, Call, Identity, Obligation, Permit, Reason, Result, Ruling
from tests.fakes import permit_for
from tests.routing_calls.world import World, answer_of, said

pytestmark = pytest.mark.anyio


class OverBudget(QuotaExceeded):
    """A limit of policy's own: it knows its ruling."""

    def __init__(self) -> None:
        super().__init__("used up", retry_after_s=600)
        self.ruling = Ruling("d9")


ELSEWHERE = {
    "asked to wait": QuotaExceeded("wait", retry_after_s=60),
    "down": UpstreamUnavailable("down"),
    "late": UpstreamTimeout("late"),
    "nonsense": UpstreamProtocolError("nonsense"),
    "unknown model": UnknownResource("no such model"),
    "too long": ProviderRefused("too long", provider_code="context_length_exceeded"),
    "no words for it": InvalidCall("logprobs has no like in this API"),
    "over budget": OverBudget(),
    "denied in flight": PolicyDenied("stopped", reasons=(Reason("killed"),)),
}


@pytest.mark.parametrize("error", ELSEWHERE.values(), ids=ELSEWHERE.keys())
async def test_another_model_answers_where_the_chosen_one_fails(error: InterlockError) -> None:
    world = World()
    world.large.steps = [error]

    assert said(await world.ask()) == "small says"
    assert world.asked == (1, 1, 0)
    assert [each["outcome"] for each in world.note["tries"]] == [error.code, "ok"]


AT_ONCE = {
    "held": ApprovalPending("wait for people"),
    "refused": ProviderRefused("a bad request", provider_code="invalid_prompt"),
    "a fault": InterlockError("ours"),
}


@pytest.mark.parametrize("error", AT_ONCE.values(), ids=AT_ONCE.keys())
async def test_some_errors_are_told_at_once(error: InterlockError) -> None:
    world = World()
    world.large.steps = [error]

    with pytest.raises(type(error)):
        await world.ask()
    assert world.asked == (0, 1, 0)
    assert [each["outcome"] for each in world.note["tries"]] == [error.code]


def refusing(model: str) -> Callable[[Call, Identity], Permit]:
    def decide(call: Call, identity: Identity) -> Permit:
        if call.resource.id == model:
            raise PolicyDenied("not for you", decision_id="d7")
        return permit_for(call, identity)

    return decide


async def test_denied_models_are_passed_over_without_asking_their_provider() -> None:
    world = World()
    world.decider.decide_with = refusing("large/one")

    result = await world.ask()

    assert said(result) == "small says"
    assert world.asked == (1, 0, 0)
    assert b"large" not in dict(result.headers)[b"x-interlock-route"]
    outcomes = [(record.call.resource.id, record.outcome) for record in world.trail.records]
    assert outcomes == [("large/one", "denied"), ("small/one", "ok"), ("auto", "ok")]


async def test_where_policy_denies_every_model_its_refusal_is_told() -> None:
    world = World(fallbacks=())
    world.decider.decide_with = lambda call, identity: (
        permit_for(call, identity) if call.resource.id == "auto" else _denied()
    )

    with pytest.raises(PolicyDenied, match="not for you"):
        await world.ask()


def _denied() -> Permit:
    raise PolicyDenied("not for you")


async def test_the_same_model_is_asked_again_after_a_growing_wait() -> None:
    world = World(retries=2)
    world.large.steps = [UpstreamUnavailable("down"), QuotaExceeded("wait", retry_after_s=2)]

    assert said(await world.ask()) == "large says"
    assert world.clock.slept == [0.25, 2.0]
    assert [each["outcome"] for each in world.note["tries"]] == ["upstream_unavailable", "quota_exceeded", "ok"]


@pytest.mark.parametrize(("wait_s", "asked"), [(3, 1), (2, 3)])
async def test_a_model_that_asks_for_too_long_a_wait_or_too_often_is_left_for_another(wait_s: int, asked: int) -> None:
    world = World(retries=2)
    world.large.steps = [QuotaExceeded("wait", retry_after_s=wait_s) for _ in range(3)]

    assert said(await world.ask()) == "small says"
    assert len(world.large.seen) == asked
    assert list(world.attempts.cooldowns.cooling()) == ["model:large/one"]


async def test_the_same_model_may_answer_at_the_second_attempt() -> None:
    world = World(retries=1)
    world.large.steps = [UpstreamUnavailable("down")]

    assert said(await world.ask()) == "large says"
    assert world.asked == (0, 2, 0)


async def test_a_provider_that_failed_thrice_cools_down_and_one_call_looks_whether_it_is_back() -> None:
    world = World(cooldown_s=30)
    world.large.steps = [UpstreamUnavailable("down")] * 4

    for _ in range(5):
        await world.ask()
    asked_while_down = len(world.large.seen)
    world.clock.now += 31
    await world.ask()  # half open: it fails once more
    world.clock.now += 31
    await world.ask()  # twice as long now
    asked_again = len(world.large.seen)
    world.clock.now += 30
    last = await world.ask()

    assert (asked_while_down, asked_again) == (3, 4)
    assert said(last) == "large says"
    assert not world.attempts.cooldowns.cooling()


async def test_while_one_call_looks_others_go_elsewhere() -> None:
    world = World(cooldown_s=30)
    world.large.steps = [QuotaExceeded("wait", retry_after_s=40)]
    await world.ask()
    world.clock.now += 41
    looking, done = anyio.Event(), anyio.Event()

    async def slowly(authorized: Authorized, relay: Relay) -> Result:
        looking.set()
        await done.wait()
        return Result(codec.dumps(answer_of("large is back")))

    world.large.steps = [slowly]
    answers: list[str] = []

    async def ask() -> None:
        answers.append(said(await world.ask()))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await looking.wait()
            await ask()
            done.set()

    assert answers == ["small says", "large is back"]


async def test_a_provider_that_says_for_how_long_is_left_alone_for_so_long() -> None:
    world = World(cooldown_s=5)
    world.large.steps = [QuotaExceeded("wait", retry_after_s=100)]

    await world.ask()
    world.clock.now += 99
    await world.ask()
    world.clock.now += 2
    await world.ask()

    assert len(world.large.seen) == 2


async def test_an_attempt_has_its_time_and_a_stream_that_began_has_no_other() -> None:
    world = World(attempt_s=0.05)

    async def never(authorized: Authorized, relay: Relay) -> Result:
        await anyio.sleep_forever()
        raise AssertionError

    async def slowly(authorized: Authorized, relay: Relay) -> Result:
        await relay.emit(b'{"choices":[]}')
        with anyio.move_on_after(0.2):
            await anyio.sleep_forever()
        return Result(b"{}")

    world.large.steps = [never]
    with anyio.fail_after(10):
        assert said(await world.ask()) == "small says"
        world.large.steps = [slowly]
        result = await world.ask(stream=True)

    assert result.outcome == "ok"
    assert world.exchange.events == [b'{"choices":[]}']


async def test_after_the_first_event_there_is_no_second_attempt() -> None:
    world = World(retries=3)

    async def cut(authorized: Authorized, relay: Relay) -> Result:
        await relay.emit(b'{"choices":[]}')
        raise UpstreamUnavailable("cut")

    world.large.steps = [cut]

    with pytest.raises(UpstreamUnavailable, match="cut"):
        await world.ask(stream=True)
    assert world.asked == (0, 1, 0)


async def test_where_nobody_answers_the_caller_learns_what_was_tried_and_when_to_come_again() -> None:
    world = World(fallbacks=())
    world.large.steps, world.small.steps = [UpstreamUnavailable("x")], [UpstreamTimeout("y")]

    with pytest.raises(NoModel) as told:
        await world.ask()

    assert "large/one: upstream_unavailable; small/one: upstream_timeout" in str(told.value)
    assert told.value.retry_after_s >= 1


async def test_where_every_model_asks_to_wait_the_shortest_wait_is_told() -> None:
    world = World(fallbacks=())
    world.large.steps, world.small.steps = [QuotaExceeded("x", retry_after_s=9)], [QuotaExceeded("x", retry_after_s=4)]

    with pytest.raises(QuotaExceeded) as told:
        await world.ask()

    assert told.value.retry_after_s == 4


UNFIT = {
    "too long": ProviderRefused("too long", provider_code="context_length_exceeded"),
    "no words for it": InvalidCall("logprobs has no like in this API"),
}


@pytest.mark.parametrize("error", UNFIT.values(), ids=UNFIT.keys())
async def test_a_request_that_no_model_takes_is_told_as_such_and_not_as_one_to_repeat(error: InterlockError) -> None:
    world = World(fallbacks=())
    world.large.steps, world.small.steps = [error], [error]

    with pytest.raises(type(error)) as told:
        await world.ask()

    assert told.value.http_status == 400


async def test_where_one_model_is_denied_and_the_other_cools_down_the_caller_is_told_to_come_again() -> None:
    world = World(fallbacks=())
    world.small.steps = [QuotaExceeded("wait", retry_after_s=50)]
    await world.ask("auto:cheap")
    world.decider.decide_with = refusing("large/one")

    with pytest.raises(NoModel, match="others failed a moment ago") as told:
        await world.ask()

    assert told.value.retry_after_s == 50
    assert "large" not in str(told.value)


async def test_many_calls_that_fail_at_once_cool_a_model_down_once() -> None:
    world, together = World(cooldown_s=30), 12
    waiting, go = anyio.Event(), anyio.Event()

    async def fails(authorized: Authorized, relay: Relay) -> Result:
        if len(world.large.seen) == together:
            waiting.set()
        await go.wait()
        raise QuotaExceeded("wait", retry_after_s=1)

    world.large.steps = [fails] * together
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(together):
                tasks.start_soon(world.ask)
            await waiting.wait()
            go.set()

    assert world.attempts.cooldowns.cooling() == {"model:large/one": 30.0}


async def test_calls_that_were_under_way_when_a_model_cooled_down_prolong_nothing_when_they_fail_later() -> None:
    world = World(cooldown_s=30)
    waiting, go = anyio.Event(), anyio.Event()

    async def fails_late(authorized: Authorized, relay: Relay) -> Result:
        waiting.set()
        await go.wait()
        raise UpstreamUnavailable("down")

    world.large.steps = [fails_late, *[UpstreamUnavailable("down")] * 3]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.ask)
            await waiting.wait()
            for _ in range(3):
                world.clock.now += 1
                await world.ask()
            assert world.attempts.cooldowns.cooling() == {"provider:large": 30.0}
            world.clock.now += 31
            go.set()

    assert not world.attempts.cooldowns.cooling()
    assert said(await world.ask()) == "large says"


async def test_a_call_that_was_under_way_says_nothing_of_the_one_that_looks_whether_a_model_is_back() -> None:
    world = World(cooldown_s=30)
    old, looking, go, done = anyio.Event(), anyio.Event(), anyio.Event(), anyio.Event()

    async def denied_late(authorized: Authorized, relay: Relay) -> Result:
        old.set()
        await go.wait()
        raise PolicyDenied("stopped", reasons=(Reason("killed"),))

    async def looks(authorized: Authorized, relay: Relay) -> Result:
        looking.set()
        await done.wait()
        return Result(codec.dumps(answer_of("large is back")))

    world.large.steps = [denied_late, QuotaExceeded("wait", retry_after_s=40), looks]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.ask)
            await old.wait()
            world.clock.now += 1
            await world.ask()
            world.clock.now += 41
            tasks.start_soon(world.ask)
            await looking.wait()
            go.set()
            await anyio.wait_all_tasks_blocked()
            elsewhere = said(await world.ask())
            done.set()

    assert elsewhere == "small says"
    assert len(world.large.seen) == 3


async def test_what_a_route_is_permitted_holds_for_every_model_of_it() -> None:
    world = World()
    narrowed = (Obligation("model", {"max_tokens": 7}), Obligation("redact", {"patterns": ["secret"]}))
    world.decider.decide_with = lambda call, identity: (
        replace(permit_for(call, identity), obligations=narrowed)
        if call.resource.id == "auto"
        else permit_for(call, identity)
    )

    await world.ask(max_tokens=900, stream=True)

    params = world.large.seen[0].call.params
    assert (params["max_tokens"], "stream" in params, params["model"]) == (7, False, "large/one")


async def test_what_cools_down_is_not_named_to_a_caller_whom_policy_may_not_let_see_it() -> None:
    world = World(fallbacks=())
    world.large.steps = [QuotaExceeded("wait", retry_after_s=50)]
    await world.ask()
    world.small.steps = [UpstreamUnavailable("down")]

    with pytest.raises(NoModel) as told:
        await world.ask()

    assert str(told.value).endswith("(small/one: upstream_unavailable; others failed a moment ago)")
