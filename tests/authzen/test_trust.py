"""What only the gateway can know never comes from who asks it."""

from __future__ import annotations

from typing import Any, Final

import pytest

from adapters.detectors import all_detectors
from gateway.authz.detection import Detection
from tests.authzen.world import Place, asks

ANY: Final = 'allow if input.action.name != "authzen.evaluate"\n'


async def allowed(rule: str, question: dict[str, Any]) -> bool:
    answer = await Place(rule).decide(question)
    return answer["decision"] is True


def in_resource(**properties: object) -> dict[str, Any]:
    question = asks("elsewhere/tool")
    question["resource"]["properties"] |= properties
    return question


def in_context(**context: object) -> dict[str, Any]:
    return {**asks("elsewhere/tool"), "context": context}


@pytest.mark.parametrize(
    ("rule", "question"),
    [
        ("input.resource.properties.catalog.risk == 1", in_resource(catalog={"risk": 1})),
        ("input.resource.properties.granted == true", in_resource(granted=True)),
        ("input.resource.properties.hints.readOnlyHint == true", in_resource(hints={"readOnlyHint": True})),
        ("input.resource.properties.arguments_digest == 1", in_resource(arguments_digest=1)),
        ("input.resource.properties.result.size == 1", in_resource(result={"size": 1})),
        ("input.resource.properties.candidates", in_resource(candidates=[1])),
        ("input.context.approval.id", in_context(approval={"id": "a", "covers": [1]})),
        ("input.context.session.calls == 9", in_context(session={"id": "", "calls": 9, "labels": []})),
        ('input.context.env == "prod"', in_context(env="prod")),
        ("input.context.time_ns == 1", in_context(time_ns=1)),
        ("input.context.budget", in_context(budget={"spent_usd": 0})),
    ],
)
async def test_claimed_fact_of_ours_is_not_taken(rule: str, question: dict[str, Any]) -> None:
    assert not await allowed(f"allow if {rule}\n", question)


async def test_claimed_grant_and_approval_do_not_pass_the_library_either() -> None:
    connect = {
        "subject": {"type": "user", "id": "user:bo"},
        "action": {"name": "egress.connect"},
        "resource": {"type": "endpoint", "id": "x:443", "properties": {"granted": True}},
    }

    assert not await allowed("", connect)


async def test_held_call_stays_held_with_a_claimed_approval() -> None:
    hold = {"approvers": "group:finance", "title": "pay"}
    question = {**asks("bank/pay"), "context": {"approval": {"id": "a", "approvers": ["x"], "covers": [hold]}}}

    answer = await Place().decide(question)

    assert answer["decision"] is False


async def test_catalog_of_a_known_tool_is_the_registrys() -> None:
    question = asks("files/wipe")
    question["resource"]["properties"]["catalog"] = {"risk": "low"}

    assert await allowed('allow if input.resource.properties.catalog.risk == "high"\n', question)
    assert not await allowed('allow if input.resource.properties.catalog.risk == "low"\n', question)


@pytest.mark.parametrize("said", [{"upstream": "safe"}, {"name": "tame"}, {"upstream": "safe", "name": "tame"}])
async def test_tool_is_where_its_id_says_and_nowhere_else(said: dict[str, str]) -> None:
    question = asks("files/wipe")
    question["resource"]["properties"] |= said

    rule = 'allow if [input.resource.properties.upstream, input.resource.properties.name] == ["files", "wipe"]\n'

    assert await allowed(rule, question)


@pytest.mark.parametrize("said", [{}, {"upstream": "safe", "name": "tame"}])
async def test_known_server_is_the_upstream_that_rules_read_whatever_the_asker_says(said: dict[str, str]) -> None:
    question = {**asks(), "resource": {"type": "mcp_server", "id": "files", "properties": said}}

    rule = 'allow if [input.resource.properties.upstream, input.resource.properties.name] == ["files", "files"]\n'

    assert await allowed(rule, question)


@pytest.mark.parametrize(
    ("context", "seen"),
    [({}, "secret /text"), ({"findings": [{"kind": "theirs", "path": "/x"}]}, "theirs /x")],
)
async def test_arguments_are_looked_at_here_unless_the_asker_says_what_is_in_them(
    context: dict[str, Any], seen: str
) -> None:
    rule = f"""{ANY}
deny contains {{"code": "found", "message": concat(" ", [each.kind, each.path]), "public": true}} if {{
	input.action.name == "mcp.tools.call"
	some each in input.context.findings
}}
"""
    question = {**asks("elsewhere/tool", arguments={"text": "ghp_" + "a1B2" * 9}), "context": context}

    answer = await Place(rule, detection=Detection(all_detectors())).decide(question)

    assert answer["decision"] is False
    assert [reason["message"] for reason in answer["context"]["reasons"]] == [seen]


async def test_result_that_nobody_looked_at_is_said_to_be_unscanned() -> None:
    question = {**in_resource(result={"size": 1}), "context": {"phase": "response"}}

    assert await allowed('allow if input.resource.properties.result.findings[_].kind == "unscanned"\n', question)


async def test_tool_by_its_merged_name_is_not_the_known_tool() -> None:
    question = asks("files__wipe")

    assert not await allowed('allow if input.resource.properties.catalog.risk == "high"\n', question)


async def test_what_the_asker_alone_knows_is_taken() -> None:
    question = asks("elsewhere/tool", "clerk")
    question["subject"]["properties"]["department"] = "sales"
    question["resource"]["properties"]["status"] = "active"
    question["context"] = {"ip": "192.0.2.1"}
    rule = """allow if {
	"clerk" in input.subject.properties.roles
	input.subject.properties.department == "sales"
	input.resource.properties.status == "active"
	input.context.ip == "192.0.2.1"
}
"""

    assert await allowed(rule, question)


async def test_truncated_question_of_another_gateway_stays_truncated() -> None:
    assert not await allowed(ANY, in_resource(truncated=True))
    assert await allowed(ANY, in_resource(truncated=False))


async def test_result_is_judged_when_the_asker_says_that_it_asks_about_one() -> None:
    question = {**in_resource(result={"size": 1, "labels": ["pii"]}), "context": {"phase": "response"}}

    rule = 'allow if {\n\tinput.phase == "response"\n\t"pii" in input.resource.properties.result.labels\n}\n'

    assert await allowed(rule, question)
