"""What policy is asked: the contract's document, with nothing of the caller's among our facts, and never too large."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import pytest

from gateway import codec
from gateway.authz.obligations import SUPPORTED_OBLIGATIONS
from gateway.authz.question import Question, Questions
from gateway.authz.sessions import SessionFacts
from gateway.authz.truncation import MAX_BYTES
from gateway.errors import InputTooLarge
from gateway.tickets import Approval
from gateway.types import Call, FrozenDict, Resource, Result
from tests.authz.makers import IDENTITY, TOOL, call_of

QUESTIONS = Questions(env="test", clock_ns=lambda: 5)
SESSION = SessionFacts(calls=7, labels=("untrusted",))


def properties_of(question: Question) -> Mapping[str, object]:
    resource = question["resource"]
    assert isinstance(resource, dict)
    return cast("Mapping[str, object]", resource["properties"])


def asked(call: Call) -> Mapping[str, object]:
    return properties_of(QUESTIONS.about_call(call, IDENTITY, SESSION))


def result_in(result: Result, call: Call | None = None) -> Mapping[str, object]:
    question = QUESTIONS.about_result(call or call_of(), IDENTITY, SESSION, result)
    assert question["phase"] == "response"
    facts = properties_of(question)["result"]
    assert isinstance(facts, dict)
    return facts


def test_a_call_becomes_the_documented_question() -> None:
    call = call_of({"path": "/srv"}, session_id="s1")

    question = json.loads(codec.dumps(QUESTIONS.about_call(call, IDENTITY, SESSION)))

    assert question == {
        "schema": "interlock.input/1",
        "phase": "request",
        "subject": {
            "type": "agent",
            "id": "agent:bot",
            "properties": {
                "tenant": "acme",
                "roles": ["developer"],
                "scopes": [],
                "delegation": [],
                "method": "api_key",
                "issuer": "",
            },
        },
        "action": {
            "name": "mcp.tools.call",
            "properties": {"protocol": "mcp", "protocol_version": "", "method": "tools/call"},
        },
        "resource": {
            "type": "tool",
            "id": "files/read",
            "properties": {
                "upstream": "files",
                "name": "read",
                "arguments": {"path": "/srv"},
                "arguments_digest": call.arguments_digest,
                "truncated": False,
                "catalog": {"risk": "medium", "labels": []},
                "hints": {"readOnlyHint": True},
            },
        },
        "context": {
            "time_ns": 5,
            "request_id": "c1",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "session": {"id": "s1", "calls": 7, "labels": ["untrusted"]},
            "env": "test",
            "supported_obligations": [*SUPPORTED_OBLIGATIONS],
        },
    }


def test_arguments_are_not_copied() -> None:
    call = call_of({"path": "/srv"})

    assert asked(call)["arguments"] is call.arguments


def test_long_texts_of_an_oversized_call_become_digests() -> None:
    call = call_of({"body": "x" * MAX_BYTES, "rows": ["short", 1, None], "name": "n" * 4_096})

    properties = asked(call)

    assert properties["truncated"] is True
    assert properties["arguments_digest"] == call.arguments_digest
    arguments = properties["arguments"]
    assert isinstance(arguments, dict)
    assert str(arguments["body"]).startswith("sha256:")
    assert arguments["rows"] == ["short", 1, None]
    assert arguments["name"] == "n" * 4_096


def test_a_call_that_fits_keeps_its_long_texts() -> None:
    properties = asked(call_of({"body": "x" * 100_000}))

    assert properties["truncated"] is False


@pytest.mark.parametrize(
    "arguments",
    [{"k" * MAX_BYTES: 1}, {f"k{number}": "x" * 4_000 for number in range(100)}],
)
def test_what_stays_too_large_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InputTooLarge):
        asked(call_of(arguments))


@pytest.mark.parametrize(
    ("params", "facts"),
    [
        (
            {"message": "hi", "requestedSchema": {"type": "object", "properties": {"b": {}, "a": {}}}},
            {"mode": "form", "fields": ["a", "b"], "url_host": ""},
        ),
        (
            {"mode": "url", "url": "https://Pay.example.org:8443/x"},
            {"mode": "url", "fields": [], "url_host": "pay.example.org"},
        ),
        ({"mode": 1, "url": 2, "requestedSchema": 3}, {"mode": "", "fields": [], "url_host": ""}),
        ({"url": "http://[", "requestedSchema": {"properties": []}}, {"mode": "form", "fields": [], "url_host": ""}),
        ({"url": "mailto:x"}, {"mode": "form", "fields": [], "url_host": ""}),
    ],
)
def test_an_elicitation_says_what_it_asks_for(params: dict[str, object], facts: dict[str, object]) -> None:
    properties = asked(call_of(action="mcp.elicitation.create", params=params))

    assert {key: properties[key] for key in ("mode", "fields", "url_host")} == facts


@pytest.mark.parametrize(
    ("params", "facts"),
    [
        (
            {"messages": [{}, {}], "maxTokens": 9, "includeContext": "allServers", "tools": [{}]},
            {"messages": 2, "tools": 1, "max_tokens": 9, "include_context": "allServers"},
        ),
        ({}, {"messages": 0, "tools": 0, "max_tokens": -1, "include_context": "none"}),
        (
            {"messages": "x", "maxTokens": "9", "includeContext": 1},
            {"messages": 0, "tools": 0, "max_tokens": -1, "include_context": ""},
        ),
    ],
)
def test_sampling_says_how_much_it_wants(params: dict[str, object], facts: dict[str, object]) -> None:
    properties = asked(call_of(action="mcp.sampling.create", params=params))

    assert {key: properties[key] for key in facts} == facts
    assert properties["arguments"] == {}


def test_a_resource_says_its_scheme() -> None:
    resource = Resource("mcp_resource", "FILE:///etc/hosts", "files", "FILE:///etc/hosts")

    assert asked(call_of(action="mcp.resources.read", resource=resource))["scheme"] == "file"


@pytest.mark.parametrize(
    ("params", "arguments"),
    [
        ({"argument": {"name": "a", "value": "x"}, "context": {"arguments": {"b": "y"}}}, {"a": "x", "b": "y"}),
        ({"argument": {"name": 1, "value": "x"}, "context": {"arguments": 2}}, {}),
        ({"argument": 1, "context": 2}, {}),
    ],
)
def test_a_completion_says_what_is_completed(params: dict[str, object], arguments: dict[str, object]) -> None:
    assert asked(call_of(action="mcp.completion.complete", params=params))["arguments"] == arguments


def test_candidates_carry_our_facts_and_no_arguments() -> None:
    question = QUESTIONS.about_list(call_of(action="mcp.tools.list"), IDENTITY, SESSION, [TOOL])

    assert question["phase"] == "list"
    properties = properties_of(question)
    assert "arguments" not in properties
    assert properties["candidates"] == [
        {
            "type": "tool",
            "id": "files/read",
            "properties": {"upstream": "files", "name": "read", "catalog": TOOL.catalog, "hints": TOOL.hints},
        }
    ]


def test_a_list_that_is_too_large_is_refused() -> None:
    huge = Resource("tool", "u/t", "u", "t", hints=FrozenDict({"title": "x" * MAX_BYTES}))

    with pytest.raises(InputTooLarge):
        QUESTIONS.about_list(call_of(), IDENTITY, SESSION, [huge])


def test_a_result_is_described_and_shown_where_it_fits() -> None:
    payload = b'{"content":[{"type":"text","text":"x"},{"type":"image"},3,{"type":1}],"structuredContent":{"a":1}}'

    assert result_in(Result(payload, labels=("pii",))) == {
        "size": len(payload),
        "outcome": "ok",
        "is_error": False,
        "labels": ("pii",),
        "content_kinds": ["image", "text"],
        "structured_content": {"a": 1},
        "truncated": False,
    }


@pytest.mark.parametrize(
    ("payload", "kinds"),
    [(b'{"contents":[{}]}', ["resource"]), (b'{"messages":[{}],"content":1}', ["message"]), (b"{}", [])],
)
def test_contents_and_messages_are_kinds(payload: bytes, kinds: list[str]) -> None:
    facts = result_in(Result(payload, "tool_error"))

    assert facts["content_kinds"] == kinds
    assert facts["is_error"] is True
    assert facts["truncated"] is False


@pytest.mark.parametrize("payload", [b"", b"[1]", b"{", b" " * (5 << 20)])
def test_what_cannot_be_read_says_so(payload: bytes) -> None:
    facts = result_in(Result(payload))

    assert facts["truncated"] is True
    assert facts["content_kinds"] == []


@pytest.mark.parametrize(
    "structured",
    [{"a": "x" * 70_000}, {"a": [0] * 2_001}],
)
def test_a_result_that_is_too_large_for_policy_is_left_out(structured: dict[str, object]) -> None:
    facts = result_in(Result(codec.dumps({"structuredContent": structured})))

    assert "structured_content" not in facts
    assert facts["truncated"] is True


def test_too_many_kinds_are_cut() -> None:
    blocks = [{"type": f"t{number}"} for number in range(40)]

    facts = result_in(Result(codec.dumps({"content": blocks})))

    assert facts["truncated"] is True
    assert len(cast("list[str]", facts["content_kinds"])) == 32


def test_a_result_does_not_cost_the_call_its_arguments() -> None:
    call = call_of({"body": "x" * 180_000})
    question = QUESTIONS.about_result(
        call, IDENTITY, SESSION, Result(codec.dumps({"structuredContent": {"a": "y" * 60_000}}))
    )

    properties = properties_of(question)

    assert properties["truncated"] is False
    assert properties["arguments"] == {"body": "x" * 180_000}
    assert "structured_content" not in cast("dict[str, object]", properties["result"])


CALLER = {
    "action": "mcp.tools.call",
    "type": "tool",
    "id": "packages/install",
    "upstream": "packages",
    "name": "install",
    "call": "c0",
    "arguments_digest": "sha256:0",
    "catalog": {"labels": ("pii",)},
}
CONNECTION = {
    "host": "api.example.org",
    "port": 443,
    "scheme": "tunnel",
    "box": {"driver": "gvisor", "level": "gvisor"},
    "caller": CALLER,
    "granted": True,
}
ENDPOINT = Resource("endpoint", "api.example.org:443", "packages", "api.example.org")


def test_a_connection_is_asked_about_with_its_box_and_its_caller() -> None:
    properties = asked(call_of(action="egress.connect", resource=ENDPOINT, params=CONNECTION))

    assert {name: properties[name] for name in CONNECTION} == CONNECTION
    assert properties["arguments"] == {}


@pytest.mark.parametrize("granted", [None, 1, "true", [True], {"granted": True}, False])
def test_only_a_plain_true_says_that_a_connection_was_granted(granted: object) -> None:
    params = {**CONNECTION, "granted": granted}

    assert asked(call_of(action="egress.connect", resource=ENDPOINT, params=params))["granted"] is False


def test_what_is_missing_or_odd_of_a_connection_is_nothing() -> None:
    params = {"host": 1, "port": "443", "scheme": None, "box": {"driver": "x", "secret": 1}, "caller": "me"}

    properties = asked(call_of(action="egress.connect", resource=ENDPOINT, params=params))

    expected = {"host": "", "port": 0, "scheme": "", "box": {"driver": "x"}, "caller": {}, "granted": False}
    assert {name: properties[name] for name in expected} == expected


def test_code_is_asked_about_with_its_arguments_and_its_caller() -> None:
    arguments = {"operation": "run_code", "language": "python", "code": "print(1)", "session": "s1"}
    params = {"arguments": arguments, "caller": {**CALLER, "more": 1}}

    properties = asked(
        call_of(action="sandbox.exec", resource=Resource("sandbox", "python", "sandbox", "python"), params=params)
    )

    assert properties["arguments"] == arguments
    assert properties["caller"] == CALLER


def test_no_other_action_brings_a_grant_into_the_question() -> None:
    properties = asked(call_of(params={**CONNECTION, "arguments": {"granted": True}}))

    assert not properties.keys() & {"granted", "caller", "box", "host", "port"}


def test_a_question_says_which_people_agreed() -> None:
    approval = Approval("t1", ("user:bo",), ({"approvers": "user:bo"},))

    question = QUESTIONS.about_call(call_of(), IDENTITY, SESSION, approval)

    context = cast("Mapping[str, object]", question["context"])
    assert context["approval"] == {
        "id": "t1",
        "approvers": ("user:bo",),
        "covers": ({"approvers": "user:bo"},),
        "standing": False,
    }
    assert context["env"] == "test"


def test_an_approval_that_makes_the_question_too_large_is_not_asked_about() -> None:
    approval = Approval("t1", ("user:bo",), ("x" * 300_000,))

    with pytest.raises(InputTooLarge):
        QUESTIONS.about_call(call_of(), IDENTITY, SESSION, approval)


def test_what_a_listener_read_for_policy_is_in_the_question_and_replaces_nothing_of_ours() -> None:
    call = replace(call_of(), facts=FrozenDict({"role": "ROLE_USER", "upstream": "other"}))

    assert (asked(call)["role"], asked(call)["upstream"]) == ("ROLE_USER", "files")


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        ({"message": {"parts": [{"text": "a"}, {"data": {}}, 7]}}, ["data", "text"]),
        ({"task": {"artifacts": [{"parts": [{"raw": "a"}]}], "history": [{"parts": [{"url": "b"}]}]}}, ["raw", "url"]),
        ({"id": "t"}, []),
    ],
)
def test_the_kinds_of_an_a2a_result_are_those_of_its_parts(value: object, kinds: list[str]) -> None:
    call = replace(call_of(action="a2a.message.send"), protocol="a2a")

    facts = result_in(Result(codec.dumps(value)), call)

    assert (facts["content_kinds"], facts["structured_content"]) == (kinds, value)
