"""What was refused or doubted in one way is not to be had in another; and nobody takes away what is not theirs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import InvalidCall, PolicyDenied, UnknownResource
from gateway.memory.ports import MemoryConflict
from tests.memory_service.place import World, agent, person, world

ANA, BO, OP = person("ana"), person("bo"), person("op")
BOT, EVE = agent("bot"), agent("eve")
HIDES = """package rules.team

default allow := false

allow if input.subject.id != ""

deny contains {"code": "no_pii"} if {
	input.action.name == "memory.read"
	"pii" in input.resource.properties.catalog.labels
	input.subject.id != "user:ana"
}
"""
LONG = (
    "Invoices of the supplier Acme Corporation of Berlin are from the first of May on paid into the bank account that "
    "belongs to Alice Smith"
)


@pytest.fixture(params=[True, False], ids=["fake", "sqlite"])
async def w(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, fake=request.param) as made:
        yield made


async def test_what_is_forgotten_is_not_to_be_had_by_the_id_of_its_version(w: World) -> None:
    kept = await w.do(BOT, "remember", text="A secret meeting with Zelda")
    await w.do(BOT, "forget", id=kept["record"])

    for operation in ("get", "why", "history"):
        with pytest.raises(UnknownResource):
            await w.do(BOT, operation, id=kept["id"])
    assert (await w.do(BOT, "export"))["versions"] == 0
    assert (await w.do(OP, "export", direct=True, whole=True))["versions"] == 2


async def test_older_versions_of_what_stands_are_to_be_had(w: World) -> None:
    first = await w.do(BOT, "remember", text="Standup is at nine")
    await w.do(BOT, "revise", id=first["record"], text="Standup is at ten")

    assert (await w.do(BOT, "get", id=first["id"]))["text"] == "Standup is at nine"
    assert (await w.do(BOT, "export"))["versions"] >= 2


async def test_an_agent_forgets_nothing_of_others_that_is_worth_more_than_its_word(w: World) -> None:
    of_ana = await w.do(ANA, "remember", direct=True, text="Supplier account is 4711", scope="org", key="account")
    with pytest.raises(PolicyDenied, match="worth more"):
        await w.do(EVE, "forget", id=of_ana["record"])
    with pytest.raises(MemoryConflict):
        await w.do(EVE, "remember", text="The supplier has moved", scope="org", key="account")

    assert await w.recall(BOT, "supplier account") == ["Supplier account is 4711"]
    await w.do(agent("helper", of="ana"), "forget", id=of_ana["record"])
    assert await w.recall(BOT, "supplier account") == []


async def test_an_agent_erases_nothing_that_others_made(w: World) -> None:
    bait = await w.do(EVE, "remember", text="The cafeteria opens at eight", scope="org")
    await w.do(BO, "recall", direct=True, query="when does the cafeteria open")
    await w.do(BO, "remember", direct=True, text="The board meets on Tuesday in Vienna", scope="org")
    with pytest.raises(PolicyDenied, match="others have records"):
        await w.do(EVE, "forget", id=bait["record"], erase=True)

    assert await w.recall(BOT, "where does the board meet", limit=1) == ["The board meets on Tuesday in Vienna"]
    assert (await w.do(EVE, "forget", id=bait["record"]))["forgotten"]


async def test_whoever_words_the_text_of_another_anew_has_written_it(w: World) -> None:
    original = await w.do(agent("bob"), "remember", text=LONG, scope="org")
    forged = await w.do(EVE, "remember", text=LONG.replace("Alice Smith", "Mallory Jones"), scope="org")
    why = await w.do(OP, "why", direct=True, id=forged["record"])
    done = await w.do(OP, "rollback", direct=True, since="2001-01-01T00:00:00Z", agent="agent:eve")

    assert forged["source"]["agent"] == "agent:eve"
    assert [parent["id"] for parent in why["record"]["from"]] == [original["id"]]
    assert done["retracted"] == [forged["record"]]
    assert await w.recall(BOT, "account of Alice Smith") == [LONG]


async def test_a_copy_of_ones_own_words_confirms_nothing_even_when_they_are_forgotten(w: World) -> None:
    first = await w.do(BOT, "remember", text=LONG, scope="org")
    await w.do(EVE, "recall", query="account of Alice Smith")
    await w.do(EVE, "remember", text=LONG)
    await w.do(BOT, "forget", id=first["record"])
    second = await w.do(BOT, "remember", "later", text=LONG, scope="org", kind="procedural")

    assert second["status"] == "quarantined"
    assert second["findings"] == ["needs_second_source"]


async def test_no_label_is_washed_off_by_adding_others(w: World) -> None:
    many = [
        await w.do(EVE, "remember", text=f"{name} is one more", labels=[f"{name}{number:02}" for number in range(32)])
        for name in ("alpha", "beta")
    ]
    await w.taint(EVE, "web", "pii", session="reads")
    with pytest.raises(PolicyDenied, match="at most 64 labels"):
        await w.do(EVE, "remember", "reads", text="Washed", derived_from=[one["id"] for one in many])


async def test_approving_a_revision_keeps_the_labels_that_the_record_has_by_now(w: World) -> None:
    old = await w.do(ANA, "remember", direct=True, text="Refunds go to the card", scope="org")
    waits = await w.do(BOT, "revise", id=old["record"], text="Refunds go to the wallet", source={"type": "tool"})
    await w.do(ANA, "revise", direct=True, id=old["record"], text="Refunds go to the card of Zoe", labels=["pii"])
    merged = await w.do(OP, "approve", direct=True, id=waits["record"])

    assert merged["record"] == old["record"]
    assert merged["labels"] == ["pii", "untrusted"]


async def test_what_waits_is_written_at_once_with_what_it_waits_for(w: World) -> None:
    old = await w.do(ANA, "remember", direct=True, text="Refunds go to the card", scope="org")
    waits = await w.do(BOT, "revise", id=old["record"], text="Refunds go to the wallet", source={"type": "tool"})
    (shown,) = (await w.do(OP, "review", direct=True))["records"]

    assert waits["id"].endswith("@1")
    assert shown["note"].startswith(f"revises:{old['record']} ")


async def test_writing_tells_nothing_of_what_policy_hides_or_others_keep_for_themselves(tmp_path: Path) -> None:
    async with world(tmp_path, rules=HIDES) as w:
        secret = "Bo has 17 days of leave left this year"
        hidden = await w.do(ANA, "remember", direct=True, text=secret, scope="org", labels=["pii"], key="leave")
        await w.do(ANA, "remember", direct=True, text="My own salary is 5000 euro per month")
        copy = await w.do(EVE, "remember", text=secret, scope="org", labels=["pii"])
        other = await w.do(BO, "remember", direct=True, text=secret.replace("17", "18"), scope="org")
        guess = await w.do(EVE, "remember", text="My own salary is 4000 euro per month", scope="org")

    assert (copy["stored"], copy["source"]["agent"]) == (True, "agent:eve")
    assert hidden["id"] not in json.dumps([copy, other])
    assert (guess["status"], guess["findings"]) == ("active", [])


async def test_only_people_import_who_said_what(w: World) -> None:
    await w.do(ANA, "remember", direct=True, text="Said by Ana", scope="org")
    lines = (await w.do(OP, "export", direct=True, whole=True))["lines"].replace("Said", "Claimed")
    with pytest.raises(PolicyDenied, match="people make it"):
        await w.do(EVE, "import", direct=True, lines=lines)
    with pytest.raises(InvalidCall):
        await w.do(OP, "import", direct=True, lines=lines.replace("mem-", "../mem-"))


async def test_a_hold_is_on_what_there_is_whichever_id_it_is_named_by(w: World) -> None:
    kept = await w.do(ANA, "remember", text="Evidence of the case")
    for target, error in (("mem-typo", UnknownResource), ("default", InvalidCall), ("Default/", InvalidCall)):
        with pytest.raises(error):
            await w.do(OP, "hold", direct=True, target=target, reason="case 7")
    await w.do(OP, "hold", direct=True, target=kept["id"], reason="case 7")

    assert (await w.do(OP, "erase", direct=True, subject="user:ana"))["held"] == [kept["record"]]
    assert (await w.do(OP, "lift", direct=True, target=kept["id"]))["lifted"]
