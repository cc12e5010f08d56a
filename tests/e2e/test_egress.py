"""A box reaches what policy lets the call that runs in it reach, for as long as that call runs, and nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from tests.e2e.boxes import BOTH, boxed, environment, notes, prepared, records, works
from tests.e2e.caller import Caller, Told
from tests.e2e.eventually import eventually
from tests.e2e.place import in_process, new_key

CALLS: Final = 'allow if input.action.name in {"mcp.tools.call", "mcp.tools.list", "sandbox.exec"}\n'
CONNECTS: Final = """
allow if input.action.name == "egress.connect"

obligation contains {"type": "egress", "properties": {"ranges": ["127.0.0.0/8", "::1/128"]}} if {
	input.action.name == "egress.connect"
}
"""
FETCH: Final = """
import urllib.request, urllib.error
try:
    print(urllib.request.urlopen("%s", timeout=20).read().decode())
except urllib.error.HTTPError as refusal:
    print(refusal.code, refusal.read().decode())
"""


@dataclass(slots=True)
class Origin:
    """A server on loopback that answers requests and repeats what comes through a tunnel."""

    port: int = 0
    heard: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def attend(self, stream: SocketStream) -> None:
        async with stream:
            while True:
                try:
                    data = await stream.receive()
                    self.heard.append(data)
                    web = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nwelcome"
                    await stream.send(web if b" HTTP/1.1\r\n" in data else data)
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return


@asynccontextmanager
async def origin() -> AsyncIterator[Origin]:
    found = Origin()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        found.port = listener.extra(SocketAttribute.local_port)
        group.start_soon(listener.serve, found.attend)
        yield found
        group.cancel_scope.cancel()


@pytest.fixture(params=BOTH)
async def driver(request: pytest.FixtureRequest) -> str:
    return await works(request.param)


@pytest.fixture
async def bubblewrap() -> str:
    return await works("bubblewrap")


def fetched(told: Told) -> tuple[int, str]:
    """What the server in the box was told for its request."""
    answer = json.loads(told.text)
    return answer["status"], answer["body"]


async def run(caller: Caller, url: str, **more: Any) -> str:
    """What code in a session of its own was told for its request."""
    told = await caller.call("code__run_code", {"code": FETCH % url, "language": "python", **more})
    stdout: str = told.message["result"]["structuredContent"]["stdout"]
    return stdout


async def test_box_reaches_nothing_unless_policy_says_so(driver: str, tmp_path: Path) -> None:
    policy = f"""{CALLS}
remedy contains "ask for a host"
"""
    place = prepared(tmp_path, {"one": boxed(), "code": {"type": "sandbox"}}, policy, driver)
    key = await new_key(place, "ana")

    async with origin() as web, in_process(place), place.caller(key) as ana:
        status, body = fetched(await ana.call("one__fetch", {"url": web.url}))
        by_code = await run(ana, web.url)
        past = await ana.call("one__direct", {"host": "127.0.0.1", "port": web.port})
        outside = await ana.call("one__direct", {"host": "192.0.2.1", "port": 443})

    assert status == 403
    for told in (body, by_code):
        assert f"127.0.0.1:{web.port} is not permitted: denied by policy" in told
        assert "no_rule_allows" in told
        assert "ask for a host" in told
    assert past.text.startswith("no way")
    assert outside.text.startswith("no way")
    assert web.heard == []
    assert [record["outcome"] for record in records(place, "egress.connect")] == ["denied", "denied"]


async def test_policy_opens_a_host_to_the_callers_that_it_names_and_each_connection_is_on_record(
    driver: str, tmp_path: Path
) -> None:
    async with origin() as web, origin() as other:
        policy = f"""{CALLS}
allow if open

open if {{
	input.action.name == "egress.connect"
	input.resource.id == "127.0.0.1:{web.port}"
	input.resource.properties.caller.upstream in {{"one", "code"}}
}}

obligation contains {{"type": "egress", "properties": {{"ranges": ["127.0.0.1/32"]}}}} if open
"""
        upstreams = {"one": boxed(), "two": boxed(), "code": {"type": "sandbox"}}
        place = prepared(tmp_path, upstreams, policy, driver)
        key = await new_key(place, "ana")

        async with in_process(place), place.caller(key) as ana:
            named = fetched(await ana.call("one__fetch", {"url": web.url}))
            by_code = await run(ana, web.url)
            other_caller = fetched(await ana.call("two__fetch", {"url": web.url}))
            other_host = fetched(await ana.call("one__fetch", {"url": other.url}))

    assert named == (200, "welcome")
    assert by_code == "welcome\n"
    assert (other_caller[0], other_host[0]) == (403, 403)
    assert (len(web.heard), len(other.heard)) == (2, 0)
    connections, calls = records(place, "egress.connect"), records(place)
    told = [(record["resource"]["id"], record["outcome"]) for record in connections]
    assert told == [
        (f"127.0.0.1:{web.port}", "ok"),
        (f"127.0.0.1:{web.port}", "ok"),
        (f"127.0.0.1:{web.port}", "denied"),
        (f"127.0.0.1:{other.port}", "denied"),
    ]
    by_id = {record["call"]["id"]: record["resource"]["id"] for record in calls}
    causes = [by_id[record["call"]["parent"]] for record in connections]
    assert causes == ["one/fetch", "default", "two/fetch", "one/fetch"]
    assert {record["identity"]["subject"]["id"] for record in connections} == {"user:ana"}
    for record in connections[:2]:
        noted = notes(record)
        assert noted["egress"]["address"] == "127.0.0.1"
        assert noted["egress"]["ended"] in {"closed", "cancelled"}  # the call may end first, once it has its answer
        assert noted["egress"]["sent"] > 50
        assert noted["egress"]["received"] > 50
        assert noted["sandbox"]["driver"] == driver


def granting(tools: str, hosts: str, *, ranges: bool = True) -> str:
    """Rules that grant these hosts to calls of these tools."""
    more = ', "ranges": ["127.0.0.1/32"]' if ranges else ""
    return f"""{CALLS}
obligation contains {{"type": "egress", "properties": {{"hosts": [{hosts}]{more}}}}} if {{
	input.action.name == "mcp.tools.call"
	input.resource.properties.name in {{{tools}}}
}}
"""


async def test_grant_of_a_call_ends_with_the_call(driver: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()

    def report(name: str) -> str:
        return (shared / name).read_text() if (shared / name).exists() else ""

    async def held_ended() -> str:
        return report("held")

    async def asked_later() -> str:
        return report("later")

    async with origin() as web:
        policy = granting('"later", "hold", "fetch", "run_code"', f'"127.0.0.1:{web.port}"')
        one = boxed(binds=[f"{shared}:/shared:rw"])
        place = prepared(tmp_path, {"one": one, "code": {"type": "sandbox"}}, policy, driver)
        key = await new_key(place, "ana")

        async with in_process(place), place.caller(key) as ana:
            during = fetched(await ana.call("one__fetch", {"url": web.url}))
            started = await ana.call("one__later", {"url": web.url, "after": "/shared/go", "report": "/shared/later"})
            (shared / "go").write_text("")
            later = json.loads(await eventually(asked_later))
            where = {"host": "127.0.0.1", "port": web.port, "report": "/shared/held"}
            echoed = await ana.call("one__hold", where)
            held = await eventually(held_ended)
            by_code = await run(ana, web.url)

    assert during == (200, "welcome")
    assert by_code == "welcome\n"
    assert not started.failed
    assert later["status"] == 403
    assert "is not permitted" in later["body"]
    assert (echoed.text, held) == ("hello", "closed")
    told = [
        (record["outcome"], record["identity"]["subject"]["type"], notes(record).get("egress", {}).get("ended"))
        for record in records(place, "egress.connect")
    ]
    assert told[1:3] == [("denied", "sandbox", None), ("ok", "user", "cancelled")]
    assert len(told) == 4


async def test_grant_of_one_call_is_of_no_use_to_another_that_runs_meanwhile(bubblewrap: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()

    async def started() -> bool:
        return (shared / "started").exists()

    async with origin() as web:
        policy = granting('"wait"', f'"127.0.0.1:{web.port}"')
        place = prepared(tmp_path, {"one": boxed(binds=[f"{shared}:/shared:rw"])}, policy, bubblewrap)
        key = await new_key(place, "ana")

        async with in_process(place), place.caller(key) as ana, anyio.create_task_group() as group:
            group.start_soon(ana.call, "one__wait", {"started": "/shared/started", "until": "/shared/until"})
            await eventually(started)
            other = fetched(await ana.call("one__fetch", {"url": web.url}))
            (shared / "until").write_text("")

    assert other[0] == 403
    assert web.heard == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
async def test_address_that_is_not_public_needs_its_range_besides(bubblewrap: str, host: str, tmp_path: Path) -> None:
    async with origin() as web:
        name = "127.0.0.1" if "127" in host else host
        policy = granting('"fetch"', f'"{name}:{web.port}"', ranges=False)
        place = prepared(tmp_path, {"one": boxed()}, policy, bubblewrap)
        key = await new_key(place, "ana")

        async with in_process(place), place.caller(key) as ana:
            status, body = fetched(await ana.call("one__fetch", {"url": f"http://{host}:{web.port}/"}))

    assert status == 403
    assert "public" in body
    assert "policy has to grant" in body
    assert web.heard == []
    (record,) = records(place, "egress.connect")
    assert (record["outcome"], notes(record)["egress"]["received"]) == ("denied", 0)


async def test_environment_is_a_ceiling_that_policy_cannot_lift(bubblewrap: str, tmp_path: Path) -> None:
    async with origin() as web, origin() as other:
        environment(tmp_path, "narrow", f'egress = ["127.0.0.1:{web.port}"]')
        environment(tmp_path, "shut", "")
        upstreams = {
            "narrow": boxed(environment="narrow"),
            "shut": boxed(environment="shut"),
            "code": {"type": "sandbox", "environment": "narrow"},
        }
        place = prepared(tmp_path, upstreams, CALLS + CONNECTS, bubblewrap)
        key = await new_key(place, "ana")

        async with in_process(place), place.caller(key) as ana:
            within = fetched(await ana.call("narrow__fetch", {"url": web.url}))
            beyond = fetched(await ana.call("narrow__fetch", {"url": other.url}))
            code_within = await run(ana, web.url, environment="narrow")
            code_beyond = await run(ana, other.url, environment="narrow")
            shut = fetched(await ana.call("shut__fetch", {"url": web.url}))

    assert within == (200, "welcome")
    assert code_within == "welcome\n"
    assert beyond[0] == 403
    for told in (beyond[1], code_beyond):
        assert "its environment does not let it connect there" in told
    assert shut[0] != 200
    assert (len(web.heard), len(other.heard)) == (2, 0)


async def test_connection_that_carries_more_than_policy_gives_it_is_cut(bubblewrap: str, tmp_path: Path) -> None:
    policy = f"""{CALLS}
allow if input.action.name == "egress.connect"

obligation contains {{"type": "egress", "properties": {{"ranges": ["127.0.0.1/32"], "max_mb": 1}}}} if {{
	input.action.name == "egress.connect"
}}
"""
    code = """
import socket
tunnel = socket.create_connection(("127.0.0.1", 3128))
tunnel.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\\r\\n\\r\\n")
print(tunnel.recv(4096).decode().split()[1])
sent = 0
try:
    while sent < 64:
        tunnel.sendall(bytes(1 << 20))
        sent += 1
except OSError:
    pass
print(sent < 64)
"""
    async with origin() as web:
        place = prepared(tmp_path, {"code": {"type": "sandbox"}}, policy, bubblewrap)
        key = await new_key(place, "ana")

        async with in_process(place), place.caller(key) as ana:
            told = await ana.call("code__run_code", {"code": code % web.port, "language": "python"})

    assert told.message["result"]["structuredContent"]["stdout"] == "200\nTrue\n"
    (record,) = records(place, "egress.connect")
    noted = notes(record)["egress"]
    assert noted["sent"] + noted["received"] <= 1 << 20
    assert noted["ended"] not in {"closed", "cancelled"}
