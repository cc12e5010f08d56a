"""An agent that is called over gRPC: an agent of the Python SDK at the other end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import grpc.aio
import pytest

from adapters.upstreams.a2a.caller import Ask, Caller, Heard, Refused, Terms
from adapters.upstreams.a2a.grpc_upstream import address_of, grpc_caller
from conformance.a2a.agent import Place, card_of, grpc_door, handler_of
from gateway import codec
from gateway.a2a.directory import Interface
from gateway.a2a.operations import OPERATIONS
from gateway.errors import InvalidCall, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable


def interface_at(port: int, tenant: str = "") -> Interface:
    return Interface(f"127.0.0.1:{port}", "GRPC", "1.0", tenant)


@asynccontextmanager
async def agent(terms: Terms | None = None) -> AsyncIterator[Caller]:
    """A caller of the agent under test."""
    async with handler_of(card_of(Place(1, 2))) as handler, grpc_door(handler) as port:
        with anyio.fail_after(15):
            caller = grpc_caller("one", interface_at(port), terms or Terms())
            yield caller
            await caller.aclose()


def ask(name: str, params: Mapping[str, object]) -> Ask:
    return Ask(OPERATIONS[name], params)


def message(message_id: str, **members: object) -> Mapping[str, object]:
    return {"message": {"messageId": message_id, "role": "ROLE_USER", "parts": [{"text": "hi"}], **members}}


async def test_answer_is_the_json_of_1_0() -> None:
    async with agent() as caller:
        reply = await caller.unary(ask("SendMessage", message("tck-artifact-data-1")))

    assert reply.value is not None
    task = reply.value["task"]
    assert isinstance(task, dict)
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"  # type: ignore[index,call-overload]  # JSON
    assert b'"data":{"count":42,"key":"value"}' in codec.canonical(reply.value)
    assert codec.loads(reply.result.payload) == reply.value


async def test_events_come_in_order_and_end() -> None:
    async with (
        agent() as caller,
        aclosing(caller.stream(ask("SendStreamingMessage", message("tck-stream-001")))) as events,
    ):
        kinds = [next(iter(heard.value)) async for heard in events]

    assert kinds == ["task", "statusUpdate", "artifactUpdate", "statusUpdate"]


async def test_agents_error_keeps_its_reason() -> None:
    async with agent() as caller:
        reply = await caller.unary(ask("GetTask", {"id": "none"}))

    error = codec.loads(reply.result.payload)
    assert reply.value is None
    assert reply.result.outcome == "rpc_error"
    assert isinstance(error, dict)
    assert error["code"] == -32001
    assert b'"reason":"TASK_NOT_FOUND"' in reply.result.payload


async def test_refused_stream_is_the_agents_error() -> None:
    async with agent() as caller:
        with pytest.raises(Refused) as refused:
            async with aclosing(caller.stream(ask("SubscribeToTask", {"id": "none"}))) as events:
                await anext(events)

    assert codec.loads(refused.value.result.payload)["code"] == -32001  # type: ignore[index,call-overload]  # JSON


async def test_deleting_has_nothing_to_say() -> None:
    async with agent() as caller:
        sent = await caller.unary(ask("SendMessage", message("tck-input-required-1")))
        assert sent.value is not None
        task_id = sent.value["task"]["id"]  # type: ignore[index,call-overload]  # JSON
        config = {"taskId": task_id, "id": "p1", "url": "http://127.0.0.1:9/"}
        made = await caller.unary(ask("CreateTaskPushNotificationConfig", config))
        gone = await caller.unary(ask("DeleteTaskPushNotificationConfig", {"taskId": task_id, "id": "p1"}))

    assert made.value is not None
    assert made.value["id"] == "p1"
    assert gone.result.payload == b"{}"


async def test_number_that_would_arrive_as_another_is_not_sent() -> None:
    parts = [{"data": {"big": 2**53 + 1}}]

    async with agent() as caller:
        with pytest.raises(InvalidCall, match="2\\^53"):
            await caller.unary(ask("SendMessage", message("m", parts=parts)))


async def test_agent_that_is_not_there_is_unavailable() -> None:
    with anyio.fail_after(15):
        caller = grpc_caller("one", interface_at(1), Terms())
        with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
            await caller.unary(ask("GetTask", {"id": "t"}))
        await caller.aclose()


async def test_agent_that_does_not_answer_in_time_is_given_up() -> None:
    async with agent(Terms(timeout_s=0.3)) as caller:
        with pytest.raises(UpstreamTimeout):
            await caller.unary(ask("SendMessage", message("test-resubscribe-message-id")))


async def test_silence_on_a_stream_ends_it_where_that_is_limited() -> None:
    async with agent(Terms(stream_idle_s=0.3)) as caller:
        stream = caller.stream(ask("SendStreamingMessage", message("test-resubscribe-message-id")))
        with pytest.raises(UpstreamTimeout):
            await drained(stream)


async def drained(stream: AsyncGenerator[Heard, None]) -> None:
    async with aclosing(stream) as events:
        async for _ in events:
            pass


async def test_answer_beyond_the_limit_is_not_taken() -> None:
    async with agent(Terms(max_bytes=16)) as caller:
        with pytest.raises(UpstreamProtocolError, match="more than"):
            await caller.unary(ask("SendMessage", message("tck-complete-task")))


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, list[dict[str, str]]]]:
    """An agent that keeps the metadata of what it is asked."""
    seen: list[dict[str, str]] = []

    async def answer(request: bytes, context: Any) -> bytes:
        seen.append({str(key): str(value) for key, value in context.invocation_metadata() or ()})
        return request

    server = grpc.aio.server()
    methods: dict[str, Any] = {"GetTask": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lf.a2a.v1.A2AService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with anyio.fail_after(10):
        yield port, seen
    await server.stop(None)


@pytest.mark.parametrize(
    ("home", "sent"),
    [
        ("", True),
        ("http://127.0.0.1:1/card", True),
        ("https://127.0.0.1/card", False),
        ("http://elsewhere/card", False),
    ],
)
async def test_credentials_go_to_the_cards_own_host_only(home: str, sent: bool) -> None:
    terms = Terms(headers=((b"authorization", b"Bearer own"),), home=home)

    async with listening() as (port, seen):
        caller = grpc_caller("one", interface_at(port, "team"), terms)
        await caller.unary(Ask(OPERATIONS["GetTask"], {"id": "t"}, ((b"traceparent", b"tp"),), ("urn:x",)))
        await caller.aclose()

    assert ("authorization" in seen[0]) is sent
    assert (seen[0]["a2a-version"], seen[0]["traceparent"], seen[0]["a2a-extensions"]) == ("1.0", "tp", "urn:x")


@pytest.mark.parametrize(
    ("url", "target", "plain"),
    [
        ("localhost:9", "dns:///localhost:9", True),
        ("agent.example.com:9", "dns:///agent.example.com:9", False),
        ("agent.example.com", "dns:///agent.example.com:443", False),
        ("https://agent.example.com/a2a/grpc", "dns:///agent.example.com:443", False),
        ("http://agent.example.com:9", "dns:///agent.example.com:9", True),
        ("grpcs://[2001:db8::1]:9", "dns:///[2001:db8::1]:9", False),
    ],
)
def test_address_is_encrypted_unless_it_says_otherwise(url: str, target: str, plain: bool) -> None:
    address = address_of(url)

    assert (address.target, address.plain) == (target, plain)


@pytest.mark.parametrize("url", ["", "unix:///var/run/x", "https://u@host", "ftp://host", "xds:///x", "host:99999"])
def test_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(UpstreamProtocolError, match="cannot be used"):
        grpc_caller("one", Interface(url, "GRPC", "1.0"), Terms())
