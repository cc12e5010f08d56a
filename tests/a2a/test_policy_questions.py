"""What policy is asked about each operation: action, resource, arguments and facts, as its documentation says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from adapters.pdp.bundle import Bundle, bundle_of
from adapters.pdp.regorus import RegorusPdp
from gateway import codec
from gateway.a2a.operations import OPERATIONS
from gateway.authz.question import Questions
from gateway.authz.sessions import SessionFacts
from gateway.cli.main import main
from gateway.types import Call, Entity, Identity, Result
from tests.a2a.worlds import AGENT, World, message, old_message
from tests.fakes import ANA
from tests.mcp.asgi import Json

POLICIES: Final = Path(__file__).parents[2] / "policies"
SCHEMA: Final = json.loads((POLICIES / "schemas" / "input.schema.json").read_text())
HOOK: Final = "https://Hooks.Client.example:8443/x"
DOCUMENTED: Final = re.findall(r"```rego\n(package rules\.agents\n.*?)```", (POLICIES / "README.md").read_text(), re.S)

RICH: Final = message(
    taskId="t-1",
    contextId="c-1",
    referenceTaskIds=["t-1"],
    parts=[
        {"text": "héllo"},
        {"url": "https://Files.Example.org./a", "mediaType": "image/PNG; q=1"},
        {"data": {"a": 1}},
        {"raw": "aGk="},
    ],
)
SEND: Final[Json] = {
    "message": RICH,
    "configuration": {
        "acceptedOutputModes": ["text/plain"],
        "historyLength": 3,
        "returnImmediately": True,
        "taskPushNotificationConfig": {"url": HOOK},
    },
}
MESSAGE_FACTS: Final = {
    "role": "ROLE_USER",
    "parts": 4,
    "part_kinds": ["data", "raw", "text", "url"],
    "media_types": ["application/json", "application/octet-stream", "image/png", "text/plain"],
    "bytes": 6 + 7 + 2,
    "has_url_parts": True,
    "url_hosts": ["files.example.org"],
    "task_id": "t-1",
    "context_id": "c-1",
    "reference_task_ids": ["t-1"],
    "accepted_output_modes": ["text/plain"],
    "return_immediately": True,
    "history_length": 3,
    "push": True,
    "push_scheme": "https",
    "push_host": "hooks.client.example",
}
NAMED: Final = {"task_id": "t-1", "context_id": "", "history_length": -1}
ON_THE_AGENT: Final = ("agent", AGENT)
ON_A_TASK: Final = ("a2a_task", "t-1")

TABLE: Final[Mapping[str, tuple[Json, str, tuple[str, str], Mapping[str, object]]]] = {
    "SendMessage": (SEND, "a2a.message.send", ON_THE_AGENT, MESSAGE_FACTS),
    "SendStreamingMessage": (SEND, "a2a.message.stream", ON_THE_AGENT, MESSAGE_FACTS),
    "GetTask": ({"id": "t-1", "historyLength": 2}, "a2a.tasks.get", ON_A_TASK, {**NAMED, "history_length": 2}),
    "ListTasks": ({"contextId": "c-1"}, "a2a.tasks.list", ("a2a_task", "*"), {"task_id": "", "context_id": "c-1"}),
    "CancelTask": ({"id": "t-1"}, "a2a.tasks.cancel", ON_A_TASK, NAMED),
    "SubscribeToTask": ({"id": "t-1"}, "a2a.tasks.subscribe", ON_A_TASK, NAMED),
    "CreateTaskPushNotificationConfig": (
        {"taskId": "t-1", "url": HOOK},
        "a2a.push.create",
        ON_A_TASK,
        {"task_id": "t-1", "push": True, "push_scheme": "https", "push_host": "hooks.client.example"},
    ),
    "GetTaskPushNotificationConfig": ({"taskId": "t-1", "id": "p"}, "a2a.push.get", ON_A_TASK, NAMED),
    "ListTaskPushNotificationConfigs": ({"taskId": "t-1"}, "a2a.push.list", ON_A_TASK, NAMED),
    "DeleteTaskPushNotificationConfig": ({"taskId": "t-1", "id": "p"}, "a2a.push.delete", ON_A_TASK, NAMED),
    "GetExtendedAgentCard": ({}, "a2a.card.read", ON_THE_AGENT, {"task_id": "", "context_id": ""}),
}


async def asked(method: str, params: Json, version: bytes = b"1.0") -> Call:
    """The call that policy is asked about, of Ana, who has the task `t-1`."""
    world = World()
    await world.own("t-1", ANA)
    world.answer(b"{}")
    await world.rpc(method, params, (b"a2a-version", version))
    return world.decider.asked[0]


def worded(call: Call, phase: str = "request", identity: Identity = ANA) -> dict[str, Any]:
    """The question as an engine gets it."""
    questions, session = Questions(env="test", clock_ns=lambda: 1), SessionFacts()
    if phase == "response":
        question = questions.about_result(call, identity, session, Result(b"{}"))
    else:
        question = questions.about_call(call, identity, session)
    found: dict[str, Any] = json.loads(codec.dumps(question))
    return found


def test_every_operation_stands_in_the_table() -> None:
    assert set(TABLE) == set(OPERATIONS)


@pytest.mark.parametrize("phase", ["request", "response"])
@pytest.mark.parametrize("method", TABLE)
async def test_question_says_what_is_asked_of_whom_with_what(method: str, phase: str) -> None:
    params, action, resource, facts = TABLE[method]

    question = worded(await asked(method, params), phase)

    jsonschema.validate(question, SCHEMA)
    properties = question["resource"]["properties"]
    assert question["action"] == {
        "name": action,
        "properties": {"protocol": "a2a", "protocol_version": "1.0", "method": method},
    }
    assert (question["resource"]["type"], question["resource"]["id"]) == resource
    assert properties["upstream"] == AGENT
    assert properties["arguments"] == params
    assert {name: properties[name] for name in facts} == facts
    assert properties["catalog"]["pinned"] is True
    assert properties["catalog"].get("task") == (
        {"owner": "user:ana", "context": "c-1", "state": "TASK_STATE_WORKING", "tenant": ""}
        if resource == ON_A_TASK
        else None
    )


async def test_facts_of_a_message_of_0_3_are_those_of_1_0() -> None:
    now = worded(await asked("SendMessage", {"message": message("hello")}))
    then = worded(await asked("message/send", {"message": old_message("hello")}, b"0.3"))

    facts = {name: now["resource"]["properties"][name] for name in MESSAGE_FACTS}
    before = {name: then["resource"]["properties"][name] for name in MESSAGE_FACTS}
    assert before | {"return_immediately": facts["return_immediately"]} == facts
    assert then["action"]["name"] == "a2a.message.send"
    assert then["action"]["properties"]["protocol_version"] == "0.3"


def documented() -> Bundle:
    """The library with the rules that the documentation shows."""
    (text,) = DOCUMENTED
    library = (POLICIES / "lib" / "interlock.rego").read_text()
    return bundle_of({"lib/interlock.rego": library, "rules/agents.rego": text})


PLANNER: Final = Identity(
    Entity("agent", "agent:planner"),
    on_behalf_of=Entity("user", "user:ana"),
    delegation=("user:ana", "agent:planner"),
    method="api_key",
)


@pytest.mark.parametrize(
    ("params", "who", "codes"),
    [
        ({"message": message()}, PLANNER, set()),
        ({"message": message()}, ANA, {"no_rule_allows"}),
        ({"message": message(parts=[{"url": "https://files.corp.example/x"}])}, PLANNER, set()),
        ({"message": message(parts=[{"url": "https://files.corp.example@evil.example/x"}])}, PLANNER, {"no_links"}),
        ({"message": message(parts=[{"url": "https://files.corp.example\\@evil.example"}])}, PLANNER, {"no_links"}),
        (SEND, PLANNER, {"no_links", "no_hook"}),
    ],
)
async def test_rules_of_the_documentation_do_what_it_says(params: Json, who: Identity, codes: set[str]) -> None:
    question = worded(await asked("SendMessage", params), identity=who)
    question["resource"]["properties"]["upstream"] = "research"

    answer = await RegorusPdp(documented()).evaluate("decision", question)

    value: Any = answer.value
    assert value["decision"] is not bool(codes)
    assert {reason["code"] for reason in value["context"].get("reasons", ())} == codes


def test_policy_check_takes_rules_that_read_facts_and_finds_what_fails_on_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "agents.rego"
    rules.write_text(DOCUMENTED[0])
    good = main(["policy", "check", "--path", str(tmp_path)])
    rules.write_text(f"{DOCUMENTED[0]}\nallow if upper(input.resource.properties.catalog.task) == 7\n")

    bad = main(["policy", "check", "--path", str(tmp_path)])

    assert (good, bad) == (0, 1)
    assert "asked for a2a.tasks.get" in capsys.readouterr().out
