"""The gRPC door, with the SDK's generated client: what arrives as a call, and what a client is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import grpc.aio
import pytest
from a2a.types import a2a_pb2, a2a_pb2_grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # has no types
from hypothesis import given
from hypothesis import strategies as st

from adapters.doors.a2a_grpc import Headers, Limits, Sink, Wiring, serve_grpc
from adapters.doors.protojson import RPCS
from gateway import codec
from gateway.a2a.errors import TASK_NOT_CANCELABLE, A2aError
from gateway.a2a.operations import OPERATIONS, Operation
from gateway.a2a.strict import canonical_request
from gateway.errors import InterlockError, InvalidCall, PolicyDenied, QuotaExceeded, Unauthenticated
from gateway.listeners.a2a.refusals import Refusal, refusal_of, refusal_of_upstream
from gateway.types import Reason, Result

TASK: dict[str, object] = {"id": "t1", "contextId": "c1", "status": {"state": "TASK_STATE_WORKING"}}
CHANNEL = (("grpc.enable_retries", 0),)

Answer = Callable[[Operation, Mapping[str, object], Sink | None], Awaitable[Result]]


@dataclass(frozen=True)
class Peer:
    address: str
    headers: Headers


@dataclass
class AgentCalls:
    """The calls of one agent: kept as they came, answered as told."""

    answer: Answer
    made: list[tuple[str, Mapping[str, object], Peer]] = field(default_factory=list)
    cancelled: anyio.Event = field(default_factory=anyio.Event)

    async def carry_out(
        self, operation: Operation, params: Mapping[str, object], peer: Peer, sink: Sink | None = None
    ) -> Result:
        self.made.append((operation.name, canonical_request(operation, params), peer))
        try:
            return await self.answer(operation, params, sink)
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise


def answering(value: object) -> Answer:
    async def answer(operation: Operation, params: Mapping[str, object], sink: Sink | None) -> Result:
        return Result(codec.dumps(value), headers=((b"a2a-extensions", b"urn:x"),))

    return answer


def raising(error: Exception) -> Answer:
    async def answer(operation: Operation, params: Mapping[str, object], sink: Sink | None) -> Result:
        raise error

    return answer


def told(error: Exception) -> Refusal | None:
    return refusal_of(error) if isinstance(error, InterlockError | A2aError) else None


@asynccontextmanager
async def door(*, limits: Limits | None = None, **agents: AgentCalls) -> AsyncIterator[Any]:
    """A stub of a client that is connected to a door with these agents."""
    wiring: Wiring[Peer] = Wiring(lambda: agents, Peer, told, refusal_of_upstream)
    async with serve_grpc(wiring, host="127.0.0.1", port=0, limits=limits) as port, connected(port) as channel:
        stub: Any = a2a_pb2_grpc.A2AServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        with anyio.fail_after(10):
            yield stub


def connected(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL)


def a_message(**members: object) -> a2a_pb2.SendMessageRequest:
    message = {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "hi"}], **members}
    return json_format.ParseDict({"message": message}, a2a_pb2.SendMessageRequest())


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def details_of(error: grpc.aio.AioRpcError) -> list[Any]:
    """The details in the trailers, unpacked."""
    values = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(values["grpc-status-details-bin"])
    assert status.message == error.details()
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest)
    unpacked = []
    for packed in status.details:
        detail = next(kind() for kind in kinds if packed.Is(kind.DESCRIPTOR))
        packed.Unpack(detail)
        unpacked.append(detail)
    return unpacked


async def test_call_arrives_as_the_json_of_its_message_with_whole_numbers_whole() -> None:
    agent = AgentCalls(answering({"task": TASK}))
    data = {"whole": 42, "part": 0.5, "list": [1, {"deep": -7}]}
    request = a_message(parts=[{"data": data}], taskId="t1", metadata={"task_id": 3})

    async with door(one=agent) as stub:
        response = await stub.SendMessage(request)

    assert response.task.id == "t1"
    assert response.task.status.state == a2a_pb2.TASK_STATE_WORKING
    name, params, _ = agent.made[0]
    message = params["message"]
    assert name == "SendMessage"
    assert isinstance(message, dict)
    assert codec.canonical(message["parts"][0]["data"]) == codec.canonical(data)
    assert (message["taskId"], message["role"], message["metadata"]) == ("t1", "ROLE_USER", {"task_id": 3})


@pytest.mark.parametrize("name", sorted(OPERATIONS))
async def test_every_operation_has_a_method(name: str) -> None:
    async def answer(operation: Operation, params: Mapping[str, object], sink: Sink | None) -> Result:
        if sink is not None:
            await sink.emit(codec.dumps({"task": TASK}))
        return Result(b"{}")

    agent = AgentCalls(answer)
    request = _request_for(OPERATIONS[name])

    async with door(one=agent) as stub:
        call = getattr(stub, name)(request)
        answers = [item async for item in call] if OPERATIONS[name].streams else [await call]

    assert len(answers) == 1
    assert [made for made, _, _ in agent.made] == [name]


def _request_for(operation: Operation) -> object:
    if operation.message == "SendMessageRequest":
        return a_message()
    members = {"TaskPushNotificationConfig": {"taskId": "t1", "url": "https://example.com/hook"}}
    ids = {operation.task_id_member: "t1"} if operation.task_id_member else {}
    if operation.name in ("GetTaskPushNotificationConfig", "DeleteTaskPushNotificationConfig"):
        ids["id"] = "p1"
    value = members.get(operation.message, ids)
    return json_format.ParseDict(value, getattr(a2a_pb2, operation.message)())


async def test_events_arrive_in_order_and_the_end_is_an_ok() -> None:
    async def answer(operation: Operation, params: Mapping[str, object], sink: Sink | None) -> Result:
        assert sink is not None
        for number in range(200):
            artifact = {"artifactId": str(number), "parts": [{"text": "x" * 1_000}]}
            event = {"artifactUpdate": {"taskId": "t1", "contextId": "c1", "artifact": artifact}}
            await sink.emit(codec.dumps(event))
        return Result(b"{}")

    async with door(one=AgentCalls(answer)) as stub:
        call = stub.SendStreamingMessage(a_message())
        seen = [event.artifact_update.artifact.artifact_id async for event in call]

    assert seen == [str(number) for number in range(200)]
    assert await call.code() is grpc.StatusCode.OK


async def test_error_after_the_first_event_is_the_status_that_ends_the_stream() -> None:
    async def answer(operation: Operation, params: Mapping[str, object], sink: Sink | None) -> Result:
        assert sink is not None
        await sink.emit(codec.dumps({"task": TASK}))
        raise PolicyDenied("withheld", decision_id="d7")

    async with door(one=AgentCalls(answer)) as stub:
        call = stub.SendStreamingMessage(a_message())
        first = await call.read()
        error = await refused(call.read())

    assert first.task.id == "t1"
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert details_of(error)[0].metadata["decisionId"] == "d7"


@pytest.mark.parametrize(
    ("error", "code", "reason", "domain"),
    [
        (A2aError(TASK_NOT_CANCELABLE, "no"), "FAILED_PRECONDITION", "TASK_NOT_CANCELABLE", "a2a-protocol.org"),
        (Unauthenticated("who?"), "UNAUTHENTICATED", "UNAUTHENTICATED", "interlock"),
        (PolicyDenied("no"), "PERMISSION_DENIED", "POLICY_DENIED", "interlock"),
        (QuotaExceeded("slow", retry_after_s=9), "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "interlock"),
        (InvalidCall("bad"), "INVALID_ARGUMENT", "INVALID_PARAMS", "a2a-protocol.org"),
    ],
)
async def test_refusal_is_a_status_with_error_info(error: Exception, code: str, reason: str, domain: str) -> None:
    async with door(one=AgentCalls(raising(error))) as stub:
        status = await refused(stub.CancelTask(a2a_pb2.CancelTaskRequest(id="t1")))

    info = details_of(status)[0]
    assert status.code().name == code
    assert (info.reason, info.domain) == (reason, domain)


async def test_reasons_that_policy_shows_and_the_time_to_wait_reach_the_client() -> None:
    denied = PolicyDenied("no", reasons=[Reason("too_late", "after hours", public=True), Reason("inner")])
    async with door(
        a=AgentCalls(raising(denied)), b=AgentCalls(raising(QuotaExceeded("slow", retry_after_s=9)))
    ) as stub:
        first = details_of(await refused(stub.GetTask(a2a_pb2.GetTaskRequest(tenant="a", id="t"))))
        second = details_of(await refused(stub.GetTask(a2a_pb2.GetTaskRequest(tenant="b", id="t"))))

    assert [detail.reason for detail in first] == ["POLICY_DENIED", "TOO_LATE"]
    assert second[1].retry_delay.seconds == 9


async def test_error_that_nobody_foresaw_shows_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    async with door(one=AgentCalls(raising(RuntimeError("secret")))) as stub:
        status = await refused(stub.GetTask(a2a_pb2.GetTaskRequest(id="t")))

    assert (status.code(), status.details()) == (grpc.StatusCode.INTERNAL, "Internal error")
    assert "secret" in caplog.text


async def test_agents_own_error_keeps_its_code_and_details() -> None:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "TASK_NOT_FOUND",
        "domain": "a2a-protocol.org",
    }
    error = {"code": -32001, "message": "gone\x1b[31m", "data": [info, {"@type": "made/up"}, 7]}

    async def answer(operation: Operation, params: Mapping[str, object], sink: Sink | None) -> Result:
        return Result(codec.dumps(error), "rpc_error")

    async with door(one=AgentCalls(answer)) as stub:
        status = await refused(stub.GetTask(a2a_pb2.GetTaskRequest(id="t")))

    assert status.code() is grpc.StatusCode.NOT_FOUND
    assert status.details() == "gone [31m"


async def test_tenant_names_the_agent_and_is_needed_where_there_are_several() -> None:
    first, second = AgentCalls(answering(TASK)), AgentCalls(answering(TASK))

    async with door(first=first, second=second) as stub:
        await stub.GetTask(a2a_pb2.GetTaskRequest(tenant="second", id="t"))
        unnamed = await refused(stub.GetTask(a2a_pb2.GetTaskRequest(id="t")))
        unknown = await refused(stub.GetTask(a2a_pb2.GetTaskRequest(tenant="third", id="t")))

    assert (len(first.made), len(second.made)) == (0, 1)
    assert unnamed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert unknown.code() is grpc.StatusCode.NOT_FOUND


async def test_who_calls_is_read_from_metadata_and_address() -> None:
    agent = AgentCalls(answering(TASK))
    metadata = (
        ("authorization", "Bearer k"),
        ("authorization", "Bearer l"),
        ("interlock-chain", "c"),
        ("traceparent", "t"),
    )

    async with door(one=agent) as stub:
        await stub.GetTask(a2a_pb2.GetTaskRequest(id="t"), metadata=metadata)

    _, _, peer = agent.made[0]
    assert peer.address == "127.0.0.1"
    assert peer.headers[b"authorization"] == [b"Bearer k", b"Bearer l"]
    assert (peer.headers[b"interlock-chain"], peer.headers[b"traceparent"]) == ([b"c"], [b"t"])
    assert peer.headers[b"a2a-version"] == [b"1.0"]


@pytest.mark.parametrize("version", ["0.3", "1.7", "2", "99.0", "1.0, 0.3", "x"])
async def test_other_version_is_refused_before_anything_is_asked(version: str) -> None:
    agent = AgentCalls(answering(TASK))

    async with door(one=agent) as stub:
        status = await refused(stub.GetTask(a2a_pb2.GetTaskRequest(id="t"), metadata=(("a2a-version", version),)))

    assert status.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details_of(status)[0].reason == "VERSION_NOT_SUPPORTED"
    assert agent.made == []


async def test_headers_of_the_agent_are_handed_on() -> None:
    async with door(one=AgentCalls(answering(TASK))) as stub:
        call = stub.GetTask(a2a_pb2.GetTaskRequest(id="t"))
        await call
        sent = dict(await call.initial_metadata())

    assert (sent["a2a-extensions"], sent["a2a-version"]) == ("urn:x", "1.0")


async def test_client_that_leaves_cancels_its_call() -> None:
    started = anyio.Event()

    async def answer(operation: Operation, params: Mapping[str, object], sink: Sink | None) -> Result:
        started.set()
        await anyio.sleep_forever()
        raise AssertionError

    agent = AgentCalls(answer)

    async with door(one=agent) as stub:
        call = stub.SendStreamingMessage(a_message())
        await started.wait()
        call.cancel()
        await agent.cancelled.wait()


async def test_deadline_of_the_client_ends_the_call() -> None:
    async def answer(operation: Operation, params: Mapping[str, object], sink: Sink | None) -> Result:
        await anyio.sleep_forever()
        raise AssertionError

    agent = AgentCalls(answer)

    async with door(one=agent) as stub:
        status = await refused(stub.SendMessage(a_message(), timeout=0.2))
        await agent.cancelled.wait()

    assert status.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_slow_reader_slows_the_agent_down() -> None:
    sent: list[int] = []
    event = codec.dumps(
        {"artifactUpdate": {"taskId": "t", "artifact": {"artifactId": "a", "parts": [{"text": "x" * 65_536}]}}}
    )

    async def answer(operation: Operation, params: Mapping[str, object], sink: Sink | None) -> Result:
        assert sink is not None
        for number in range(400):
            await sink.emit(event)
            sent.append(number)
        return Result(b"{}")

    async with door(one=AgentCalls(answer)) as stub:
        call = stub.SendStreamingMessage(a_message())
        await call.read()
        for _ in range(2_000):
            await anyio.lowlevel.checkpoint()
        ahead = len(sent)
        while await call.read() is not grpc.aio.EOF:
            pass

    assert ahead < 200
    assert len(sent) == 400


async def test_request_beyond_the_limit_is_refused_by_the_transport() -> None:
    agent = AgentCalls(answering({"task": TASK}))

    async with door(one=agent, limits=Limits(request_bytes=10_000)) as stub:
        status = await refused(stub.SendMessage(a_message(parts=[{"text": "x" * 20_000}])))

    assert status.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert agent.made == []


async def test_answer_that_does_not_fit_its_message_is_the_agents_fault() -> None:
    wrong = {"id": "t1", "status": {"state": ["not", "a", "state"]}}

    async with door(one=AgentCalls(answering(wrong))) as stub:
        status = await refused(stub.GetTask(a2a_pb2.GetTaskRequest(id="t")))

    assert details_of(status)[0].reason == "INVALID_AGENT_RESPONSE"


async def test_bytes_that_are_no_message_are_the_clients_fault() -> None:
    agent = AgentCalls(answering(TASK))
    wiring: Wiring[Peer] = Wiring(lambda: {"one": agent}, Peer, told, refusal_of_upstream)

    async with serve_grpc(wiring, host="127.0.0.1", port=0) as port, connected(port) as channel:
        with anyio.fail_after(10):
            method: Any = channel.unary_unary("/lf.a2a.v1.A2AService/GetTask")
            garbage = await refused(method(b"\xff\xff\xff"))
            other: Any = channel.unary_unary("/a2a.v1.A2AService/GetTask")
            legacy = await refused(other(b""))

    assert garbage.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert legacy.code() is grpc.StatusCode.UNIMPLEMENTED
    assert agent.made == []


async def test_port_that_is_taken_is_an_error() -> None:
    wiring: Wiring[Peer] = Wiring(dict, Peer, told, refusal_of_upstream)

    async with serve_grpc(wiring, host="127.0.0.1", port=0) as port:
        with pytest.raises(OSError, match="in use"):
            async with serve_grpc(wiring, host="127.0.0.1", port=port):
                pass


@given(name=st.sampled_from(sorted(OPERATIONS)), request=st.binary(max_size=200))
def test_no_bytes_get_past_the_reader_as_anything_but_json(name: str, request: bytes) -> None:
    try:
        params = RPCS[name].params(request)
    except InvalidCall:
        return

    assert codec.loads(codec.dumps(params)) == params
