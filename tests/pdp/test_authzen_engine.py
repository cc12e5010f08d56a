"""Any AuthZEN decision point may decide; whatever it answers that is not understood is never a yes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest

from adapters.pdp.authzen import AuthzenPdp, Targets
from adapters.pdp.authzen_metadata import MAX_BYTES, discovered
from adapters.pdp.opa_http import Endpoint, OpaHttp
from gateway.app.policy import open_engine, read_policy
from gateway.authz.answer import judge
from gateway.config.decisions import Policy
from gateway.errors import ConfigError, PolicyEngineUnavailable
from gateway.types import Deny, NeedsApproval, Permit, Ruling
from tests.pdp.authzenserver import Decide, HttpError, Server, serving

QUESTION: Final = {
    "schema": "interlock.input/1",
    "phase": "request",
    "subject": {"type": "user", "id": "user:ana", "properties": {}},
    "action": {"name": "mcp.tools.call", "properties": {"protocol": "mcp", "method": "tools/call"}},
    "resource": {"type": "tool", "id": "one/echo", "properties": {"arguments": {"text": "hello"}}},
    "context": {"env": "test"},
}
YES: Final = {"decision": True}
BOTH: Final = Targets("/decide", "/decide-all")


@asynccontextmanager
async def asking(
    decide: Decide, targets: Targets = BOTH, *, timeout_s: float = 5.0
) -> AsyncIterator[tuple[AuthzenPdp, Server]]:
    """An engine, and the server that it asks."""
    with anyio.fail_after(20):
        async with serving(decide) as server:
            http = OpaHttp(
                Endpoint.parse(server.url), headers=(("Authorization", "Bearer t0ken"),), connect_timeout_s=2.0
            )
            pdp = AuthzenPdp(http, targets, timeout_s=timeout_s)
            try:
                yield pdp, server
            finally:
                pdp.close()


async def answered(response: Any) -> Any:
    """What the engine makes of one response."""
    async with asking(lambda _: response) as (pdp, _):
        return (await pdp.evaluate("decision", QUESTION)).value


async def refused(response: Any) -> str:
    """The reserved reason with which the engine refuses a response."""
    async with asking(lambda _: response) as (pdp, _):
        with pytest.raises(PolicyEngineUnavailable) as caught:
            await pdp.evaluate("decision", QUESTION)
    return caught.value.reason


def judged(value: Any) -> Permit | Deny | NeedsApproval:
    return judge(value, call_digest="d", ruling=Ruling("d1"))


async def test_question_is_sent_as_authzen_with_the_rest_in_its_context() -> None:
    async with asking(lambda _: YES) as (pdp, server):
        answer = await pdp.evaluate("decision", QUESTION)

    ((path, body),) = server.asked
    assert (path, set(body)) == ("/decide", {"subject", "action", "resource", "context"})
    assert body["context"] == {"env": "test", "schema": "interlock.input/1", "phase": "request"}
    assert {name: body[name] for name in ("subject", "action", "resource")} == {
        name: QUESTION[name] for name in ("subject", "action", "resource")
    }
    assert server.headers[0]["authorization"] == "Bearer t0ken"
    assert isinstance(judged(answer.value), Permit)
    assert (answer.engine, answer.cached) == ("authzen", False)


async def test_obligations_and_labels_of_our_shape_are_carried_out() -> None:
    obligations = [{"id": "o1", "type": "redact", "properties": {"patterns": ["secret"]}}]

    permit = judged(await answered({"decision": True, "context": {"obligations": obligations, "labels": ["pii"]}}))

    assert isinstance(permit, Permit)
    assert [obligation.type for obligation in permit.obligations] == ["redact"]
    assert permit.labels == ("pii",)


@pytest.mark.parametrize(
    "context",
    [
        {"obligations": [{"type": "step_up"}]},
        {"obligations": {"type": "redact"}},
        {"obligations": "mask"},
        {"obligation": "mask"},
        {"Obligations": []},
        {"advice": "call back"},
        {"access_request": {"approvers": "x"}},
        {"access_request": []},
        {"xacml": {"obligations": []}},
        {"filters": ["tenant = 1"]},
        {"step_up": True},
        {"require_mfa": "totp"},
        {"max_rows": 10},
        {"expires_at": "2026-01-01T00:00:00Z"},
        {"acr_values": "urn:loa:2"},
        {"scope": "read"},
        {"exclude": "salary"},
        {"dryRun": True},
    ],
)
async def test_permit_under_something_unknown_is_a_deny(context: dict[str, Any]) -> None:
    denial = judged(await answered({"decision": True, "context": context}))

    assert isinstance(denial, Deny)
    assert denial.reasons[0].code == "obligation_unsupported"


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"id": "1", "reason_admin": {"en": "ok"}, "reason_user": {"en": "ok"}, "reason": "ok"},
        {"reasons": [{"code": "granted"}]},
        {"ttl": 30, "trace": "abc", "empty": {}},
    ],
)
async def test_permit_that_is_only_explained_stays_one(context: dict[str, Any]) -> None:
    assert isinstance(judged(await answered({"decision": True, "context": context})), Permit)


async def test_reasons_of_our_shape_are_passed_on() -> None:
    reason = {"code": "not_that", "message": "not that", "rule": "r", "public": True, "remedy": "ask", "more": 1}

    denial = judged(await answered({"decision": False, "context": {"reasons": [reason, {"code": 5}, "x"]}}))

    assert isinstance(denial, Deny)
    assert [(each.code, each.message, each.remedy) for each in denial.reasons] == [("not_that", "not that", "ask")]


async def test_reasons_in_authzen_words_become_ours() -> None:
    context = {"reason_user": {"en-403": "no entry"}, "reason_admin": {"en": "policy 7"}, "obligations": [{"x": 1}]}

    denial = judged(await answered({"decision": False, "context": context}))

    assert isinstance(denial, Deny)
    assert [(each.message, each.public) for each in denial.reasons] == [("no entry", True), ("policy 7", False)]


async def test_deny_with_an_access_request_of_our_shape_holds() -> None:
    held = judged(await answered({"decision": False, "context": {"access_request": {"approvers": "group:x"}}}))

    assert isinstance(held, NeedsApproval)


@pytest.mark.parametrize("request_", [{}, {"approvers": ""}, {"endpoint": "https://x"}, "x", None])
async def test_access_request_of_another_shape_is_a_plain_deny(request_: Any) -> None:
    assert isinstance(judged(await answered({"decision": False, "context": {"access_request": request_}})), Deny)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ([], "policy_output_invalid"),
        ("yes", "policy_output_invalid"),
        ({}, "undefined"),
        ({"result": True}, "undefined"),
        ({"decision": "true"}, "policy_output_invalid"),
        ({"decision": 1}, "policy_output_invalid"),
        ({"decision": None}, "policy_output_invalid"),
        ({"decision": True, "context": []}, "policy_output_invalid"),
        ({"decision": True, "obligations": []}, "policy_output_invalid"),
        ({"decision": False, "more": 1}, "policy_output_invalid"),
    ],
)
async def test_what_is_no_response_is_no_answer(response: Any, reason: str) -> None:
    assert await refused(response) == reason


@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b'{"decision":true'])
async def test_what_is_no_json_is_no_answer(body: bytes) -> None:
    async with asking(lambda _: YES) as (pdp, server):
        server.raw = body
        with pytest.raises(PolicyEngineUnavailable) as caught:
            await pdp.evaluate("decision", QUESTION)

    assert caught.value.reason == "policy_output_invalid"


@pytest.mark.parametrize("status", [201, 204, 301, 400, 401, 403, 404, 429, 500, 503])
async def test_status_is_an_answer_and_never_asked_for_again(status: int) -> None:
    def fail(_: Any) -> Any:
        raise HttpError(status, {"location": "/elsewhere"} if status == 301 else None)

    async with asking(fail) as (pdp, server):
        with pytest.raises(PolicyEngineUnavailable) as caught:
            await pdp.evaluate("decision", QUESTION)

    assert caught.value.reason == "pdp_unavailable"
    assert len(server.asked) == 1
    assert "t0ken" not in str(caught.value)


async def test_decision_point_that_is_overloaded_is_left_alone_for_a_moment() -> None:
    def fail(_: Any) -> Any:
        raise HttpError(503)

    async with asking(fail) as (pdp, server):
        for _ in range(8):
            with pytest.raises(PolicyEngineUnavailable):
                await pdp.evaluate("decision", QUESTION)

    assert len(server.asked) == 5
    assert pdp.breaker.state == "open"


async def test_decision_point_that_is_slow_is_a_timeout() -> None:
    held = anyio.Event()

    async def never(reader: Any, writer: Any) -> None:
        await held.wait()
        writer.close()

    with anyio.fail_after(10):
        server = await asyncio.start_server(never, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        pdp = AuthzenPdp(OpaHttp(Endpoint("127.0.0.1", port), connect_timeout_s=2.0), BOTH, timeout_s=0.05)
        with pytest.raises(PolicyEngineUnavailable) as caught:
            await pdp.evaluate("decision", QUESTION)
        held.set()
        pdp.close()
        server.close()

    assert caught.value.reason == "timeout"


async def test_decision_point_that_is_not_there_is_unavailable() -> None:
    pdp = AuthzenPdp(OpaHttp(Endpoint("127.0.0.1", 1)), BOTH)

    with pytest.raises(PolicyEngineUnavailable) as caught:
        await pdp.evaluate("decision", QUESTION)

    assert caught.value.reason == "pdp_unavailable"


def listing(*kinds: Any) -> dict[str, Any]:
    candidates = [{"type": kind, "id": f"c{index}", "properties": {}} for index, kind in enumerate(kinds)]
    resource = {"type": "mcp_server", "id": "*", "properties": {"candidates": candidates}}
    return {**QUESTION, "phase": "list", "action": {"name": "mcp.tools.list", "properties": {}}, "resource": resource}


def by_id(responses: dict[str, Any]) -> Callable[[Any], Any]:
    return lambda question: responses[question["resource"]["id"]]


MIXED: Final = {
    "c0": {"decision": True},
    "c1": {"decision": False},
    "c2": {"decision": False, "context": {"access_request": {"approvers": "x"}}},
    "c3": {"decision": True, "context": {"mfa": True}},
    "c4": {"decision": False, "context": {"error": {"status": 500, "message": "x"}}},
    "c5": {"decision": True},
}


@pytest.mark.parametrize("targets", [BOTH, Targets("/decide")])
async def test_list_shows_what_is_permitted_or_may_be(targets: Targets) -> None:
    async with asking(by_id(MIXED), targets) as (pdp, server):
        answer = await pdp.evaluate("visible", listing(*["tool"] * 6))

    assert answer.value == [0, 2, 5]
    assert len(server.asked) == (1 if targets.evaluations else 6)


async def test_listed_thing_is_asked_about_as_the_call_that_it_is_there_for() -> None:
    async with asking(lambda _: YES, Targets("/decide")) as (pdp, server):
        answer = await pdp.evaluate("visible", listing("tool", "prompt", "spoon", None, ["tool"]))

    names = {body["resource"]["type"]: body["action"]["name"] for _, body in server.asked}
    assert names == {"tool": "mcp.tools.call", "prompt": "mcp.prompts.get"}
    assert answer.value == [0, 1]


async def test_list_of_nothing_is_not_asked_about() -> None:
    async with asking(lambda _: YES) as (pdp, server):
        answer = await pdp.evaluate("visible", listing())

    assert (answer.value, server.asked) == ([], [])


@pytest.mark.parametrize("body", [b"{}", b'{"evaluations":[{"decision":true}]}', b'{"evaluations":{}}'])
async def test_list_that_is_answered_in_part_is_not_answered(body: bytes) -> None:
    async with asking(lambda _: YES) as (pdp, server):
        server.raw = body
        with pytest.raises(PolicyEngineUnavailable) as caught:
            await pdp.evaluate("visible", listing("tool", "tool"))

    assert caught.value.reason == "policy_output_invalid"


@pytest.mark.parametrize("targets", [BOTH, Targets("/decide")])
async def test_one_failure_in_a_list_shows_nothing(targets: Targets) -> None:
    def fail(question: Any) -> Any:
        if question["resource"]["id"] == "c1":
            raise HttpError(500)
        return YES

    async with asking(fail, targets) as (pdp, _):
        with pytest.raises(PolicyEngineUnavailable):
            await pdp.evaluate("visible", listing("tool", "tool", "tool"))


async def test_endpoints_are_those_of_the_metadata() -> None:
    async with serving(lambda _: YES) as server:
        server.names(access_evaluations_endpoint="/all")

        assert await discovered(server.url) == Targets("/decide", "/all")


async def test_without_metadata_the_usual_path_is_asked() -> None:
    async with serving(lambda _: YES) as server:
        assert await discovered(server.url) == Targets("/access/v1/evaluation")
        assert await discovered(f"{server.url}/tenant/") == Targets("/tenant/access/v1/evaluation")


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"policy_decision_point": "https://other.example", "access_evaluation_endpoint": "https://other.example/a"},
        {"policy_decision_point": "SELF"},
        {"policy_decision_point": "SELF", "access_evaluation_endpoint": "https://other.example/a"},
        {"policy_decision_point": "SELF", "access_evaluation_endpoint": 5},
        [],
        b"{",
        b" " * (MAX_BYTES + 1),
    ],
)
async def test_metadata_that_leads_elsewhere_is_refused(metadata: Any) -> None:
    async with serving(lambda _: YES) as server:
        if isinstance(metadata, dict):
            metadata = {name: server.url if value == "SELF" else value for name, value in metadata.items()}
        server.metadata = metadata

        with pytest.raises(ValueError, match=r"metadata|JSON"):
            await discovered(server.url)


async def test_metadata_that_fails_is_a_decision_point_that_cannot_be_reached() -> None:
    async with serving(lambda _: YES) as server:
        server.metadata, server.metadata_status = {}, 500

        with pytest.raises(PolicyEngineUnavailable):
            await discovered(server.url)

    with pytest.raises(PolicyEngineUnavailable):
        await discovered("http://127.0.0.1:1")


async def test_configured_engine_asks_with_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDP_TOKEN", "t0ken")
    with anyio.fail_after(20):
        async with serving(lambda _: YES) as server:
            policy = Policy(engine="authzen", url=server.url, token="env:PDP_TOKEN", timeout_ms=5_000)
            engine = await open_engine(policy, await read_policy(policy))
            answer = await engine.evaluate("decision", QUESTION)
            engine.close()

    assert answer.value == {"decision": True, "context": {}}
    assert answer.revision.startswith("authzen:127.0.0.1:")
    assert server.headers[0]["authorization"] == "Bearer t0ken"
    assert engine.isolation == "remote"


async def test_decision_point_far_away_has_the_configured_time_to_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    found = socket.getaddrinfo

    def slowly(*place: Any, **how: Any) -> Any:
        time.sleep(0.1)  # in a thread of the resolver's
        return found(*place, **how)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with anyio.fail_after(20):
        async with serving(lambda _: YES) as server:
            address = server.url.replace("127.0.0.1", "localhost")
            policy = Policy(engine="authzen", url=address, timeout_ms=5_000)
            engine = await open_engine(policy, await read_policy(policy))
            answer = await engine.evaluate("decision", QUESTION)
            engine.close()

    assert answer.value == {"decision": True, "context": {}}


async def test_unusable_metadata_is_a_fault_of_the_configuration() -> None:
    async with serving(lambda _: YES) as server:
        server.metadata = {}
        policy = Policy(engine="authzen", url=server.url)

        with pytest.raises(ConfigError, match=r"policy\.url"):
            await open_engine(policy, await read_policy(policy))
