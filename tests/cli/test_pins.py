"""The commands with which a person looks at changed definitions and accepts them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import anyio
import pytest

from adapters.stores.sql import open_store
from gateway.cli import main
from gateway.ports import Pin
from gateway.registry import judge
from tests.registry.samples import Definition, catalog_of, tool


async def _offer(data: Path, **listing: list[Definition]) -> list[str]:
    """What happens when the upstream `db` lists this: the names that may be used."""
    store = await open_store("", data_dir=data, clock_s=time.time)
    try:
        items = catalog_of("db", tools=listing.get("tools", []), prompts=listing.get("prompts", [])).all_items()
        verdict = judge(await store.pins("db"), items, "first-use", now_s=1)
        await store.put_pins(verdict.pins)
    finally:
        await store.aclose()
    return [item.name for item in verdict.accepted]


def _offered(data: Path, **listing: list[Definition]) -> list[str]:
    async def offer() -> list[str]:
        return await _offer(data, **listing)

    return anyio.run(offer)


def _stored(data: Path) -> list[Pin]:
    async def pins() -> list[Pin]:
        store = await open_store("", data_dir=data, clock_s=time.time)
        try:
            return list(await store.pins("db"))
        finally:
            await store.aclose()

    return anyio.run(pins)


def _pins(data: Path, *words: str) -> int:
    return main(["pins", *words, "--data", str(data)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory in which two tools were pinned and both changed since."""
    _offered(tmp_path, tools=[tool("query", description="reads"), tool("drop", description="x")])
    assert _offered(tmp_path, tools=[tool("query", description="mails"), tool("drop", description="y")]) == []
    return tmp_path


def test_list_shows_what_is_pinned_and_what_waits(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _pins(data, "list", "db") == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert sum("accepted by first-use" in line for line in lines) == 2
    assert sum(line.endswith("WAITS") for line in lines) == 2


def test_diff_shows_the_change(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _pins(data, "diff", "db", "query") == 0

    out = capsys.readouterr().out
    assert '-  "description": "reads"' in out
    assert '+  "description": "mails"' in out
    assert "drop" not in out


def test_accepted_tool_may_be_used_and_the_other_still_waits(data: Path) -> None:
    assert _pins(data, "accept", "db", "query", "--by", "user:ana") == 0

    names = _offered(data, tools=[tool("query", description="mails"), tool("drop", description="y")])
    assert names == ["query"]
    (pin,) = [pin for pin in _stored(data) if (pin.kind, pin.name) == ("tool", "query")]
    assert pin.accepted_by == "user:ana"
    assert pin.accepted_s > 1_700_000_000


def test_all_that_waits_can_be_accepted_at_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _pins(data, "accept", "db", "--all") == 0
    assert "accepted 2 by user:" in capsys.readouterr().out

    assert _pins(data, "diff", "db") == 0
    assert "nothing waits" in capsys.readouterr().out


def test_definition_that_changed_again_since_it_was_looked_at_is_not_accepted(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _pins(data, "diff", "db", "query", "--json")
    seen = json.loads(capsys.readouterr().out)["waiting"][0]["digest"]
    _offered(data, tools=[tool("query", description="deletes")])

    assert _pins(data, "accept", "db", "query", "--digest", seen) == 1
    assert "look at it again" in capsys.readouterr().err

    _pins(data, "diff", "db", "query", "--json")
    now = json.loads(capsys.readouterr().out)["waiting"][0]["digest"]
    assert _pins(data, "accept", "db", "query", "--digest", now[:20]) == 0


def test_json_tells_the_same(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _pins(data, "list", "db", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert _pins(data, "accept", "db", "--all", "--json") == 0
    accepted = json.loads(capsys.readouterr().out)

    assert [pin["name"] for pin in listed["pins"]] == ["drop", "query"]
    assert listed["waiting"] == accepted["accepted"]
    assert listed["waiting"][1]["accepted_digest"] == listed["pins"][1]["digest"]
    assert "mails" in listed["waiting"][1]["diff"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["accept", "db"], 2, "say which"),
        (["accept", "db", "query", "--all"], 2, "say which"),
        (["accept", "db", "nope"], 1, "nothing such waits"),
        (["accept", "gone", "--all"], 1, "nothing such waits"),
    ],
)
def test_command_that_cannot_be_carried_out_says_what_to_do(
    data: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _pins(data, *words) == code

    assert message in capsys.readouterr().err


def test_name_of_two_kinds_needs_the_kind(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _offered(data, prompts=[{"name": "query"}])
    _offered(data, prompts=[{"name": "query", "title": "new"}])

    assert _pins(data, "accept", "db", "query") == 2
    assert "--kind" in capsys.readouterr().err
    assert _pins(data, "accept", "db", "query", "--kind", "prompt") == 0


def test_nothing_is_made_in_a_place_without_a_gateway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _pins(tmp_path / "nowhere", "list", "db") == 2

    assert "--data" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_unknown_upstream_has_no_pins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _pins(tmp_path, "list", "gone") == 0

    assert "was ever pinned" in capsys.readouterr().out


def test_name_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _offered(tmp_path, prompts=[{"name": "a\x1b[2Jb"}])

    assert _pins(tmp_path, "list", "db") == 0

    assert "\x1b" not in capsys.readouterr().out
