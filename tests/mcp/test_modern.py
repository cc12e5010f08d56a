"""One POST, one call, one answer: what a modern client gets for each thing that can happen."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import (
    ApprovalPending,
    AuditUnavailable,
    InputTooLarge,
    InterlockError,
    InvalidCall,
    IsolationUnavailable,
    PermitMismatch,
    PolicyDenied,
    PolicyEngineUnavailable,
    QuotaExceeded,
    SandboxFailure,
    UnknownResource,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.ports import Relay
from gateway.types import Authorized, Call, Credentials, Identity, Permit, Reason, Result
from tests.fakes import ANA, FakeIdentifier
from tests.mcp.asgi import Header
from tests.mcp.worlds import PREFIX, World, call, request

AUTHORIZATION = PREFIX + "authorization"
DENIAL = PolicyDenied(
    "denied by policy",
    decision_id="d7",
    reasons=(
        Reason("sql_only", "only SELECT", rule="rules.data", public=True, remedy="send a SELECT"),
        Reason("no_writes", rule="rules.more", public=True),
        Reason("secret_code", "the honeypot", rule="rules.secret"),
    ),
)


def raising(error: Exception) -> Any:
    def decide(call: Call, identity: Identity) -> Permit:
        raise error

    return decide


async def test_permitted_call_reaches_the_upstream_under_its_own_name() -> None:
    world = World()
    world.upstream.payload = b'{"content":[{"type":"text","text":"hi"}],"resultType":"complete"}'

    answer = await world.post(call("files__read", {"path": "/x"}))

    (executed,) = world.upstream.executed
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert answer.message == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"content": [{"type": "text", "text": "hi"}], "resultType": "complete"},
    }
    assert executed.call.params == {"name": "read", "arguments": {"path": "/x"}}
    assert executed.call.resource.id == "files/read"
    assert executed.identity.subject.id == "user:ana"
    assert executed.call.traceparent


@pytest.mark.requirement("mcp:2026-07-28:id-echoed")
@pytest.mark.parametrize("identifier", [0, -1, "", 'a"\\b', 2**70, "é"])
async def test_answer_carries_the_id_of_its_request(identifier: int | str) -> None:
    world = World()

    served, refused = (
        await world.post({**call(), "id": identifier}),
        await world.post({**call("nope"), "id": identifier}),
    )

    assert served.message["id"] == refused.message["id"] == identifier


@pytest.mark.requirement("mcp:2026-07-28:meta-kept")
async def test_meta_of_this_hop_stays_here_and_other_meta_goes_on() -> None:
    world, body = World(), call(logLevel="info", clientInfo={"name": "me"})
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body["params"]["_meta"] |= {"progressToken": 1, "traceparent": traceparent, "baggage": "a=b", "example.org/k": [1]}

    await world.post(body)

    (executed,) = world.upstream.executed
    assert executed.call.params["_meta"] == {"example.org/k": (1,)}
    assert executed.call.traceparent[:35] == traceparent[:35]


@pytest.mark.requirement("mcp:2026-07-28:tools-error")
async def test_denied_tool_call_tells_the_model_why_and_what_would_help() -> None:
    world = World()
    world.decider.decide_with = raising(DENIAL)

    answer = await world.post(call())

    result = answer.result
    assert answer.status == 200
    assert (result["isError"], result["resultType"]) == (True, "complete")
    text = result["content"][0]["text"]
    assert "d7" in text
    assert "rule rules.data, sql_only: only SELECT" in text
    assert "What would help: send a SELECT" in text
    assert text.endswith("- rule rules.more, no_writes")
    assert result["_meta"][AUTHORIZATION] == {
        "reason": "policy_denied",
        "decision_id": "d7",
        "reasons": [
            {"code": "sql_only", "message": "only SELECT", "rule": "rules.data", "remedy": "send a SELECT"},
            {"code": "no_writes", "message": "", "rule": "rules.more", "remedy": ""},
        ],
        "remediation": "available",
    }
    assert b"honeypot" not in answer.body
    assert b"secret" not in answer.body
    assert world.upstream.executed == []


async def test_denial_without_a_public_reason_tells_only_its_decision() -> None:
    world = World()
    world.decider.decide_with = raising(PolicyDenied("denied by policy", reasons=(Reason("internal_code"),)))

    answer = await world.post(call())

    assert answer.result["content"][0]["text"] == "Denied by policy (decision none): denied by policy"
    assert answer.result["_meta"][AUTHORIZATION]["remediation"] == "undisclosed"
    assert b"internal_code" not in answer.body


@pytest.mark.parametrize(
    ("error", "meta"),
    [
        (
            ApprovalPending("held", decision_id="d1"),
            {"reason": "approval_pending", "decision_id": "d1", "remediation": "undisclosed"},
        ),
        (
            QuotaExceeded("slow", retry_after_s=9),
            {"reason": "quota_exceeded", "retry_after_s": 9, "remediation": "available"},
        ),
        (InputTooLarge("too large"), {"reason": "input_too_large", "remediation": "available"}),
        (UpstreamTimeout("late"), None),
        (UpstreamUnavailable("gone"), None),
        (UpstreamProtocolError("odd"), None),
        (SandboxFailure("no box"), None),
        (IsolationUnavailable("too weak"), None),
    ],
)
async def test_tool_call_that_is_held_or_fails_is_told_to_the_model(
    error: InterlockError, meta: dict[str, object] | None
) -> None:
    world = World()
    world.decider.decide_with = raising(error)

    answer = await world.post(call())

    assert (answer.status, answer.result["isError"]) == (200, True)
    assert answer.result["content"][0]["text"] == f"{error.code}: {error}"
    assert answer.result["_meta"].get(AUTHORIZATION) == meta


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidCall("x"), 400, -32602),
        (DENIAL, 403, -31403),
        (UnknownResource("x"), 404, -32602),
        (ApprovalPending("x"), 200, -31202),  # 202 is for notifications
        (QuotaExceeded("x", retry_after_s=7), 429, -31429),
        (UpstreamProtocolError("x"), 502, -31502),
        (UpstreamUnavailable("x"), 503, -31503),
        (UpstreamTimeout("x"), 504, -31504),
        (PolicyEngineUnavailable("x"), 503, -31500),
        (AuditUnavailable("x"), 503, -31500),
        (SandboxFailure("x"), 500, -31500),
        (PermitMismatch("x"), 500, -31500),
        (InputTooLarge("x"), 403, -31403),
    ],
)
async def test_other_methods_get_the_error_under_the_status_of_the_table(
    error: InterlockError, status: int, code: int
) -> None:
    world = World()
    world.decider.decide_with = raising(error)

    answer = await world.post(request("prompts/get", {"name": "files__ask"}))

    assert (answer.status, answer.error["code"], answer.error["data"]["code"]) == (status, code, error.code)
    assert answer.header("retry-after") == ("7" if isinstance(error, QuotaExceeded) else "")
    assert b"honeypot" not in answer.body


@pytest.mark.parametrize("error", [AuditUnavailable("full"), PolicyEngineUnavailable("gone"), PermitMismatch("other")])
async def test_fault_of_the_gateway_itself_is_an_error_even_for_a_tool(error: InterlockError) -> None:
    world = World()
    world.decider.decide_with = raising(error)

    answer = await world.post(call())

    assert (answer.status, answer.error["data"]["code"]) == (error.http_status, error.code)


async def test_bug_in_the_gateway_shows_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.upstream.fail_with = RuntimeError("password=hunter2")

    answer = await world.post(call())

    assert (answer.status, answer.error) == (500, {"code": -32603, "message": "Internal error"})
    assert "hunter2" in caplog.text


@pytest.mark.requirement("mcp:2026-07-28:tools-unknown")
@pytest.mark.parametrize("name", ["files__nothing", "nowhere__read", "read", "", "x" * 500])
async def test_unknown_tool_is_an_error_of_the_protocol(name: str) -> None:
    world = World()

    answer = await world.post(call(name))

    assert (answer.status, answer.error["code"]) == (404, -32602)
    assert world.upstream.executed == []


WRONG: list[dict[str, Any]] = [
    {"name": 5},
    {"name": None},
    {},
    {"name": "files__read", "arguments": []},
    {"name": "files__read", "arguments": "x"},
    {"name": "files__read", "inputResponses": []},
    {"name": "files__read", "requestState": 5},
]


@pytest.mark.parametrize("params", WRONG)
async def test_parameters_of_wrong_types_are_refused(params: dict[str, Any]) -> None:
    world = World()
    headers: list[Header] = [] if isinstance(params.get("name"), str) else [(b"mcp-name", b"x")]

    answer = await world.post(request("tools/call", params), *headers)

    assert (answer.status, answer.error["code"] in {-32602, -32020}) == (400, True)
    assert world.upstream.executed == []


@pytest.mark.parametrize(
    "ref",
    [None, {}, {"type": "ref/tool", "name": "x"}, {"type": "ref/prompt"}, {"type": "ref/resource", "uri": 5}, "x"],
)
async def test_completion_of_something_else_is_refused(ref: object) -> None:
    answer = await World().post(request("completion/complete", {"ref": ref, "argument": {"name": "a", "value": ""}}))

    assert (answer.status, answer.error["code"]) == (400, -32602)


@pytest.mark.parametrize(
    ("ref", "sent", "resource"),
    [
        ({"type": "ref/prompt", "name": "files__ask"}, {"type": "ref/prompt", "name": "ask"}, "files/ask"),
        ({"type": "ref/resource", "uri": "note://one"}, {"type": "ref/resource", "uri": "note://one"}, "note://one"),
    ],
)
async def test_completion_names_what_the_upstream_knows(
    ref: dict[str, str], sent: dict[str, str], resource: str
) -> None:
    world = World()

    await world.post(request("completion/complete", {"ref": ref, "argument": {"name": "a", "value": ""}}))

    (executed,) = world.upstream.executed
    assert (executed.call.params["ref"], executed.call.resource.id) == (sent, resource)


async def test_error_of_the_upstream_passes_with_the_status_of_its_code() -> None:
    for payload, status in (
        (b'{"code":-32602,"message":"bad"}', 400),
        (b'{"code":-32601,"message":"none"}', 404),
        (b'{"code":7,"message":"own"}', 200),
        (b'{"code":"x"}', 200),
        (b"5", 200),
    ):
        world = World()

        async def answer(authorized: Authorized, relay: Relay, payload: bytes = payload) -> Result:
            return Result(payload, "rpc_error")

        world.upstream.answer = answer

        got = await world.post(call())

        assert (got.status, got.body) == (status, b'{"jsonrpc":"2.0","id":1,"error":' + payload + b"}")


@pytest.mark.requirement("mcp:2026-07-28:auth-401")
@pytest.mark.parametrize(("path", "suffix"), [("/mcp", "/mcp"), ("/servers/files/mcp/", "/servers/files/mcp")])
@pytest.mark.parametrize("method", ["tools/call", "tools/list"])
async def test_invalid_credential_is_challenged_with_where_to_get_one(path: str, suffix: str, method: str) -> None:
    world = World()
    body = request(method, {"name": "files__read"} if method == "tools/call" else None)

    answer = await world.post(body, (b"authorization", b"Bearer stranger"), path=path)

    assert (answer.status, answer.error["code"]) == (401, -31401)
    metadata = f"http://127.0.0.1:8080/.well-known/oauth-protected-resource{suffix}"
    assert f'resource_metadata="{metadata}"' in answer.header("www-authenticate")
    assert answer.header("www-authenticate").startswith("Bearer ")
    (record,) = world.trail.records
    assert (record.outcome, record.error) == ("denied", "unauthenticated")


class AppearingLate(FakeIdentifier):
    """Knows a caller only from the second look on, as when a key is added in between."""

    async def identify(self, credentials: Credentials) -> Identity:
        try:
            return await super().identify(credentials)
        finally:
            self.known["late"] = ANA


async def test_caller_who_becomes_known_only_during_the_request_gets_no_answer_of_it() -> None:
    world = World(identifier=AppearingLate({}))

    answer = await world.post(call(), (b"authorization", b"Bearer late"))

    assert answer.status == 401


@pytest.mark.requirement("mcp:2026-07-28:missing-capability")
@pytest.mark.parametrize(
    ("declared", "params", "required"),
    [
        ({}, {}, {"elicitation": {}}),
        ({"elicitation": None}, {}, {"elicitation": {}}),
        ({"elicitation": {}}, {"mode": "url"}, {"elicitation": {"url": {}}}),
    ],
)
async def test_call_that_needs_an_undeclared_capability_names_it(
    declared: dict[str, object], params: dict[str, object], required: dict[str, object]
) -> None:
    world = World()

    async def ask(authorized: Authorized, relay: Relay) -> Result:
        return await relay.ask("elicitation/create", params)

    world.upstream.answer = ask

    answer = await world.post(call(clientCapabilities=declared))

    assert (answer.status, answer.error["code"]) == (400, -32021)
    assert answer.error["data"] == {"requiredCapabilities": required}


@pytest.mark.requirement(
    "mcp:2026-07-28:notification-202", "mcp:2026-07-28:one-message", "mcp:2026-07-28:cancel-unknown"
)
async def test_notification_is_accepted_and_a_response_is_not() -> None:
    world = World()
    body = {key: value for key, value in request("notifications/cancelled", {"requestId": 1}).items() if key != "id"}

    told = await world.post(body)
    answered = await world.post(b'{"jsonrpc":"2.0","id":1,"result":{}}', (b"mcp-protocol-version", b"2026-07-28"))

    assert (told.status, told.body) == (202, b"")
    assert (answered.status, answered.body) == (400, b"")
    assert world.decider.asked == []
