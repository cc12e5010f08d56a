"""A held call is carried out once, when people agreed to exactly it: real gateway, real client, real commands."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio import to_thread

from conformance.gateway import Plan
from conformance.processes import free_port
from tests.conformance.talking import Json
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, as_process, in_process, interlock, new_key, prepare, rules
from tests.servers.launch import Started, http_server
from tests.servers.posts import Quiet, served

RULES = """
allow if input.subject.id == "user:ana"
allow if {
	input.resource.type in {"approval", "switch"}
	"operator" in input.subject.properties.roles
}
hold contains {
	"approvers": "group:finance", "title": "echo something", "expires_s": 600,
	"standing": {"uses": 3, "expires_s": 600, "any_arguments": true},
} if {
	input.action.name == "mcp.tools.call"
	input.resource.properties.name == "echo"
}
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a receiver of webhooks was sent; it refuses as many as `refuse` says first, and was given `secrets`."""

    notices: list[Json] = field(default_factory=list)
    signed: list[bool] = field(default_factory=list)
    refuse: list[int] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)


@contextmanager
def receiver(heard: Heard) -> Iterator[str]:
    """A receiver of webhooks; gives its address."""

    class Post(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if heard.refuse:
                self.send_response(heard.refuse.pop())
            else:
                signed = b".".join([self.headers[f"webhook-{part}"].encode() for part in ("id", "timestamp")] + [body])
                key = base64.b64decode(heard.secrets[0].removeprefix("whsec_"), validate=True)
                mac = hmac.new(key, signed, hashlib.sha256).digest()
                heard.signed.append(self.headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode())
                heard.notices.append(json.loads(body))
                self.send_response(204)
            self.end_headers()

    with served(Post) as url:
        yield f"{url}/hook"


@dataclass(frozen=True, slots=True)
class World:
    """A gateway process in front of one upstream, and the keys of who makes calls and who decides on them."""

    place: Place
    heard: Heard
    upstream: Started
    ana: str
    bo: str
    op: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("approvals")
    heard = Heard(refuse=[503])
    with http_server("modern_asker", directory) as upstream, receiver(heard) as hook:
        tables = {"policy": rules(directory, all=RULES), "approvals": {"webhook_url": hook}}
        place = prepare(directory, Plan({"one": {"url": upstream.url}}, tables))
        ana = anyio.run(new_key, place, "ana", "finance")
        bo = anyio.run(new_key, place, "bo", "finance")
        op = anyio.run(new_key, place, "op", "operator")
        heard.secrets.append(interlock(place, "approvals", "webhook-secret").stdout.strip())
        with as_process(place):
            yield World(place, heard, upstream, ana, bo, op)


async def run(world: World, key: str, *words: str) -> tuple[int, str]:
    """A command's exit code and what it printed."""
    keyed = ("--url", world.place.url, "--key-file", str(world.place.directory / "key"))
    (world.place.directory / "key").write_text(key + "\n")
    done = await to_thread.run_sync(lambda: interlock(world.place, *words, *keyed))
    return done.returncode, done.stdout + done.stderr


async def held(world: World, text: str) -> str:
    """Make a call that is held; its ticket."""
    async with world.place.caller(world.ana) as ana:
        told = await ana.call("one__echo", {"text": text})
    assert told.failed
    assert "held until group:finance agrees" in told.text
    return told.text.partition("ticket ")[2].partition(",")[0]


def api(world: World, key: str, verb: str, path: str, body: object = None) -> httpx2.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx2.request(verb, f"{world.place.url}{path}", headers=headers, json=body, timeout=30, trust_env=False)


async def test_held_call_is_approved_on_the_command_line_and_carried_out_once(world: World) -> None:
    ticket = await held(world, "once")

    code, listed = await run(world, world.bo, "approvals", "list")
    shown = await run(world, world.bo, "approvals", "show", ticket)
    approved = await run(world, world.bo, "approvals", "approve", ticket, "--reason", "fine")
    async with world.place.caller(world.ana) as ana:
        first = await ana.call("one__echo", {"text": "once"})
        second = await ana.call("one__echo", {"text": "once"})

    assert code == 0
    assert ticket in listed
    assert "once" in shown[1]
    assert approved[0] == 0
    assert not first.failed
    assert second.failed
    assert "held until" in second.text


async def test_people_are_told_by_signed_webhooks_again_until_they_took_it(world: World) -> None:
    ticket = await held(world, "webhook")
    denied = api(world, world.bo, "POST", f"/approvals/{ticket}/deny", {"reason": "too loud"})

    async def told() -> list[object]:
        events = [each["type"] for each in world.heard.notices if each["data"]["id"] == ticket]
        return events if len(events) > 1 else []

    assert denied.status_code == 200
    assert await eventually(told) == ["approval.requested", "approval.denied"]
    assert all(world.heard.signed)
    assert not world.heard.refuse
    assert '"text"' not in json.dumps(world.heard.notices)


async def test_denial_reaches_the_caller_with_its_reason_and_holds(world: World) -> None:
    ticket = await held(world, "denied")

    code, out = await run(world, world.bo, "approvals", "deny", ticket, "--reason", "not today")
    async with world.place.caller(world.ana) as ana:
        told = await ana.call("one__echo", {"text": "denied"})

    assert code == 0
    assert "denied" in out
    assert told.failed
    assert "not today" in told.text


async def test_nobody_approves_their_own_call_whatever_their_role(world: World) -> None:
    ticket = await held(world, "own")

    answer = api(world, world.ana, "POST", f"/approvals/{ticket}/approve", {})

    assert answer.status_code == 403
    assert answer.json()["reasons"][0]["code"] == "approval_own"


async def test_ticket_that_is_not_open_to_somebody_is_not_there_for_them(world: World) -> None:
    ticket = await held(world, "hidden")
    cy = await new_key(world.place, "cy")

    async def known() -> bool:
        return api(world, cy, "GET", "/approvals").status_code == 200

    await eventually(known)
    answers = [api(world, cy, "GET", f"/approvals/{each}") for each in (ticket, "apr-none")]
    votes = [api(world, cy, "POST", f"/approvals/{each}/approve", {}) for each in (ticket, "apr-none")]

    assert [answer.status_code for answer in (*answers, *votes)] == [404] * 4
    assert len({answer.text for answer in (*answers, votes[0])}) == 1
    assert api(world, cy, "GET", "/approvals").json() == {"approvals": []}
    assert api(world, cy, "GET", "/approvals?scope=all").status_code == 403
    assert api(world, "", "GET", "/approvals").status_code == 401


async def test_approver_changes_the_arguments_and_those_are_carried_out(world: World) -> None:
    ticket = await held(world, "loud")

    code, out = await run(world, world.bo, "approvals", "approve", ticket, "--arguments", '{"text": "quiet"}')
    async with world.place.caller(world.ana) as ana:
        told = await ana.call("one__echo", {"text": "loud"})

    assert code == 0, out
    assert "quiet" in told.text
    assert "loud" not in told.text


async def test_standing_grant_is_for_so_many_calls(world: World) -> None:
    ticket = await held(world, "standing")
    words = ("approvals", "approve", ticket, "--uses", "2", "--any-arguments")

    code, out = await run(world, world.bo, *words)
    listed = await run(world, world.bo, "approvals", "grants")
    async with world.place.caller(world.ana) as ana:
        told = [await ana.call("one__echo", {"text": f"standing {number}"}) for number in range(3)]

    assert code == 0, out
    assert "2 uses left" in listed[1]
    assert [each.failed for each in told] == [False, False, True]


async def test_kill_switch_stops_calls_and_is_cleared_while_it_is_set(world: World) -> None:
    async with world.place.caller(world.ana) as ana:
        denied = await run(world, world.bo, "kill", "set", "everything")
        code, out = await run(world, world.op, "kill", "set", "everything", "--reason", "an incident")
        stopped = await ana.ask("tools/list")
        listed = await run(world, world.op, "kill", "list")
        cleared, _ = await run(world, world.op, "kill", "clear", "everything")
        going = await ana.ask("tools/list")

    assert denied[0] == 1
    assert "policy has to allow it" in denied[1]
    assert code == 0, out
    assert "kill switch is set for everything" in stopped.text
    assert "an incident" in listed[1]
    assert cleared == 0
    assert "result" in going.message


async def test_approval_survives_kill_9_and_a_second_gateway_uses_it_once(tmp_path: Path) -> None:
    with http_server("modern_asker", tmp_path) as upstream:
        place = prepare(tmp_path, Plan({"one": {"url": upstream.url}}, {"policy": rules(tmp_path, all=RULES)}))
        ana, bo = await new_key(place, "ana"), await new_key(place, "bo", "finance")
        world = World(place, Heard(), upstream, ana, bo, "")
        with as_process(place) as first:
            ticket = await held(world, "crash")
            first.kill()
            first.wait(10)
        with as_process(place) as second:
            approved = api(world, bo, "POST", f"/approvals/{ticket}/approve", {})
            second.kill()
            second.wait(10)
        with as_process(place):
            async with place.caller(ana) as caller:
                told = [await caller.call("one__echo", {"text": "crash"}) for _ in range(2)]

    assert approved.json()["state"] == "approved"
    assert [each.failed for each in told] == [False, True]


async def test_kill_switch_reaches_other_replicas_within_seconds(tmp_path: Path) -> None:
    with http_server("modern_asker", tmp_path) as upstream:
        plan = Plan({"one": {"url": upstream.url}}, {"policy": rules(tmp_path, all=RULES)})
        place = prepare(tmp_path, plan)
        other = Place(tmp_path / "other", free_port())
        other.directory.mkdir()
        shared = f"sqlite+aiosqlite:///{place.state / 'state.db'}"
        tables = {**plan.tables, "state": {"url": shared}}
        other.write(Plan(plan.upstreams, tables))
        ana, op = await new_key(place, "ana"), await new_key(place, "op", "operator")
        with as_process(place):
            answers = []
            async with in_process(other), other.caller(ana) as caller:
                before = await caller.ask("tools/list")
                body = {"kind": "upstream", "value": "one"}
                world = World(place, Heard(), upstream, ana, "", op)
                answers.append(await to_thread.run_sync(api, world, op, "PUT", "/switches", body))

                async def stopped() -> bool:
                    return "kill switch" in (await caller.call("one__echo", {"text": "x"})).text

                await eventually(stopped, within_s=20)

    assert "result" in before.message
    assert answers[0].status_code == 200
