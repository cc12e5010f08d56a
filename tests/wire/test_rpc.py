"""JSON-RPC with one peer: who asked what, and who gets which answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.upstreams.wire.rpc import RpcPeer, RpcReply
from gateway.codec import JsonObject
from gateway.errors import InvalidCall, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from sandboxes.host.process import ChildProcess
from tests.wire.processes import messages_of, python


@dataclass
class Wire:
    """A duplex with the test at its other end."""

    to_peer: MemoryObjectSendStream[JsonObject]
    from_gateway: MemoryObjectReceiveStream[JsonObject]
    gateway_out: MemoryObjectSendStream[JsonObject]
    gateway_in: MemoryObjectReceiveStream[JsonObject]
    deaf: bool = False

    async def send(self, message: Mapping[str, object], *, deadline_s: float = 10.0) -> None:
        if self.deaf:
            raise UpstreamTimeout("upstream 'x' did not read")
        await self.gateway_out.send(dict(message))  # type: ignore[arg-type]  # what the peer sends is JSON

    async def receive(self) -> JsonObject:
        try:
            return await self.gateway_in.receive()
        except anyio.EndOfStream:
            raise UpstreamUnavailable("upstream 'x' exited with status 3") from None

    async def answer(self, **members: object) -> None:
        await self.to_peer.send({"jsonrpc": "2.0", **members})  # type: ignore[dict-item]  # literals of the tests

    async def heard(self) -> JsonObject:
        return await self.from_gateway.receive()


@dataclass
class Connected:
    wire: Wire
    peer: RpcPeer
    tasks: anyio.abc.TaskGroup
    notifications: list[JsonObject] = field(default_factory=list)
    replies: list[RpcReply | Exception] = field(default_factory=list)

    async def ask(self, method: str = "tools/call", **options: object) -> None:
        """Make a request and keep what comes of it."""
        try:
            self.replies.append(await self.peer.request(method, {"a": 1}, **{"deadline_s": 5, **options}))  # type: ignore[arg-type]
        except (UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable) as exc:
            self.replies.append(exc)

    def start(self, method: str = "tools/call", **options: object) -> None:
        async def run() -> None:
            await self.ask(method, **options)

        self.tasks.start_soon(run)


@asynccontextmanager
async def connected(**options: object) -> AsyncIterator[Connected]:
    to_peer, gateway_in = anyio.create_memory_object_stream[JsonObject](1000)
    gateway_out, from_gateway = anyio.create_memory_object_stream[JsonObject](1000)
    wire = Wire(to_peer, from_gateway, gateway_out, gateway_in)
    notifications: list[JsonObject] = []
    peer = RpcPeer(wire, label="x", on_message=notifications.append, **options)  # type: ignore[arg-type]
    with to_peer, gateway_in, gateway_out, from_gateway, anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.run)
            yield Connected(wire, peer, tasks, notifications)
            tasks.cancel_scope.cancel()


async def settled() -> None:
    await anyio.wait_all_tasks_blocked()


async def answer_yes(message: JsonObject) -> JsonObject:
    return {"result": {"asked": message["method"]}}


async def test_answers_find_their_requests_in_any_order() -> None:
    async with connected() as it:
        it.start("first")
        it.start("second")
        ids = {(message := await it.wire.heard())["method"]: message["id"] for _ in range(2)}
        await it.wire.answer(id=ids["second"], result={"n": 2})
        await it.wire.answer(id=ids["first"], error={"code": -1, "message": "no"})
        await settled()

    assert it.replies == [RpcReply(result={"n": 2}), RpcReply(error={"code": -1, "message": "no"})]
    assert len(set(ids.values())) == 2


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"result": 1, "error": {"code": 1, "message": ""}},
        {"error": "no"},
        {"error": {"code": "1", "message": ""}},
        {"error": {"code": True, "message": ""}},
        {"error": {"code": 1}},
        {"error": None},
    ],
)
async def test_answer_that_is_neither_result_nor_error_fails_its_request_only(members: dict[str, object]) -> None:
    async with connected() as it:
        it.start("bad")
        bad = await it.wire.heard()
        it.start("good")
        good = await it.wire.heard()
        await it.wire.answer(id=bad["id"], **members)
        await it.wire.answer(id=good["id"], result=None)
        await settled()

    assert isinstance(it.replies[0], UpstreamProtocolError)
    assert it.replies[1] == RpcReply(result=None)


async def test_unknown_repeated_late_and_malformed_answers_are_counted_and_harm_nobody() -> None:
    async with connected() as it:
        it.start(deadline_s=0.02)
        late = await it.wire.heard()
        await it.wire.heard()  # its cancellation
        it.start()
        sent = await it.wire.heard()
        await it.wire.answer(id=late["id"], result=1)
        for strange in (999, "1", str(sent["id"]), None, True, 1.5):
            await it.wire.answer(id=strange, result="strange")
        await it.wire.answer(id=sent["id"], result="right")
        await it.wire.answer(id=sent["id"], result="again")
        await it.wire.to_peer.send({})
        await settled()

    assert it.replies[1:] == [RpcReply(result="right")]
    assert (it.peer.counts.late, it.peer.counts.unknown, it.peer.counts.malformed) == (1, 2, 6)


async def test_cancelled_request_is_cancelled_at_the_peer() -> None:
    async with connected() as it:
        with anyio.move_on_after(0.02):
            await it.ask()
        asked, told = await it.wire.heard(), await it.wire.heard()

    assert (told["method"], told["params"]) == ("notifications/cancelled", {"requestId": asked["id"]})
    assert "id" not in told


async def test_request_beyond_its_deadline_times_out_and_is_cancelled_at_the_peer() -> None:
    async with connected() as it:
        await it.ask(deadline_s=0.02)
        await it.wire.heard()
        told = await it.wire.heard()

    assert isinstance(it.replies[0], UpstreamTimeout)
    assert told["method"] == "notifications/cancelled"


async def test_initialize_is_never_cancelled_at_the_peer() -> None:
    async with connected() as it:
        await it.ask("initialize", deadline_s=0.02)
        await it.wire.heard()
        await it.peer.notify("next", None)
        following = await it.wire.heard()

    assert following["method"] == "next"


async def test_request_that_could_not_be_sent_is_not_cancelled_and_leaves_no_trace() -> None:
    async with connected() as it:
        it.wire.deaf = True
        await it.ask()

        assert isinstance(it.replies[0], UpstreamTimeout)
        assert it.peer.in_flight == 0
        assert it.wire.from_gateway.statistics().current_buffer_used == 0


async def test_end_of_the_transport_fails_everything_that_waits_with_its_reason() -> None:
    async with connected() as it:
        for _ in range(3):
            it.start()
        await settled()
        it.wire.to_peer.close()
        await settled()
        await it.ask()

        assert [str(reply) for reply in it.replies] == ["upstream 'x' exited with status 3"] * 4
        assert it.peer.closed == "upstream 'x' exited with status 3"
        with pytest.raises(UpstreamUnavailable):
            await it.peer.notify("x", None)


async def test_end_of_the_reader_fails_everything_that_waits() -> None:
    async with connected() as it, anyio.create_task_group() as outer:
        second = RpcPeer(it.wire, label="y", on_message=it.notifications.append)
        scope = anyio.CancelScope()

        async def read() -> None:
            with scope:
                await second.run()

        outer.start_soon(read)
        await settled()
        scope.cancel()
        await settled()
        with pytest.raises(UpstreamUnavailable, match="upstream 'y' is being disconnected"):
            await second.request("x", None, deadline_s=5)


async def test_progress_goes_to_the_request_it_belongs_to_before_its_answer() -> None:
    seen: list[object] = []

    async def on_notification(message: JsonObject) -> None:
        seen.append(message["params"])

    async with connected() as it:
        it.start(on_notification=on_notification)
        sent = await it.wire.heard()
        params = sent["params"]
        assert isinstance(params, dict)
        assert params["_meta"] == {"progressToken": sent["id"]}
        for number in range(3):
            token = {"progressToken": sent["id"], "progress": number}
            await it.wire.answer(method="notifications/progress", params=token)
        for other in (999, True, "1"):
            await it.wire.answer(method="notifications/progress", params={"progressToken": other, "progress": 9})
        await it.wire.answer(id=sent["id"], result="done")
        await settled()

    assert seen == [{"progressToken": sent["id"], "progress": number} for number in range(3)]
    assert it.replies == [RpcReply(result="done")]


async def test_slow_taker_of_progress_delays_nobody_else_and_holds_a_bounded_amount() -> None:
    taken: list[JsonObject] = []

    async def slow(message: JsonObject) -> None:
        taken.append(message)
        await release.wait()

    release = anyio.Event()
    async with connected() as it:
        it.start("slow", on_notification=slow)
        sent = await it.wire.heard()
        for number in range(600):
            token = {"progressToken": sent["id"], "progress": number}
            await it.wire.answer(method="notifications/progress", params=token)
        await settled()
        it.start("quick")
        await it.wire.answer(id=(await it.wire.heard())["id"], result="quick")
        await settled()
        quick = list(it.replies)
        await it.wire.answer(id=sent["id"], result="slow")
        release.set()
        await settled()

    assert quick == [RpcReply(result="quick")]
    assert it.replies[1] == RpcReply(result="slow")
    assert len(taken) <= 258


async def test_slow_taker_of_progress_is_still_bound_by_the_deadline() -> None:
    async def forever(message: JsonObject) -> None:
        await anyio.sleep_forever()

    async with connected() as it:
        it.start(on_notification=forever, deadline_s=0.05)
        sent = await it.wire.heard()
        await it.wire.answer(method="notifications/progress", params={"progressToken": sent["id"], "progress": 1})
        assert (await it.wire.heard())["method"] == "notifications/cancelled"
        await settled()

    assert isinstance(it.replies[0], UpstreamTimeout)


async def test_other_notifications_go_to_the_connections_own_listener_in_order() -> None:
    async with connected() as it:
        await it.wire.answer(method="notifications/tools/list_changed")
        await it.wire.answer(method="notifications/message", params={"data": 1})
        await settled()

    assert [message["method"] for message in it.notifications] == [
        "notifications/tools/list_changed",
        "notifications/message",
    ]


async def test_question_of_the_peer_reaches_the_only_request_that_can_have_caused_it() -> None:
    async with connected() as it:
        it.start("ping", may_ask=False)
        await it.wire.heard()
        it.start(on_request=answer_yes)
        sent = await it.wire.heard()
        await it.wire.answer(id="q1", method="elicitation/create", params={})
        answer = await it.wire.heard()
        await it.wire.answer(id=sent["id"], result=1)
        await settled()

    assert answer == {"jsonrpc": "2.0", "id": "q1", "result": {"asked": "elicitation/create"}}


async def test_question_that_could_belong_to_two_requests_reaches_neither() -> None:
    async with connected() as it:
        it.start(on_request=answer_yes)
        it.start()
        for _ in range(2):
            await it.wire.heard()
        await it.wire.answer(id=1, method="sampling/createMessage", params={})
        answer = await it.wire.heard()

    error = answer["error"]
    assert isinstance(error, dict)
    assert error["code"] == -32601


async def test_question_after_a_cancelled_request_does_not_reach_the_next_one() -> None:
    async with connected() as it:
        with anyio.move_on_after(0.01):
            await it.ask(on_request=answer_yes)
        cancelled, _ = await it.wire.heard(), await it.wire.heard()
        it.start(on_request=answer_yes)
        await it.wire.heard()
        await it.wire.answer(id=1, method="elicitation/create", params={})
        refused = await it.wire.heard()
        await it.wire.answer(id=cancelled["id"], error={"code": 0, "message": "cancelled"})
        await it.wire.answer(id=2, method="elicitation/create", params={})
        answered = await it.wire.heard()

    assert "error" in refused
    assert answered["result"] == {"asked": "elicitation/create"}


async def test_memory_of_a_cancelled_request_fades() -> None:
    async with connected(ghost_s=0.01) as it:
        with anyio.move_on_after(0.01):
            await it.ask(on_request=answer_yes)
        with anyio.move_on_after(0.03):
            await anyio.sleep_forever()
        it.start(on_request=answer_yes)
        for _ in range(3):
            await it.wire.heard()
        await it.wire.answer(id=1, method="elicitation/create", params={})

        assert "result" in await it.wire.heard()


async def test_question_that_belongs_to_no_request_goes_to_the_connections_own_answerer() -> None:
    async def refuse(message: JsonObject) -> JsonObject:
        raise InvalidCall("not here")

    async with connected(on_request=refuse) as it:
        await it.wire.answer(id=0, method="roots/list")
        answer = await it.wire.heard()

    assert answer == {"jsonrpc": "2.0", "id": 0, "error": {"code": -32602, "message": "not here"}}


async def test_open_question_does_not_keep_answers_from_arriving() -> None:
    async def think(message: JsonObject) -> JsonObject:
        await anyio.sleep_forever()
        raise AssertionError

    async with connected(on_request=think) as it:
        await it.wire.answer(id=0, method="roots/list")
        it.start("tools/list")
        await it.wire.answer(id=(await it.wire.heard())["id"], result=1)
        await settled()

    assert it.replies == [RpcReply(result=1)]


@pytest.mark.parametrize("how", ["withdrawn", "call ended"])
async def test_question_ends_unanswered_when_the_peer_withdraws_it_or_its_call_ends(how: str) -> None:
    async def think(message: JsonObject) -> JsonObject:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()
        raise AssertionError

    stopped = anyio.Event()
    async with connected() as it:
        it.start(on_request=think)
        sent = await it.wire.heard()
        await it.wire.answer(id="q", method="elicitation/create")
        await settled()
        if how == "withdrawn":
            await it.wire.answer(method="notifications/cancelled", params={"requestId": "q"})
        else:
            await it.wire.answer(id=sent["id"], result=1)
        await stopped.wait()
        await settled()

        assert it.wire.from_gateway.statistics().current_buffer_used == 0


async def test_flood_of_questions_is_refused_beyond_a_bound() -> None:
    async def think(message: JsonObject) -> JsonObject:
        await anyio.sleep_forever()
        raise AssertionError

    async with connected(on_request=think) as it:
        for number in range(100):
            await it.wire.answer(id=number, method="roots/list")
        await it.wire.answer(id=0, method="roots/list")
        await settled()

        assert it.wire.from_gateway.statistics().current_buffer_used == 37


async def test_requests_work_over_a_real_process_until_it_is_killed() -> None:
    program = """
import json, sys
print("ready")
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "die":
        sys.exit("out of cheese")
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": message["params"]}), flush=True)
"""
    received: list[JsonObject] = []
    with anyio.fail_after(10):
        async with await ChildProcess.start(python(program, label="shop")) as child:
            peer = RpcPeer(messages_of(child), label="shop", on_message=received.append)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.run)
                replies = [await peer.request("echo", {"n": n}, deadline_s=5) for n in range(100)]
                with pytest.raises(
                    UpstreamUnavailable, match="'shop' exited with status 1; the last it said: out of ch"
                ):
                    await peer.request("die", {}, deadline_s=5)

    assert [reply.result for reply in replies] == [{"n": n} for n in range(100)]
    assert received == []


names = st.sampled_from(["requestId", "progressToken", "code", "message"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.sampled_from(["", "1", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner),
    max_leaves=5,
)
methods = st.sampled_from(["x", "notifications/progress", "notifications/cancelled"])
members = dict.fromkeys(("id", "params", "result", "error"), json_values) | {"method": methods | json_values}
strange_messages = st.fixed_dictionaries({}, optional=members)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(strange_messages, max_size=8))
async def test_no_message_of_the_peer_ends_the_reader(messages: list[JsonObject]) -> None:
    async with connected(on_request=answer_yes) as it:
        it.start(deadline_s=0.001)
        for message in messages:
            await it.wire.to_peer.send(message)
        while it.wire.gateway_in.statistics().current_buffer_used:
            await anyio.lowlevel.checkpoint()

        assert it.peer.closed == ""
