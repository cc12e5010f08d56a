"""The spans that a record becomes."""

from __future__ import annotations

import pytest

from gateway.boxes import BoxFacts, Level
from gateway.telemetry import Leg, SpanData, names, parse, spans_of, start
from gateway.types import Entity, Identity, Resource
from tests.telemetry.samples import ENDED, PARENT, SPAN, TRACE, record

CONTEXT = start(parse(PARENT, "congo=1"))
TRACED = {"traceparent": CONTEXT.traceparent, "tracestate": CONTEXT.tracestate}


def _leg(upstream: str) -> Leg:
    return {"db": Leg("tcp", "db.internal", 8443), "files": Leg("pipe")}.get(upstream, Leg())


def test_governed_call_has_a_span_for_itself_its_decision_and_its_upstream_leg() -> None:
    call, policy, leg = spans_of(record(TRACED), _leg)

    assert [span.name for span in (call, policy, leg)] == ["tools/call query", "interlock.policy", "tools/call query"]
    assert [span.kind for span in (call, policy, leg)] == ["server", "internal", "client"]
    assert {span.trace_id for span in (call, policy, leg)} == {TRACE}
    assert call.parent_span_id == SPAN
    assert {policy.parent_span_id, leg.parent_span_id} == {call.span_id}
    assert leg.span_id == CONTEXT.span_id  # what the upstream saw as its parent
    assert len({call.span_id, policy.span_id, leg.span_id}) == 3
    assert {span.trace_state for span in (call, policy, leg)} == {"congo=1"}


def test_spans_have_the_times_of_their_stages() -> None:
    call, policy, leg = spans_of(record(TRACED), _leg)

    begun = ENDED - 31_000_000
    assert (call.start_ns, call.end_ns) == (begun, ENDED)
    assert (policy.start_ns, policy.end_ns) == (begun + 10_000, begun + 210_000)
    assert (leg.start_ns, leg.end_ns) == (begun + 210_000, begun + 30_210_000)


def test_attributes_are_the_conventions_and_ours() -> None:
    call, policy, leg = spans_of(record(TRACED), _leg)

    session = call.attributes[names.MCP_SESSION_ID]
    operation = {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": "2026-07-28",
        "mcp.session.id": session,
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "query",
        "network.transport": "tcp",
        "network.protocol.name": "http",
        "interlock.upstream": "db",
    }
    assert call.attributes == operation | {
        "interlock.call.id": "call-1",
        "interlock.action": "mcp.tools.call",
        "interlock.outcome": "ok",
        "interlock.policy.decision_id": "d-1",
        "interlock.result.labels": ("pii",),
        "interlock.tenant": "acme",
        "gen_ai.agent.id": "agent:report-bot",
    }
    assert policy.attributes == {
        "interlock.policy.verdict": "permit",
        "interlock.policy.decision_id": "d-1",
        "interlock.policy.revision": "rev-7",
        "interlock.policy.engine": "embedded",
        "interlock.policy.cached": False,
        "interlock.policy.obligations": ("redact",),
    }
    assert leg.attributes == operation | {"server.address": "db.internal", "server.port": 8443}


def test_call_in_a_sandbox_says_how_strong_that_is() -> None:
    box = BoxFacts("b-1", "gvisor", "release-20240729.0", Level.GVISOR)

    call, policy, _ = spans_of(record(TRACED, notes={"sandbox": box.note()}), _leg)

    assert call.attributes["interlock.sandbox.driver"] == "gvisor"
    assert call.attributes["interlock.sandbox.level"] == "gvisor"
    assert not [key for key in policy.attributes if "sandbox" in key]


def test_call_whose_budgets_are_near_their_limits_says_which() -> None:
    warning = {"scope": "chain", "name": "tree", "account": "a", "used": 0.934}

    near, *_ = spans_of(record(TRACED, notes={"budget": {"warnings": [warning]}}), _leg)
    far, *_ = spans_of(record(TRACED, notes={"budget": {"warnings": []}}), _leg)

    assert near.attributes["interlock.budget.warnings"] == ("chain:tree:93",)
    assert "interlock.budget.warnings" not in far.attributes


@pytest.mark.parametrize("notes", [None, {}, {"egress": {}}, {"sandbox": "gvisor"}, {"sandbox": {"level": 3}}])
def test_call_without_facts_of_a_sandbox_has_none_on_its_span(notes: dict[str, object] | None) -> None:
    call = spans_of(record(TRACED, notes=notes), _leg)[0]

    assert not [key for key in call.attributes if "sandbox" in key]


def _failures(spans: list[SpanData]) -> list[tuple[str, object]]:
    return [(span.kind, span.attributes.get(names.ERROR_TYPE)) for span in spans if span.error]


@pytest.mark.parametrize(
    ("outcome", "error", "expected"),
    [
        ("ok", "", []),
        ("input_required", "", []),
        ("tool_error", "", [("server", "tool_error"), ("client", "tool_error")]),
        ("rpc_error", "", [("server", "rpc_error"), ("client", "rpc_error")]),
        ("failed", "upstream_timeout", [("server", "upstream_timeout"), ("client", "upstream_timeout")]),
        ("cancelled", "", [("server", "cancelled"), ("client", "cancelled")]),
        ("denied", "policy_denied", [("server", "policy_denied")]),
    ],
)
def test_failure_is_on_the_spans_that_failed(outcome: str, error: str, expected: list[tuple[str, object]]) -> None:
    assert _failures(spans_of(record(TRACED, outcome=outcome, error=error), _leg)) == expected


def test_denied_call_has_no_upstream_leg_and_says_why() -> None:
    denied = record(
        TRACED, outcome="denied", error="policy_denied", execute_ns=0, result_bytes=0, reasons=("data:not_select",)
    )

    call, policy = spans_of(denied, _leg)

    assert call.error
    assert not policy.error
    assert policy.attributes[names.POLICY_VERDICT] == "deny"
    assert policy.attributes[names.POLICY_REASONS] == ("data:not_select",)


def test_engine_that_gave_no_answer_is_a_failed_policy_span() -> None:
    spans = spans_of(record(TRACED, outcome="failed", error="pdp_unavailable", execute_ns=0, decision_id=""), _leg)

    assert _failures(spans) == [("server", "pdp_unavailable"), ("internal", "pdp_unavailable")]


@pytest.mark.parametrize("error", ["unauthenticated", "unknown_resource"])
def test_call_that_never_reached_policy_has_one_span(error: str) -> None:
    spans = spans_of(record(TRACED, outcome="denied", error=error, execute_ns=0, decision_id=""), _leg)

    assert [span.kind for span in spans] == ["server"]


def test_list_is_answered_here_so_it_has_no_upstream_leg() -> None:
    listing = {**TRACED, "action": "mcp.tools.list", "method": "tools/list", "resource": Resource("mcp_server", "*")}

    call, policy = spans_of(record(listing), _leg)

    assert (call.name, policy.name) == ("tools/list", "interlock.policy")
    assert names.GEN_AI_OPERATION_NAME not in call.attributes


def test_process_is_reached_through_a_pipe() -> None:
    leg = spans_of(record({**TRACED, "resource": Resource("tool", "files/ls", "files", "ls")}), _leg)[-1]

    assert leg.attributes[names.NETWORK_TRANSPORT] == "pipe"
    assert not {names.NETWORK_PROTOCOL_NAME, names.SERVER_ADDRESS, names.SERVER_PORT} & set(leg.attributes)


def test_question_to_the_client_is_a_client_span_below_the_call_that_caused_it() -> None:
    asking = {**TRACED, "action": "mcp.elicitation.create", "method": "elicitation/create", "parent_id": "call-0"}
    resource = Resource("elicitation", "db", "db", "query")

    parent = spans_of(record(TRACED), _leg)[0]
    call, policy = spans_of(record({**asking, "resource": resource}), _leg)

    assert (call.name, call.kind, call.parent_span_id) == ("elicitation/create", "client", parent.span_id)
    assert call.attributes[names.CALL_PARENT_ID] == "call-0"
    assert policy.parent_span_id == call.span_id
    assert len({parent.span_id, call.span_id, policy.span_id, CONTEXT.span_id}) == 4


def test_other_call_that_a_call_caused_is_internal() -> None:
    call = spans_of(record({**TRACED, "parent_id": "call-0"}), _leg)[0]

    assert call.kind == "internal"


def test_linked_context_is_on_the_span_of_the_call() -> None:
    other = parse(f"00-{'a' * 32}-{'b' * 16}-01")
    context = start(parse(PARENT), link=other)

    call, policy, leg = spans_of(
        record({"traceparent": context.traceparent, "tracestate": context.tracestate}), _leg
    )  # fmt: skip

    assert [span.links for span in (call, policy, leg)] == [(("a" * 32, "b" * 16),), (), ()]


def test_prompt_and_resource_are_named_by_the_conventions() -> None:
    prompt = {"action": "mcp.prompts.get", "method": "prompts/get", "resource": Resource("prompt", "db/p", "db", "p")}
    uri = "https://ana:pw@h/a?token=T#f"
    read = {
        "action": "mcp.resources.read",
        "method": "resources/read",
        "resource": Resource("mcp_resource", uri, "db", uri),
    }

    asked = spans_of(record({**TRACED, **prompt}), _leg)[0]
    failed = spans_of(record({**TRACED, **read}, outcome="failed", error="upstream_unavailable"), _leg)[0]

    assert (asked.name, asked.attributes[names.GEN_AI_PROMPT_NAME]) == ("prompts/get p", "p")
    assert (failed.name, failed.attributes[names.MCP_RESOURCE_URI]) == ("resources/read", "https://h/a")
    assert failed.attributes[names.RPC_RESPONSE_STATUS_CODE] == "-31503"


def test_uri_that_cannot_be_read_is_left_out() -> None:
    broken = Resource("mcp_resource", "x://[", "db", "x://[")

    call = spans_of(record({**TRACED, "resource": broken, "action": "mcp.resources.read"}), _leg)[0]

    assert names.MCP_RESOURCE_URI not in call.attributes


@pytest.mark.parametrize("change", [{"outcome": "intent"}, {"call": {"traceparent": "garbage"}}])
def test_intent_and_call_without_context_have_no_spans(change: dict[str, object]) -> None:
    assert spans_of(record(**change), _leg) == []  # type: ignore[arg-type]  # as parametrized


def test_nothing_secret_is_in_any_span() -> None:
    spans = spans_of(record(TRACED), _leg)

    assert "SECRET" not in repr(spans)


def test_person_is_not_named() -> None:
    call = spans_of(record(TRACED, identity=Identity(Entity("user", "user:ana"))), _leg)[0]

    assert "ana" not in repr(call)


def test_call_of_nobody_names_nobody() -> None:
    call = spans_of(record(TRACED, identity=None, outcome="denied", error="unauthenticated"), _leg)[0]

    assert not {names.TENANT, names.GEN_AI_AGENT_ID} & set(call.attributes)


def test_unknown_tool_is_not_in_the_name_of_a_span() -> None:
    unknown = Resource("tool", "x", "", "x" * 1000, known=False)

    call = spans_of(record({**TRACED, "resource": unknown}, outcome="denied", error="unknown_resource"), _leg)[0]

    assert call.name == "tools/call"
