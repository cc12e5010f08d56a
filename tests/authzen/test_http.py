"""The HTTP side: who may ask, what is refused before it is a question, and what travels in headers."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from gateway.listeners.authzen.endpoint import MAX_BODY_BYTES
from tests.authzen.world import URL, Place, asks


async def get(place: Place, path: str, **headers: str) -> httpx2.Response:
    transport = httpx2.ASGITransport(place.app)
    async with httpx2.AsyncClient(transport=transport, base_url=URL, trust_env=False) as http:
        return await http.get(path, headers=headers)


async def test_metadata_names_absolute_addresses() -> None:
    reply = await get(Place(), "/.well-known/authzen-configuration")

    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {
        "policy_decision_point": URL,
        "access_evaluation_endpoint": f"{URL}/access/v1/evaluation",
        "access_evaluations_endpoint": f"{URL}/access/v1/evaluations",
    }


async def test_without_a_credential_it_is_401_with_a_challenge() -> None:
    reply = await Place().send(asks(), authorization="Bearer wrong")

    assert reply.status_code == 401
    assert reply.headers["www-authenticate"].startswith("Bearer ")
    assert reply.json()["code"] == "unauthenticated"


async def test_anonymous_caller_may_not_ask_even_with_the_role() -> None:
    reply = await Place().send(asks(), authorization="")

    assert reply.status_code == 401


async def test_caller_without_the_role_may_not_ask() -> None:
    place = Place()

    reply = await place.send(asks(), authorization="Bearer ana-key")

    assert reply.status_code == 403
    assert "decision" not in reply.json()
    assert place.trail.records[0].outcome == "denied"


async def test_asking_that_policy_holds_is_403_and_not_a_success() -> None:
    rule = 'hold contains {"approvers": "group:x", "title": "t"} if input.action.name == "authzen.evaluate"\n'

    reply = await Place(rule).send(asks())

    assert reply.status_code == 403


async def test_request_id_comes_back_with_answers_and_refusals() -> None:
    answered = await Place().send(asks("db/query"), x_request_id="r-1")
    refused = await Place().send(b"{", x_request_id="r-2")
    plain = await Place().send(asks("db/query"))

    assert answered.headers["x-request-id"] == "r-1"
    assert (refused.status_code, refused.headers["x-request-id"]) == (400, "r-2")
    assert "x-request-id" not in plain.headers


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"a":1,"a":2}',
        b"\xff\xfe",
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b'{"subject":NaN}',
    ],
)
async def test_body_that_is_not_one_json_object_is_400(body: bytes) -> None:
    reply = await Place().send(body)

    assert reply.status_code == 400
    assert reply.json()["error"]


@pytest.mark.parametrize("missing", ["subject", "action", "resource"])
@pytest.mark.parametrize("instead", [None, "alice", 5, [], {}])
async def test_part_that_is_missing_or_of_another_type_is_400(missing: str, instead: Any) -> None:
    question = asks()
    del question[missing]

    without = await Place().send(question)
    wrong = await Place().send({**question, missing: instead})

    assert (without.status_code, wrong.status_code) == (400, 400)
    assert missing in wrong.json()["error"]


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("subject", "type", None),
        ("subject", "id", 1),
        ("subject", "type", ""),
        ("subject", "properties", []),
        ("action", "name", 123),
        ("action", "name", "x" * 5_000),
        ("resource", "type", {}),
        ("resource", "id", None),
    ],
)
async def test_field_of_another_type_is_400(part: str, field: str, value: Any) -> None:
    question = asks()
    question[part] = {**question[part], field: value}

    assert (await Place().send(question)).status_code == 400


@pytest.mark.parametrize(
    ("part", "properties"),
    [
        ("subject", {"roles": "admin"}),
        ("subject", {"roles": [1]}),
        ("subject", {"tenant": 1}),
        ("subject", {"delegation": {}}),
        ("subject", {"method": "magic"}),
        ("action", {"method": 1}),
        ("resource", {"arguments": "x"}),
    ],
)
async def test_property_of_ours_with_another_type_is_400(part: str, properties: dict[str, Any]) -> None:
    question = asks()
    question[part] = {**question[part], "properties": properties}

    assert (await Place().send(question)).status_code == 400


@pytest.mark.parametrize("context", [[], "x", {"supported_obligations": "redact"}])
async def test_context_of_another_type_is_400(context: Any) -> None:
    assert (await Place().send({**asks(), "context": context})).status_code == 400


async def test_nobody_is_somebody_to_ask_about() -> None:
    question = {**asks(), "subject": {"type": "anonymous", "id": ""}}

    assert (await Place().decide(question))["decision"] is False


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/jsonx"])
async def test_other_content_type_is_400_as_certification_asks(content_type: str) -> None:
    reply = await Place().send(b"{}", content_type=content_type)

    assert reply.status_code == 400


async def test_content_type_may_have_parameters() -> None:
    reply = await Place().send(asks("db/query"), content_type="Application/JSON; charset=utf-8")

    assert reply.status_code == 200


async def test_packed_body_is_415() -> None:
    assert (await Place().send(b"{}", content_encoding="gzip")).status_code == 415


async def test_body_that_is_too_large_is_413() -> None:
    reply = await Place().send(b" " * (MAX_BODY_BYTES + 1))

    assert reply.status_code == 413


async def test_too_many_values_are_413() -> None:
    assert (await Place().send(asks(arguments={"x": [1] * 3_000}))).status_code == 413


async def test_other_method_is_405_with_the_right_one() -> None:
    reply = await get(Place(), "/access/v1/evaluation")

    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


async def test_host_that_is_not_served_is_refused_everywhere() -> None:
    place = Place()

    asked = await place.send(asks(), host="evil.example")
    read = await get(place, "/.well-known/authzen-configuration", host="evil.example")

    assert (asked.status_code, read.status_code) == (421, 421)
    assert place.trail.records == []


async def test_same_question_gets_the_same_decision_every_time() -> None:
    place = Place()

    answers = [await place.decide(asks("db/query")) for _ in range(5)]

    assert {answer["decision"] for answer in answers} == {True}
