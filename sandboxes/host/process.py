"""A child process that speaks on its standard streams, and of which nothing is ever left behind.

The command does not run as our direct child but under `reaper.py`, which outlives us by as much as it takes to end
the command's whole tree: when we stop it, when it ends by itself, and when we are killed with -9.
"""

from __future__ import annotations

import asyncio
import json
import marshal
import os
import secrets
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import anyio
from anyio import to_thread

from gateway.boxes import HOST, BoxFacts, Program
from gateway.errors import SandboxFailure, UpstreamTimeout, UpstreamUnavailable
from sandboxes.host.jail import join
from sandboxes.host.last_words import LastWords
from sandboxes.host.plan import Jail, Leftovers, Plan
from sandboxes.host.strays import kill_strays

_REAPER: Final = (
    f"import os, sys; sys.path.append({str(Path(__file__).parents[2])!r}); "
    "from sandboxes.host.reaper import main; os._exit(main(int(sys.argv[1])))"  # without taking all apart before
)
_INHERITED: Final = ("PATH", "HOME", "LANG", "TMPDIR")
_MARK: Final = "INTERLOCK_PROCESS"
"""Variable that tells the processes of one tree, for when the reaper itself was killed."""
_HIGH_WATER: Final = 256 * 1024
_FLOOD_BYTES: Final = 1024 * 1024
_HUSH_S: Final = 0.2
"""How much is read of standard error before it is left alone for a while: reading all that a program can write there
would take most of our own time."""
_EXIT_NEWS_S: Final = 2.0
"""How long a process may take to report its exit status after the end of its output, or after it was killed."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run, and how much of what it says to keep.

    `env` is all it gets beside PATH, HOME, LANG and TMPDIR; in a `jail` it is all. `secrets` are struck out of what it
    says on standard error; without a jail, where nobody has told them apart, all values of `env` are.
    """

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    stderr_keep_bytes: int = 64 * 1024
    label: str = ""
    jail: Jail | None = None
    leftovers: Leftovers = Leftovers()  # noqa: RUF009  # frozen
    facts: BoxFacts = HOST
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """What messages call it."""
        return repr(self.label or (os.path.basename(self.command[0]) if self.command else "?"))


def environment(configured: Mapping[str, str], inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: four variables of ours and what is configured, so that no secret of ours leaks."""
    return {name: inherited[name] for name in _INHERITED if name in inherited} | dict(configured)


class ChildProcess:
    """A running command. Make it with `start`, and leave it through `stop` or as an async context manager."""

    def __init__(self, spec: ProcessSpec, lifeline: socket.socket) -> None:
        self._spec = spec
        self._lifeline = lifeline
        self._mark = f"{_MARK}={secrets.token_hex(8)}"
        hidden = spec.secrets if spec.jail is not None else (*spec.env.values(), *spec.secrets)
        self._streams = _Streams(LastWords(spec.stderr_keep_bytes, hidden), self._mark)

    @classmethod
    async def start(
        cls,
        spec: ProcessSpec,
        *,
        inherited: Mapping[str, str] = os.environ,
        deadline_s: float = 10.0,
        meanwhile: Callable[[], Awaitable[object]] | None = None,
    ) -> ChildProcess:
        """Run the command. `meanwhile` is done before, while the supervisor comes up; what it raises is passed on.

        Raises `UpstreamUnavailable` when it cannot be started, `SandboxFailure` when its jail cannot be built, and
        `UpstreamTimeout` when that takes too long.
        """
        if not spec.command:
            raise UpstreamUnavailable(f"upstream {spec.name} has no command to run")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        child = cls(spec, ours)
        try:
            with theirs:
                await child._spawn(theirs.fileno())  # keeps a copy of its end
            await child._meanwhile(meanwhile)
            news = await child._told(_framed(child._plan(inherited)), deadline_s)
        except BaseException:
            await child._end_now()
            raise
        if news != b"S":
            await child._end_now()
            raise _start_failure(spec, news)
        return child

    def _plan(self, inherited: Mapping[str, str]) -> Plan:
        spec = self._spec
        name, _, mark = self._mark.partition("=")
        env = dict(spec.env) if spec.jail is not None else environment(spec.env, inherited)
        return Plan(spec.command, {**env, name: mark}, spec.cwd, spec.jail, spec.leftovers)

    async def _spawn(self, lifeline: int) -> None:
        name, _, mark = self._mark.partition("=")
        program = (sys.executable, "-I", "-S", "-E", "-c", _REAPER, str(lifeline))
        loop, streams = asyncio.get_running_loop(), self._streams
        try:
            await loop.subprocess_exec(
                lambda: streams, *program, env={name: mark}, cwd="/", pass_fds=(lifeline,), start_new_session=True
            )
        except OSError as exc:
            raise UpstreamUnavailable(f"upstream {self._spec.name} cannot be started: {exc.strerror}") from exc

    async def _meanwhile(self, do: Callable[[], Awaitable[object]] | None) -> None:
        """Use the time in which the reaper's interpreter comes up."""
        jail = self._spec.jail
        if jail is not None and jail.home:
            await to_thread.run_sync(self._join, jail.cgroups)
        if do is not None:
            await do()

    def _join(self, groups: tuple[str, ...]) -> None:
        try:
            join(groups, self._streams.pid)
        except OSError as exc:
            raise SandboxFailure(f"upstream {self._spec.name} cannot be started: {exc.strerror}") from exc

    async def _told(self, plan: bytes, deadline_s: float) -> bytes:
        """What the reaper answers to the plan."""
        loop = asyncio.get_running_loop()
        try:
            with anyio.fail_after(deadline_s):
                await loop.sock_sendall(self._lifeline, plan)
                return await loop.sock_recv(self._lifeline, 512)
        except TimeoutError as exc:
            raise UpstreamTimeout(f"upstream {self._spec.name} did not start in {deadline_s:g} s") from exc
        except OSError as exc:
            raise UpstreamUnavailable(f"upstream {self._spec.name} cannot be started: {exc.strerror}") from exc

    @property
    def spec(self) -> ProcessSpec:
        """What was started."""
        return self._spec

    @property
    def facts(self) -> BoxFacts:
        """What kind of box it runs in."""
        return self._spec.facts

    @property
    def exit_status(self) -> int | None:
        """The command's exit status, 128 + n when signal n ended it, `None` while it runs."""
        return self._streams.exit_status

    @property
    def stderr(self) -> str:
        """The last of what it wrote to standard error, as text, secrets struck out."""
        return self._streams.last_words.text()

    def obituary(self) -> str:
        """What is known about its end, in words."""
        status = self.exit_status
        how = "closed its output" if status is None else f"exited with status {status}"
        said = self._streams.last_words.tail()
        return f"upstream {self._spec.name} {how}" + (f"; the last it said: {said}" if said else "")

    async def send(self, data: bytes, *, deadline_s: float) -> None:
        """Write to its standard input. Returns once the bytes are in its queue, which holds 64 KiB and one message.

        Raises `UpstreamTimeout`, with nothing written, when it does not read; `UpstreamUnavailable` when it is gone.
        """
        try:
            with anyio.fail_after(deadline_s):
                await self._streams.writable()
        except TimeoutError as exc:
            raise UpstreamTimeout(f"upstream {self._spec.name} did not read its input for {deadline_s:g} s") from exc
        if not self._streams.write(data):
            await self._exit_news()
            raise UpstreamUnavailable(self.obituary())

    async def receive(self) -> bytes:
        """What it wrote to its standard output since; empty when that has ended. It is not read from in between."""
        data = await self._streams.read()
        if not data:
            await self._exit_news()
        return data

    def end_input(self) -> None:
        """Close its standard input. What it still has to say can be received."""
        self._streams.close_input()

    async def wait(self) -> int:
        """Wait for the end of the whole tree. Returns the command's exit status."""
        await self._streams.exited.wait()
        return cast("int", self.exit_status)

    async def stop(self, *, stdin_wait_s: float = 2.0, term_wait_s: float = 2.0, kill_wait_s: float = 12.0) -> int:
        """End it: close its input, then SIGTERM to its group, then SIGKILL to the whole tree. Returns the exit status.

        Cancelled meanwhile, it kills at once, and waits no more than two seconds for that. Raises
        `UpstreamUnavailable` when the tree cannot be killed.
        """
        try:
            self._streams.close_input()
            if not await self._gone_within(stdin_wait_s):
                self._order(b"T")
                if not await self._gone_within(term_wait_s):
                    self._order(b"K")
                    if not await self._gone_within(kill_wait_s):
                        raise UpstreamUnavailable(f"upstream {self._spec.name} left processes that cannot be killed")
        finally:
            await self._end_now()
        return cast("int", self.exit_status)

    def kill(self) -> None:
        """Have the whole tree killed, without waiting for it. Safe to call at any time, and again."""
        self._order(b"K")
        self._lifeline.close()
        self._streams.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.stop()

    async def _end_now(self) -> None:
        self.kill()
        if self._streams.started:
            with anyio.CancelScope(shield=True):
                await self._gone_within(_EXIT_NEWS_S)

    def _order(self, order: bytes) -> None:
        try:
            self._lifeline.send(order)
        except OSError:  # closed, or the reaper has done its work
            return

    async def _gone_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._streams.exited.wait()
        return self._streams.exited.is_set()

    async def _exit_news(self) -> None:
        await self._gone_within(_EXIT_NEWS_S)


class _Streams(asyncio.SubprocessProtocol):
    """The event loop's side of the three pipes."""

    def __init__(self, last_words: LastWords, mark: str) -> None:
        self._mark = mark
        self._unwanted = False
        self.last_words = last_words
        self.exited = anyio.Event()
        self.exit_status: int | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._output: deque[bytes] = deque()
        self._output_bytes = 0
        self._output_ended = False
        self._paused = False
        self._unheard_bytes = _FLOOD_BYTES
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._input_open = True

    @property
    def pid(self) -> int:
        return 0 if self._transport is None else self._transport.get_pid()

    @property
    def started(self) -> bool:
        return self._transport is not None

    async def writable(self) -> None:
        await self._writable.wait()

    def write(self, data: bytes) -> bool:
        pipe = self._pipe(0)
        if pipe is None or pipe.is_closing() or not self._input_open:
            return False
        cast("asyncio.WriteTransport", pipe).write(data)
        return True

    async def read(self) -> bytes:
        while not self._output and not self._output_ended:
            self._readable.clear()
            await self._readable.wait()
        data = b"".join(self._output)
        self._output.clear()
        self._output_bytes = 0
        if self._paused:
            self._paused = False
            self._reader().resume_reading()
        return data

    def close_input(self) -> None:
        self._input_open = False
        pipe = self._pipe(0)
        if pipe is not None:
            cast("asyncio.WriteTransport", pipe).close()
        self._writable.set()

    def close(self) -> None:
        """Nobody reads on. Closing the transport of a running process would kill the reaper before it has reaped."""
        self.close_input()
        self._unwanted = True
        if self._transport is not None and self.exited.is_set():
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._writable.set()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.last_words.add(data)
            self._unheard_bytes -= len(data)
            if self._unheard_bytes <= 0:
                self._hush()
            return
        self._output.append(data)
        self._output_bytes += len(data)
        self._readable.set()
        if self._output_bytes > _HIGH_WATER and not self._paused:
            self._paused = True
            self._reader().pause_reading()

    def _hush(self) -> None:
        """Read no more of standard error for a moment. Who writes there waits."""
        self._unheard_bytes = _FLOOD_BYTES
        cast("asyncio.ReadTransport", self._pipe(2)).pause_reading()
        asyncio.get_running_loop().call_later(_HUSH_S, self._listen)

    def _listen(self) -> None:
        pipe = self._pipe(2)
        if pipe is not None and not pipe.is_closing():
            cast("asyncio.ReadTransport", pipe).resume_reading()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._output_ended = True
            self._readable.set()
        if fd == 0:
            self._input_open = False
            self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def process_exited(self) -> None:
        if self._transport is not None:
            status = self._transport.get_returncode()
            self.exit_status = status if status is None or status >= 0 else 128 - status
            if self.exit_status != status:  # the reaper itself was killed: do its work
                kill_strays(self._transport.get_pid(), self._mark)
        self.exited.set()
        if self._unwanted:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._output_ended = True
        self._readable.set()
        self._writable.set()

    def _pipe(self, fd: int) -> asyncio.BaseTransport | None:
        return None if self._transport is None else self._transport.get_pipe_transport(fd)

    def _reader(self) -> asyncio.ReadTransport:
        return cast("asyncio.ReadTransport", self._pipe(1))


def _framed(plan: Plan) -> bytes:
    """In what the reaper can read without importing anything, and as JSON has it: of plain types."""
    data = marshal.dumps(json.loads(json.dumps(plan.as_json())))
    return len(data).to_bytes(4, "big") + data


def _start_failure(spec: ProcessSpec, news: bytes) -> SandboxFailure | UpstreamUnavailable:
    words = f"upstream {spec.name} cannot be started: "
    if news[:1] != b"E":
        return UpstreamUnavailable(words + "its supervisor ended before it ran")
    number, _, walls = news[1:].decode("utf-8", "replace").partition(" ")
    if walls:
        return UpstreamUnavailable(words + walls) if spec.jail is None else SandboxFailure(words + walls)
    reason = os.strerror(int(number)).lower()
    return UpstreamUnavailable(
        f"{words}{reason}: {spec.command[0]!r}; give a full path, or a command that is on the PATH of the gateway"
    )


_: type[Program] = ChildProcess
