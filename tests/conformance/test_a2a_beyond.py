"""What the official A2A kit never tests, through a gateway: credentials, signed cards, equal bindings, versions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import grpc.aio
import httpx2
import pytest
from a2a.types import AgentCard, a2a_pb2, a2a_pb2_grpc
from a2a.utils.signing import InvalidSignaturesError, create_signature_verifier
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # has no types
from jwt.api_jwk import PyJWK

from gateway.config import load
from tests.conformance.talking import Json
from tests.e2e.agents import AGENT, World, world

pytestmark = pytest.mark.slow

HTTP: Final = ("JSONRPC", "HTTP+JSON")
DOMAIN: Final = "a2a-protocol.org"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("beyond")) as started:
        yield started


@asynccontextmanager
async def http_for(
    made: World, key: str | None = None, version: str | None = "1.0"
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the agent; without a key, it says nothing of who it is."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    headers |= {} if version is None else {"a2a-version": version}
    with anyio.fail_after(30):
        async with httpx2.AsyncClient(base_url=made.base(), headers=headers, trust_env=False) as http:
            yield http


def message(behaviour: str, **more: object) -> Json:
    """The parameters of a message that is answered in this way."""
    return {"message": {"messageId": f"{behaviour}-1", "role": "ROLE_USER", "parts": [{"text": "hi"}], **more}}


def envelope(method: str, params: Json) -> Json:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def sent(http: httpx2.AsyncClient, binding: str, params: Json) -> httpx2.Response:
    """One message over a binding of HTTP."""
    if binding == "JSONRPC":
        return await http.post("", json=envelope("SendMessage", params))
    return await http.post("/message:send", json=params)


async def by_grpc(made: World, operation: str, params: Json, key: str | None, version: str | None = "1.0") -> Json:
    """The result of an operation over gRPC."""
    metadata = [] if key is None else [("authorization", f"Bearer {key}")]
    metadata += [] if version is None else [("a2a-version", version)]
    kind = {"GetTask": a2a_pb2.GetTaskRequest, "ListTasks": a2a_pb2.ListTasksRequest}
    request = json_format.ParseDict({**params, "tenant": AGENT}, kind.get(operation, a2a_pb2.SendMessageRequest)())
    port = load(made.place.config).listen.grpc_port
    with anyio.fail_after(30):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = a2a_pb2_grpc.A2AServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            answer = await getattr(stub, operation)(request, metadata=metadata, timeout=20)
    found: Json = json_format.MessageToDict(answer)
    return found


def reasons(error: grpc.aio.AioRpcError) -> list[tuple[str, str]]:
    """Domain and reason of each detail."""
    metadata: Any = error.trailing_metadata() or ()
    raw = next(value for name, value in metadata if name == "grpc-status-details-bin")
    found = []
    for detail in status_pb2.Status.FromString(raw).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            found.append((info.domain, info.reason))
    return found


async def a_task(made: World) -> Json:
    async with http_for(made, made.ana) as http:
        answer = await sent(http, "JSONRPC", message("tck-artifact-data"))
    task: Json = answer.json()["result"]["task"]
    return task


# Credentials


@pytest.mark.parametrize("key", [None, "nobody", "interlock_none_none"])
@pytest.mark.parametrize("binding", HTTP)
async def test_caller_without_valid_credentials_is_told_how_to_get_some(
    made: World, binding: str, key: str | None
) -> None:
    async with http_for(made, key) as http:
        answer = await sent(http, binding, message("tck-complete-task"))

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "result" not in answer.text


@pytest.mark.parametrize("key", [None, "nobody"])
async def test_caller_without_valid_credentials_is_unauthenticated_over_grpc(made: World, key: str | None) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await by_grpc(made, "SendMessage", message("tck-complete-task"), key)

    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert [domain for domain, _ in reasons(refused.value)] == ["interlock"]


@pytest.mark.parametrize("binding", HTTP)
async def test_caller_who_may_not_is_refused(made: World, binding: str) -> None:
    async with http_for(made, made.bo) as http:
        answer = await sent(http, binding, message("tck-complete-task"))

    error = answer.json()["error"]
    details = error["data"] if binding == "JSONRPC" else error["details"]
    assert answer.status_code == 403
    assert details[0]["domain"] == "interlock"
    assert details[0]["metadata"]["decisionId"]


async def test_caller_who_may_not_is_refused_over_grpc(made: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await by_grpc(made, "SendMessage", message("tck-complete-task"), made.bo)

    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert reasons(refused.value)[0][0] == "interlock"


# Cards


async def test_card_is_signed_with_the_published_key_and_any_change_is_noticed(made: World) -> None:
    async with http_for(made, made.bo) as http:
        card = (await http.get("/.well-known/agent-card.json")).json()
        keys = {
            key["kid"]: key
            for key in (await http.get(f"{made.place.url}/.well-known/interlock-jwks.json")).json()["keys"]
        }
    verify = create_signature_verifier(lambda kid, jku: PyJWK(keys[str(kid)]), ["ES256"])
    changed = json.loads(json.dumps(card))
    changed["supportedInterfaces"][0]["url"] = "https://elsewhere.example"

    verify(json_format.ParseDict(card, AgentCard()))
    with pytest.raises(InvalidSignaturesError):
        verify(json_format.ParseDict(changed, AgentCard()))


async def test_card_names_only_addresses_of_the_gateway_and_is_read_again_when_it_changed(made: World) -> None:
    async with http_for(made, made.bo) as http:
        first = await http.get("/.well-known/agent-card.json")
        tagged = {"if-none-match": first.headers["etag"]}
        again = await http.get("/.well-known/agent-card.json", headers=tagged)

    port = load(made.place.config).listen.grpc_port
    places = {each["url"] for each in first.json()["supportedInterfaces"]}
    assert places == {made.base(), f"127.0.0.1:{port}"}
    assert {"last-modified", "cache-control"} <= first.headers.keys()
    assert (again.status_code, again.content) == (304, b"")


# Equal bindings


async def test_task_is_the_same_over_every_binding(made: World) -> None:
    task = await a_task(made)

    async with http_for(made, made.ana) as http:
        rpc = (await http.post("", json=envelope("GetTask", {"id": task["id"]}))).json()["result"]
        rest = (await http.get(f"/tasks/{task['id']}")).json()
    over_grpc = await by_grpc(made, "GetTask", {"id": task["id"]}, made.ana)

    assert rpc == rest
    assert over_grpc == json_format.MessageToDict(json_format.ParseDict(rpc, a2a_pb2.Task()))
    assert over_grpc["artifacts"][0]["parts"] == [{"data": {"key": "value", "count": 42}}]


async def test_list_is_the_same_over_every_binding(made: World) -> None:
    task = await a_task(made)
    of_context = {"contextId": task["contextId"]}

    async with http_for(made, made.ana) as http:
        rpc = (await http.post("", json=envelope("ListTasks", of_context))).json()["result"]
        rest = (await http.get("/tasks", params=of_context)).json()
    over_grpc = await by_grpc(made, "ListTasks", of_context, made.ana)

    assert rpc == rest
    assert [each["id"] for each in rpc["tasks"]] == [task["id"]]
    assert over_grpc == json_format.MessageToDict(json_format.ParseDict(rpc, a2a_pb2.ListTasksResponse()))


async def test_missing_task_is_told_alike_over_every_binding(made: World) -> None:
    async with http_for(made, made.ana) as http:
        rpc = (await http.post("", json=envelope("GetTask", {"id": "none"}))).json()["error"]
        rest = await http.get("/tasks/none")
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await by_grpc(made, "GetTask", {"id": "none"}, made.ana)

    assert (rpc["code"], rest.status_code, missing.value.code()) == (-32001, 404, grpc.StatusCode.NOT_FOUND)
    assert rpc["data"] == rest.json()["error"]["details"]
    assert reasons(missing.value) == [(DOMAIN, "TASK_NOT_FOUND")]


# Versions


@pytest.mark.parametrize(
    ("header", "query"),
    [("2.0", ""), ("1.7", ""), ("1.0.1", ""), (None, "?A2A-Version=2.0"), ("1.0", "?A2A-Version=0.3")],
)
async def test_version_that_is_not_served_is_refused(made: World, header: str | None, query: str) -> None:
    async with http_for(made, made.ana, header) as http:
        rpc = await http.post(query, json=envelope("GetTask", {"id": "none"}))
        rest = await http.get(f"/tasks/none{query}")

    assert rpc.json()["error"]["code"] == -32009
    assert (rest.status_code, rest.json()["error"]["details"][0]["reason"]) == (400, "VERSION_NOT_SUPPORTED")


@pytest.mark.parametrize("version", ["0.3", "2.0", "1.0.1"])
async def test_version_that_is_not_served_is_refused_over_grpc(made: World, version: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await by_grpc(made, "GetTask", {"id": "none"}, made.ana, version)

    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reasons(refused.value) == [(DOMAIN, "VERSION_NOT_SUPPORTED")]


async def test_version_may_stand_in_the_query_and_none_is_0_3(made: World) -> None:
    task = await a_task(made)

    async with http_for(made, made.ana, None) as http:
        new = await http.post("?A2A-Version=1.0", json=envelope("GetTask", {"id": task["id"]}))
        old = await http.post("", json=envelope("tasks/get", {"id": task["id"]}))
        mixed = await http.post("", json=envelope("GetTask", {"id": task["id"]}))

    assert new.json()["result"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert (old.json()["result"]["kind"], old.json()["result"]["status"]["state"]) == ("task", "completed")
    assert "A2A-Version: 1.0" in mixed.json()["error"]["message"]
