"""Whatever an asker sends or a decision point answers: a clean refusal or what was written, and no yes by luck."""

from __future__ import annotations

import json
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.pdp.authzen_answer import answer_in, shows
from gateway import codec
from gateway.app.authzen_wording import Facts, call_of, question_of
from gateway.authz.answer import judge
from gateway.errors import InvalidCall, PolicyEngineUnavailable
from gateway.listeners.authzen.shapes import Asked, asked_in, batch_in, members_of
from gateway.types import EMPTY, Permit, Ruling
from tests.authzen.world import Place

TEXTS: Final = st.sampled_from(["", "a", "files/read", "tool", "é", '":', "x" * 5_000, "mcp.tools.call", "\x00"])
NAMES: Final = st.sampled_from(
    ["subject", "action", "resource", "context", "type", "id", "name", "properties", "evaluations", "options",
     "granted", "catalog", "session", "approval", "roles", "arguments", "upstream", "truncated", "result",
     "phase", "method", "evaluations_semantic", "supported_obligations", "x"]
)  # fmt: skip
NUMBERS: Final = st.sampled_from([0, 1, -1, 2**64, 0.5, 1e300])
VALUES: Final = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
PROPERTIES: Final = st.dictionaries(NAMES, VALUES, max_size=4)
ENTITIES: Final = st.fixed_dictionaries(
    {"type": TEXTS, "id": TEXTS, "name": TEXTS}, optional={"properties": PROPERTIES, "x": VALUES}
)
REQUESTS: Final = st.fixed_dictionaries(
    {"subject": ENTITIES | VALUES, "action": ENTITIES | VALUES, "resource": ENTITIES | VALUES},
    optional={
        "context": st.dictionaries(NAMES, VALUES, max_size=4) | VALUES,
        "evaluations": st.lists(st.dictionaries(NAMES, ENTITIES | VALUES, max_size=4) | VALUES, max_size=4) | VALUES,
        "options": st.dictionaries(NAMES, TEXTS, max_size=2) | VALUES,
    },
)
ASKABLE: Final = st.fixed_dictionaries(
    {
        "subject": st.fixed_dictionaries({"type": st.just("user"), "id": TEXTS, "properties": PROPERTIES}),
        "action": st.fixed_dictionaries({"name": st.just("mcp.tools.call"), "properties": PROPERTIES}),
        "resource": st.fixed_dictionaries({"type": st.just("tool"), "id": TEXTS, "properties": PROPERTIES}),
        "context": st.dictionaries(NAMES, VALUES, max_size=6),
    }
)
STATUSES: Final = frozenset({200, 400, 403, 413})
FACTS: Final = Facts("c1", "", 7, "test")


def read(request: Any) -> Asked | None:
    try:
        return asked_in(members_of(json.dumps(request).encode()))
    except InvalidCall:
        return None


@given(REQUESTS)
@settings(max_examples=200, deadline=None)
def test_what_is_read_is_what_was_written(request_: Any) -> None:
    asked = read(request_)

    if asked is not None:
        for name, fields in (("subject", ("type", "id")), ("action", ("name",)), ("resource", ("type", "id"))):
            part: Any = asked.params[name]
            assert [part[field] for field in fields] == [request_[name][field] for field in fields]
            written = json.loads(json.dumps(request_[name].get("properties", {})))
            assert json.loads(codec.dumps(part["properties"])) == written
        assert asked_in(asked.params) == asked


@given(st.binary(max_size=200) | REQUESTS.map(lambda value: json.dumps(value).encode()), st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_bodies_are_refused_or_read(body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, max(len(body) - 1, 0)))
    damaged = body[:at] + data.draw(st.binary(max_size=3)) + body[at + data.draw(st.integers(0, 3)) :]

    try:
        members = members_of(damaged)
        batch_in(members)
        asked_in(members)
    except InvalidCall:
        return


@given(ASKABLE)
@settings(max_examples=300, deadline=None)
def test_fact_of_ours_never_comes_from_the_asker(request_: Any) -> None:
    asked = read(request_)
    if asked is None:
        return

    try:
        question: Any = question_of(asked, FACTS)
    except InvalidCall:
        return

    properties, context = question["resource"]["properties"], question["context"]
    assert (properties["catalog"], properties["hints"]) == (EMPTY, EMPTY)
    assert properties.keys().isdisjoint({"granted", "candidates", "obstacle"})
    assert context["session"] == {"id": "", "calls": 0, "labels": ()}
    assert context.keys().isdisjoint({"approval", "budget", "rate"})
    assert (context["time_ns"], context["env"], context["request_id"]) == (7, "test", "c1")
    assert question["phase"] == ("response" if "result" in properties else "request")
    call, identity = call_of(asked, FACTS)
    assert (call.resource.id, identity.subject.id) == (request_["resource"]["id"], request_["subject"]["id"])


@given(REQUESTS, st.sampled_from(["/access/v1/evaluation", "/access/v1/evaluations"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_every_request_is_answered_with_a_decision_or_an_error(request_: Any, path: str) -> None:
    reply = await Place().send(json.dumps(request_).encode(), path)

    assert reply.status_code in STATUSES
    told = reply.json()
    answers = told.get("evaluations", [told])
    assert ("error" in told) == (reply.status_code != 200)
    assert reply.status_code != 200 or all(isinstance(answer["decision"], bool) for answer in answers)


CONTEXTS: Final = st.dictionaries(
    st.sampled_from(
        ["obligations", "labels", "reasons", "reason", "reason_user", "reason_admin", "access_request", "id", "mfa",
         "x", "advice", "cache_ttl_s", "error"]
    ),
    st.just([]) | VALUES | st.lists(st.just({"type": "audit", "properties": {"durable": True}}), max_size=2),
    max_size=4,
)  # fmt: skip
RESPONSES: Final = (
    st.fixed_dictionaries({"decision": st.booleans() | VALUES}, optional={"context": CONTEXTS | VALUES, "more": VALUES})
    | VALUES
)


@given(RESPONSES)
@settings(max_examples=400, deadline=None)
def test_only_a_yes_that_is_wholly_understood_is_a_permit(response: Any) -> None:
    try:
        answer = answer_in(response)
        decision = judge(answer, call_digest="d", ruling=Ruling("d1"))
    except PolicyEngineUnavailable:
        return

    if isinstance(decision, Permit):
        assert response["decision"] is True
        assert response.keys() <= {"decision", "context"}
        assert {"mfa", "advice", "access_request"}.isdisjoint(response.get("context", {}))
    if shows(answer):
        assert response["decision"] is True or "access_request" in response["context"]
