"""Each event of a streamed answer is judged like a result before it leaves; a bridged call speaks its own protocol."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import PolicyDenied, UpstreamProtocolError
from gateway.listeners.mcp.quiet import QuietExchange
from gateway.ports import Relay
from gateway.types import Authorized, Call, FrozenDict, Resource, Result
from tests.fakes import FakeUpstream
from tests.spine import CREDENTIALS, World, a_call

AGENT = Resource("agent", "planner", "planner", "planner")


def streaming(*events: bytes) -> FakeUpstream:
    async def stream(authorized: Authorized, relay: Relay) -> Result:
        for event in events:
            await relay.emit(event)
        return Result(b"{}")

    return FakeUpstream(stream)


async def test_events_reach_the_client_in_order_and_are_counted_in_the_record() -> None:
    world = World(upstream=streaming(b'{"a":1}', b'{"b":2}'))

    await world.handle()

    assert world.exchange.events == [b'{"a":1}', b'{"b":2}']
    assert world.record.result_bytes == 7 + 7 + 2


async def test_event_is_what_inspection_leaves_of_it() -> None:
    world = World(upstream=streaming(b'{"secret":1}'))
    world.decider.inspect_with = lambda _, result: replace(result, payload=result.payload.replace(b"secret", b"***"))

    await world.handle()

    assert world.exchange.events == [b'{"***":1}']


async def test_withheld_event_ends_the_stream_and_the_call_is_recorded_as_denied() -> None:
    world = World(upstream=streaming(b'{"fine":1}', b'{"bad":1}', b'{"fine":2}'))

    def judge(_: Authorized, result: Result) -> Result:
        if b"bad" in result.payload:
            raise PolicyDenied("withheld", decision_id="d9")
        return result

    world.decider.inspect_with = judge

    with pytest.raises(PolicyDenied):
        await world.handle()

    assert world.exchange.events == [b'{"fine":1}']
    assert (world.record.outcome, world.record.decision_id) == ("denied", "d9")


async def test_client_of_mcp_takes_no_stream() -> None:
    world = World(upstream=streaming(b"{}"))

    with pytest.raises(UpstreamProtocolError, match="no streamed results"):
        await world.pipeline.handle(a_call(), CREDENTIALS, QuietExchange("ana"))

    assert world.record.outcome == "failed"


async def test_call_over_a_bridge_speaks_the_protocol_of_its_action_and_its_events_go_to_the_bridge() -> None:
    overheard: list[bytes] = []

    async def take(event: bytes) -> None:
        overheard.append(event)

    async def bridge(authorized: Authorized, relay: Relay) -> Result:
        if authorized.call.action == "a2a.message.stream":
            await relay.emit(b'{"event":1}')
            return Result(b"{}")
        message = {"message": {"messageId": "m1"}}
        return await relay.act("a2a.message.stream", "SendStreamingMessage", AGENT, message, sink=take)

    world = World(upstream=FakeUpstream(bridge))

    await world.handle()

    tool, message = world.decider.asked
    assert (message.protocol, message.protocol_version, message.session_id) == ("a2a", "1.0", "")
    assert (message.parent_id, message.arguments) == (tool.id, {"message": {"messageId": "m1"}})
    assert (overheard, world.exchange.events) == ([b'{"event":1}'], [])


def test_all_parameters_of_a_message_are_its_arguments() -> None:
    params = FrozenDict({"message": FrozenDict({"messageId": "m1"})})
    call = Call("c1", "a2a.message.send", "SendMessage", AGENT, params, protocol="a2a")

    assert call.arguments is params
    assert call.arguments_digest != replace(call, params=FrozenDict()).arguments_digest


async def test_what_a_client_can_do_in_its_own_protocol_is_not_told_across_a_bridge() -> None:
    told: list[object] = []

    async def bridge(authorized: Authorized, relay: Relay) -> Result:
        told.append(relay.capabilities)
        if authorized.call.action == "a2a.message.send":
            return Result(b"{}")
        return await relay.act("a2a.message.send", "SendMessage", AGENT, {"message": {"messageId": "m1"}})

    world = World(upstream=FakeUpstream(bridge))
    world.exchange.capabilities = FrozenDict({"extensions": FrozenDict({"example/x": FrozenDict()})})

    await world.handle()

    assert told == [world.exchange.capabilities, {}]
