"""Other enforcement points ask one question, and get the answer that the same call would get here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from adapters.pdp.activation import Engine
from gateway.approvals.switches import KillSwitches
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer, Decided, Entrypoint
from gateway.tickets import Switch, SwitchKind
from tests.authzen.world import Place, asks
from tests.fakes import FakePdp


def codes(answer: Any) -> list[str]:
    return [reason["code"] for reason in answer["context"]["reasons"]]


async def test_permit_carries_its_obligations_and_says_that_they_have_to_be_carried_out() -> None:
    question = {**asks("files/read"), "context": {"supported_obligations": ["redact"]}}

    answer = await Place().decide(question)

    assert answer["decision"] is True
    assert answer["context"]["obligations"] == [{"type": "redact", "properties": {"patterns": ["secret"]}}]
    assert "decision false" in answer["context"]["notice"]


async def test_plain_permit_has_no_obligations() -> None:
    answer = await Place().decide(asks("db/query"))

    assert answer["decision"] is True
    assert set(answer["context"]) == {"id"}


async def test_denial_on_an_argument_gives_its_public_reason() -> None:
    answer = await Place().decide(asks("db/query", arguments={"text": "secret"}))

    assert answer["decision"] is False
    assert codes(answer) == ["not_that"]
    assert answer["context"]["reason_user"] == {"en": "not that"}


async def test_private_reasons_are_counted_and_not_shown() -> None:
    answer = await Place().decide(asks("files/hush"))

    assert answer["decision"] is False
    assert answer["context"]["reasons"] == []
    assert "quiet" not in str(answer)
    assert "1 more" in answer["context"]["reason_admin"]["en"]


async def test_held_call_is_a_no_with_an_access_request() -> None:
    answer = await Place().decide(asks("bank/pay"))

    assert answer["decision"] is False
    assert answer["context"]["access_request"] == {"approvers": "group:finance", "title": "pay"}


@pytest.mark.parametrize("context", [{}, {"supported_obligations": []}, {"supported_obligations": ["rate"]}])
async def test_obligation_that_the_asker_does_not_name_makes_it_a_no(context: Mapping[str, Any]) -> None:
    question = {**asks("files/read"), "context": context}

    answer = await Place().decide(question)

    assert answer["decision"] is False
    assert codes(answer) == ["obligation_unsupported"]
    assert "redact" in answer["context"]["reason_user"]["en"]


@pytest.mark.parametrize("reason", ["timeout", "undefined", "pdp_unavailable", "policy_output_invalid"])
async def test_policy_that_cannot_say_is_a_no_with_its_reserved_code(reason: str) -> None:
    def only_about_asking(_: Entrypoint, question: Mapping[str, Any]) -> Answer:
        if question["action"]["name"] == "authzen.evaluate":
            return Answer({"decision": True})
        raise PolicyEngineUnavailable("s3cret detail", reason=reason)

    place = Place()
    place.policy.activate(Engine(FakePdp(only_about_asking), "r1", "inline"))

    answer = await place.decide(asks("files/read"))

    assert answer["decision"] is False
    assert codes(answer) == [reason]
    assert "s3cret" not in str(answer)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({f"k{index}": "x" * 4_000 for index in range(80)}, "input_too_large"),
        ({"text": "x" * 300_000}, "input_truncated"),
    ],
)
async def test_question_that_policy_cannot_read_in_full_is_refused(arguments: dict[str, str], code: str) -> None:
    reply = await Place().send(asks("db/query", arguments=arguments))

    assert reply.status_code == 403
    assert code in reply.json()["error"]


async def test_definition_in_quarantine_is_a_no_whatever_policy_says() -> None:
    place = Place()
    snapshot = place.registry.snapshot
    catalog = snapshot.upstreams[0].catalog
    assert catalog is not None

    place.registry.put(catalog.with_items(replace(item, quarantine="- old\n+ new") for item in catalog.all_items()))

    answer = await place.decide(asks("files/read"))

    assert answer["decision"] is False
    assert codes(answer) == ["quarantined"]


@pytest.mark.parametrize(
    "switch",
    [("everything", ""), ("subject", "user:bo"), ("subject", "user:cy"), ("upstream", "db"), ("tool", "db/query")],
)
async def test_kill_switch_holds_for_those_who_ask(switch: tuple[SwitchKind, str]) -> None:
    switches = KillSwitches()
    place = Place(switches=switches)
    question = asks("db/query")
    question["subject"]["properties"]["on_behalf_of"] = {"type": "user", "id": "user:cy"}
    before = await place.decide(question)

    switches.take([Switch(*switch, reason="", set_by="user:ops", set_ms=1)])
    reply = await place.send(question)

    assert before["decision"] is True
    assert reply.json().get("decision", False) is False
    assert switch[0] == "everything" or reply.status_code == 200  # then nobody may ask any more


async def test_asking_is_recorded_with_who_asked_about_what() -> None:
    place = Place()

    await place.decide(asks("db/query"))

    (record,) = place.trail.records
    assert (record.call.action, record.call.resource.type, record.call.resource.id) == (
        "authzen.evaluate",
        "policy",
        "tool:db/query",
    )
    assert record.identity is not None
    assert record.identity.subject.id == "agent:pep"
    assert record.outcome == "ok"


async def test_unknown_members_are_ignored() -> None:
    answer = await Place().decide({**asks("db/query"), "foo": "bar", "futureField": {"nested": True}})

    assert answer["decision"] is True


@dataclass
class Kept:
    """A tap that keeps what it is told."""

    told: list[Decided]

    def decided(self, decided: Decided) -> None:
        self.told.append(decided)


async def test_decision_for_others_is_told_to_whoever_keeps_decisions() -> None:
    kept = Kept([])

    answer = await Place(tap=kept).decide(asks("bank/pay"))

    (decided,) = kept.told
    assert decided.decision_id == answer["context"]["id"]
    assert decided.question["schema"] == "interlock.input/1"
    assert decided.answer is not None
    assert (decided.entrypoint, decided.fault) == ("decision", "")


async def test_decision_that_failed_is_told_with_its_fault() -> None:
    def fail(_: Entrypoint, question: Mapping[str, Any]) -> Answer:
        if question["action"]["name"] == "authzen.evaluate":
            return Answer({"decision": True})
        raise PolicyEngineUnavailable("late", reason="timeout")

    kept = Kept([])
    place = Place(tap=kept)
    place.policy.activate(Engine(FakePdp(fail), "r1", "inline"))

    await place.decide(asks())

    assert (kept.told[0].answer, kept.told[0].fault) == (None, "timeout: late")
