"""Requests that are not proper ones, versions that are not served, and how errors are told on each binding."""

from __future__ import annotations

import json

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import (
    ApprovalPending,
    AuditUnavailable,
    InputTooLarge,
    InterlockError,
    InvalidCall,
    PolicyDenied,
    QuotaExceeded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.types import Reason
from tests.a2a.worlds import EXTENSION, World, entry, message, old_message, request
from tests.mcp.asgi import Answer, Header, Json

SEND = {"message": message()}


@pytest.mark.parametrize(
    ("body", "code", "request_id"),
    [
        (b"", -32700, None),
        (b"{", -32700, None),
        (b"\xff{}", -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"GetTask","params":{"id":"t"}}', -32700, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"GetTask","params":{"id":"t","id":"u"}}', -32700, None),
        (b"[]", -32600, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":"t"}}]', -32600, None),
        (b'"text"', -32600, None),
        (json.dumps({**request("GetTask", {"id": "t"}), "extra": 1}).encode(), -32600, 1),
        (json.dumps({**request("GetTask", {"id": "t"}), "jsonrpc": "1.0"}).encode(), -32600, 1),
        (b'{"jsonrpc":"2.0","method":"GetTask","params":{"id":"t"}}', -32600, None),
        (b'{"jsonrpc":"2.0","method":"Nothing"}', -32601, None),
        (b'{"jsonrpc":"2.0","method":"GetTask","params":[]}', -32602, None),
        (json.dumps(request("GetTask", {"id": "t"}, True)).encode(), -32600, None),
        (json.dumps(request("GetTask", {"id": "t"}, 1.5)).encode(), -32600, None),
        (json.dumps(request("GetTask", {"id": "t"}, {})).encode(), -32600, None),
        (json.dumps(request("GetTask", {"id": "t"}, "x" * 257)).encode(), -32600, None),
        (b'{"jsonrpc":"2.0","id":1}', -32600, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600, 1),
        (b'{"jsonrpc":"2.0","id":"a","method":"Nothing"}', -32601, "a"),
        (b'{"jsonrpc":"2.0","id":"a","method":"message/send"}', -32601, "a"),
        (b'{"jsonrpc":"2.0","id":"a","method":"card/read"}', -32601, "a"),
        (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":[]}', -32602, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":null}', -32602, 1),
        (json.dumps(request("GetTask")).encode(), -32602, 1),
        (json.dumps(request("GetTask", {"id": 7})).encode(), -32602, 1),
        (json.dumps(request("SendMessage", {"message": {**message(), "TaskId": "t"}})).encode(), -32602, 1),
        (json.dumps(request("SendMessage", {**SEND, "tenant": "other"})).encode(), -32602, 1),
    ],
)
async def test_a_faulty_json_rpc_request_is_told_what_is_wrong_and_reaches_nobody(
    body: bytes, code: int, request_id: object
) -> None:
    world = World()

    got = await world.send("POST", "/", body, (b"content-type", b"application/json"))

    assert got.status == 200
    assert got.message["jsonrpc"] == "2.0"
    assert got.message["id"] == request_id
    assert got.error["code"] == code
    assert world.upstream.executed == []


@pytest.mark.parametrize("request_id", [0, -1, 2**70, "", "a", "\u00fc\n", None])
async def test_the_id_comes_back_as_it_was_sent(request_id: object) -> None:
    world = World()

    got = await world.send("POST", "", request("SendMessage", SEND, request_id))

    assert got.message["id"] == request_id
    assert "result" in got.message


@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "name"),
    [
        ("GET", "/nothing", None, 404, "NOT_FOUND"),
        ("POST", "/message:sends", SEND, 404, "NOT_FOUND"),
        ("GET", "/tasks/a/b", None, 404, "NOT_FOUND"),
        ("GET", "/message:send", None, 405, "UNIMPLEMENTED"),
        ("DELETE", "/tasks/t-1", None, 405, "UNIMPLEMENTED"),
        ("GET", "", None, 405, "UNIMPLEMENTED"),
        ("POST", "/.well-known/agent-card.json", None, 405, "UNIMPLEMENTED"),
        ("POST", "/message:send", b"{", 400, "INVALID_ARGUMENT"),
        ("POST", "/message:send", b'{"message":{},"message":{}}', 400, "INVALID_ARGUMENT"),
        ("POST", "/message:send", {}, 400, "INVALID_ARGUMENT"),
        ("POST", "/message:send", None, 400, "INVALID_ARGUMENT"),
        ("POST", "/message:send?message=x", SEND, 400, "INVALID_ARGUMENT"),
        ("GET", "/tasks?pageSize=many", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/tasks?pageSize=%ff", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/tasks?A2A-Version=1.0&A2A-Version=0.3", None, 400, "INVALID_ARGUMENT"),
        ("POST", "/other/message:send", SEND, 400, "INVALID_ARGUMENT"),
        ("POST", "/message:send", {**SEND, "tenant": "other"}, 400, "INVALID_ARGUMENT"),
    ],
)
async def test_a_faulty_http_request_gets_its_status_and_reaches_nobody(
    verb: str, path: str, body: Json | bytes | None, status: int, name: str
) -> None:
    world = World()

    got = await world.send(verb, path, body)

    error = json.loads(got.body)["error"]
    assert (got.status, error["code"], error["status"]) == (status, status, name)
    assert got.header("content-type") == "application/json"
    assert world.upstream.executed == []


async def test_a_wrong_verb_is_told_the_right_ones() -> None:
    world = World()

    rest = await world.send("PUT", "/tasks/t-1/pushNotificationConfigs")
    base = await world.send("GET", "/")

    assert rest.header("allow") == "GET, POST"
    assert base.header("allow") == "POST"


@pytest.mark.parametrize("path", ["/", "/message:send"])
async def test_another_media_type_is_refused(path: str) -> None:
    world = World()
    body = request("SendMessage", SEND) if path == "/" else SEND

    got = await world.send("POST", path, body, (b"content-type", b"text/plain"))

    error = json.loads(got.body)["error"]
    assert got.status == 415
    assert error["code"] in (-32005, 415)
    assert b"CONTENT_TYPE_NOT_SUPPORTED" in got.body
    assert world.upstream.executed == []


@pytest.mark.parametrize("path", ["", "/message:send"])
async def test_a_body_beyond_the_limit_is_refused(path: str) -> None:
    world = World()

    got = await world.send("POST", path, b"x" * 100_001)

    assert got.status == 413
    assert b"max_body_bytes" in got.body


@pytest.mark.parametrize(("host", "status"), [(b"evil.example", 421), (b"127.0.0.1", 200)])
async def test_only_our_own_names_are_answered(host: bytes, status: int) -> None:
    world = World()

    got = await world.send("POST", "/message:send", SEND, (b"host", host))

    assert got.status == status


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        (((b"a2a-version", b"1.1"),), ""),
        (((b"a2a-version", b"99.0"),), ""),
        (((b"a2a-version", b"1.0"), (b"a2a-version", b"0.3")), ""),
        (((b"a2a-version", b"1.0"),), "?A2A-Version=0.3"),
        (((b"a2a-version", b"-"),), "?A2A-Version=2.0"),
    ],
)
async def test_a_version_that_is_not_served_is_refused(headers: tuple[Header, ...], query: str) -> None:
    world = World()

    rpc = await world.rpc("SendMessage", SEND, *headers, path=query)
    http = await world.send("POST", "/message:send" + query, SEND, *headers)

    assert (rpc.status, rpc.message["id"], rpc.error["code"]) == (200, 1, -32009)
    error = json.loads(http.body)["error"]
    assert (http.status, error["status"]) == (400, "FAILED_PRECONDITION")
    for details in (rpc.error["data"], error["details"]):
        assert details[0]["reason"] == "VERSION_NOT_SUPPORTED"
        assert details[0]["domain"] == "a2a-protocol.org"
    assert world.upstream.executed == []


@pytest.mark.parametrize(("headers", "query"), [(((b"a2a-version", b"-"),), "?A2A-Version=1.0"), ((), "")])
async def test_the_version_may_stand_in_the_query(headers: tuple[Header, ...], query: str) -> None:
    world = World()

    rpc = await world.rpc("SendMessage", SEND, *headers, path=query)
    http = await world.send("POST", "/message:send" + query, SEND, *headers)

    assert "result" in rpc.message
    assert http.status == 200


@pytest.mark.parametrize("version", [b"-", b"", b"0.3"])
async def test_no_version_means_the_old_one(version: bytes) -> None:
    world = World()
    world.answer(b'{"message":{"messageId":"a","role":"ROLE_AGENT","parts":[{"text":"yes"}]}}')

    old = await world.rpc("message/send", {"message": old_message()}, (b"a2a-version", version))
    new = await world.rpc("SendMessage", SEND, (b"a2a-version", version))

    assert old.result["kind"] == "message"
    assert old.result["parts"] == [{"kind": "text", "text": "yes"}]
    assert old.header("a2a-version") == "0.3"
    assert (world.call.protocol_version, world.call.method) == ("0.3", "SendMessage")
    assert new.error["code"] in (-32009, -32600)


@pytest.mark.parametrize(
    ("error", "code", "status", "rpc_status", "reason"),
    [
        (PolicyDenied("no", decision_id="d-1"), -31403, 403, 403, "POLICY_DENIED"),
        (InputTooLarge("too much"), -31403, 403, 403, "INPUT_TOO_LARGE"),
        (ApprovalPending("ask a person"), -31202, 202, 202, "APPROVAL_PENDING"),
        (QuotaExceeded("slow down", retry_after_s=7), -31429, 429, 429, "QUOTA_EXCEEDED"),
        (InvalidCall("not so"), -32602, 400, 200, "INVALID_PARAMS"),
        (AuditUnavailable("disk full"), -31500, 503, 503, "AUDIT_UNAVAILABLE"),
        (UpstreamProtocolError("nonsense"), -32006, 500, 200, "INVALID_AGENT_RESPONSE"),
        (UpstreamUnavailable("gone"), -31503, 503, 503, "UPSTREAM_UNAVAILABLE"),
        (UpstreamTimeout("late"), -31504, 504, 504, "UPSTREAM_TIMEOUT"),
    ],
)
async def test_each_refusal_and_failure_has_its_code_and_status(
    error: InterlockError, code: int, status: int, rpc_status: int, reason: str
) -> None:
    world = World()
    world.deny(error)

    rpc = await world.rpc("SendMessage", SEND)
    http = await world.send("POST", "/message:send", SEND)

    assert (rpc.status, rpc.error["code"], rpc.error["message"]) == (rpc_status, code, str(error))
    told = json.loads(http.body)["error"]
    assert (http.status, told["code"], told["message"]) == (status, status, str(error))
    assert rpc.error["data"] == told["details"]
    assert told["details"][0]["reason"] == reason


async def test_a_denial_tells_the_public_reasons_and_no_others() -> None:
    world = World()
    public = Reason("no_urls", "messages with addresses are held", "rules.a2a", public=True, remedy="send the text")
    world.deny(PolicyDenied("no", decision_id="d-1", reasons=(public, Reason("secret", "hidden"))))

    got = await world.rpc("SendMessage", SEND)

    ours, shown = got.error["data"]
    assert ours["metadata"] == {"decisionId": "d-1"}
    assert (shown["reason"], shown["domain"]) == ("NO_URLS", "interlock")
    assert shown["metadata"]["remedy"] == "send the text"
    assert b"hidden" not in got.body


async def test_a_quota_says_when_to_come_back() -> None:
    world = World()
    world.deny(QuotaExceeded("slow down", retry_after_s=7))

    got = await world.send("POST", "/message:send", SEND)

    assert got.header("retry-after") == "7"
    assert json.loads(got.body)["error"]["details"][1]["retryDelay"] == "7s"


@pytest.mark.parametrize("path", ["", "/message:send", "/message:stream", "/.well-known/agent-card.json"])
async def test_a_caller_without_credentials_is_challenged_and_recorded(path: str) -> None:
    world = World()
    verb = "GET" if "well-known" in path else "POST"
    body = None if verb == "GET" else SEND if path else request("SendMessage", SEND)

    got = await world.send(verb, path, body, (b"authorization", b"-"))

    assert got.status == 401
    assert got.header("www-authenticate") == 'Bearer realm="interlock"'
    assert [record.error for record in world.trail.records] == ["unauthenticated"]
    assert world.upstream.executed == []


async def test_a_defect_of_ours_says_nothing_of_itself() -> None:
    world = World()
    world.upstream.fail_with = RuntimeError("password is hunter2")

    rpc = await world.rpc("SendMessage", SEND)
    http = await world.send("POST", "/message:send", SEND)

    assert rpc.error == {"code": -32603, "message": "Internal error"}
    assert http.status == 500
    assert b"hunter2" not in rpc.body + http.body


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        ({"code": -32001, "message": "gone", "data": [{"@type": "x/y", "a": 1}]}, 404, "NOT_FOUND"),
        ({"code": -32002, "message": "done"}, 400, "FAILED_PRECONDITION"),
        ({"code": -32005, "message": "no images"}, 400, "INVALID_ARGUMENT"),
        ({"code": -32602, "message": "bad"}, 400, "INVALID_ARGUMENT"),
        ({"code": -32603, "message": "oops"}, 500, "INTERNAL"),
        ({"code": -32050, "message": "vendor", "data": {"big": 9007199254740993}}, 500, "INTERNAL"),
    ],
)
async def test_an_error_of_the_agent_arrives_whole(error: Json, status: int, name: str) -> None:
    world = World()
    payload = json.dumps(error, indent=1).encode()
    world.answer(payload, outcome="rpc_error", headers=((b"retry-after", b"9"),))

    rpc = await world.rpc("SendMessage", SEND)
    http = await world.send("POST", "/message:send", SEND)

    assert rpc.body == b'{"jsonrpc":"2.0","id":1,"error":' + payload + b"}"
    assert rpc.header("retry-after") == http.header("retry-after") == "9"
    told = json.loads(http.body)["error"]
    assert (http.status, told["status"], told["message"]) == (status, name, error["message"])
    if "data" in error:
        assert json.dumps(error["data"][0] if isinstance(error["data"], list) else error["data"]) in json.dumps(told)
    if error["code"] == -32050:
        assert told["details"][0]["metadata"] == {"code": "-32050"}


@pytest.mark.parametrize("payload", [b"[]", b"{}", b'{"code":1}', b'{"code":true,"message":""}', b"nonsense"])
async def test_an_error_that_is_none_is_an_invalid_answer(payload: bytes) -> None:
    world = World()
    world.answer(payload, outcome="rpc_error")

    got = await world.rpc("SendMessage", SEND)

    assert got.error["code"] == -32006


@pytest.mark.parametrize(
    ("capability", "method", "params", "code"),
    [
        ("streaming", "SendStreamingMessage", SEND, -32004),
        ("streaming", "SubscribeToTask", {"id": "t-9"}, -32004),
        ("pushNotifications", "ListTaskPushNotificationConfigs", {"taskId": "t-9"}, -32003),
        ("extendedAgentCard", "GetExtendedAgentCard", {}, -32004),
    ],
)
async def test_what_the_card_does_not_declare_is_not_asked_for(
    capability: str, method: str, params: Json, code: int
) -> None:
    world = World()
    world.agents.put(entry(**{capability: False}))

    got = await world.rpc(method, params)

    assert got.error["code"] == code
    assert world.upstream.executed == []


async def test_an_extension_that_the_agent_requires_must_be_declared() -> None:
    world = World()
    world.agents.put(entry(extensions=[{"uri": EXTENSION, "required": True}]))

    without = await world.rpc("SendMessage", SEND)
    declared = await world.rpc("SendMessage", SEND, (b"a2a-extensions", EXTENSION.encode()))

    assert without.error["code"] == -32008
    assert EXTENSION in without.error["message"]
    assert "result" in declared.message


async def test_what_an_agent_can_do_is_not_told_to_strangers() -> None:
    world = World()
    world.agents.put(entry(pushNotifications=False))

    got = await world.rpc("ListTaskPushNotificationConfigs", {"taskId": "t"}, (b"authorization", b"Bearer nobody"))

    assert got.status == 401


async def test_an_agent_that_is_gone_is_not_found() -> None:
    world = World()
    world.agents.configure([])

    rpc = await world.rpc("SendMessage", SEND)
    http = await world.send("GET", "/tasks")

    assert (rpc.status, http.status) == (404, 404)


@pytest.mark.parametrize("tenant", ["", "cook"])
async def test_the_agents_own_name_is_the_only_tenant(tenant: str) -> None:
    world = World()

    got = await world.rpc("SendMessage", {**SEND, "tenant": tenant})

    assert "result" in got.message
    assert "tenant" not in world.call.params


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | _VALUES,
        "id": _VALUES,
        "method": st.sampled_from(["SendMessage", "GetTask", "ListTasks", "message/send"]) | _VALUES,
        "params": st.just({"id": "t-1"}) | st.just({"message": message()}) | _VALUES,
    },
)
_BODIES = st.binary(max_size=60) | st.builds(lambda value: json.dumps(value).encode(), _ENVELOPES | _VALUES)


@settings(max_examples=150, deadline=None)
@given(
    body=_BODIES,
    path=st.sampled_from(["", "/message:send", "/tasks/t-1:cancel"])
    | st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?"), max_size=20).map("/".__add__),
    verb=st.sampled_from(["POST", "GET", "DELETE"]),
    version=st.sampled_from([b"1.0", b"0.3", b"", b"x"]),
)
def test_whatever_comes_is_answered_in_form(body: bytes, path: str, verb: str, version: bytes) -> None:
    async def ask() -> Answer:
        headers = (b"a2a-version", version), (b"content-type", b"application/json")
        return await World().send(verb, path, body, *headers)

    got = anyio.run(ask)

    assert got.complete
    assert got.status < 500
    assert not got.body or json.loads(got.body)
    if verb == "POST" and path == "":
        assert len(got.message.keys() & {"result", "error"}) == 1


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("message/send", "message/send in A2A 1.0; it is of 0.3: send A2A-Version: 0.3"),
        ("SendMesage", "SendMesage; did you mean SendMessage?"),
        ("juggle", "juggle"),
    ],
)
async def test_an_unknown_method_is_told_with_what_may_be_meant(method: str, words: str) -> None:
    world = World()

    got = await world.send("POST", "/", request(method, SEND))

    assert got.error["message"] == f"Method not found: {words}"


async def test_a_path_of_0_3_is_told_to_be_one() -> None:
    world = World()

    got = await world.send("POST", "/v1/message:send", SEND)

    assert got.status == 400
    assert "paths with /v1 are of A2A 0.3" in got.body.decode()
