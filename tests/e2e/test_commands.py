"""The commands of a person work on a gateway that is running."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from conformance.gateway import Plan, Table
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, Place, as_process, in_process, interlock, new_key, prepare, rules
from tests.servers.launch import Started, http_server

ADMIN = 'allow if "admin" in input.subject.properties.roles'


@dataclass(frozen=True, slots=True)
class World:
    """A gateway process in front of one upstream, and the upstream."""

    place: Place
    upstream: Started
    key: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("commands")
    with http_server("modern_asker", directory) as upstream:
        plan = Plan({"one": {"url": upstream.url}}, {"policy": rules(directory, all=ADMIN)})
        place = prepare(directory, plan)
        key = anyio.run(new_key, place, "ana", "admin")
        with as_process(place):
            yield World(place, upstream, key)


async def run(place: Place, *words: str) -> tuple[int, str]:
    """A command's exit code and what it printed."""
    done = await to_thread.run_sync(lambda: interlock(place, *words))
    return done.returncode, done.stdout + done.stderr


async def status(place: Place, key: str) -> int:
    async with place.caller(key) as caller:
        return (await caller.ask("tools/list")).status


async def test_key_works_within_seconds_and_stops_working_when_it_is_revoked(world: World) -> None:
    data = ("--data", str(world.place.state))
    code, out = await run(world.place, "keys", "create", "--subject", "user:bo", "--role", "admin", *data, "--json")
    made = json.loads(out)

    async def let_in() -> bool:
        return await status(world.place, made["key"]) == 200

    async def kept_out() -> bool:
        return await status(world.place, made["key"]) == 401

    await eventually(let_in, within_s=5)
    listed = await run(world.place, "keys", "list", *data)
    revoked, _ = await run(world.place, "keys", "revoke", made["id"], *data)
    await eventually(kept_out, within_s=5)

    assert code == 0
    assert "user:bo" in listed[1]
    assert made["key"] not in listed[1]
    assert revoked == 0


async def test_log_can_be_followed_verified_and_exported_while_it_is_written(world: World, tmp_path: Path) -> None:
    data = ("--data", str(world.place.state))
    async with world.place.caller(world.key) as ana:
        for number in range(5):
            await ana.call("one__echo", {"text": f"private {number}"})

        async def written() -> bool:
            return (await run(world.place, "audit", "tail", *data, "--action", "mcp.tools.call"))[1].count(
                "one/echo"
            ) >= 5

        await eventually(written)
    tailed = await run(world.place, "audit", "tail", *data, "--json", "-n", "50")
    verified = await run(world.place, "audit", "verify", *data)
    exported = await run(world.place, "audit", "export", str(tmp_path / "tiles"), *data)
    tiles = await run(world.place, "audit", "verify", "--tiles", str(tmp_path / "tiles"))

    assert "user:ana" in tailed[1]
    assert "private" not in tailed[1]
    assert verified[0] == 0, verified[1]
    assert "whole" in verified[1]
    assert exported[0] == 0, exported[1]
    assert tiles[0] == 0, tiles[1]


async def test_doctor_asks_the_gateway_about_its_upstreams(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2E_ADMIN_KEY", world.key)

    _, out = await run(
        world.place, "doctor", "--config", str(world.place.config), "--key", "env:E2E_ADMIN_KEY", "--json"
    )
    findings = {finding["subject"]: finding for finding in json.loads(out)["findings"]}

    assert "serves; modern" in findings["upstream one"]["what"]
    assert findings["policy"]["state"] == "good"
    assert findings["audit"]["state"] == "good"


async def test_check_says_all_that_is_wrong_and_nothing_of_a_good_file(world: World, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[listen]\nprot = 1\n[upstreams.x]\ntype = "mcp"\n')

    good = await run(world.place, "check", "--config", str(world.place.config))
    bad = await run(world.place, "check", "--config", str(tmp_path / "bad.toml"))

    assert good[0] == 0, good[1]
    assert bad[0] != 0
    assert "listen.prot" in bad[1]
    assert "upstreams.x" in bad[1]


async def test_connect_shows_what_it_would_write_and_writes_nothing(world: World, tmp_path: Path) -> None:
    target = tmp_path / "mcp.json"
    target.write_text('{"mcpServers": {}}')

    code, out = await run(
        world.place, "connect", "generic", "--file", str(target), "--dry-run", "--config", str(world.place.config)
    )

    assert code == 0, out
    assert world.place.endpoint() in out
    assert target.read_text() == '{"mcpServers": {}}'


async def test_policy_is_tested_without_an_opa(world: World) -> None:
    shipped = await run(world.place, "policy", "test")
    own = await run(world.place, "policy", "check", "--path", str(world.place.directory / "policy"))

    assert shipped[0] == 0, shipped[1]
    assert own[0] == 0, own[1]


async def test_changed_definition_is_hidden_and_refused_until_a_person_accepts_it(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "state"))
    with http_server("faulty", tmp_path, "--fault", "tools/list=changing") as upstream:
        one: Table = {"url": upstream.url}
        tables = {"policy": rules(tmp_path, all=ALLOW_ALL)}
        place = prepare(tmp_path, Plan({"one": one}, tables))
        key = await new_key(place, "ana")
        async with in_process(place), place.caller(key) as ana:
            before = await ana.call("one__fine")
            shown_before = await ana.tools()
            place.write(Plan({"one": {**one, "timeout_s": 59}}, tables))  # connects anew, to another definition

            async def hidden() -> bool:
                return "one__fine" not in await ana.tools()

            await eventually(hidden)
            refused = await ana.call("one__fine")
            listed = await run(place, "pins", "list", "one", *data)
            diff = await run(place, "pins", "diff", "one", *data)
            accepted = await run(place, "pins", "accept", "one", "fine", "--by", "user:bo", *data)

            async def visible() -> bool:
                return "one__fine" in await ana.tools()

            await eventually(visible)
            after = await ana.call("one__fine")

    assert before.text == after.text == "fine"
    assert "one__fine" in shown_before
    assert refused.failed
    assert "quarantined" in refused.text
    assert "interlock pins diff one" in refused.text
    assert "version" not in refused.text  # what changed is for a person to read, not for a model
    assert "WAITS" in listed[1]
    assert '-  "description": "version 1"' in diff[1]
    assert accepted[0] == 0, accepted[1]
