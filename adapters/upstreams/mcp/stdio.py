"""MCP over a child process's standard streams, in the era that the process speaks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskStatus

from adapters.upstreams.mcp.clock import Clock
from adapters.upstreams.mcp.discovery import Description, discovered, handshaken
from adapters.upstreams.mcp.http import NoStream
from adapters.upstreams.mcp.link import (
    CLIENT_INFO,
    LEGACY_VERSION,
    LOG,
    MAX_NOTICE_BYTES,
    META,
    Asked,
    News,
    Object,
    Reply,
    Request,
    Told,
    asked_nobody,
    legacy_params,
    modern_params,
    params_of,
    told_nobody,
)
from adapters.upstreams.wire.jsonlines import JsonLines
from adapters.upstreams.wire.rpc import RpcPeer, RpcReply
from gateway import codec
from gateway.boxes import BoxFacts, Program, StartProgram
from gateway.codec import JsonObject
from gateway.errors import (
    InterlockError,
    SandboxFailure,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.types import Era

PROBE_S: Final = 5.0
"""How long a process may be silent about `server/discover` before it is taken for a legacy one."""
HANDSHAKE_S: Final = 30.0
INBOX: Final = 64
"""Log messages that may wait for a client that reads slowly; beyond it the oldest are lost."""
CLAIM_S: Final = 1.0
"""How long a call may take from getting a process to using it; one that was cancelled in between never does."""
FOREVER_S: Final = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Manner:
    """How one process is spoken to. `private`: only one client uses it, so that its log messages are that one's."""

    capabilities: Object
    era: Era | None = None
    """What to speak; `None` finds out."""
    private: bool = False


Prepare: TypeAlias = Callable[[Program], Awaitable[Object]]
Clone: TypeAlias = Callable[[str, Prepare], Awaitable[tuple[Program, Object | None]]]
"""(kind, how one is prepared) -> a prepared program of that kind, and what preparing found out, as JSON.

Where none can be had, one that has just started, and `None`.
"""
_CLONES_FROM: Final = 1_000
"""The first request to a clone: its server has seen lower numbers, and may still answer them."""


@dataclass(frozen=True, slots=True)
class Pipe:
    """A program that can be started again and again, and how long a line of it may be. `label` names the upstream."""

    label: str
    start: StartProgram
    max_line_bytes: int = 16 * 1024 * 1024
    clone: Clone | None = None
    """Starts clones of one that has agreed on an era already; `None` starts each from nothing."""


class StdioLink:
    """One process of a stdio upstream, from its start to its end."""

    def __init__(
        self, pipe: Pipe, manner: Manner, *, news: News, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._pipe = pipe
        self._manner = manner
        self._news = news
        self._monotonic = monotonic
        self._peer: RpcPeer | None = None
        self._stop = anyio.Event()
        self._tellers: dict[int, Told] = {}
        self._listeners: dict[int, News] = {}
        self._level = ""
        self._inbox: deque[tuple[Told, Object]] = deque(maxlen=INBOX)
        self._arrived = anyio.Event()
        self.era = Era.LEGACY
        self.description = Description(Era.LEGACY, {})
        self.ended = anyio.Event()
        self.stopped = False
        """It was asked to end: that it did is no failure."""
        self._child: Program | None = None
        self.reason = ""
        """Why it ended, if it did by itself."""
        self._claimed_until = 0.0
        self.used_at = monotonic()

    @property
    def running(self) -> int:
        """Requests in flight, streams of changes not counted."""
        return self._peer.in_flight - len(self._listeners) if self._peer is not None else 0

    @property
    def stderr(self) -> str:
        """The last of what it wrote to standard error."""
        return self._child.stderr if self._child is not None else ""

    @property
    def box(self) -> BoxFacts | None:
        """What it runs in; `None` before it was started."""
        return self._child.facts if self._child is not None else None

    @property
    def busy(self) -> bool:
        """Whether a call runs on it, or is about to."""
        return self.running > 0 or anyio.current_time() < self._claimed_until

    def claim(self) -> None:
        """A call is about to start on it."""
        self._claimed_until = anyio.current_time() + CLAIM_S
        self.used_at = self._monotonic()

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._peer is not None and not self._peer.closed and not self._stop.is_set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Start the process, agree on the era, and stay until it ends or `stop` is called.

        Raises the `Upstream*` errors before it has started, none after: `ended` tells, and requests in flight fail.
        """
        started = False
        try:
            self._child, described = await self._started()
            async with self._child as child:
                started = await self._serve(child, described, task_status)
        except UpstreamUnavailable as exc:
            if not started:
                raise
            self.reason = str(exc)  # a process that cannot be killed; nothing more can be done about it here
        finally:
            self.ended.set()

    async def _started(self) -> tuple[Program, Object | None]:
        """A program, and what it said of itself if it has been asked already."""
        clone, manner = self._pipe.clone, self._manner
        if clone is None:
            return await self._pipe.start(), None
        kind = codec.canonical([manner.capabilities, manner.era.value if manner.era else ""]).decode()
        return await clone(kind, self._prepared)

    async def _prepared(self, program: Program) -> Object:
        """Agree on the era with a program that is not to be used further as it is."""
        label = self._pipe.label
        lines = JsonLines(program, max_line_bytes=self._pipe.max_line_bytes, label=label)
        peer = RpcPeer(lines, label=label, on_message=_unheard)
        failure: InterlockError | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(peer.run)
            try:
                await self._agree(peer)
                await self._caught_up(peer)
            except InterlockError as exc:  # carried out of the group, which would wrap it
                failure = exc
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return {"era": self.era.value, "result": dict(self.description.result)}

    async def _caught_up(self, peer: RpcPeer) -> None:
        """Wait until the program has read everything: what is on its way to it would reach none of its clones."""
        if self.era is Era.MODERN:
            return
        try:
            await peer.request("ping", None, deadline_s=PROBE_S, may_ask=False)
        except UpstreamTimeout as exc:
            words = f"upstream {self._pipe.label!r} answers no ping, so it is not known when it could be frozen"
            raise SandboxFailure(words) from exc

    def _take_up(self, described: Object) -> None:
        """Go on where the program that this is a clone of was left."""
        try:
            self.era = Era(str(described.get("era")))
        except ValueError as exc:
            raise UpstreamProtocolError(f"upstream {self._pipe.label!r}: its frozen copy does not say its era") from exc
        result = described.get("result")
        self.description = Description(self.era, result if isinstance(result, dict) else {})

    async def _serve(self, child: Program, described: Object | None, task_status: TaskStatus[None]) -> bool:
        label = self._pipe.label
        lines = JsonLines(child, max_line_bytes=self._pipe.max_line_bytes, label=label)
        first = 1 if described is None else _CLONES_FROM
        self._peer = RpcPeer(lines, label=label, on_message=self._message, first_id=first)
        failure: InterlockError | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._read, self._peer)
            group.start_soon(self._pass_on)
            try:
                if described is None:
                    await self._agree(self._peer)
                else:
                    self._take_up(described)
                task_status.started()
                await self._stop.wait()
            except InterlockError as exc:  # carried out of the group, which would wrap it
                failure = exc
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return True

    async def _read(self, peer: RpcPeer) -> None:
        self.reason = await peer.run()
        self._stop.set()

    def stop(self) -> None:
        """End the process, in good order."""
        self.stopped = True
        self._stop.set()

    # Which era

    async def _agree(self, peer: RpcPeer) -> None:
        era, label = self._manner.era, self._pipe.label
        if era is not Era.LEGACY and await self._discovered(peer):
            return
        if era is Era.MODERN:
            raise UpstreamProtocolError(f"upstream {label!r} does not speak MCP 2026-07-28")
        try:
            await self._initialize(peer)
        except UpstreamProtocolError:
            # It may have been too busy starting to answer the first time; now it is awake.
            if era is not None or not await self._discovered(peer):
                raise

    async def _initialize(self, peer: RpcPeer) -> None:
        params = {"protocolVersion": LEGACY_VERSION, "capabilities": self._manner.capabilities}
        reply = await peer.request(
            "initialize", {**params, "clientInfo": CLIENT_INFO}, deadline_s=HANDSHAKE_S, may_ask=False
        )
        self.description = handshaken(self._reply(reply), self._pipe.label)
        await peer.notify("notifications/initialized", None)

    async def _discovered(self, peer: RpcPeer) -> bool:
        """Whether the process answers `server/discover` (2026-07-28, basic/transports/stdio, compatibility)."""
        request = Request("server/discover", {}, capabilities=self._manner.capabilities)
        try:
            reply = await peer.request(request.method, modern_params(request), deadline_s=PROBE_S, may_ask=False)
        except UpstreamTimeout:
            return False
        if reply.error is None and not isinstance(reply.result, dict):
            return False
        description = discovered(self._reply(reply), self._pipe.label)
        if description is None:
            return False
        self.era, self.description = Era.MODERN, description
        return True

    # Requests

    async def request(self, request: Request, told: Told = told_nobody, asked: Asked = asked_nobody) -> Reply:
        """Send a request. Silence beyond its time ends it; progress and a pending question hold the clock."""
        peer = self._peer
        if peer is None or not self.alive:
            raise UpstreamUnavailable(f"upstream {self._pipe.label!r} is not running")
        self.claim()
        await self._set_level(peer, request)
        self._claimed_until = 0.0
        params = modern_params(request) if self.era is Era.MODERN else legacy_params(request)
        run = _Run(request.timeout_s, told, asked)
        self._tellers[id(run)] = run.tell
        try:
            with run.scope:
                reply = await peer.request(
                    request.method,
                    params,
                    deadline_s=FOREVER_S,
                    on_notification=run.on_notification if request.progress else None,
                    on_request=run.on_request if asked is not asked_nobody else None,
                    may_ask=asked is not asked_nobody,
                )
                return self._reply(reply)
        finally:
            self._tellers.pop(id(run), None)
            self.used_at = self._monotonic()
        if run.fault is not None:
            raise run.fault
        words = f"upstream {self._pipe.label!r} was silent for {request.timeout_s:g} s during {request.method}"
        raise UpstreamTimeout(words)

    def _reply(self, reply: RpcReply) -> Reply:
        if reply.error is not None:
            return Reply(error=reply.error)
        if isinstance(reply.result, dict):
            return Reply(reply.result)
        raise UpstreamProtocolError(f"upstream {self._pipe.label!r} answered with a result that is not an object")

    async def listen(self, wanted: Object, take: News) -> None:
        """Pass on the notifications of one `subscriptions/listen`, the acknowledgement first, until it ends.

        Raises `NoStream` when the server offers none, and the `Upstream*` errors.
        """
        peer = self._peer
        if peer is None or self.era is not Era.MODERN:
            raise NoStream
        request = Request("subscriptions/listen", {"notifications": wanted}, capabilities=self._manner.capabilities)
        numbers: list[int] = []

        def numbered(number: int) -> None:
            numbers.append(number)
            self._listeners[number] = take

        try:
            reply = await peer.request(
                request.method, modern_params(request), deadline_s=FOREVER_S, may_ask=False, on_number=numbered
            )
        finally:
            for number in numbers:
                self._listeners.pop(number, None)
        if reply.error is not None:
            raise NoStream

    async def _set_level(self, peer: RpcPeer, request: Request) -> None:
        if self.era is Era.MODERN or not self._manner.private:
            return
        if not request.log_level or request.log_level == self._level:
            return
        self._level = request.log_level
        if "logging" in self.description.capabilities:
            params = {"level": request.log_level}
            await peer.request("logging/setLevel", params, deadline_s=request.timeout_s, may_ask=False)

    # What the process says of itself

    def _message(self, message: JsonObject) -> None:
        method, params = str(message.get("method")), params_of(message)
        if method == LOG:
            self._log(params)
            return
        meta = params.get("_meta")
        number = meta.get(META + "subscriptionId") if isinstance(meta, dict) else None
        if self.era is Era.LEGACY:
            self._news(method, params)
        elif type(number) is int and number in self._listeners:
            self._listeners[number](method, params)

    def _log(self, params: Object) -> None:
        """A log message does not say which call it is about: it is passed on only where there is no doubt."""
        if not self._manner.private or len(self._tellers) != 1 or len(codec.dumps(params)) > MAX_NOTICE_BYTES:
            return
        self._inbox.append((next(iter(self._tellers.values())), params))
        self._arrived.set()

    async def _pass_on(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived = anyio.Event()
            while self._inbox:
                tell, params = self._inbox.popleft()
                await tell(LOG, params)


def _unheard(_message: JsonObject) -> None:
    """What a program announces before it is used is looked up again when it is."""


class _Run:
    """One request while it runs: its time, and what of it is passed to the client. `scope` ends it."""

    def __init__(self, timeout_s: float, told: Told, asked: Asked) -> None:
        self._told = told
        self._asked = asked
        self.scope = anyio.CancelScope()
        self.fault: Exception | None = None
        self._clock = Clock(timeout_s, anyio.current_time, self._moved)
        self._moved(self._clock.deadline)

    def _moved(self, deadline: float) -> None:
        self.scope.deadline = deadline

    async def tell(self, method: str, params: Object) -> None:
        """Pass a notification to the client, in a task that others rely on: a fault ends this request alone."""
        try:
            with self._clock.held():
                await self._told(method, params)
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is raised in the request that it belongs to
            self._fail(exc)

    async def on_notification(self, message: JsonObject) -> None:
        """Progress: a sign of life."""
        self._clock.restart()
        with self._clock.held():
            await self._told(str(message.get("method")), params_of(message))

    async def on_request(self, message: JsonObject) -> JsonObject:
        """A question: the process is not the one that is slow now."""
        self._clock.restart()
        try:
            with self._clock.held():
                answer = await self._asked(str(message.get("method")), params_of(message))
        except Exception as exc:
            self._fail(exc)
            raise UpstreamUnavailable("the call that this question belongs to is over") from exc
        return dict(answer)  # type: ignore[arg-type]  # the answer came from JSON

    def _fail(self, fault: Exception) -> None:
        self.fault = fault
        self.scope.cancel()
