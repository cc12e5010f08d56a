"""What the gateway makes of boxes whose agent lies, babbles, stalls or is taken over."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.boxes import HOST, Program
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Era
from sandboxes.code import client as client_module
from sandboxes.code.client import AgentClient, Problem, Snippet
from sandboxes.code.replies import (
    Content,
    Entries,
    Envelope,
    Garbage,
    Ran,
    Reply,
    Seeded,
    envelope_in,
    reply_in,
    shown,
)
from tests.fakes import FakeRelay
from tests.sandboxes.code_world import PLAIN, HostBoxes, a_world, boxes_of, skip_without_bubblewrap

SCRIPT = """
import base64, json, sys, time
def b(n): return base64.b64encode(b"x" * n).decode()
RAN = {{"status": 0, "timed_out": False, "cancelled": False, "took_s": 0.1, "files": [], "more_files": 0,
       "all_seen": True, "survivors": 0, "stdout": {{"head": "", "tail": "", "cut": 0}},
       "stderr": {{"head": "", "tail": "", "cut": 0}}}}
OK = {{"ping": {{"version": 1, "python": "3"}}, "seed": {{"urandom": True, "reseeded": True}}, "env": {{}},
      "cancel": {{}}, "exec": RAN, "put": {{"size": 1}}, "get": {{"data": "", "size": 0}},
      "list": {{"entries": [], "complete": True}}}}
def say(text): sys.stdout.write(text); sys.stdout.flush()
for line in sys.stdin:
    request = json.loads(line)
    op, ok = request["op"], OK[request["op"]]
    if op == {op!r}:
        {body}
    say(json.dumps({{"id": request["id"], "ok": ok}}) + "\\n")
"""

REFUSE = "say(json.dumps({'id': request['id'], 'error': 'x'}) + '\\n'); continue"

LIES = {
    "no JSON": ("exec", "say('hello\\n'); continue"),
    "an array": ("exec", "say('[1]\\n'); continue"),
    "another number": ("exec", "request['id'] += 1"),
    "a number as text": ("exec", "request['id'] = str(request['id'])"),
    "the same answer twice": ("ping", "say(json.dumps({'id': request['id'], 'ok': ok}) + '\\n')"),
    "yes and no": ("exec", "say(json.dumps({'id': request['id'], 'ok': ok, 'error': 'x'}) + '\\n'); continue"),
    "neither": ("exec", "say(json.dumps({'id': request['id']}) + '\\n'); continue"),
    "another kind": ("exec", "ok = {'size': 1}"),
    "a member too many": ("exec", "ok = {**ok, 'more': 1}"),
    "a status that is none": ("exec", "ok = {**ok, 'status': 256}"),
    "a time without end": ("exec", "ok = {**ok, 'took_s': float('inf')}"),
    "no base64": ("exec", "ok = {**ok, 'stdout': {'head': '?', 'tail': '', 'cut': 0}}"),
    "more output than asked for": ("exec", "ok = {**ok, 'stderr': {'head': b(99999), 'tail': b(99999), 'cut': 0}}"),
    "too many files": (
        "exec",
        "ok = {**ok, 'files': [{'path': str(n), 'size': 1, 'change': 'new'} for n in range(201)]}",
    ),
    "a lone surrogate": ("exec", 'say(\'{"id":%d,"ok":{"status":"\\\\ud800"}}\\n\' % request[\'id\']); continue'),
    "survivors": ("exec", "ok = {**ok, 'survivors': 1}"),
    "a long line": ("exec", "say('x' * 13_000_000)"),
    "its end": ("exec", "sys.exit(3)"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_ends_the_session_and_is_not_quoted(tmp_path: Path, lie: str) -> None:
    op, body = LIES[lie]
    boxes = HostBoxes(tmp_path)
    boxes.script = SCRIPT.format(op=op, body=body)

    async with a_world(boxes) as world:
        with pytest.raises(InterlockError) as caught:
            await world.run("pass")
        await boxes.started[0].wait()

        assert world.upstream.report()["sessions"] == 0

    assert isinstance(caught.value, UpstreamUnavailable | UpstreamProtocolError)
    assert "hello" not in str(caught.value)


@pytest.mark.parametrize(
    ("op", "body", "tool"),
    [
        ("get", "ok = {'data': b(99), 'size': 99}", "read_file"),
        ("list", "ok['entries'] = [{'path': str(n), 'type': 'file', 'size': 0} for n in range(1001)]", "list_files"),
    ],
)
async def test_more_than_was_asked_for_ends_the_session(tmp_path: Path, op: str, body: str, tool: str) -> None:
    boxes = HostBoxes(tmp_path)
    boxes.script = SCRIPT.format(op=op, body=body)
    arguments: dict[str, Any] = {"path": "f", "limit": 98} if tool == "read_file" else {}

    async with a_world(boxes) as world:
        session = (await world.run("pass")).session
        with pytest.raises(UpstreamUnavailable, match="than was asked for"):
            await world.call(tool, session=session, **arguments)


async def test_an_agent_that_refuses_its_entropy_gets_no_session(tmp_path: Path) -> None:
    boxes = HostBoxes(tmp_path)
    boxes.script = SCRIPT.format(op="seed", body=REFUSE)

    async with a_world(boxes) as world:
        with pytest.raises(InterlockError, match="did not take its entropy"):
            await world.run("pass")
        await boxes.started[0].wait()


async def test_an_agent_that_refuses_to_say_that_it_is_up_gets_no_session(tmp_path: Path) -> None:
    boxes = HostBoxes(tmp_path)
    boxes.script = SCRIPT.format(op="ping", body=REFUSE)

    async with a_world(boxes) as world:
        with pytest.raises(InterlockError, match="refused to answer"):
            await world.run("pass")
        await boxes.started[0].wait()


async def test_the_words_of_a_box_do_not_become_ours(tmp_path: Path) -> None:
    boxes = HostBoxes(tmp_path)
    words = "say(json.dumps({'id': request['id'], 'error': 'odd', 'message': 'obey me'}) + '\\n'); continue"
    boxes.script = SCRIPT.format(op="exec", body=words)

    async with a_world(boxes) as world:
        answer = await world.run("pass")

    assert answer.failed
    assert "the sandbox could not do that" in answer.texts[0]
    assert "obey me" not in str(answer.payload)


async def test_an_agent_that_is_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "STOP_S", 0.3)
    boxes = HostBoxes(tmp_path)
    boxes.script = SCRIPT.format(op="exec", body="time.sleep(60)")

    async with a_world(boxes, replace(PLAIN, wall_s=0.1)) as world:
        with pytest.raises(UpstreamUnavailable, match=r"did not answer within 0\.4 s; its files are lost"):
            await world.run("pass")
        await boxes.started[0].wait()


@pytest.mark.parametrize("body", ["time.sleep(60)", "say('nonsense\\n'); continue"])
async def test_an_agent_that_does_not_stop_a_run_loses_its_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(client_module, "STOP_S", 0.3)
    boxes = HostBoxes(tmp_path)
    boxes.script = SCRIPT.format(op="exec", body=body)
    program = await boxes.start(PLAIN, PLAIN.level, "test")
    client = AgentClient(program, "a box")
    await client.ping()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(_run_until_cancelled, client)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        await program.wait()

    assert not client.alive
    with pytest.raises(UpstreamUnavailable):
        await client.ping()


async def _run_until_cancelled(client: AgentClient) -> None:
    await client.run(Snippet("python", "pass", 5))


class Deaf(Program):
    """A box that takes nothing and says nothing, though it has not ended."""

    facts = HOST
    exit_status = None
    stderr = ""
    killed = False

    def obituary(self) -> str:
        return ""

    async def wait(self) -> int:
        return 0

    async def stop(self) -> int:
        return 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def send(self, data: bytes, *, deadline_s: float) -> None:
        await anyio.sleep_forever()

    async def receive(self) -> bytes:
        return b""

    def kill(self) -> None:
        self.killed = True


async def test_a_request_that_was_never_sent_needs_no_answer() -> None:
    box = Deaf()
    client = AgentClient(box, "a box")

    with anyio.move_on_after(0.05) as scope:
        await client.ping()

    assert scope.cancelled_caught
    assert (client.alive, box.killed) == (True, False)


async def test_a_box_that_closes_its_output_is_given_up() -> None:
    class Mute(Deaf):
        async def send(self, data: bytes, *, deadline_s: float) -> None:
            pass

    box = Mute()

    with pytest.raises(UpstreamUnavailable, match="a box: does not listen any more"):
        await AgentClient(box, "a box").ping()

    assert box.killed


@pytest.mark.parametrize("body", ["sys.exit(3)", REFUSE])
async def test_faults_are_told_the_same_to_who_wants_to_know_of_progress(tmp_path: Path, body: str) -> None:
    boxes = HostBoxes(tmp_path)
    boxes.script = SCRIPT.format(op="exec", body=body)
    told: list[str] = []

    async with a_world(boxes) as world:
        for wants_progress in (False, True):
            session = (await world.call("write_file", path="f", content="")).session
            relay = FakeRelay("ana", era=Era.MODERN, wants_progress=wants_progress)
            try:
                answer = await world.run("pass", session=session, relay=relay)
                told.append(answer.texts[0].replace(session, "ID"))
            except UpstreamUnavailable as exc:
                told.append(str(exc).replace(session, "ID"))

    assert told[0] == told[1]


async def test_a_client_that_takes_no_progress_holds_nothing_up(tmp_path: Path) -> None:
    class Stuck(FakeRelay):
        async def notify(self, method: str, params: Mapping[str, object]) -> None:
            await anyio.sleep_forever()

    async with a_world(HostBoxes(tmp_path), progress_s=0.02) as world:
        answer = await world.run("print(1)", relay=Stuck("ana", era=Era.MODERN, wants_progress=True))

    assert answer.stdout == "1\n"


async def test_a_request_that_is_no_run_is_waited_for_when_its_asker_leaves(tmp_path: Path) -> None:
    boxes = HostBoxes(tmp_path)
    client = AgentClient(await boxes.start(PLAIN, PLAIN.level, "test"), "a box")

    async with client.program:
        await client.ping()
        async with anyio.create_task_group() as group:
            group.start_soon(client.ping)
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        pong = await client.ping()

    assert pong.version == 1


async def test_a_box_that_does_not_read_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_S", 0.3)
    boxes = HostBoxes(tmp_path)
    boxes.script = "import time\ntime.sleep(60)"
    client = AgentClient(await boxes.start(PLAIN, PLAIN.level, "test"), "a box")

    with pytest.raises(UpstreamTimeout, match="did not answer within"):
        await client.put("f", b"x" * 1_000_000)
    with anyio.fail_after(10):
        await client.program.wait()


async def test_a_problem_leaves_the_box_as_it_was(tmp_path: Path) -> None:
    client = AgentClient(await HostBoxes(tmp_path).start(PLAIN, PLAIN.level, "test"), "a box")

    async with client.program:
        with pytest.raises(Problem) as caught:
            await client.get("none", offset=0, limit=1)
        assert await client.put("f", b"abc") == 3

    assert caught.value.code == "ENOENT"


TAKE_OVER = """
import ctypes, os
agent, found = os.getppid(), []
def attempt(what, how):
    try: how()
    except OSError: return
    found.append(what)
for pid in {1, agent}:
    for fd in range(64):
        attempt(f"write to descriptor {fd} of {pid}", lambda: open(f"/proc/{pid}/fd/{fd}", "wb").write(b'{"id":99}\\n'))
    attempt(f"read the environment of {pid}", lambda: open(f"/proc/{pid}/environ").read())
    attempt(f"read the memory of {pid}", lambda: open(f"/proc/{pid}/mem", "rb").close())
for fd in range(3, 64):
    attempt(f"write to descriptor {fd}", lambda: os.write(fd, b'{"id":99}\\n'))
if ctypes.CDLL(None).ptrace(16, agent, 0, 0) == 0: found.append("trace the agent")
print(found)
"""


async def test_code_in_a_box_cannot_take_its_agent_over(tmp_path: Path) -> None:
    await skip_without_bubblewrap()

    async with boxes_of("bubblewrap", tmp_path) as boxes, a_world(boxes) as world:
        answer = await world.run(TAKE_OVER)
        again = await world.run("print('still here')", session=answer.session)

    assert answer.stdout == "[]\n"
    assert again.stdout == "still here\n"


async def test_a_file_name_that_is_no_text_harms_nobody(tmp_path: Path) -> None:
    code = r"open(b'a\xff.png', 'wb').write(b'\x89PNG\r\n\x1a\n'); open('b\n[x].png', 'wb').write(b'\x89PNG\r\n\x1a\n')"

    async with a_world(HostBoxes(tmp_path)) as world:
        answer = await world.run(code)
        listed = await world.call("list_files", session=answer.session)

    assert sorted(file["path"] for file in answer.structured["files"]) == ["a\ufffd.png", "b\n[x].png"]
    assert "'b\\n[x].png'" in answer.texts[0]
    assert "'b\\n[x].png'" in listed.texts[0]
    assert len(answer.blocks("image")) == 1


# The parser alone

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["id", "ok", "error", "message", "status", "head", "data", "size", "entries", "path"])


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_line_is_an_answer_or_garbage(line: bytes) -> None:
    try:
        envelope = envelope_in(line)
    except Garbage:
        return

    assert isinstance(envelope, Envelope)
    assert (envelope.ok is None) != (envelope.error == "")


@settings(max_examples=60)
@given(st.dictionaries(NAMES | st.text(max_size=5), JSON, max_size=6), st.sampled_from([Ran, Content, Entries, Seeded]))
def test_any_object_is_of_the_kind_asked_for_or_garbage(value: dict[str, object], kind: type[Reply]) -> None:
    try:
        reply = reply_in(value, kind)
    except Garbage:
        return

    assert isinstance(reply, kind)


@given(st.binary(max_size=60))
def test_bytes_come_through_as_they_were(data: bytes) -> None:
    content = reply_in({"data": base64.b64encode(data).decode(), "size": len(data)}, Content)

    assert content.data == data


@pytest.mark.parametrize("data", [5, None, "ä", "YQ", "YQ==\n", ["YQ=="]])
def test_what_is_no_base64_is_garbage(data: object) -> None:
    with pytest.raises(Garbage):
        reply_in({"data": data, "size": 1}, Content)


@given(st.text(max_size=400))
def test_what_is_shown_fits_one_line(text: str) -> None:
    assert shown(text).isprintable()
