"""The configuration changes under load: what stays configured loses no call, and a faulty file changes nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from conformance.gateway import Plan, Table
from tests.conformance.talking import Json
from tests.e2e.caller import Caller, Told
from tests.e2e.eventually import eventually
from tests.e2e.load import load
from tests.e2e.place import ALLOW_ALL, in_process, new_key, on_the_host, prepare, rules
from tests.servers.launch import http_server, noted, stdio_server


class Saying(logging.Handler):
    """Counts what the gateway logs about its configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def said(self, words: str) -> int:
        return sum(words in line for line in self.lines)


@pytest.fixture
def saying() -> object:
    handler = Saying()
    logger = logging.getLogger("interlock.config")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)


def heard_of_tools(heard: list[Json]) -> Callable[[], Awaitable[bool]]:
    """Whether a change of the tools was announced since now."""
    before = len(heard)

    async def look() -> bool:
        return any(message["method"] == "notifications/tools/list_changed" for message in heard[before:])

    return look


async def test_added_upstream_appears_and_removed_one_disappears(tmp_path: Path) -> None:
    with http_server("counting", tmp_path) as one, http_server("counting", tmp_path) as two:
        tables = {"policy": rules(tmp_path, all=ALLOW_ALL)}
        first, second = {"one": {"url": one.url}}, {"one": {"url": one.url}, "two": {"url": two.url}}
        place = prepare(tmp_path, Plan(first, tables))
        key = await new_key(place, "ana")
        heard: list[Json] = []

        async with in_process(place), place.caller(key) as caller, caller.listening(heard):
            announced = heard_of_tools(heard)
            place.write(Plan(second, tables))
            await eventually(announced)
            added = await caller.tools()
            called = await caller.call("two__echo", {"text": "hello"})
            announced = heard_of_tools(heard)
            place.write(Plan(first, tables))
            await eventually(announced)
            removed = await caller.tools()
            refused = await caller.call("two__echo", {"text": "hello"})

    assert {"one__echo", "two__echo"} <= added
    assert called.text == "hello"
    assert "two__echo" not in removed
    assert refused.message["error"]["code"] == -32602


async def test_faulty_file_keeps_the_last_good_one_and_the_log_says_so(tmp_path: Path, saying: Saying) -> None:
    with http_server("counting", tmp_path) as upstream:
        plan = Plan({"one": {"url": upstream.url}}, {"policy": rules(tmp_path, all=ALLOW_ALL)})
        place = prepare(tmp_path, plan)
        key = await new_key(place, "ana")

        async def refused() -> int:
            return saying.said("the last good configuration stays")

        async with in_process(place), place.caller(key) as caller:
            place.write(plan, broken="[upstreams.two]\ntype = 'mcp'\nurll = 'http://127.0.0.1:1/mcp'")
            await eventually(refused)
            called = await caller.call("one__echo", {"text": "still"})

    assert called.text == "still"
    assert saying.said("upstreams.two.urll")


async def test_faulty_policy_keeps_the_last_good_one(tmp_path: Path, saying: Saying) -> None:
    with http_server("counting", tmp_path) as upstream:
        plan = Plan({"one": {"url": upstream.url}}, {"policy": rules(tmp_path, all=ALLOW_ALL)})
        place = prepare(tmp_path, plan)
        key = await new_key(place, "ana")

        async def refused() -> int:
            return saying.said("all.rego")

        async with in_process(place), place.caller(key) as caller:
            rules(tmp_path, all="allow if {")
            await eventually(refused)
            called = await caller.call("one__echo", {"text": "still"})

    assert called.text == "still"


async def test_edited_policy_takes_effect_and_hides_what_it_denies(tmp_path: Path) -> None:
    with http_server("counting", tmp_path) as upstream:
        plan = Plan({"one": {"url": upstream.url}}, {"policy": rules(tmp_path, all=ALLOW_ALL)})
        place = prepare(tmp_path, plan)
        key = await new_key(place, "ana")
        heard: list[Json] = []
        reason = '{"code": "closed", "message": "not today", "public": true}'

        async with in_process(place), place.caller(key) as caller, caller.listening(heard):
            announced = heard_of_tools(heard)
            rules(tmp_path, all=f'{ALLOW_ALL}\n\ndeny contains {reason} if input.resource.id == "one/echo"')
            await eventually(announced)
            told, shown = await caller.call("one__echo", {"text": "x"}), await caller.tools()

    assert told.failed
    assert "rules.all" in told.text
    assert "not today" in told.text
    assert shown == {"one__flood"}


@pytest.mark.parametrize(
    ("fate", "transport"),
    [
        ("changed", "http"),
        ("removed", "stdio"),
        pytest.param("changed", "stdio", marks=pytest.mark.slow),
        pytest.param("removed", "http", marks=pytest.mark.slow),
    ],
)
async def test_call_in_flight_finishes_on_an_upstream_that_is_no_longer_configured_so(
    tmp_path: Path, saying: Saying, transport: str, fate: str
) -> None:
    command, record = stdio_server("modern_asker", tmp_path)
    with http_server("modern_asker", tmp_path) as upstream:
        reach: Table = {"url": upstream.url} if transport == "http" else on_the_host(command)
        tables = {"policy": rules(tmp_path, all=ALLOW_ALL)}
        place = prepare(tmp_path, Plan({"one": reach}, tables))
        key = await new_key(place, "ana")
        told: list[Told] = []

        async def slowly(caller: Caller) -> None:
            told.append(await caller.call("one__slow", {"seconds": 2}))

        async def reloaded() -> int:
            return saying.said("configuration reloaded")

        async with in_process(place), place.caller(key) as ana, anyio.create_task_group() as group:
            group.start_soon(slowly, ana)
            await noted(upstream.record if transport == "http" else record, "called")
            place.write(Plan({"one": {**reach, "timeout_s": 59}} if fate == "changed" else {}, tables))
            await eventually(reloaded)
            unfinished = not told
            new = await ana.call("one__echo", {"text": "new"})

    assert unfinished
    assert not told[0].failed, told[0].text
    assert (new.text == "new") is (fate == "changed")


@pytest.mark.slow
async def test_upstream_that_was_replaced_cannot_bring_back_what_the_new_configuration_hides(
    tmp_path: Path, saying: Saying
) -> None:
    with http_server("modern_asker", tmp_path) as upstream:
        tables = {"policy": rules(tmp_path, all=ALLOW_ALL)}
        place = prepare(tmp_path, Plan({"one": {"url": upstream.url}}, tables))
        key = await new_key(place, "ana")
        shown: list[set[str]] = []

        async def slowly(caller: Caller) -> None:
            await caller.call("one__slow", {"seconds": 4})

        async def narrowed() -> bool:
            return await ana.tools() == {"one__echo", "one__change"}

        async with in_process(place), place.caller(key) as ana, anyio.create_task_group() as group:
            group.start_soon(slowly, ana)
            await noted(upstream.record, "called")
            place.write(Plan({"one": {"url": upstream.url, "tools": ["echo", "change"]}}, tables))
            await eventually(narrowed)
            with anyio.move_on_after(2):
                while True:
                    await ana.call("one__change")
                    shown.append(await ana.tools())

    assert all(not {"one__slow", "one__whoami"} & tools for tools in shown)


async def test_upstream_whose_secret_is_missing_is_down_and_says_which(tmp_path: Path) -> None:
    with http_server("counting", tmp_path) as upstream:
        bad: Table = {"url": upstream.url, "headers": {"Authorization": "Bearer env:E2E_NO_SUCH_VARIABLE"}}
        tables = {"policy": rules(tmp_path, all=ALLOW_ALL)}
        place = prepare(tmp_path, Plan({"good": {"url": upstream.url}, "bad": bad}, tables))
        key = await new_key(place, "ana")

        async with in_process(place) as ready, place.caller(key) as ana:
            good, shown = await ana.call("good__echo", {"text": "x"}), await ana.tools()

    assert "E2E_NO_SUCH_VARIABLE" in ready.upstreams["bad"]
    assert not good.failed
    assert shown == {"good__echo", "good__flood"}


async def test_policy_that_is_replaced_leaves_no_process_behind(tmp_path: Path, saying: Saying) -> None:
    policy = {**rules(tmp_path, all=ALLOW_ALL), "isolation": "process"}
    place = prepare(tmp_path, Plan({}, {"policy": policy}))
    counts: list[int] = []

    async def nothing_left() -> bool:
        return len(children()) <= counts[0]

    async with in_process(place):
        counts.append(len(children()))
        for step in range(3):
            before = saying.said("configuration reloaded")

            async def reloaded(before: int = before) -> bool:
                return saying.said("configuration reloaded") > before

            rules(tmp_path, all=f'{ALLOW_ALL}\n\nlabel contains "step{step}"')
            await eventually(reloaded)
        await eventually(nothing_left)

    assert counts[0] >= 1


def children() -> list[int]:
    """The processes that this one has started and that have not ended."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc to look for processes that were left behind")
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if state != "Z" and int(parent) == os.getpid():
            found.append(int(entry.parent.name))
    return found


@pytest.mark.slow
async def test_no_call_is_lost_while_the_configuration_reloads_twenty_times(tmp_path: Path, saying: Saying) -> None:
    with http_server("counting", tmp_path) as one, http_server("counting", tmp_path) as two:
        policy = rules(tmp_path, all=ALLOW_ALL)
        stays: dict[str, Table] = {"stays": {"url": one.url}}

        def plan(step: int) -> Plan:
            changing = {"changing": {"url": two.url, "timeout_s": 30 + step}}
            extra = {f"extra{step}": {"url": two.url}} if step % 2 else {}
            return Plan({**stays, **changing, **extra}, {"policy": policy})

        place = prepare(tmp_path, plan(0))
        key = await new_key(place, "ana")

        async with in_process(place), load(place, key, ["stays__echo", "changing__echo"], 200) as seen:
            for step in range(1, 21):
                good, bad = saying.said("configuration reloaded"), saying.said("is not taken")

                async def noticed(good: int = good, bad: int = bad) -> bool:
                    return saying.said("configuration reloaded") > good or saying.said("is not taken") > bad

                if step % 5 == 0:
                    place.write(plan(step), broken="[nonsense]")
                else:
                    rules(tmp_path, all=f'{ALLOW_ALL}\n\nlabel contains "step{step}"' if step % 3 else ALLOW_ALL)
                    place.write(plan(step))
                await eventually(noticed, within_s=60)

    assert saying.said("is not taken") >= 4
    assert saying.said("configuration reloaded") >= 16
    assert seen.trouble == []
    assert min(seen.calls.values()) > 100
