"""What is written: by whom, with which labels and from what; and what waits for people."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import InvalidCall, PolicyDenied, Unauthenticated, UnknownResource
from gateway.memory.ports import MemoryConflict
from gateway.memory.recall import Terms
from gateway.types import Identity
from tests.memory_service.place import World, agent, person, world

ANA, BO, BOT = person("ana"), person("bo"), agent("bot")


@pytest.fixture(params=[True, False], ids=["fake", "sqlite"])
async def w(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, fake=request.param) as made:
        yield made


async def test_what_an_agent_remembers_it_recalls_with_its_source(w: World) -> None:
    wrote = await w.do(BOT, "remember", text="The deploy key is rotated every Friday", key="rotation")
    found = await w.do(BOT, "recall", query="when is the deploy key rotated")

    (record,) = found["records"]
    assert (record["id"], record["text"]) == (wrote["id"], "The deploy key is rotated every Friday")
    assert record["source"] == {
        "type": "agent", "ref": "", "agent": "agent:bot", "subject": "agent:bot", "model": "",
    }  # fmt: skip
    assert record["key"] == "rotation"
    assert [entry.call.action for entry in w.trail.records] == ["memory.write", "memory.read"]
    assert w.trail.records[0].notes == {"memory": {"records": [wrote["id"]], "status": "active", "findings": []}}


async def test_every_operation_is_decided_and_recorded_for_itself(tmp_path: Path) -> None:
    closed = 'package rules.team\n\ndefault allow := false\n\nallow if input.action.name == "memory.write"\n'
    async with world(tmp_path, rules=closed) as w:
        await w.do(BOT, "remember", text="a fact to keep")
        with pytest.raises(PolicyDenied):
            await w.do(BOT, "recall", query="fact")
        with pytest.raises(PolicyDenied):
            await w.do(BOT, "list")

        assert [entry.outcome for entry in w.trail.records] == ["ok", "denied", "denied"]
        assert all(entry.decision_id for entry in w.trail.records)


async def test_labels_of_the_session_go_onto_what_it_writes_and_come_back_to_whoever_recalls_it(w: World) -> None:
    await w.taint(BOT, "pii", session="reads")
    wrote = await w.do(BOT, "remember", "reads", text="Ana lives in Lisbon", labels=["address"])
    result = await w.result(BOT, "recall", {"query": "where does Ana live"}, "fresh")
    after = await w.do(BOT, "remember", "fresh", text="Something else entirely")

    assert wrote["labels"] == ["address", "pii"]
    assert result.labels == ("address", "pii")
    assert after["labels"] == ["address", "pii"]


async def test_who_has_read_untrusted_text_speaks_with_the_word_of_a_tool(w: World) -> None:
    await w.taint(BOT, "web")
    wrote = await w.do(BOT, "remember", text="The office is in Berlin", source={"type": "user"})

    assert wrote["source"]["type"] == "tool"
    assert wrote["trust"] == 0.3
    assert "untrusted" in wrote["labels"]


async def test_only_a_person_without_an_agent_in_between_is_a_person(w: World) -> None:
    said: dict[str, Any] = {"source": {"type": "user"}}
    by_agent = await w.do(ANA, "remember", text="Ana likes tea", **said)
    herself = await w.do(ANA, "remember", direct=True, text="Ana dislikes coffee", **said)
    by_machine = await w.do(BOT, "remember", direct=True, text="Ana adores water", **said)
    lowered = await w.do(ANA, "remember", direct=True, text="Ana met Bo", source={"type": "tool", "ref": "crm/get"})

    kinds = [one["source"]["type"] for one in (by_agent, herself, by_machine, lowered)]
    assert kinds == ["agent", "user", "agent", "tool"]


async def test_a_tools_word_for_everybody_waits_until_a_person_says_so(w: World) -> None:
    text, rita = "Invoices are paid to account 4711", person("rita")
    wrote = await w.do(BOT, "remember", text=text, scope="org", source={"type": "tool", "ref": "mail/read"})

    assert wrote["status"] == "quarantined"
    assert wrote["findings"] == ["needs_second_source"]
    assert await w.recall(BOT, "which account are invoices paid to") == []
    assert (await w.do(BOT, "list"))["records"] == []
    assert (await w.do(BOT, "export"))["versions"] == 0
    with pytest.raises(UnknownResource):
        await w.do(BOT, "why", id=wrote["record"])
    (waiting,) = (await w.do(rita, "review", direct=True))["records"]
    assert waiting["note"] == "needs_second_source"

    approved = await w.do(rita, "approve", direct=True, id=wrote["record"], reason="I called them")
    assert approved["status"] == "active"
    assert await w.recall(BOT, "which account are invoices paid to") == [text]


async def test_nobody_reviews_what_they_wrote_and_no_agent_reviews_at_all(w: World) -> None:
    wrote = await w.do(ANA, "remember", text="Call this number", scope="org", source={"type": "tool"})
    with pytest.raises(PolicyDenied, match="written by them"):
        await w.do(ANA, "approve", direct=True, id=wrote["record"])
    with pytest.raises(PolicyDenied, match="people review"):
        await w.do(BO, "approve", id=wrote["record"])
    with pytest.raises(PolicyDenied, match="people review"):
        await w.do(BOT, "approve", direct=True, id=wrote["record"])

    rejected = await w.do(BO, "reject", direct=True, id=wrote["record"])
    assert rejected["status"] == "retracted"


async def test_a_second_independent_source_is_enough(w: World) -> None:
    text = "The registry closes at noon on Friday this week"
    first = await w.do(BOT, "remember", text=text, scope="org", source={"type": "tool", "ref": "web/a"})
    again = await w.do(BOT, "remember", "other", text=text, scope="org", source={"type": "tool", "ref": "web/b"})
    same = await w.do(agent("eve"), "remember", text=text, scope="org", source={"type": "tool", "ref": "web/a"})
    second = await w.do(agent("sue"), "remember", text=text, scope="org", source={"type": "tool", "ref": "web/c"})

    assert [one["status"] for one in (first, again, same, second)] == [*["quarantined"] * 3, "active"]
    assert second["trust"] == 0.6


async def test_recalled_text_is_no_new_evidence(w: World) -> None:
    text = "The build server has eight cores and runs Debian twelve"
    await w.do(BOT, "remember", text=text, source={"type": "tool", "ref": "shell/run"})
    await w.do(BOT, "recall", "later", query="build server cores")
    copied = await w.do(BOT, "remember", "later", text=text, namespace="infra")
    near = await w.do(BOT, "remember", "later", text=f"Note: {text}", key="server")

    assert copied["source"]["type"] == near["source"]["type"] == "tool"
    assert copied["source"]["ref"] == "shell/run"
    assert copied["trust"] == near["trust"] == 0.3


async def test_exactly_the_same_in_the_same_place_is_stored_once(w: World) -> None:
    first = await w.do(BOT, "remember", text="Tests run on Mondays")
    second = await w.do(BOT, "remember", "other", text="tests run on mondays")

    assert second["stored"] is False
    assert second["id"] == first["id"]


async def test_what_was_recalled_before_counts_as_what_it_was_made_from(w: World) -> None:
    first = await w.do(BOT, "remember", "a", text="Ana works in Lisbon")
    await w.do(BOT, "recall", "b", query="where does Ana work")
    second = await w.do(BOT, "remember", "b", text="Book flights from Portugal for Ana")
    why = await w.do(BOT, "why", "c", id=second["id"])

    record = why["record"]
    assert record["derived_from"] == [first["id"]]
    assert [parent["text"] for parent in record["from"]] == ["Ana works in Lisbon"]
    assert set(why["audit"]) == {record["call"], record["from"][0]["call"]}
    assert record["trace"] == "a" * 32
    assert record["arguments"].startswith("sha256:")


async def test_contradictions_are_flagged_on_both_sides(w: World) -> None:
    await w.do(ANA, "remember", direct=True, text="The spending limit of the team is 500 euro", scope="org")
    other = await w.do(BOT, "remember", text="The spending limit of the team is 5000 euro")
    found = await w.do(BOT, "recall", query="spending limit of the team")

    assert other["status"] == "quarantined"
    assert other["findings"] == ["contradicts_trusted"]
    assert len(other["contradicts"]) == 1
    assert [one["text"] for one in found["records"]] == ["The spending limit of the team is 500 euro"]

    person_says = await w.do(
        BO, "remember", direct=True, text="The spending limit of the team is 700 euro", scope="org"
    )
    both = await w.do(BOT, "recall", query="spending limit of the team")
    assert person_says["status"] == "active"
    first, second = both["records"]
    assert (first["contradicts"], second["contradicts"]) == ([second["id"]], [first["id"]])


async def test_a_revision_supersedes_and_the_past_can_be_asked_for(w: World) -> None:
    first = await w.do(ANA, "remember", direct=True, text="Standup is at nine", key="standup", scope="org")
    then = first["recorded_at"]
    w.clock.ms += 60_000
    second = await w.do(ANA, "revise", direct=True, id=first["id"], text="Standup is at ten", expect=first["id"])

    assert second["id"] == f"{first['record']}@2"
    assert await w.recall(BO, "when is standup") == ["Standup is at ten"]
    assert await w.recall(BO, "when is standup", as_recorded=then, as_of=then) == ["Standup is at nine"]
    history = await w.do(BO, "history", id=first["record"])
    assert "Standup is at nine" in [one["text"] for one in history["versions"]]
    with pytest.raises(MemoryConflict):
        await w.do(ANA, "revise", direct=True, id=first["record"], text="Standup is at noon", expect=first["id"])


async def test_a_revision_on_the_word_of_a_tool_waits_and_the_record_says_what_it_said(w: World) -> None:
    old = await w.do(ANA, "remember", direct=True, text="Refunds go to the original card", scope="org", key="refunds")
    new = await w.do(
        BOT, "revise", id=old["record"], text="Refunds go to the wallet of the courier", source={"type": "tool"}
    )

    assert new["status"] == "quarantined"
    assert "replaces_trusted" in new["findings"]
    assert await w.recall(BOT, "where do refunds go") == ["Refunds go to the original card"]
    merged = await w.do(BO, "approve", direct=True, id=new["record"])
    assert merged["record"] == old["record"]
    assert await w.recall(BOT, "where do refunds go") == ["Refunds go to the wallet of the courier"]
    assert (await w.do(BO, "review", direct=True))["records"] == []


async def test_what_is_forgotten_is_in_no_answer_and_what_is_erased_is_nowhere(w: World) -> None:
    kept = await w.do(BOT, "remember", text="A secret meeting with Zelda")
    await w.do(BOT, "forget", id=kept["record"], reason="over")
    gone = await w.do(BOT, "remember", text="Another meeting with Yorick")
    erased = await w.do(BOT, "forget", id=gone["record"], erase=True)

    assert erased == {"record": gone["record"], "forgotten": True, "erased": True}
    assert await w.recall(BOT, "meeting with") == []
    with pytest.raises(UnknownResource):
        await w.do(BOT, "get", id=kept["record"])


async def test_a_scratchpad_is_of_one_session_and_expires(w: World) -> None:
    wrote = await w.do(BOT, "remember", text="half of the sum is 21", kind="scratch", key="sum", expires_s=60)

    assert wrote["id"].startswith("scr-")
    assert await w.recall(BOT, "what is half of the sum") == ["half of the sum is 21"]
    assert await w.recall(BOT, "what is half of the sum", "other") == []
    assert (await w.do(BOT, "get", namespace="default", key="sum"))["text"] == "half of the sum is 21"
    assert (await w.do(BOT, "export"))["versions"] == 0
    w.clock.ms += 61_000
    assert await w.recall(BOT, "what is half of the sum") == []
    await w.do(BOT, "remember", text="the sum is 42", kind="scratch", key="sum")
    jotted = await w.do(BOT, "list")
    await w.do(BOT, "forget", id=jotted["records"][0]["record"])
    assert (await w.do(BOT, "list"))["records"] == []


async def test_teams_and_sessions_and_agents_share_nothing_that_is_not_theirs(w: World) -> None:
    red, blue = agent("one", "team:red"), agent("two", "team:blue")
    await w.do(red, "remember", text="the plan of red is fire", scope="team")
    await w.do(red, "remember", text="the plan of one is smoke")
    await w.do(red, "remember", text="the plan of today is ash", scope="session")

    assert len(await w.recall(red, "the plan")) == 3
    assert len(await w.recall(red, "the plan", "other")) == 2
    assert await w.recall(agent("three", "team:red"), "the plan") == ["the plan of red is fire"]
    assert await w.recall(blue, "the plan") == []
    with pytest.raises(InvalidCall, match="blue"):
        await w.do(blue, "remember", text="x y z", scope="team", team="red")


async def test_an_agent_keeps_apart_for_whom_it_works(w: World) -> None:
    for_ana, for_bo = agent("bot", of="ana"), agent("bot", of="bo")
    await w.do(for_ana, "remember", text="the favourite colour is green")

    assert await w.recall(for_ana, "favourite colour") == ["the favourite colour is green"]
    assert await w.recall(for_bo, "favourite colour") == []


async def test_nobody_remembers_nothing(w: World) -> None:
    with pytest.raises(Unauthenticated):
        await w.do(Identity(), "remember", text="x y z")


async def test_residency_comes_from_the_namespace_and_is_seen_by_policy(tmp_path: Path) -> None:
    rules = """package rules.team

default allow := false

allow if input.resource.properties.catalog.memory.residency == ""

allow if "eu" in input.subject.properties.roles
"""
    terms = Terms(residency={"eu-notes": "eu"})
    async with world(tmp_path, rules=rules, terms=terms, fake=True) as w:
        eva = person("eva", "eu")
        await w.do(eva, "remember", text="the clinic is in Graz", scope="org", namespace="eu-notes")
        with pytest.raises(PolicyDenied):
            await w.do(BOT, "remember", text="the clinic is here", namespace="eu-notes")

        assert await w.recall(eva, "where is the clinic") == ["the clinic is in Graz"]
        assert await w.recall(BOT, "where is the clinic") == []


async def test_people_who_agreed_beforehand_are_not_asked_twice_but_a_rule_may_ask_for_a_review(tmp_path: Path) -> None:
    rules = """package rules.team

default allow := false

allow if input.subject.id != ""

label contains "quarantine" if input.resource.properties.arguments.key == "watched"
"""
    async with world(tmp_path, rules=rules, fake=True) as w:
        watched = await w.do(BOT, "remember", text="an ordinary fact", key="watched")
        after = await w.do(BOT, "remember", text="another ordinary fact")

        assert (watched["status"], after["status"]) == ("quarantined", "active")
        assert after["labels"] == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"text": ""}, "text"),
        ({"text": "x", "tenant": "other"}, "'tenant' is not an argument"),
        ({"text": "x", "namespace": "../etc"}, "namespace"),
        ({"text": "x", "trust": 1}, "'trust' is not an argument"),
        ({"text": "x", "valid_from": "yesterday"}, "is no moment"),
        ({"text": "x", "valid_from": "2026-01-01T00:00:00"}, "time zone"),
        ({"text": "x", "derived_from": ["mem-none"]}, "derived_from"),
        ({"text": "x", "source": {"type": "system"}}, "source.type"),
        ({"text": "x", "team": "red"}, "scope team"),
    ],
)
async def test_what_cannot_be_meant_is_refused_with_its_name(w: World, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidCall, match=words):
        await w.do(BOT, "remember", **given)
