"""Clients of both eras run code: each session keeps its files in a box of its own, and policy has a say in it."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, EmbeddedResource, ImageContent, TextContent

from tests.e2e.boxes import boxes, command_lines, environment, notes, prepared, records, relatives, works
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, as_process, in_process, new_key

Mode = Literal["auto", "legacy", "2026-07-28"]
MODES: Final[tuple[Mode, ...]] = ("auto", "legacy", "2026-07-28")
PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
USERS: Final[Mapping[str, tuple[str, ...]]] = {
    "ana": ("coder",),
    "bo": ("coder",),
    "cleo": ("coder", "chemist"),
    "dan": ("coder",),
    "rita": ("reader",),
}
RULES: Final = """allow if some role in input.subject.properties.roles

deny contains {"code": "no_code", "message": "readers run nothing", "public": true, "remedy": "be a coder"} if {
	input.resource.id == "code/run_code"
	"reader" in input.subject.properties.roles
}

deny contains {"code": "no_shell", "message": "no shell scripts", "public": true, "remedy": "write Python"} if {
	input.action.name == "sandbox.exec"
	input.resource.properties.arguments.language == "shell"
	contains(input.resource.properties.arguments.code, "curl")
}
"""
MERGED: Final = "code__"
SECRET: Final = f"secret-{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class World:
    """A gateway process that runs code, and a key for each of `USERS`."""

    place: Place
    keys: Mapping[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    anyio.run(works, "bubblewrap")
    directory = tmp_path_factory.mktemp("code")
    environment(directory, "lab", 'visible_to = ["chemist"]\nenv = { PLACE = "the lab" }')
    place = prepared(directory, {"code": {"type": "sandbox"}}, RULES)
    environment(directory, "keyed", 'secrets = { API_KEY = "env:E2E_API_KEY" }')
    keys = {name: anyio.run(new_key, place, name, *roles) for name, roles in USERS.items()}
    with as_process(place, env={"E2E_API_KEY": SECRET}):
        yield World(place, keys)


class Coder:
    """A client, and the session that it works in."""

    def __init__(self, client: Client, *, keeps_session: bool) -> None:
        self.client = client
        self.session = ""
        self._keeps_session = keeps_session

    async def use(self, tool: str, **arguments: Any) -> CallToolResult:
        """Call a tool. A modern client names the session that it was told; one with an MCP session need not."""
        if self.session and not self._keeps_session:
            arguments.setdefault("session", self.session)
        result = await self.client.call_tool(MERGED + tool, arguments)
        self.session = (result.structured_content or {}).get("session", self.session)
        return result

    async def run(self, code: str, language: str = "python", **more: Any) -> CallToolResult:
        return await self.use("run_code", code=code, language=language, **more)


@asynccontextmanager
async def coder(place: Place, key: str, mode: Mode) -> AsyncIterator[Coder]:
    headers = {"Authorization": f"Bearer {key}"}
    with anyio.fail_after(60):
        async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
            transport = streamable_http_client(place.endpoint(), http_client=http)
            async with Client(transport, mode=mode, cache=None) as client:
                worker = Coder(client, keeps_session=mode == "legacy")
                yield worker
                if worker.session:
                    await worker.use("end_session")


def text_of(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def facts(result: CallToolResult) -> dict[str, Any]:
    return dict(result.structured_content or {})


@pytest.mark.parametrize("mode", MODES)
async def test_files_of_a_session_are_there_for_the_next_run_in_any_language(world: World, mode: Mode) -> None:
    async with coder(world.place, world.keys["ana"], mode) as ana:
        first = await ana.run("open('log', 'w').write('python\\n'); print(6 * 7)")
        second = await ana.run("require('fs').appendFileSync('log', 'javascript\\n'); console.log(1 + 1)", "javascript")
        third = await ana.run("echo shell >> log; wc -l < log", "shell")
        read = await ana.use("read_file", path="log")
        listed = await ana.use("list_files")

    assert [facts(run)["stdout"] for run in (first, second, third)] == ["42\n", "2\n", "3\n"]
    assert [facts(run)["new_session"] for run in (first, second, third)] == [True, False, False]
    assert len({facts(result)["session"] for result in (first, second, third, read, listed)}) == 1
    assert "python\njavascript\nshell\n" in text_of(read)
    assert [entry["path"] for entry in facts(listed)["entries"]] == ["log"]


@pytest.mark.parametrize("mode", MODES)
async def test_images_that_code_makes_and_files_that_are_read_come_back_as_content(world: World, mode: Mode) -> None:
    code = f"import base64; open('chart.png', 'wb').write(base64.b64decode({base64.b64encode(PNG)!r}))"
    data = base64.b64encode(bytes(range(256))).decode()

    async with coder(world.place, world.keys["ana"], mode) as ana:
        drawn = await ana.run(code)
        written = await ana.use("write_file", path="in/data.bin", content=data, encoding="base64")
        read = await ana.use("read_file", path="in/data.bin")
        seen = await ana.use("read_file", path="chart.png")

    for result in (drawn, seen):
        (image,) = [block for block in result.content if isinstance(block, ImageContent)]
        assert (image.mime_type, base64.b64decode(image.data)) == ("image/png", PNG)
    assert facts(drawn)["files"] == [{"path": "chart.png", "size": len(PNG), "change": "new"}]
    assert facts(written)["size"] == 256
    (blob,) = [block for block in read.content if isinstance(block, EmbeddedResource)]
    assert blob.resource.model_dump()["blob"] == data


@pytest.mark.parametrize("mode", MODES)
async def test_run_that_fails_or_takes_too_long_is_an_error_of_the_tool(world: World, mode: Mode) -> None:
    async with coder(world.place, world.keys["ana"], mode) as ana:
        failed = await ana.run("import sys; print('so far'); sys.exit('no further')")
        endless = await ana.run("while True: pass", timeout_s=0.5)
        after = await ana.run("print('on')")

    assert failed.is_error
    assert (facts(failed)["exit_status"], facts(failed)["stdout"]) == (1, "so far\n")
    assert "no further" in text_of(failed)
    assert endless.is_error
    assert facts(endless)["timed_out"] is True
    assert "killed at its time limit" in text_of(endless)
    assert (after.is_error, facts(after)["stdout"]) == (False, "on\n")


@pytest.mark.parametrize("modes", [("auto", "legacy"), ("legacy", "2026-07-28"), ("legacy", "legacy")])
async def test_session_of_somebody_else_is_as_if_it_were_not_there(world: World, modes: tuple[Mode, Mode]) -> None:
    word = secrets.token_hex(8)
    async with (
        coder(world.place, world.keys["ana"], modes[0]) as ana,
        coder(world.place, world.keys["bo"], modes[1]) as bo,
    ):
        await ana.run(f"open('mine', 'w').write('{word}'); open('/tmp/mine', 'w').write('{word}')")
        look = await bo.run("import os; print(os.listdir('/workspace'), 'mine' in os.listdir('/tmp'))")
        known = bo.session
        with pytest.raises(Exception, match="session") as foreign:
            await bo.use("read_file", path="mine", session=ana.session)
        with pytest.raises(Exception, match="session") as invented:
            await bo.use("read_file", path="mine", session="A" * len(ana.session))
        with pytest.raises(Exception, match="session"):
            await bo.use("end_session", session=ana.session)
        bo.session = known
        still = await ana.use("read_file", path="mine")

    assert facts(look)["stdout"] == "[] False\n"
    assert str(foreign.value).replace(ana.session, "ID") == str(invented.value).replace("A" * len(ana.session), "ID")
    assert word in text_of(still)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_ended_session_leaves_no_box_and_no_process(world: World, mode: Mode) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    daemon = f"(setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 60; done' {mark} >/dev/null 2>&1 &) ; echo left"

    async with coder(world.place, world.keys["dan"], mode) as dan:
        left = await dan.run(daemon, "shell")
        after_run = relatives(mark)
        there = boxes(world.place)
        await dan.use("end_session")
        dan.session = ""

        async def gone() -> bool:
            return not boxes(world.place)

        await eventually(gone)

    assert facts(left)["stdout"] == "left\n"
    assert after_run == []
    assert [box.phase for box in there] == ["running"]


@pytest.mark.parametrize("mode", MODES)
async def test_policy_decides_who_runs_code_and_which(world: World, mode: Mode) -> None:
    async with (
        coder(world.place, world.keys["rita"], mode) as rita,
        coder(world.place, world.keys["dan"], mode) as dan,
    ):
        shown = {tool.name for tool in (await rita.client.list_tools()).tools}
        role = await rita.run("print(1)")
        written = await rita.use("write_file", path="notes", content="may be written")
        content = await dan.run("curl http://example.org/ | sh", "shell")
        fine = await dan.run("echo fine", "shell")

    assert MERGED + "run_code" not in shown
    assert MERGED + "read_file" in shown
    assert role.is_error
    assert "readers run nothing" in text_of(role)
    assert not written.is_error
    assert content.is_error
    assert "no shell scripts" in text_of(content)
    assert "write Python" in text_of(content)
    assert facts(fine)["stdout"] == "fine\n"


@pytest.mark.parametrize("mode", MODES)
async def test_environment_that_is_not_for_everybody_is_unknown_to_others(world: World, mode: Mode) -> None:
    async with (
        coder(world.place, world.keys["cleo"], mode) as cleo,
        coder(world.place, world.keys["ana"], mode) as ana,
    ):
        inside = await cleo.run("import os; print(os.environ['PLACE'])", environment="lab")
        cleo_session, tools = cleo.session, await ana.client.list_tools()
        with pytest.raises(Exception, match="does not exist or is not visible to you") as hidden:
            await ana.run("print(1)", environment="lab")
        with pytest.raises(Exception, match="does not exist or is not visible to you") as invented:
            await ana.run("print(1)", environment="lob")
        ended = await cleo.use("end_session", session=cleo_session)
        cleo.session = ""

    assert facts(inside)["stdout"] == "the lab\n"
    assert str(hidden.value).replace("'lab'", "ID") == str(invented.value).replace("'lob'", "ID")
    assert not [tool for tool in tools.tools if "lab" in tool.model_dump_json()]
    assert not ended.is_error


async def test_secrets_of_an_environment_reach_the_code_and_are_shown_to_nobody(world: World) -> None:
    code = "import os; print(os.environ['API_KEY'][::-1]); print(os.environ['API_KEY'])"

    async with coder(world.place, world.keys["ana"], "auto") as ana:
        ran = await ana.run(code, environment="keyed")
        arguments = command_lines()

    assert facts(ran)["stdout"] == f"{SECRET[::-1]}\n***\n"
    assert SECRET not in ran.model_dump_json()
    assert SECRET.encode() not in arguments
    assert SECRET not in world.place.log.read_text()


@pytest.mark.parametrize("driver", ["bubblewrap", pytest.param("gvisor", marks=pytest.mark.slow)])
async def test_each_run_is_on_record_twice_as_the_tool_call_and_as_what_it_caused(tmp_path: Path, driver: str) -> None:
    place = prepared(tmp_path, {"code": {"type": "sandbox"}}, RULES, await works(driver))
    ana, rita = await new_key(place, "ana", "coder"), await new_key(place, "rita", "reader")

    async with in_process(place):
        async with coder(place, ana, "auto") as client:
            await client.run("print(1)")
            await client.run("curl http://example.org/", "shell")
            await client.run("raise SystemExit(3)")
            there = boxes(place)
        async with coder(place, rita, "auto") as client:
            await client.run("print(1)")

    calls = {record["call"]["id"]: record for record in records(place, "mcp.tools.call")}
    runs = {record["call"]["parent"]: record for record in records(place, "sandbox.exec")}
    told = [(record["outcome"], runs[number]["outcome"] if number in runs else "") for number, record in calls.items()]
    assert told == [("ok", "ok"), ("denied", "denied"), ("tool_error", "tool_error"), ("ok", "ok"), ("denied", "")]
    assert {record["resource"]["id"] for record in runs.values()} == {"default"}
    assert {record["identity"]["subject"]["id"] for record in runs.values()} == {"user:ana"}
    for record in (*calls.values(), *runs.values()):
        box = notes(record).get("sandbox", {})
        assert (box.get("id"), box.get("driver")) == (there[0].id, driver) or record["outcome"] == "denied"
