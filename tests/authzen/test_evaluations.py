"""Several questions in one request: defaults, order, and where the asking ends."""

from __future__ import annotations

from typing import Any

import pytest

from tests.authzen.world import Place, asks

SUBJECT = {"type": "user", "id": "user:bo", "properties": {"roles": ["analyst"]}}
CALL = {"name": "mcp.tools.call"}


def on(identifier: str, **more: Any) -> dict[str, Any]:
    return {"resource": {"type": "tool", "id": identifier, **more}}


def several(*items: dict[str, Any], semantic: str = "") -> dict[str, Any]:
    options = {"options": {"evaluations_semantic": semantic}} if semantic else {}
    return {"subject": SUBJECT, "action": CALL, "evaluations": list(items), **options}


def decisions(answers: list[Any]) -> list[bool]:
    return [answer["decision"] for answer in answers]


async def test_answers_come_in_the_order_of_the_questions() -> None:
    answers = await Place().decide_all(several(on("db/query"), on("bank/pay"), on("db/other")))

    assert decisions(answers) == [True, False, True]


@pytest.mark.parametrize(
    ("semantic", "expected"),
    [
        ("execute_all", [True, False, True, False]),
        ("deny_on_first_deny", [True, False]),
        ("permit_on_first_permit", [True]),
    ],
)
async def test_semantic_says_where_the_asking_ends(semantic: str, expected: list[bool]) -> None:
    questions = [on("db/query"), on("bank/pay"), on("db/other"), on("files/hush")]
    place = Place()

    answers = await place.decide_all(several(*questions, semantic=semantic))

    assert decisions(answers) == expected
    assert len(place.trail.records) == len(expected)


async def test_own_member_replaces_the_default_as_a_whole() -> None:
    stranger = {"type": "user", "id": "user:cy"}

    answers = await Place().decide_all(several({**on("db/query"), "subject": stranger}))

    assert decisions(answers) == [False]


async def test_type_and_id_that_an_item_leaves_out_come_from_the_default() -> None:
    request = {**several({"resource": {"id": "db/query"}}), "resource": {"type": "tool"}}

    assert decisions(await Place().decide_all(request)) == [True]


@pytest.mark.parametrize("item", [{}, {"resource": "x"}, {"resource": {"type": "tool"}}, "x", None, {"subject": []}])
async def test_faulty_item_is_a_no_of_its_own(item: Any) -> None:
    answers = await Place().decide_all(several(on("db/query"), item, on("db/other")))

    assert decisions(answers) == [True, False, True]
    assert answers[1]["context"]["error"]["status"] == 400


async def test_faulty_item_ends_deny_on_first_deny() -> None:
    answers = await Place().decide_all(several({}, on("db/other"), semantic="deny_on_first_deny"))

    assert decisions(answers) == [False]


@pytest.mark.parametrize("more", [{}, {"evaluations": []}])
async def test_without_evaluations_it_is_one_question(more: dict[str, Any]) -> None:
    reply = await Place().send({**asks("db/query"), **more}, "/access/v1/evaluations")

    assert reply.status_code == 200
    assert reply.json()["decision"] is True


@pytest.mark.parametrize(
    "request_",
    [
        {"evaluations": {}},
        {"evaluations": [{}] * 129},
        {"evaluations": [{}], "options": []},
        {"evaluations": [{}], "options": {"evaluations_semantic": "first"}},
        {"evaluations": [{}], "options": {"evaluations_semantic": ["execute_all"]}},
    ],
)
async def test_request_that_is_wrong_as_a_whole_is_refused(request_: dict[str, Any]) -> None:
    reply = await Place().send(request_, "/access/v1/evaluations")

    assert reply.status_code == 400
    assert reply.json()["error"]


async def test_nobody_gets_no_answers_at_all() -> None:
    reply = await Place().send(several(on("db/query")), "/access/v1/evaluations", authorization="")

    assert reply.status_code == 401


CLOSED = """
allow if input.action.name == "mcp.tools.call"

deny contains {"code": "closed", "message": "closed", "public": true} if {
	input.action.name == "authzen.evaluate"
	input.resource.id == "tool:db/closed"
}
"""


async def test_asking_is_decided_for_each_question() -> None:
    answers = await Place(CLOSED).decide_all(several(on("db/query"), on("db/closed")))

    assert decisions(answers) == [True, False]
    assert answers[1]["context"]["error"]["status"] == 403
    assert "closed" in answers[1]["context"]["error"]["message"]
