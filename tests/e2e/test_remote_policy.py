"""A real OPA server decides for a whole gateway, and every way in which it may fail is a denial."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from conformance.gateway import Plan, Table
from conformance.processes import free_port, running
from tests.e2e.caller import Caller
from tests.e2e.eventually import eventually
from tests.e2e.load import load
from tests.e2e.place import Place, in_process, new_key, prepare, rules
from tests.e2e.proxy import Line, Mode, line_to
from tests.pdp.opaserver import HOW_TO, opa_program
from tests.servers.launch import http_server

pytestmark = pytest.mark.slow

RULES = """allow if input.subject.id == "user:ana"

deny contains {"code": "not_that", "message": "echo of this is not allowed", "public": true} if {
	input.resource.properties.arguments.text == "secret"
}"""
STRICTER = """allow if input.subject.id == "user:ana"

deny contains {"code": "closed", "message": "closed today", "public": true} if input.resource.id == "one/echo"
"""


@contextmanager
def opa(port: int, directory: Path) -> Iterator[None]:
    """A server with nothing in it."""
    if not opa_program():
        pytest.skip(HOW_TO)
    command = [opa_program(), "run", "--server", "--addr", f"127.0.0.1:{port}", "--log-level", "error"]
    with running(command, port=port, log=directory / "opa.log"):
        yield


@dataclass(frozen=True, slots=True)
class World:
    """A gateway, its user, and the line to its policy server."""

    place: Place
    ana: Caller
    line: Line
    key: str

    async def allowed(self) -> bool:
        """Whether a call that the rules allow is carried out."""
        return not (await self.ana.call("one__echo", {"text": "hello"})).failed

    async def looked_after(self) -> bool:
        """Whether the gateway asked the server which policy it has."""
        return any("interlock_revision" in request for request in self.line.requests)


@asynccontextmanager
async def decided_by_opa(directory: Path, port: int, timeout_ms: int = 500) -> AsyncIterator[World]:
    """A gateway whose policy server listens on that port."""
    with http_server("counting", directory) as upstream:
        async with line_to(port) as line:
            policy: Table = {"engine": "opa", "url": line.url, "timeout_ms": timeout_ms, **rules(directory, team=RULES)}
            place = prepare(directory, Plan({"one": {"url": upstream.url}}, {"policy": policy}))
            key = await new_key(place, "ana")
            async with in_process(place), place.caller(key) as ana:
                yield World(place, ana, line, key)


async def test_real_opa_server_decides_and_its_answers_are_explained(tmp_path: Path) -> None:
    port = free_port()
    with opa(port, tmp_path):
        async with decided_by_opa(tmp_path, port) as world:
            allowed = await world.ana.call("one__echo", {"text": "hello"})
            denied = await world.ana.call("one__echo", {"text": "secret"})
            shown = await world.ana.tools()

    assert allowed.text == "hello"
    assert denied.failed
    assert "rules.team, not_that" in denied.text
    assert shown == {"one__echo", "one__flood"}


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("refuse", "pdp_unavailable"),
        ("hang", "timeout"),
        ("garbage", "policy_output_invalid"),
        ("torn", "policy_output_invalid"),
        ("list", "policy_output_invalid"),
        ("lie", "policy_output_invalid"),
    ],
)
async def test_policy_server_that_fails_is_a_denial_until_it_works_again(
    tmp_path: Path, mode: Mode, reason: str
) -> None:
    port = free_port()
    with opa(port, tmp_path):
        async with decided_by_opa(tmp_path, port) as world:
            before = await world.allowed()
            world.line.mode = mode
            world.line.requests.clear()
            denied = [await world.ana.call("one__echo", {"text": "hello"}) for _ in range(6)]
            lists = await world.ana.ask("tools/list")
            if mode != "refuse":
                await eventually(world.looked_after)
            world.line.mode = "pass"
            after = await eventually(world.allowed)

    assert before
    assert after
    assert all(told.failed for told in denied)
    assert reason in denied[0].text
    assert all("pdp_unavailable" in told.text or reason in told.text for told in denied)
    assert "error" in lists.message


async def test_policy_server_that_was_restarted_gets_the_policy_again(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as first:
        first.enter_context(opa(port, tmp_path))
        async with decided_by_opa(tmp_path, port) as world:
            before = await world.allowed()
            first.close()
            killed = await world.ana.call("one__echo", {"text": "hello"})
            with opa(port, tmp_path):
                after = await eventually(world.allowed, within_s=20)
                denied = await world.ana.call("one__echo", {"text": "secret"})

    assert before
    assert killed.failed
    assert "pdp_unavailable" in killed.text
    assert after
    assert "not_that" in denied.text


async def test_edited_policy_reaches_the_server(tmp_path: Path) -> None:
    port = free_port()
    with opa(port, tmp_path):
        async with decided_by_opa(tmp_path, port) as world:

            async def closed() -> bool:
                return "closed today" in (await world.ana.call("one__echo", {"text": "hello"})).text

            before = await world.allowed()
            rules(tmp_path, team=STRICTER)
            after = await eventually(closed)
            shown = await world.ana.tools()

    assert before
    assert after
    assert shown == {"one__flood"}


async def test_faulty_policy_never_reaches_the_server(tmp_path: Path) -> None:
    port = free_port()
    with opa(port, tmp_path):
        async with decided_by_opa(tmp_path, port) as world:
            before = httpx2.get(f"http://127.0.0.1:{port}/v1/data/interlock_revision").json()
            rules(tmp_path, team="allow if {")
            world.place.write(Plan({}, {"policy": {"path": "nowhere"}}))
            allowed = await world.allowed()
            after = httpx2.get(f"http://127.0.0.1:{port}/v1/data/interlock_revision").json()

    assert allowed
    assert before == after


async def test_server_never_decides_by_a_part_of_a_policy(tmp_path: Path) -> None:
    port = free_port()
    with opa(port, tmp_path):
        async with decided_by_opa(tmp_path, port) as world:

            async def closed() -> bool:
                return "closed today" in (await world.ana.call("one__echo", {"text": "hello"})).text

            world.line.requests.clear()
            rules(tmp_path, team=STRICTER)
            await eventually(closed)

    changes = [head.split()[:2] for head in world.line.requests if not head.startswith(("POST", "GET"))]
    policies = [change for change in changes if "/policies/" in change[1]]
    assert policies[0] == ["DELETE", "/v1/policies/interlock/lib/interlock.rego"]
    assert policies[-1] == ["PUT", "/v1/policies/interlock/lib/interlock.rego"]
    assert changes[-1][1].startswith("/v1/data")


async def test_no_call_is_lost_while_the_server_is_given_another_policy(tmp_path: Path) -> None:
    port = free_port()
    with opa(port, tmp_path):
        async with (
            decided_by_opa(tmp_path, port, 5_000) as world,
            load(world.place, world.key, ["one__echo"], 8) as seen,
        ):
            for step in range(4):
                revision = await revision_at(port)

                async def changed(revision: str = revision) -> bool:
                    now = await revision_at(port)
                    return now not in (revision, "")

                rules(tmp_path, team=f'{RULES}\n\nlabel contains "step{step}"')
                await eventually(changed)

    assert seen.trouble == []
    assert seen.calls["one__echo"] > 50


async def revision_at(port: int) -> str:
    """The revision of the policy that the server says it has."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = (await http.get(f"http://127.0.0.1:{port}/v1/data/interlock_revision")).json()
    return str(answer.get("result", ""))
