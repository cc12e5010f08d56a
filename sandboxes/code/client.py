"""Asks the agent of one box to do things, one at a time, each within a deadline."""

from __future__ import annotations

import base64
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

import anyio

from gateway import codec
from gateway.boxes import BoxFacts, Program
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.lines import LineSplitter, LineTooLong
from sandboxes.code.replies import (
    MAX_LINE_BYTES,
    Content,
    Entries,
    Envelope,
    Garbage,
    Pong,
    Ran,
    ReplyT,
    Seeded,
    Written,
    envelope_in,
    reply_in,
    shown,
)

ANSWER_S: Final = 15.0
"""How long the agent may take for anything but a run."""
READY_S: Final = 30.0
"""How long a box may take from its start to the agent's first word."""
STOP_S: Final = 8.0
"""How long the agent may take to kill a run that is not wanted any more, beyond the run's own time."""
MAX_OUTPUT_BYTES: Final = 128 * 1024
"""Of each of the two outputs of a run."""
ENTROPY_BYTES: Final = 32


class Problem(Exception):
    """The agent cannot do it; the box is as good as before. `code` is for programs, the text for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of code, and how long it may run."""

    language: str
    code: str
    wall_s: float


class AgentClient:
    """The gateway's end of one box. After a fault `lost` says what is wrong, and the box is killed."""

    def __init__(self, program: Program, label: str) -> None:
        self._program = program
        self._label = label
        self._lines = LineSplitter(MAX_LINE_BYTES)
        self._arrived: deque[bytes] = deque()
        self._number = 0
        self._expected: set[int] = set()
        self._replies: dict[int, Envelope] = {}
        self.lost = ""

    @property
    def program(self) -> Program:
        """The box."""
        return self._program

    @property
    def facts(self) -> BoxFacts:
        """What kind of box it is."""
        return self._program.facts

    @property
    def alive(self) -> bool:
        """Whether it can be asked, as far as is known."""
        return not self.lost and self._program.exit_status is None

    def kill(self) -> None:
        """End the box."""
        self.lost = self.lost or "it was ended"
        self._program.kill()

    async def ping(self) -> Pong:
        """Wait until the agent is up."""
        return await self._ask("ping", Pong, READY_S)

    async def hand_out(self, variables: Mapping[str, str]) -> None:
        """Make the box somebody's: entropy that no other box has, and the secrets."""
        entropy = base64.b64encode(secrets.token_bytes(ENTROPY_BYTES)).decode()
        await self._ask("seed", Seeded, ANSWER_S, data=entropy, set=dict(variables))

    async def run(self, snippet: Snippet) -> Ran:
        """Run code to the end of everything that it started. Cancelled, the run is killed and the box stays."""
        ran = await self._ask(
            "exec",
            Ran,
            snippet.wall_s + STOP_S,
            language=snippet.language,
            code=snippet.code,
            wall_s=snippet.wall_s,
            limit=MAX_OUTPUT_BYTES,
        )
        for output in (ran.stdout, ran.stderr):
            if len(output.head) + len(output.tail) > MAX_OUTPUT_BYTES:
                self._lose(UpstreamProtocolError, "answered with more output than was asked for")
        if ran.survivors:
            self._lose(UpstreamUnavailable, "has processes that cannot be killed")
        return ran

    async def put(self, path: str, data: bytes, *, append: bool = False) -> int:
        """Write a file; its size then."""
        encoded = base64.b64encode(data).decode()
        return (await self._ask("put", Written, ANSWER_S, path=path, data=encoded, append=append)).size

    async def get(self, path: str, *, offset: int, limit: int) -> Content:
        """A part of a file."""
        content = await self._ask("get", Content, ANSWER_S, path=path, offset=offset, limit=limit)
        if len(content.data) > limit:
            self._lose(UpstreamProtocolError, "answered with more of a file than was asked for")
        return content

    async def list(self, path: str, *, limit: int) -> Entries:
        """What is in a directory, and below."""
        entries = await self._ask("list", Entries, ANSWER_S, path=path, limit=limit)
        if len(entries.entries) > limit:
            self._lose(UpstreamProtocolError, "listed more than was asked for")
        return entries

    # One request

    async def _ask(self, op: str, kind: type[ReplyT], deadline_s: float, **params: object) -> ReplyT:
        """Send a request and wait for its answer.

        Raises `Problem` when the agent cannot do it, and the `Upstream*` errors when there is no more to be had of it.
        """
        if self.lost:
            raise UpstreamUnavailable(f"{self._label}: {self.lost}")
        number = 0
        try:
            with anyio.fail_after(deadline_s):
                number = await self._send(op, params, deadline_s)
                envelope = await self._reply(number)
            return _result(envelope, kind)
        except TimeoutError:
            self._lose(UpstreamTimeout, f"did not answer within {deadline_s:g} s")
        except Garbage as exc:
            self._lose(UpstreamProtocolError, f"said what is not in its protocol: {exc}")
        except InterlockError as exc:
            self._lose(type(exc), _end_of(self._program))
        except anyio.get_cancelled_exc_class():
            await self._abandon(number, is_run=op == "exec")
            raise

    async def _send(self, op: str, params: Mapping[str, object], deadline_s: float) -> int:
        self._number += 1
        number = self._number
        line = codec.dumps({"id": number, "op": op, **params}) + b"\n"
        await self._program.send(line, deadline_s=deadline_s)
        self._expected.add(number)
        return number

    async def _reply(self, number: int) -> Envelope:
        while number not in self._replies:
            while not self._arrived:
                data = await self._program.receive()
                if not data:
                    raise UpstreamUnavailable("its output ended")
                self._arrived.extend(_cut(self._lines, data))
            envelope = envelope_in(self._arrived.popleft())
            if envelope.id not in self._expected:
                raise Garbage("an answer to nothing that was asked")
            self._expected.remove(envelope.id)
            self._replies[envelope.id] = envelope
        return self._replies.pop(number)

    async def _abandon(self, number: int, *, is_run: bool) -> None:
        """The asker left: stop what it asked for, and be in step again. Otherwise the box goes."""
        if not number:
            return  # nothing was sent
        with anyio.move_on_after(STOP_S, shield=True) as scope:
            try:
                stop = await self._send("cancel", {"target": number}, STOP_S) if is_run else 0
                await self._reply(number)
                if stop:
                    await self._reply(stop)
            except (Garbage, InterlockError):
                self.kill()
        if scope.cancelled_caught:
            self.kill()

    def _lose(self, kind: type[InterlockError], what: str) -> NoReturn:
        self.lost = self.lost or what
        self._program.kill()
        raise kind(f"{self._label}: {self.lost}")


def _result(envelope: Envelope, kind: type[ReplyT]) -> ReplyT:
    if envelope.ok is None:
        raise Problem(envelope.error, shown(envelope.message))
    return reply_in(envelope.ok, kind)


def _end_of(program: Program) -> str:
    """How a box ended. What it wrote to standard error is left out: others read this."""
    status = program.exit_status
    if status is None:
        return "does not listen any more"
    killed = " (killed; most often it used up its memory)" if status == 137 else ""
    return f"ended with exit status {status}{killed}"


def _cut(lines: LineSplitter, data: bytes) -> list[bytes]:
    try:
        return lines.feed(data)
    except LineTooLong as exc:
        raise Garbage(str(exc)) from exc
