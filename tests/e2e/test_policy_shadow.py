"""A candidate policy beside the one that decides: calls do not notice, people see where they differ, and promote it."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from conformance.gateway import Plan, Table
from tests.conformance.talking import Json
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, Place, as_process, interlock, new_key, prepare, rules
from tests.servers.launch import http_server

pytestmark = pytest.mark.slow

DENY_ECHO = (
    f"{ALLOW_ALL}\n\n"
    'deny contains {"code": "no_echo", "message": "not that one", "public": true} if '
    'input.resource.properties.name == "echo"'
)
MONITOR_ECHO = (
    f"{ALLOW_ALL}\n\n"
    'monitor contains {"would": "deny", "code": "loud", "message": "too loud"} if '
    'input.resource.properties.name == "echo"'
)
NEVER_ENDS = (
    f"{ALLOW_ALL}\n\n"
    "deny contains "
    '{"code": "endless", "message": "", "public": true} if {\n'
    "\tinput.resource.properties.arguments.text\n"
    "\tsome a in numbers.range(1, 100000)\n\tsome b in numbers.range(1, 100000)\n\ta * b == 0\n}"
)


def candidate(directory: Path, text: str) -> str:
    """A candidate, in a directory of another name, whose only team has these rules; where it is."""
    (directory / "draft").mkdir(exist_ok=True)
    written, folder = rules(directory / "draft", all=text), directory / "candidate"
    folder.mkdir(exist_ok=True)
    os.replace(Path(str(written["path"])) / "all.rego", folder / "all.rego")
    return str(folder)


def prepared(directory: Path, url: str, text: str, active: str = ALLOW_ALL) -> Place:
    policy: Table = {**rules(directory, all=active), **({"candidate": candidate(directory, text)} if text else {})}
    return prepare(directory, Plan({"one": {"url": url}}, {"policy": policy}))


def shown(place: Place) -> Json:
    """What `interlock policy shadow --json` prints."""
    found: Json = json.loads(interlock(place, "policy", "shadow", "--json").stdout)
    return found


def until(place: Place, holds: Callable[[Json], object]) -> Callable[[], Awaitable[Json]]:
    async def look() -> Json:
        found = shown(place)
        return found if holds(found) else {}

    return look


def asked(report: Json) -> bool:
    """Whether the candidate is ready."""
    return bool(report["candidate"]["revision"])


def diverges(report: Json) -> list[Json]:
    rows: list[Json] = report["candidate"]["divergences"]
    return [row for row in rows if row["resource"] == "one/echo" and "->" in row["kind"]]


async def test_a_candidate_that_denies_changes_no_call_and_is_seen_to(tmp_path: Path) -> None:
    with http_server("counting", tmp_path) as upstream:
        place = prepared(tmp_path, upstream.url, DENY_ECHO)
        key = await new_key(place, "ana")

        with as_process(place):
            await eventually(until(place, asked), within_s=30)
            async with place.caller(key) as caller:
                answers = [await caller.call("one__echo", {"text": "hello"}) for _ in range(3)]
            report = await eventually(until(place, diverges), within_s=30)
        text = interlock(place, "policy", "shadow")

    assert [answer.text for answer in answers] == ["hello"] * 3
    [row] = diverges(report)
    assert (row["kind"], row["action"], row["count"]) == ("allow->deny", "mcp.tools.call", 3)
    assert row["example"]
    assert text.returncode == 0
    assert "allow->deny  mcp.tools.call  one/echo" in text.stdout


async def test_a_candidate_that_never_ends_or_does_not_load_harms_nothing(tmp_path: Path) -> None:
    with http_server("counting", tmp_path) as upstream:
        place = prepared(tmp_path, upstream.url, NEVER_ENDS)
        key = await new_key(place, "ana")

        with as_process(place):
            await eventually(until(place, asked), within_s=30)
            async with place.caller(key) as caller:
                answers = [await caller.call("one__echo", {"text": "hello"}) for _ in range(20)]
                report = await eventually(until(place, diverges), within_s=30)
                candidate(tmp_path, "allow if {")
                broken = await eventually(until(place, lambda found: found["candidate"]["fault"]), within_s=30)
                answers.append(await caller.call("one__echo", {"text": "hello"}))

    assert [answer.text for answer in answers] == ["hello"] * 21
    assert diverges(report)[0]["kind"] == "allow->no answer"
    assert report["candidate"]["unasked"]
    assert "all.rego" in broken["candidate"]["fault"]


async def test_promotion_changes_the_live_decision(tmp_path: Path) -> None:
    with http_server("counting", tmp_path) as upstream:
        place = prepared(tmp_path, upstream.url, DENY_ECHO)
        key = await new_key(place, "ana")

        with as_process(place):
            report = await eventually(until(place, asked), within_s=30)
            revision = report["candidate"]["revision"]
            too_soon = interlock(place, "policy", "promote", "--revision", revision)
            async with place.caller(key) as caller:
                before = await caller.call("one__echo", {"text": "hello"})
                await eventually(until(place, diverges), within_s=30)
                promoted = interlock(place, "policy", "promote", "--revision", revision, "--json")

                async def denied() -> bool:
                    return "no_echo" in json.dumps((await caller.call("one__echo", {"text": "hello"})).message)

                await eventually(denied, within_s=20)
                active = await eventually(until(place, lambda found: found["candidate"]["active"] == revision))

    assert too_soon.returncode == 1
    assert "was not compared" in too_soon.stderr
    assert before.text == "hello"
    assert promoted.returncode == 0, promoted.stderr
    assert json.loads(promoted.stdout)["kept"].endswith(".bak")
    assert active["candidate"]["revision"] == revision


async def test_a_monitor_rule_is_recorded_and_not_enforced(tmp_path: Path) -> None:
    with http_server("counting", tmp_path) as upstream:
        place = prepared(tmp_path, upstream.url, "", active=ALLOW_ALL)
        key = await new_key(place, "ana")

        with as_process(place):
            rules(tmp_path, all=MONITOR_ECHO)

            async def found() -> Json:
                async with place.caller(key) as caller:
                    assert (await caller.call("one__echo", {"text": "hello"})).text == "hello"
                report = shown(place)
                return report if report["monitor"]["findings"] else {}

            report = await eventually(found, within_s=30)
        text = interlock(place, "policy", "shadow")

    row = report["monitor"]["findings"][0]
    assert (row["rule"], row["would"], row["code"], row["decided"]) == ("rules.all", "deny", "loud", "allow")
    assert (row["resource"], row["note"]) == ("one/echo", "too loud")
    assert "rules.all  deny  loud" in text.stdout
