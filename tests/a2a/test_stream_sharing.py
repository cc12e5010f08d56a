"""Streams of tasks: in order, in the agent's bytes, shared by those who follow, repaired when they are cut."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest

from adapters.upstreams.a2a.caller import Terms
from adapters.upstreams.a2a.ring import Limits
from gateway.errors import InterlockError, PolicyDenied, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Result
from tests.a2a.agents import (
    CHUNKED,
    LAST,
    QUICK,
    SEND,
    STREAM,
    Seen,
    World,
    artifact,
    bare,
    chunk,
    event,
    fails,
    gives,
    in_turn,
    refuses,
    says,
    status,
    streams,
    task,
    texts,
    world,
)
from tests.fakes import ANA, FakeRelay
from tests.wire.upstreams import Conversation

SUBSCRIBE = "SubscribeToTask"
STREAMING = "SendStreamingMessage"
WORKING, DONE = task("WORKING"), status("COMPLETED")


@dataclass
class Follower(FakeRelay):
    """A client that can be waited for, and that reads only while `reading`."""

    reading: anyio.Event = field(default_factory=anyio.Event)

    def __init__(self, *, reads: bool = True) -> None:
        super().__init__()
        self.reading = anyio.Event()
        self._more = anyio.Event()
        if reads:
            self.reading.set()

    async def emit(self, event: bytes) -> None:
        await self.reading.wait()
        await super().emit(event)
        self._more.set()

    async def has(self, count: int) -> None:
        with anyio.fail_after(5):
            while len(self.events) < count:
                self._more = anyio.Event()
                await self._more.wait()


async def follow(made: World, relay: FakeRelay, ends: list[Result | Exception], method: str = SUBSCRIBE) -> None:
    try:
        ends.append(await made.call(method, SEND if method == STREAMING else {"id": "t1"}, relay))
    except InterlockError as exc:
        ends.append(exc)


def held(gate: anyio.Event) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        await gate.wait()

    return wait


async def test_events_go_on_in_order_and_in_the_bytes_of_the_agent() -> None:
    odd = b'{"artifactUpdate":{"taskId":"t1","x":9007199254740993, "artifact":{"artifactId":"a","parts":[]}}}'
    relay = FakeRelay()
    async with world({STREAMING: streams(WORKING, odd, DONE)}) as made:
        result = await made.call(STREAMING, SEND, relay)

    assert relay.events == [WORKING, odd, DONE]
    assert result.payload == b"{}"


async def test_events_of_rest_go_on_in_the_bytes_of_the_agent() -> None:
    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM + b": alive\n\n" + b"".join(b"data: %b\n\n" % one for one in (WORKING, DONE)))
        await conversation.stream.aclose()

    relay = FakeRelay()
    async with world({"POST /message:stream": answer}, binding="HTTP+JSON") as made:
        await made.call(STREAMING, SEND, relay)

    assert relay.events == [WORKING, DONE]


async def test_subscribing_over_rest_takes_the_verb_that_is_served() -> None:
    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM + b"".join(b"data: %b\n\n" % one for one in (WORKING, DONE)))
        await conversation.stream.aclose()

    relay = FakeRelay()
    answers = {"GET /tasks/t1:subscribe": says(b"", "405 Method Not Allowed"), "POST /tasks/t1:subscribe": answer}
    async with world(answers, binding="HTTP+JSON") as made:
        await made.call(SUBSCRIBE, {"id": "t1"}, relay)

    assert relay.events == [WORKING, DONE]


async def test_events_of_0_3_are_those_of_1_0() -> None:
    first = b'{"kind":"task","id":"t1","contextId":"c1","status":{"state":"working"}}'
    last = b'{"kind":"status-update","taskId":"t1","contextId":"c1","status":{"state":"completed"},"final":true}'
    relay = FakeRelay()
    async with world({"message/stream": streams(first, last)}, version="0.3") as made:
        await made.call(STREAMING, SEND, relay)

    assert [list(json.loads(one)) for one in relay.events] == [["task"], ["statusUpdate"]]
    assert json.loads(relay.events[1])["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_refusal_of_a_stream_is_the_agents_own_error() -> None:
    async with world({STREAMING: refuses(-32050, "not today")}) as made:
        result = await made.call(STREAMING, SEND)

    assert result.outcome == "rpc_error"
    assert json.loads(result.payload) == {"code": -32050, "message": "not today"}


async def test_answer_with_a_message_ends_the_stream_well() -> None:
    message = b'{"message":{"messageId":"m2","role":"ROLE_AGENT","parts":[{"text":"hi"}]}}'
    relay = FakeRelay()
    async with world({STREAMING: streams(message)}) as made:
        result = await made.call(STREAMING, SEND, relay)

    assert (relay.events, result.payload) == ([message], b"{}")


async def test_ten_thousand_events_arrive_in_order() -> None:
    pieces = [artifact(str(number)) for number in range(10_000)]
    relay = FakeRelay()
    async with world({STREAMING: streams(WORKING, *pieces, DONE)}) as made:
        await made.call(STREAMING, SEND, relay)

    assert texts(relay.events) == [str(number) for number in range(10_000)]


async def test_task_belongs_to_the_caller_before_the_caller_hears_of_it() -> None:
    owners: list[bool] = []

    class Asking(FakeRelay):
        async def emit(self, event: bytes) -> None:
            owners.append(await made.tasks.find("planner", "t1", ANA) is not None)

    async with world({STREAMING: streams(WORKING, DONE)}) as made:
        await made.call(STREAMING, SEND, Asking())

    assert owners == [True, True]


# Cut


async def test_cut_stream_is_taken_up_without_what_was_seen_already() -> None:
    seen: dict[str, Any] = {"artifacts": [{"artifactId": "a1", "parts": [{"text": "one"}]}]}
    relay = FakeRelay()
    answers = {
        STREAMING: streams(WORKING, artifact("one", append=False), cut=True),
        SUBSCRIBE: streams(task("WORKING", **seen), artifact("two"), DONE),
    }
    async with world(answers) as made:
        result = await made.call(STREAMING, SEND, relay)

    assert result.payload == b"{}"
    assert relay.events == [WORKING, artifact("one", append=False), artifact("two"), DONE]
    assert made.script.count(STREAMING) == 1


async def test_what_a_cut_made_us_miss_is_made_up_for() -> None:
    missed: dict[str, Any] = {"artifacts": [{"artifactId": "a1", "parts": [{"text": "one"}, {"text": "two"}]}]}
    relay = FakeRelay()
    answers = {
        STREAMING: streams(WORKING, artifact("one", append=False), cut=True),
        SUBSCRIBE: streams(task("WORKING", **missed), DONE),
    }
    async with world(answers) as made:
        await made.call(STREAMING, SEND, relay)

    update = json.loads(relay.events[2])["artifactUpdate"]
    assert update["artifact"]["parts"] == [{"text": "one"}, {"text": "two"}]
    assert update["append"] is False
    assert relay.events[3:] == [DONE]


async def test_task_that_ended_during_a_cut_is_seen_to_have_ended() -> None:
    relay = FakeRelay()
    answers = {
        STREAMING: streams(WORKING, cut=True),
        SUBSCRIBE: refuses(-32004, "the task is over"),
        "GetTask": gives(bare(task("FAILED"))),
    }
    async with world(answers) as made:
        result = await made.call(STREAMING, SEND, relay)

    assert result.payload == b"{}"
    assert [json.loads(one)["statusUpdate"]["status"]["state"] for one in relay.events[1:]] == ["TASK_STATE_FAILED"]


async def test_cut_that_cannot_be_repaired_is_an_error_that_says_where_to_look() -> None:
    relay = FakeRelay()
    async with world({STREAMING: streams(WORKING, cut=True), SUBSCRIBE: fails()}) as made:
        with pytest.raises(UpstreamUnavailable, match="GetTask tells how it ended"):
            await made.call(STREAMING, SEND, relay)

    assert relay.events == [WORKING]
    assert made.script.count(SUBSCRIBE) == 3


async def test_stream_that_is_cut_before_its_task_is_known_is_not_sent_again() -> None:
    async with world({STREAMING: streams(cut=True)}) as made:
        with pytest.raises(UpstreamUnavailable):
            await made.call(STREAMING, SEND)

    assert made.script.count(STREAMING) == 1


async def test_stream_may_end_where_the_task_waits_for_input() -> None:
    relay = FakeRelay()
    async with world({STREAMING: streams(WORKING, status("INPUT_REQUIRED"))}) as made:
        result = await made.call(STREAMING, SEND, relay)

    assert result.payload == b"{}"
    assert len(relay.events) == 2


# Hostile agents


@pytest.mark.parametrize(
    "garbage",
    [
        b"data: <html>\n\n",
        b"data: []\n\n",
        b'data: {"jsonrpc":"2.0","id":77,"result":{}}\n\n',
        b'data: {"jsonrpc":"2.0","id":1,"result":{"task":{}}}\n\n',
        b'data: {"jsonrpc":"2.0","id":1,"result":{"statusUpdate":{"taskId":"t2","status":{}}}}\n\n',
    ],
)
async def test_garbage_ends_the_stream_with_an_error(garbage: bytes) -> None:
    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(CHUNKED + chunk(event(seen, WORKING)) + chunk(garbage) + LAST)

    relay = FakeRelay()
    async with world({STREAMING: answer}) as made:
        with pytest.raises(UpstreamProtocolError):
            await made.call(STREAMING, SEND, relay)

    assert relay.events == [WORKING]


async def test_error_in_the_middle_ends_the_stream_with_the_agents_error() -> None:
    async def answer(conversation: Conversation, seen: Seen) -> None:
        error = b'data: {"jsonrpc":"2.0","id":%d,"error":{"code":-32603,"message":"no"}}\n\n' % seen.body["id"]
        await conversation.send(CHUNKED + chunk(event(seen, WORKING)) + chunk(error) + LAST)

    async with world({STREAMING: answer}) as made:
        result = await made.call(STREAMING, SEND)

    assert (result.outcome, result.payload) == ("rpc_error", b'{"code":-32603,"message":"no"}')


async def test_agent_that_never_begins_its_stream_is_given_up() -> None:
    async def drips(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/ev")
        await anyio.sleep_forever()

    async with world({STREAMING: drips}, terms=Terms(timeout_s=0.2)) as made:
        with pytest.raises(UpstreamTimeout):
            await made.call(STREAMING, SEND)


async def test_silence_beyond_the_expected_keep_alives_is_a_cut() -> None:
    never = anyio.Event()
    answers = {STREAMING: streams(WORKING, then=held(never)), SUBSCRIBE: streams(WORKING, DONE)}
    relay = FakeRelay()
    async with world(answers, terms=Terms(timeout_s=5, stream_idle_s=0.2)) as made:
        await made.call(STREAMING, SEND, relay)

    assert relay.events == [WORKING, DONE]


async def test_stream_that_stays_open_after_the_last_word_is_ended() -> None:
    never = anyio.Event()
    relay = FakeRelay()
    async with world({STREAMING: streams(WORKING, DONE, then=held(never))}) as made:
        result = await made.call(STREAMING, SEND, relay)

    assert result.payload == b"{}"


# Sharing


async def test_second_subscriber_joins_the_stream_and_gets_the_task_first() -> None:
    more = anyio.Event()
    pieces = (artifact("one", append=False), artifact("two"))

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(CHUNKED + b"".join(chunk(event(seen, one)) for one in (WORKING, *pieces)))
        await more.wait()
        await conversation.send(chunk(event(seen, artifact("three"))) + chunk(event(seen, DONE)) + LAST)

    first, second, ends = Follower(), Follower(), list[Result | Exception]()
    async with world({SUBSCRIBE: answer}) as made, anyio.create_task_group() as group:
        group.start_soon(follow, made, first, ends)
        await first.has(3)
        group.start_soon(follow, made, second, ends)
        await second.has(1)
        more.set()

    assert ends == [Result(b"{}"), Result(b"{}")]
    assert made.script.count(SUBSCRIBE) == 1
    joined = json.loads(second.events[0])["task"]
    assert joined["artifacts"][0]["parts"] == [{"text": "one"}, {"text": "two"}]
    assert second.events[1:] == first.events[3:] == [artifact("three"), DONE]


async def test_subscriber_joins_the_stream_of_the_message_too() -> None:
    more = anyio.Event()

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(CHUNKED + chunk(event(seen, WORKING)))
        await more.wait()
        await conversation.send(chunk(event(seen, DONE)) + LAST)

    sender, subscriber, ends = Follower(), Follower(), list[Result | Exception]()
    async with world({STREAMING: answer}) as made, anyio.create_task_group() as group:
        group.start_soon(follow, made, sender, ends, STREAMING)
        await sender.has(1)
        group.start_soon(follow, made, subscriber, ends)
        await subscriber.has(1)
        more.set()

    assert ends == [Result(b"{}"), Result(b"{}")]
    assert subscriber.events == [WORKING, DONE]


async def test_client_that_leaves_ends_neither_the_stream_nor_the_task() -> None:
    more = anyio.Event()

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(CHUNKED + chunk(event(seen, WORKING)))
        await more.wait()
        await conversation.send(chunk(event(seen, DONE)) + LAST)

    leaving, staying, ends = Follower(), Follower(), list[Result | Exception]()
    async with world({SUBSCRIBE: answer}) as made, anyio.create_task_group() as group:
        async with anyio.create_task_group() as left:
            left.start_soon(follow, made, leaving, list[Result | Exception]())
            await leaving.has(1)
            group.start_soon(follow, made, staying, ends)
            await staying.has(1)
            left.cancel_scope.cancel()
        more.set()

    assert ends == [Result(b"{}")]
    assert staying.events[1:] == [DONE]
    assert made.script.connections == 1


async def test_client_that_comes_back_soon_finds_the_same_stream() -> None:
    more = anyio.Event()

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(CHUNKED + chunk(event(seen, WORKING)))
        await more.wait()
        await conversation.send(chunk(event(seen, DONE)) + LAST)

    first, again, ends = Follower(), Follower(), list[Result | Exception]()
    async with world({STREAMING: answer}, pace=replace(QUICK, grace_s=30)) as made, anyio.create_task_group() as group:
        async with anyio.create_task_group() as left:
            left.start_soon(follow, made, first, list[Result | Exception](), STREAMING)
            await first.has(1)
            left.cancel_scope.cancel()
        group.start_soon(follow, made, again, ends)
        await again.has(1)
        more.set()

    assert again.events == [WORKING, DONE]
    assert made.script.count(SUBSCRIBE) == 0


async def test_stream_that_nobody_follows_is_closed_after_a_grace() -> None:
    closed = anyio.Event()

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(CHUNKED + chunk(event(seen, WORKING)))
        try:
            await conversation.until_closed()
        finally:
            closed.set()

    relay = Follower()
    async with world({STREAMING: answer}) as made:
        async with anyio.create_task_group() as left:
            left.start_soon(follow, made, relay, list[Result | Exception](), STREAMING)
            await relay.has(1)
            left.cancel_scope.cancel()
        with anyio.fail_after(5):
            await closed.wait()

    assert made.agent.report()["streams"] == 0


async def test_slow_subscriber_is_cut_and_holds_up_nobody() -> None:
    pace = replace(QUICK, ring=Limits(events=8, size=1_000_000, patience_s=0.1))
    pieces = [artifact(str(number)) for number in range(200)]
    more = anyio.Event()

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(CHUNKED + chunk(event(seen, WORKING)))
        await more.wait()
        await conversation.send(b"".join(chunk(event(seen, one)) for one in (*pieces, DONE)) + LAST)

    fast, slow = Follower(), Follower(reads=False)
    quick, cut = list[Result | Exception](), list[Result | Exception]()
    async with world({SUBSCRIBE: answer}, pace=pace) as made, anyio.create_task_group() as group:
        group.start_soon(follow, made, fast, quick)
        await fast.has(1)
        group.start_soon(follow, made, slow, cut)
        await anyio.wait_all_tasks_blocked()
        more.set()
        await fast.has(202)
        slow.reading.set()

    assert quick == [Result(b"{}")]
    assert texts(fast.events) == [str(number) for number in range(200)]
    assert isinstance(cut[0], UpstreamUnavailable)
    assert "too slowly" in str(cut[0])


async def test_one_slow_client_makes_the_agent_wait_and_loses_nothing() -> None:
    pace = replace(QUICK, ring=Limits(events=4, size=1_000_000, patience_s=0.01))
    pieces = [artifact(str(number)) for number in range(100)]
    alone, ends = Follower(reads=False), list[Result | Exception]()
    async with (
        world({STREAMING: streams(WORKING, *pieces, DONE)}, pace=pace) as made,
        anyio.create_task_group() as group,
    ):
        group.start_soon(follow, made, alone, ends, STREAMING)
        await anyio.wait_all_tasks_blocked()
        alone.reading.set()

    assert ends == [Result(b"{}")]
    assert texts(alone.events) == [str(number) for number in range(100)]


async def test_event_that_policy_withholds_ends_only_that_subscribers_stream() -> None:
    more = anyio.Event()

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(CHUNKED + chunk(event(seen, WORKING)))
        await more.wait()
        await conversation.send(chunk(event(seen, DONE)) + LAST)

    fine, withheld = Follower(), Follower()
    ends, refused = list[Result | Exception](), list[Result | Exception]()
    async with world({SUBSCRIBE: answer}) as made, anyio.create_task_group() as group:
        group.start_soon(follow, made, fine, ends)
        await fine.has(1)
        group.start_soon(follow, made, withheld, refused)
        await withheld.has(1)
        withheld.refuse_events = PolicyDenied("not for you")
        more.set()

    assert isinstance(refused[0], PolicyDenied)
    assert ends == [Result(b"{}")]


async def test_two_subscribers_of_a_refused_stream_are_both_told() -> None:
    ends = list[Result | Exception]()
    async with world({SUBSCRIBE: in_turn(refuses(-32001, "gone"))}) as made, anyio.create_task_group() as group:
        group.start_soon(follow, made, FakeRelay(), ends)
        group.start_soon(follow, made, FakeRelay(), ends)

    assert [end.outcome for end in ends if isinstance(end, Result)] == ["rpc_error", "rpc_error"]
    assert made.script.count(SUBSCRIBE) == 1
