"""Retention, legal hold, erasure that leaves no trace on disk, rollback, export and import."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import InvalidCall
from gateway.memory.exchange import read_export, read_manifest, split_lines
from tests.memory_service.place import World, agent, person, world

ANA, OP, BOT = person("ana"), person("op"), agent("bot")
MARKER = "Quetzalcoatlus"
DAY_MS = 86_400_000


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, limits={"short": 7 * DAY_MS}, holds=["kept"]) as made:
        yield made


def on_disk(place: Path, words: str) -> list[str]:
    """The files below it that hold a text."""
    files = [file for file in place.rglob("*") if file.is_file()]
    return [file.name for file in files if words.encode() in file.read_bytes()]


async def test_erasure_by_subject_leaves_no_trace_in_any_file(w: World, tmp_path: Path) -> None:
    await w.do(ANA, "remember", text=f"{MARKER} is my pet", key=f"{MARKER}-key")
    await w.do(BOT, "remember", text=f"somebody has a {MARKER}", subjects=["user:ana"], scope="org")
    await w.do(BOT, "recall", query=MARKER)
    await w.do(BOT, "remember", text=f"derived: {MARKER} eats fish")
    kept = await w.do(BOT, "remember", "apart", text="something about nobody", source={"type": "agent"})
    assert on_disk(tmp_path, MARKER) != []

    done = await w.do(OP, "erase", direct=True, subject="user:ana")

    assert len(done["erased"]) == 3
    assert done["held"] == []
    assert on_disk(tmp_path, MARKER) == []
    assert on_disk(tmp_path, "user:ana") == []
    assert await w.recall(BOT, MARKER) == ["something about nobody"]
    after = await w.do(BOT, "remember", text="written after it")
    assert (await w.do(BOT, "why", id=after["id"]))["record"]["derived_from"] == [kept["id"]]


async def test_a_legal_hold_keeps_until_it_is_lifted(w: World) -> None:
    by_hand = await w.do(ANA, "remember", text="held by a person")
    await w.do(ANA, "remember", text="held by configuration", namespace="kept")
    await w.do(OP, "hold", direct=True, target=by_hand["record"], reason="case 7")
    erased = await w.do(OP, "erase", direct=True, subject="user:ana")
    holds = await w.do(OP, "holds", direct=True)

    assert erased["erased"] == []
    assert len(erased["held"]) == 2
    assert {one["target"]: one["by"] for one in holds["holds"]} == {
        by_hand["record"]: "user:op",
        "kept/": "memory.toml",
    }
    await w.do(OP, "lift", direct=True, target=by_hand["record"])
    assert (await w.do(OP, "erase", direct=True, subject="user:ana"))["erased"] == [by_hand["record"]]


async def test_what_is_kept_too_long_goes_by_itself(w: World, tmp_path: Path) -> None:
    await w.do(BOT, "remember", text=f"short lived {MARKER}", namespace="short")
    await w.do(BOT, "remember", text="expires on its own", expires_s=3_600)
    await w.do(BOT, "remember", text="stays for good")
    w.clock.ms += 2 * 3_600_000
    await w.upkeep.once()
    assert sorted(one["text"] for one in (await w.do(BOT, "list"))["records"]) == [
        f"short lived {MARKER}",
        "stays for good",
    ]
    w.clock.ms += 7 * DAY_MS
    await w.upkeep.once()
    assert [one["text"] for one in (await w.do(BOT, "list"))["records"]] == ["stays for good"]
    assert on_disk(tmp_path, MARKER) == []


async def test_rollback_undoes_what_a_source_wrote_since_and_quarantines_what_came_of_it(w: World) -> None:
    good = await w.do(ANA, "remember", direct=True, text="The port is 8080", scope="org", key="port")
    w.clock.ms += 1_000
    moment = "2027-01-15T08:00:00.500Z"
    eve, bot = agent("eve"), agent("helper")
    await w.do(eve, "revise", id=good["record"], text="The harbour is 9090")
    await w.do(eve, "remember", text="Eve was here", scope="org")
    await w.do(bot, "recall", query="eve was here")
    made = await w.do(bot, "remember", text="Notes about whoever was here")

    done = await w.do(OP, "rollback", direct=True, since=moment, agent="agent:eve")

    assert made["record"] in done["quarantined"]
    assert len(done["retracted"]) == 2  # the proposal that waits, and the record
    assert await w.recall(ANA, "the port") == ["The port is 8080"]
    assert await w.recall(bot, "notes about whoever") == ["The port is 8080"]
    with pytest.raises(InvalidCall, match="whose writes"):
        await w.do(OP, "rollback", direct=True, since=moment)


async def test_an_export_comes_back_exactly(w: World, tmp_path: Path) -> None:
    first = await w.do(ANA, "remember", direct=True, text="One\n---\ntext", scope="org", key="a")
    await w.do(ANA, "revise", direct=True, id=first["id"], text="Two")
    await w.do(BOT, "remember", text="waits", scope="org", source={"type": "tool"})
    export = await w.do(OP, "export", direct=True, whole=True)
    manifest = read_manifest(export["manifest"].encode())
    versions = read_export(manifest, split_lines(export["lines"].encode()))
    assert len(versions) == export["versions"]

    (tmp_path / "second").mkdir()
    async with world(tmp_path / "second") as other:
        done = await other.do(OP, "import", direct=True, lines=export["lines"])
        again = await other.do(OP, "import", direct=True, lines=export["lines"])
        back = await other.do(OP, "export", direct=True, whole=True)
        found = await other.recall(BOT, "two")

    assert (done["new"], again["new"]) == (len(versions), 0)
    assert back["lines"] == export["lines"]
    assert found == ["Two"]


async def test_an_import_belongs_to_whoever_imports_it(w: World) -> None:
    await w.do(ANA, "remember", direct=True, text="of acme", scope="org")
    export = await w.do(OP, "export", direct=True, whole=True)
    stranger = person("op", tenant="elsewhere")
    await w.do(stranger, "import", direct=True, lines=export["lines"])

    assert await w.recall(stranger, "of acme") == ["of acme"]
    with pytest.raises(InvalidCall):
        await w.do(OP, "import", direct=True, lines='{"odd": 1}\n')


async def test_documents_for_people_say_everything(w: World) -> None:
    await w.do(ANA, "remember", direct=True, text="Readable", scope="org")
    export = await w.do(ANA, "export", format="markdown")
    (document,) = export["documents"].values()

    assert document.endswith("---\n\nReadable\n")
    assert 'on_behalf_of":"user:ana"' in document
