"""The memory of a real gateway: as an MCP server, as an A2A agent, over HTTP and from the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio import to_thread
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextResourceContents

from conformance.gateway import Plan
from tests.e2e.a2a_doors import doors, message
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, as_process, in_process, interlock, new_key, prepare

Json = dict[str, Any]
MARKER = "Archaeopteryx"


@dataclass(frozen=True, slots=True)
class World:
    """A gateway with a memory under the starter policies, and keys."""

    place: Place
    ana: str
    bot: str
    op: str
    guest: str

    def ask(self, key: str, verb: str, path: str, body: Json | None = None) -> httpx2.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        url = f"{self.place.url}/memory/v1{path}"
        return httpx2.request(verb, url, headers=headers, json=body, timeout=30, trust_env=False)

    async def http(self, key: str, verb: str, path: str, body: Json | None = None) -> Json:
        response = await to_thread.run_sync(lambda: self.ask(key, verb, path, body))
        assert response.status_code == 200, response.text
        answer: Json = response.json()
        return answer

    async def run(self, key: str, *words: str) -> tuple[int, str]:
        """A command's exit code and what it printed."""
        file = self.place.directory / "key"
        file.write_text(key + "\n")
        keyed = ("--url", self.place.url, "--key-file", str(file))
        done = await to_thread.run_sync(lambda: interlock(self.place, "memory", *words, *keyed))
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "memory.toml").write_text('[embedder]\nkind = "hashing"\n\n[namespaces.law]\nlegal_hold = true\n')
    place = prepare(tmp_path, Plan({"memory": {"type": "memory", "labels": []}}))
    ana = anyio.run(new_key, place, "ana", "developer")

    async def key_of_an_agent() -> str:
        return await new_key(place, "bot", "developer", kind="agent")

    bot = anyio.run(key_of_an_agent)
    op, guest = anyio.run(new_key, place, "op", "operator"), anyio.run(new_key, place, "guest")
    return World(place, ana, bot, op, guest)


async def tool(client: Client, name: str, **given: object) -> Json:
    result = await client.call_tool(f"memory__{name}", given)
    assert not result.is_error, result
    structured = result.structured_content
    assert isinstance(structured, dict)
    return structured


def audited(place: Place) -> list[Json]:
    done = interlock(place, "audit", "tail", "--data", str(place.state), "-n", "500", "--json")
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_sdk_clients_of_both_eras_use_the_memory(world: World) -> None:
    async with (
        in_process(world.place),
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {world.bot}"}, trust_env=False, timeout=30) as http,
    ):
        for mode in ("legacy", "2026-07-28"):
            url = world.place.endpoint()
            async with Client(streamable_http_client(url, http_client=http), mode=mode, cache=None) as client:

                async def offered() -> bool:
                    return "memory__recall" in {each.name for each in (await client.list_tools()).tools}

                await eventually(offered)
                wrote = await tool(client, "remember", text=f"The port in {mode} is 8080", key=f"port/{mode}")
                found = await tool(client, "recall", query=f"which port in {mode}")
                read = await client.read_resource(f"memory://default/port/{mode}")
                revised = await tool(client, "revise", id=wrote["record"], text=f"The port in {mode} is 9090")
                listed = await tool(client, "list", limit=1)
                export = await client.call_tool("memory__export", {})
                forgotten = await tool(client, "forget", id=wrote["record"])
                with pytest.raises(MCPError, match="does not exist or is not visible"):
                    await client.call_tool("memory__forget", {"id": wrote["record"]})

                assert found["records"][0]["text"] == f"The port in {mode} is 8080"
                (content,) = read.contents
                assert isinstance(content, TextResourceContents)
                assert content.text == f"The port in {mode} is 8080"
                assert revised["revises"] == wrote["id"]
                assert listed["records"][0]["text"] == f"The port in {mode} is 9090"
                assert not export.is_error
                assert forgotten["forgotten"]

    calls = [entry for entry in audited(world.place) if entry.get("resource", {}).get("type") == "memory"]
    actions = [entry["call"]["action"] for entry in calls]
    assert {"memory.read", "memory.write", "memory.delete"} <= set(actions)
    assert all(entry["call"]["parent"] for entry in calls)


async def test_people_review_over_http_and_why_leads_to_the_audit_log(world: World) -> None:
    with as_process(world.place):
        async with world.place.caller(world.bot) as bot:
            wrote = await eventually(lambda: remembered(bot))
            assert "it waits for a person to look at it: needs_second_source" in wrote
        assert (await world.http(world.ana, "POST", "/recall", {"query": MARKER}))["records"] == []
        refused = world.ask(world.ana, "GET", "/review")
        code, queue = await world.run(world.op, "review")
        record = queue.split("@")[0]
        approved = await world.run(world.op, "approve", record, "--reason", "I looked")
        found = await world.http(world.ana, "POST", "/recall", {"query": MARKER})
        mine = await world.http(world.ana, "POST", "/records", {"text": f"We have an {MARKER} in the hall"})
        why = await eventually(lambda: explained(world, mine["id"]))

    assert refused.status_code == 403, refused.text
    assert code == 0
    assert "[needs_second_source]" in queue
    assert approved == (0, f"{record}@2 is active\n")
    assert found["records"][0]["text"] == f"The {MARKER} is in the hall"
    lines = why.splitlines()
    assert lines[0].startswith(mine["id"])
    assert "said by user: user:ana for user:ana" in lines[2]
    assert f"  {record}@2  active  trust 0.3  untrusted" in lines
    assert "said by tool web/fetch: agent:bot for agent:bot" in why
    numbers = {int(part.split(")")[0]) for part in why.split("audit #")[1:]}
    entries = {entry["seq"]: entry for entry in audited(world.place)}
    assert {entries[number]["call"]["action"] for number in numbers} == {"memory.write"}


async def remembered(bot: Any) -> str:
    given = {
        "text": f"The {MARKER} is in the hall",
        "scope": "org",
        "source": {"type": "tool", "ref": "web/fetch"},
    }
    told = await bot.call("memory__remember", given)
    return "" if told.failed else str(told.text)


async def explained(world: World, record: str) -> str:
    """Once the records of the calls are on disk."""
    code, text = await world.run(world.ana, "why", record)
    return text if code == 0 and "not found in the audit log" not in text else ""


async def test_the_command_line_erases_rolls_back_exports_and_imports(world: World, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    with as_process(world.place):
        await eventually(lambda: up(world))
        for number in range(3):
            text = f"{MARKER} number {number} of Ana"
            await world.http(world.ana, "POST", "/records", {"text": text, "namespace": "zoo"})
        held = await world.http(world.ana, "POST", "/records", {"text": "kept for a court", "namespace": "law"})
        await world.http(world.bot, "POST", "/records", {"text": "written by the bot", "scope": "org"})
        exported = await world.run(world.op, "export", str(out), "--all", "--markdown")
        undone = await world.run(world.op, "rollback", "--source", "agent=agent:bot", "--since", "1h", "--json")
        odd = await world.run(world.op, "rollback", "--source", "bot", "--since", "1h")
        erased = await world.run(world.op, "erase", "--subject", "user:ana", "--json")
        holds = await world.run(world.op, "holds")
        traces = [file.name for file in world.place.state.glob("memory*") if MARKER.encode() in file.read_bytes()]
        imported = await world.run(world.op, "import", str(out), "--json")
        exported_again = await world.run(world.op, "export", str(back), "--namespace", "law", "--json")
        denied = await world.run(world.ana, "erase", "--subject", "user:bo")
        nowhere = await world.run(world.op, "import", str(tmp_path / "nowhere"))
        unheld = await world.run(world.op, "holds", "--lift", "lwa/")
        held_by_nothing = await world.run(world.op, "holds", "--set", "law", "--reason", "case 7")

    assert exported[0] == 0, exported
    assert len(list(out.glob("*.md"))) == 5
    assert MARKER in (out / "memory.jsonl").read_text()
    assert {path.stat().st_mode & 0o077 for path in (out, *out.iterdir())} == {0}
    assert len(json.loads(undone[1])["retracted"]) == 1
    assert odd[0] == 2
    assert json.loads(erased[1])["held"] == [held["record"]]
    assert len(json.loads(erased[1])["erased"]) == 3
    assert "law/" in holds[1]
    assert traces == []
    assert imported[0] != 0  # the gravestones stand in the way: what was erased does not come back
    assert exported_again[0] == 0
    assert denied[0] == 1
    assert nowhere[0] == 2
    assert "name the directory that `memory export` wrote" in nowhere[1]
    assert unheld[0] == 2
    assert "there is no hold on lwa/" in unheld[1]
    assert held_by_nothing[0] != 0
    assert "target: " in held_by_nothing[1]


async def up(world: World) -> bool:
    response = await to_thread.run_sync(lambda: world.ask(world.op, "GET", "/holds"))
    return response.status_code == 200


async def test_nobody_and_guests_get_nothing_and_what_is_malformed_is_named(world: World) -> None:
    async with in_process(world.place):
        await eventually(lambda: up(world))

        def all_of_it() -> list[httpx2.Response]:
            return [
                world.ask("", "GET", "/records"),
                world.ask(world.guest, "POST", "/recall", {"query": "x"}),
                world.ask(world.ana, "POST", "/recall", {"question": "x"}),
                world.ask(world.ana, "GET", "/records?limit=many"),
                world.ask(world.ana, "GET", "/records/mem-nothing"),
                world.ask(world.ana, "POST", "/records", {"text": "x", "tenant": "other"}),
            ]

        answers = await to_thread.run_sync(all_of_it)

    assert [answer.status_code for answer in answers] == [401, 403, 400, 400, 404, 400]
    assert "query is missing" in answers[2].text


async def test_an_a2a_peer_remembers_and_recalls(world: World) -> None:
    async with in_process(world.place), doors(world.place.url, "memory", world.bot, 0) as memory:

        def asking(tool: str, arguments: Json) -> Json:
            sent = message()
            sent["message"]["parts"] = [{"data": {"tool": tool, "arguments": arguments}}]
            return sent

        await eventually(lambda: up(world))
        wrote = await memory.result("SendMessage", asking("remember", {"text": f"{MARKER} flew over Bavaria"}))
        found = await memory.result("SendMessage", asking("recall", {"query": MARKER}))

    assert wrote["message"]["metadata"] == {"isError": False}
    texts = [part.get("text", "") for part in found["message"]["parts"]]
    assert any(f"{MARKER} flew over Bavaria" in text for text in texts)


async def test_without_a_memory_there_is_none_and_two_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    bare = prepare(tmp_path / "a", Plan({}))
    key = await new_key(bare, "ana", "developer")
    world = World(bare, key, key, key, key)
    async with in_process(bare):
        answer = await to_thread.run_sync(lambda: world.ask(key, "GET", "/records"))
    assert answer.status_code == 404
    assert "there is no memory here" in answer.text

    (tmp_path / "b").mkdir()
    two = prepare(tmp_path / "b", Plan({"memory": {"type": "memory"}, "second": {"type": "memory"}}))
    admin = await new_key(two, "root", "admin")
    async with in_process(two), httpx2.AsyncClient(trust_env=False) as http:
        listed = await http.get(f"{two.url}/admin/upstreams", headers={"authorization": f"Bearer {admin}"})
    assert "there is one memory, and it is upstreams.memory" in listed.text


async def test_a_memory_that_is_configured_and_faulty_is_not_said_to_be_missing(tmp_path: Path) -> None:
    place = prepare(tmp_path, Plan({"memory": {"type": "memory"}}))
    (place.config.parent / "memory.toml").write_text("[indx]\n")
    key = await new_key(place, "ana", "developer")
    world = World(place, key, key, key, key)

    async with in_process(place):
        answer = await to_thread.run_sync(lambda: world.ask(key, "GET", "/records"))

    assert answer.status_code == 503
    assert "upstream 'memory' cannot run: `interlock check` and the log say why" in answer.text
