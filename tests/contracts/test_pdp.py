"""What every decision point promises, held against the fake, the embedded engine (both ways), AuthZEN, real OPA."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import anyio
import pytest

from adapters.pdp.activation import ActivePdp, Engine
from adapters.pdp.authzen import AuthzenPdp, Targets
from adapters.pdp.bundle import Bundle, bundle_of
from adapters.pdp.isolated import IsolatedPdp
from adapters.pdp.opa import OpaPdp
from adapters.pdp.opa_http import Endpoint, OpaHttp
from adapters.pdp.opa_publish import OpaServer
from adapters.pdp.regorus import RegorusPdp
from gateway import codec
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer, Entrypoint, PolicyDecisionPoint
from gateway.types import FrozenDict
from tests.fakes import FakePdp
from tests.pdp.authzenserver import HttpError, serving
from tests.pdp.opaserver import HOW_TO, opa_program, running_opa

POLICY = """
package interlock

decision := {"decision": true, "context": {"labels": [input.subject.id]}} if startswith(input.subject.id, "user:")

decision := {"decision": false, "context": {"reasons": []}} if input.subject.id == "stranger"

decision := {"decision": true, "n": 1 / input.subject.zero} if input.subject.zero == 0

visible contains index if {
	some index, candidate in input.resource.properties.candidates
	candidate.shown
}
"""


def same_in_python(entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
    subject, resource = question.get("subject", {}), question.get("resource", {})
    assert isinstance(subject, dict)
    assert isinstance(resource, dict)
    if entrypoint == "visible":
        candidates = resource.get("properties", {}).get("candidates", [])
        return Answer([i for i, each in enumerate(candidates) if each.get("shown")], "r1", "fake")
    name = subject.get("id", "")
    if subject.get("zero") == 0:
        raise PolicyEngineUnavailable("division by zero")
    if name == "stranger":
        return Answer({"decision": False, "context": {"reasons": []}}, "r1", "fake")
    if name.startswith("user:"):
        return Answer({"decision": True, "context": {"labels": [name]}}, "r1", "fake")
    raise PolicyEngineUnavailable("nothing applies", reason="undefined")


def over_authzen(question: dict[str, Any]) -> object:
    """The same again as an AuthZEN decision point has it, which knows no lists."""
    if question["context"].get("phase") == "list":
        return {"decision": question["resource"].get("shown", False)}
    try:
        return same_in_python("decision", question).value
    except PolicyEngineUnavailable as exc:
        if exc.reason == "undefined":
            return {}
        raise HttpError(500) from exc


@pytest.fixture(scope="session")
def opa_address() -> Iterator[str]:
    if not opa_program():
        pytest.skip(HOW_TO)
    with running_opa() as url:
        yield url


KINDS = ["fake", "active", "inline", "process", "authzen", pytest.param("opa", marks=pytest.mark.slow)]


@pytest.fixture(params=KINDS)
async def pdp(request: pytest.FixtureRequest) -> AsyncIterator[PolicyDecisionPoint]:
    bundle = bundle_of({"contract.rego": POLICY})
    if request.param == "fake":
        yield FakePdp(same_in_python)
    elif request.param == "inline":
        yield RegorusPdp(bundle)
    elif request.param == "active":
        active = ActivePdp()
        active.activate(Engine(RegorusPdp(bundle), bundle.revision, "inline"))
        yield active
    elif request.param == "process":
        isolated = IsolatedPdp(bundle, timeout_s=5.0)
        await isolated.start()
        yield isolated
        isolated.close()
    elif request.param == "authzen":
        async with serving(over_authzen) as server:
            http = OpaHttp(Endpoint.parse(server.url), connect_timeout_s=2.0)
            yield AuthzenPdp(http, Targets("/access/v1/evaluation", "/access/v1/evaluations"), timeout_s=5.0)
            http.close()
    else:
        remote = await _published(request.getfixturevalue("opa_address"), bundle)
        yield remote
        remote.close()


async def _published(address: str, bundle: Bundle) -> OpaPdp:
    await OpaServer(Endpoint.parse(address)).publish(bundle)
    http = OpaHttp(Endpoint.parse(address), connect_timeout_s=2.0)
    return OpaPdp(http, timeout_s=5.0, revision=bundle.revision)


def asks(subject: str, **more: object) -> dict[str, object]:
    return {"subject": {"id": subject, **more}, "action": {"name": "x"}, "resource": {"properties": {}}}


async def test_a_permit_is_returned_as_policy_wrote_it(pdp: PolicyDecisionPoint) -> None:
    with anyio.fail_after(10):
        answer = await pdp.evaluate("decision", asks("user:ana"))

    assert answer.value == {"decision": True, "context": {"labels": ["user:ana"]}}


async def test_a_denial_is_an_answer(pdp: PolicyDecisionPoint) -> None:
    with anyio.fail_after(10):
        answer = await pdp.evaluate("decision", asks("stranger"))

    assert answer.value == {"decision": False, "context": {"reasons": []}}


async def test_an_answer_says_who_gave_it_by_which_policy(pdp: PolicyDecisionPoint) -> None:
    with anyio.fail_after(10):
        answer = await pdp.evaluate("decision", asks("user:ana"))

    assert answer.engine
    assert answer.revision
    assert not answer.cached


async def test_no_answer_is_an_error_and_never_a_value(pdp: PolicyDecisionPoint) -> None:
    with anyio.fail_after(10), pytest.raises(PolicyEngineUnavailable) as caught:
        await pdp.evaluate("decision", asks("nobody"))

    assert caught.value.reason == "undefined"


async def test_a_policy_that_fails_is_an_error_that_quotes_no_input(pdp: PolicyDecisionPoint) -> None:
    with anyio.fail_after(10), pytest.raises(PolicyEngineUnavailable) as caught:
        await pdp.evaluate("decision", asks("s3cret", zero=0))

    assert caught.value.reason == "pdp_unavailable"
    assert "s3cret" not in str(caught.value)


async def test_a_list_is_answered_with_the_indexes_that_may_be_seen(pdp: PolicyDecisionPoint) -> None:
    shown, hidden = {"type": "tool", "shown": True}, {"type": "tool", "shown": False}
    candidates = [shown, hidden, {}, shown]
    question = {**asks("user:ana"), "phase": "list", "resource": {"properties": {"candidates": candidates}}}

    with anyio.fail_after(10):
        answer = await pdp.evaluate("visible", question)

    assert answer.value == [0, 3]


async def test_an_empty_question_is_no_permit(pdp: PolicyDecisionPoint) -> None:
    with anyio.fail_after(10), pytest.raises(PolicyEngineUnavailable):
        await pdp.evaluate("decision", {})


async def test_a_frozen_question_is_read_and_left_as_it_is(pdp: PolicyDecisionPoint) -> None:
    resource = FrozenDict({"list": (1, 2**70, "é")})
    question = FrozenDict({**asks("user:ana"), "subject": FrozenDict({"id": "user:ana"}), "resource": resource})
    before = codec.canonical(question)

    with anyio.fail_after(10):
        answer = await pdp.evaluate("decision", question)

    assert isinstance(answer.value, dict)
    assert codec.canonical(question) == before


async def test_concurrent_questions_get_their_own_answers(pdp: PolicyDecisionPoint) -> None:
    labels: dict[int, object] = {}

    async def ask(number: int) -> None:
        answer = await pdp.evaluate("decision", asks(f"user:{number}"))
        assert isinstance(answer.value, dict)
        labels[number] = answer.value["context"]["labels"]

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(ask, number)

    assert labels == {number: [f"user:{number}"] for number in range(20)}


async def test_a_changed_answer_does_not_change_the_next(pdp: PolicyDecisionPoint) -> None:
    with anyio.fail_after(10):
        first = await pdp.evaluate("decision", asks("stranger"))
        assert isinstance(first.value, dict)
        first.value["decision"] = True
        second = await pdp.evaluate("decision", asks("stranger"))

    assert second.value == {"decision": False, "context": {"reasons": []}}


async def test_what_is_not_json_is_refused(pdp: PolicyDecisionPoint) -> None:
    if isinstance(pdp, FakePdp):
        pytest.skip("the fake reads no JSON")

    with anyio.fail_after(10), pytest.raises(PolicyEngineUnavailable):
        await pdp.evaluate("decision", {"subject": MappingProxyType({"id": "user:ana"})})
