"""The authorization stage: a yes is carried out as policy said, and everything else is a refusal that says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import cast

import anyio
import pytest

from gateway.authz.obligations import Audit
from gateway.authz.refusals import RESERVED, Held, OverRate, Refused
from gateway.errors import ApprovalPending, PolicyDenied, PolicyEngineUnavailable, QuotaExceeded
from gateway.ports import Decided
from gateway.types import Authorized, FrozenDict, Obligation, Permit, Reason, Resource, Result
from tests.authz.makers import (
    IDENTITY,
    TOOL,
    YES,
    Clock,
    ScriptedPdp,
    authorized,
    authz_of,
    call_of,
    denial,
    obligation,
    permit_with,
)

HOLD: Mapping[str, object] = {"decision": False, "context": {"access_request": {"approvers": "group:finance"}}}


async def test_a_yes_is_a_permit_for_this_call_with_its_ruling() -> None:
    authz = authz_of()
    call = call_of({"path": "/srv"})

    permit = await authz.decide(call, IDENTITY)

    assert permit.call_digest == call.digest
    assert permit.decision_id == "d1"
    assert (permit.ruling.revision, permit.ruling.engine, permit.ruling.cached) == ("r1", "scripted", False)
    assert Authorized(call, IDENTITY, permit).permit is permit


async def test_a_public_reason_says_which_rule_why_and_what_helps() -> None:
    shown = {
        "code": "sql",
        "message": "only SELECT",
        "rule": "rules.data",
        "public": True,
        "remedy": "only read",
    }
    bare = {"code": "late", "public": True}
    authz = authz_of({"decision": denial(shown, {"code": "inner", "message": "watchlist"}, bare)})

    with pytest.raises(PolicyDenied) as caught:
        await authz.decide(call_of(), IDENTITY)

    assert str(caught.value) == (
        "denied by policy: rules.data says only SELECT (sql). What would help: only read. late. (decision d1)"
    )
    assert [reason.code for reason in caught.value.reasons] == ["sql", "inner", "late"]
    assert caught.value.decision_id == "d1"
    assert isinstance(caught.value, Refused)
    assert caught.value.ruling.revision == "r1"


@pytest.mark.parametrize("answer", [denial(), denial({"code": "inner", "message": "watchlist"})])
async def test_private_reasons_are_not_shown(answer: Mapping[str, object]) -> None:
    authz = authz_of({"decision": answer})

    with pytest.raises(PolicyDenied) as caught:
        await authz.decide(call_of(), IDENTITY)

    assert str(caught.value) == "denied by policy (decision d1)"


async def test_a_hold_is_pending_and_names_who_is_asked() -> None:
    authz = authz_of({"decision": HOLD})

    with pytest.raises(ApprovalPending, match="decision d1") as caught:
        await authz.decide(call_of(), IDENTITY)

    assert caught.value.needs is not None
    assert caught.value.needs.request == {"approvers": "group:finance"}
    assert isinstance(caught.value, Held)
    assert caught.value.ruling.revision == "r1"


@pytest.mark.parametrize("reason", [*RESERVED, "something new"])
async def test_an_engine_that_cannot_answer_is_a_denial_with_its_code(reason: str) -> None:
    authz = authz_of({"decision": PolicyEngineUnavailable("http://10.0.0.1 refused", reason=reason)})

    with pytest.raises(PolicyDenied) as caught:
        await authz.decide(call_of(), IDENTITY)

    assert caught.value.reasons[0].code == (reason if reason in RESERVED else "pdp_unavailable")
    assert caught.value.reasons[-1] == Reason(caught.value.reasons[0].code, "http://10.0.0.1 refused", "interlock")
    assert "10.0.0.1" not in str(caught.value)


async def test_a_malformed_answer_is_a_denial() -> None:
    authz = authz_of({"decision": {"allow": True}})

    with pytest.raises(PolicyDenied) as caught:
        await authz.decide(call_of(), IDENTITY)

    assert caught.value.reasons[0].code == "policy_output_invalid"


async def test_an_unknown_obligation_is_a_denial() -> None:
    authz = authz_of({"decision": permit_with(obligation("model", allow=["small"]))})

    with pytest.raises(PolicyDenied) as caught:
        await authz.decide(call_of(), IDENTITY)

    assert caught.value.reasons[0].code == "obligation_unsupported"


async def test_a_call_that_policy_cannot_be_asked_about_is_a_denial_without_a_question() -> None:
    pdp = ScriptedPdp()
    authz = authz_of(pdp=pdp)

    with pytest.raises(PolicyDenied) as caught:
        await authz.decide(call_of({"k" * 300_000: 1}), IDENTITY)

    assert caught.value.reasons[0].code == "input_too_large"
    assert pdp.questions == []


async def test_a_rate_refuses_and_says_when_to_come_back() -> None:
    clock = Clock()
    authz = authz_of({"decision": permit_with(obligation("rate", limit=1, window_s=60))}, clock=clock)
    await authz.decide(call_of(), IDENTITY)

    with pytest.raises(QuotaExceeded, match=r"try again in 60 s \(decision d2\)") as caught:
        await authz.decide(call_of(), IDENTITY)

    assert caught.value.retry_after_s == 60
    assert isinstance(caught.value, OverRate)
    assert caught.value.ruling.decision_id == "d2"
    clock.advance_s(60)
    await authz.decide(call_of(), IDENTITY)


async def test_permitted_calls_of_a_session_are_counted() -> None:
    pdp = ScriptedPdp()
    authz = authz_of(pdp=pdp)

    for session_id in ("s", "s", "t"):
        await authz.decide(call_of(session_id=session_id), IDENTITY)

    sessions = [cast("Mapping[str, Mapping[str, object]]", asked["context"])["session"] for _, asked in pdp.questions]
    assert [session["calls"] for session in sessions] == [0, 1, 0]


async def test_without_obligations_the_call_is_carried_out_as_it_is() -> None:
    authz = authz_of()
    call = call_of()
    permit = await authz.decide(call, IDENTITY)

    same_call, same_permit = authz.carry_out(call, permit)

    assert same_call is call
    assert same_permit is permit


async def test_a_transform_narrows_the_call_and_its_permit() -> None:
    authz = authz_of({"decision": permit_with(obligation("transform", path="$.limit", max=10))})
    call = call_of({"limit": 500, "q": "x"})
    permit = await authz.decide(call, IDENTITY)

    narrowed, its_permit = authz.carry_out(call, permit)

    assert narrowed.arguments == {"limit": 10, "q": "x"}
    assert narrowed.params["name"] == "read"
    assert narrowed.digest != call.digest
    assert Authorized(narrowed, IDENTITY, its_permit)
    assert call.arguments == {"limit": 500, "q": "x"}


async def test_obligations_without_a_transform_leave_the_call_alone() -> None:
    authz = authz_of({"decision": permit_with(obligation("audit", durable=True))})
    call = call_of()
    permit = await authz.decide(call, IDENTITY)

    assert authz.carry_out(call, permit) == (call, permit)
    assert permit.obligations == (Audit("audit", {"durable": True, "arguments": False}, True, False),)


@pytest.mark.parametrize(
    ("action", "arguments", "rule", "code"),
    [
        ("mcp.tools.call", {"limit": "many"}, {"max": 10}, "argument_not_permitted"),
        ("mcp.resources.read", {}, {"max": 10}, "obligation_unsupported"),
        ("mcp.tools.call", {}, {"value": [0] * 2_001}, "input_too_large"),
    ],
)
async def test_a_call_that_cannot_be_narrowed_is_a_denial(
    action: str, arguments: dict[str, object], rule: dict[str, object], code: str
) -> None:
    authz = authz_of({"decision": permit_with(obligation("transform", path="$.limit", **rule))})
    call = call_of(arguments, action=action)
    permit = await authz.decide(call, IDENTITY)

    with pytest.raises(PolicyDenied) as caught:
        authz.carry_out(call, permit)

    assert caught.value.reasons[0].code == code
    assert "many" not in str(caught.value)


async def test_a_permit_with_obligations_that_were_never_read_is_worth_nothing() -> None:
    authz = authz_of()
    call = call_of()
    forged = Permit("d0", call.digest, (Obligation("redact", {"paths": ["$.a"]}),))

    with pytest.raises(PolicyDenied):
        authz.carry_out(call, forged)
    with pytest.raises(PolicyDenied):
        await authz.inspect(authorized(call, forged), Result(b"{}"))


async def test_a_result_passes_untouched_when_policy_asks_for_nothing() -> None:
    pdp = ScriptedPdp()
    authz = authz_of(pdp=pdp)
    call = call_of()
    permit = await authz.decide(call, IDENTITY)
    result = Result(b'{"content":[]}')

    assert await authz.inspect(authorized(call, permit), result) is result
    assert len(pdp.questions) == 1


@pytest.mark.parametrize("filler", ["", "x" * 100_000])
async def test_a_result_is_redacted(filler: str) -> None:
    authz = authz_of({"decision": permit_with(obligation("redact", paths=["$.email"], patterns=["email"]))})
    call = call_of()
    permit = await authz.decide(call, IDENTITY)
    payload = json.dumps({"structuredContent": {"email": "a"}, "content": [{"text": "b@c.de"}, {"text": filler}]})

    with anyio.fail_after(10):
        result = await authz.inspect(authorized(call, permit), Result(payload.encode()))

    assert json.loads(result.payload) == {
        "structuredContent": {"email": "[redacted]"},
        "content": [{"text": "[redacted]"}, {"text": filler}],
    }


async def test_a_result_that_cannot_be_redacted_is_withheld() -> None:
    authz = authz_of({"decision": permit_with(obligation("redact", patterns=["email"]))})
    call = call_of()
    permit = await authz.decide(call, IDENTITY)

    with pytest.raises(PolicyDenied) as caught:
        await authz.inspect(authorized(call, permit), Result(b"no json"))

    assert caught.value.reasons[0].code == "obligation_unsupported"


async def test_labels_are_put_on_the_result_and_told_to_later_calls_of_the_session() -> None:
    pdp = ScriptedPdp({"decision": permit_with(obligation("label", labels=["untrusted"]), labels=("pii",))})
    authz = authz_of(pdp=pdp)
    call = call_of(session_id="s")
    permit = await authz.decide(call, IDENTITY)

    result = await authz.inspect(authorized(call, permit), Result(b"{}", labels=("pii",)))
    await authz.decide(call_of(session_id="s"), IDENTITY)

    assert result.labels == ("pii", "untrusted")
    context = cast("Mapping[str, Mapping[str, object]]", pdp.questions[-1][1]["context"])
    assert context["session"]["labels"] == ("pii", "untrusted")


async def test_policy_that_reads_results_is_asked_again_and_adds_to_the_first_answer() -> None:
    answers: Mapping[str, object] = {
        "request": permit_with(obligation("redact", paths=["$.a"]), obligation("transform", path="$.x", value=1)),
        "response": permit_with(obligation("redact", paths=["$.b"]), obligation("rate", limit=1, window_s=1)),
    }
    pdp = ScriptedPdp(answers)
    authz = authz_of(pdp=pdp, response_differs=lambda: True)
    call, permit = authz.carry_out(call_of(), await authz.decide(call_of(), IDENTITY))

    for _ in range(2):
        result = await authz.inspect(authorized(call, permit), Result(b'{"a":1,"b":2,"c":3}'))

    assert json.loads(result.payload) == {"a": "[redacted]", "b": "[redacted]", "c": 3}
    assert [question["phase"] for _, question in pdp.questions] == ["request", "response", "response"]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (denial({"code": "leak"}), "leak"),
        (HOLD, "result_withheld"),
        (PolicyEngineUnavailable("gone", reason="timeout"), "timeout"),
        (permit_with(obligation("egress", hosts=[])), "obligation_unsupported"),
        (None, "policy_output_invalid"),
    ],
)
async def test_a_result_that_policy_does_not_permit_is_withheld(answer: object, code: str) -> None:
    authz = authz_of({"request": permit_with(), "response": answer}, response_differs=lambda: True)
    call = call_of()
    permit = await authz.decide(call, IDENTITY)

    with pytest.raises(PolicyDenied) as caught:
        await authz.inspect(authorized(call, permit), Result(b"{}"))

    assert caught.value.reasons[0].code == code


def tools(count: int, hints: FrozenDict | None = None) -> list[Resource]:
    return [Resource("tool", f"u/t{n}", "u", f"t{n}", hints=hints or FrozenDict()) for n in range(count)]


def even_ones(question: Mapping[str, object]) -> list[int]:
    """Shows the candidates whose number is even, wherever they stand in the question."""
    resource = cast("Mapping[str, Mapping[str, list[Mapping[str, str]]]]", question["resource"])
    candidates = resource["properties"]["candidates"]
    return [index for index, candidate in enumerate(candidates) if int(candidate["id"][3:]) % 2 == 0]


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
async def test_a_list_is_filtered_in_parts_and_put_together(count: int) -> None:
    answer = cast("Callable[[Mapping[str, object]], object]", even_ones)
    pdp = ScriptedPdp({"list": answer})
    authz = authz_of(pdp=pdp)

    visible = await authz.visible(call_of(action="mcp.tools.list"), IDENTITY, tools(count))

    assert visible == set(range(0, count, 2))
    assert len(pdp.questions) == -(-count // 32)
    assert {entrypoint for entrypoint, _ in pdp.questions} <= {"visible"}


async def test_one_thing_that_is_too_large_to_ask_about_hides_only_itself() -> None:
    pdp = ScriptedPdp({"list": cast("Callable[[Mapping[str, object]], object]", even_ones)})
    candidates = tools(8)
    candidates[2] = Resource("tool", "u/t2", "u", "t2", hints=FrozenDict({"title": "x" * 300_000}))

    visible = await authz_of(pdp=pdp).visible(call_of(action="mcp.tools.list"), IDENTITY, candidates)

    assert visible == {0, 4, 6}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ([0, 1], "policy_output_invalid"),
        (["0"], "policy_output_invalid"),
        (None, "policy_output_invalid"),
        (PolicyEngineUnavailable("gone", reason="undefined"), "undefined"),
    ],
)
async def test_a_doubtful_list_is_a_denial(answer: object, code: str) -> None:
    authz = authz_of({"list": answer})

    with pytest.raises(PolicyDenied) as caught:
        await authz.visible(call_of(action="mcp.tools.list"), IDENTITY, [TOOL])

    assert caught.value.reasons[0].code == code


@dataclass
class Kept:
    """A tap that keeps what it is told."""

    told: list[Decided] = field(default_factory=list)

    def decided(self, decided: Decided) -> None:
        self.told.append(decided)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [(YES, ""), (PolicyEngineUnavailable("gone", reason="timeout"), "timeout: gone")],
)
async def test_whoever_keeps_decisions_is_told_of_each_with_its_question(answer: object, fault: str) -> None:
    tap, pdp = Kept(), ScriptedPdp({"decision": answer})
    authz = authz_of(pdp=pdp, tap=tap)

    with suppress(PolicyDenied):
        await authz.decide(call_of(), IDENTITY)

    (decided,) = tap.told
    assert (decided.question, decided.fault) == (pdp.questions[0][1], fault)
    assert (decided.answer is None) == bool(fault)


async def test_labels_of_a_result_rule_reach_the_session_from_each_event_of_a_stream_over_a2a() -> None:
    labelled = {"decision": True, "context": {"obligations": [], "labels": ["untrusted"]}}
    pdp = ScriptedPdp({"request": YES, "response": labelled})
    authz = authz_of(pdp=pdp, response_differs=lambda: True)
    call = replace(call_of(action="a2a.message.stream", session_id=""), protocol="a2a")
    permit = await authz.decide(call, IDENTITY)

    event = await authz.inspect(authorized(call, permit), Result(b'{"message":{"parts":[{"text":"hello"}]}}'))
    await authz.decide(replace(call, id="c2"), IDENTITY)

    context = cast("Mapping[str, Mapping[str, object]]", pdp.questions[-1][1]["context"])
    assert event.labels == ("untrusted",)
    assert context["session"]["labels"] == ("untrusted",)
