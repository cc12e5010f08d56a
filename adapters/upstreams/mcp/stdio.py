"""MCP over a child process's standard streams, in the era that the process speaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import anyio
from anyio.abc import TaskStatus

from adapters.upstreams.mcp.fetch import Description
from adapters.upstreams.mcp.link import (
    CLIENT_INFO,
    LEGACY_VERSION,
    LEGACY_VERSIONS,
    Asked,
    Object,
    Request,
    Told,
    asked_nobody,
    legacy_params,
    modern_params,
    told_nobody,
)
from adapters.upstreams.wire.jsonlines import JsonLines
from adapters.upstreams.wire.process import ChildProcess, ProcessSpec
from adapters.upstreams.wire.rpc import OnNotification, OnRequest, RpcPeer, RpcReply
from gateway.codec import JsonObject
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Era

PROBE_S: Final = 5.0
"""How long a process may be silent about `server/discover` before it is taken for a legacy one."""
HANDSHAKE_S: Final = 30.0
INBOX: Final = 1_024
FOREVER_S: Final = 7 * 86_400.0


class StdioLink:
    """One process of a stdio upstream, from its start to its end."""

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        capabilities: Object,
        era: Era | None,
        news: Callable[[str, Object], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._capabilities = capabilities
        self._wanted_era = era
        self._news = news
        self._monotonic = monotonic
        self._peer: RpcPeer | None = None
        self._stop = anyio.Event()
        self._tellers: dict[int, Told] = {}
        self._level = ""
        self._listening = 0
        self._inbox, self._arrived = anyio.create_memory_object_stream[JsonObject](INBOX)
        self.era = Era.LEGACY
        self.description = Description(Era.LEGACY, {})
        self.ended = anyio.Event()
        self.stderr = ""
        self.used_at = monotonic()

    @property
    def running(self) -> int:
        """Requests in flight."""
        return self._peer.in_flight - self._listening if self._peer is not None else 0

    @property
    def alive(self) -> bool:
        return self._peer is not None and not self._peer.closed and not self._stop.is_set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Start the process, agree on the era, and stay until it ends or `stop` is called.

        Raises before it has started, never after: `ended` tells, and the requests in flight fail.
        """
        try:
            async with await ChildProcess.start(self._spec) as child:
                try:
                    await self._serve(child, task_status)
                finally:
                    self.stderr = child.stderr
        finally:
            self.ended.set()

    async def _serve(self, child: ChildProcess, task_status: TaskStatus[None]) -> None:
        label = self._spec.label
        lines = JsonLines(child, max_line_bytes=self._spec.max_line_bytes, label=label)
        self._peer = RpcPeer(lines, label=label, on_message=self._message)
        failure: InterlockError | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._read, self._peer)
            group.start_soon(self._pass_on)
            try:
                await self._agree(self._peer)
                task_status.started()
                await self._stop.wait()
            except InterlockError as exc:  # carried out of the group, which would wrap it
                failure = exc
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _read(self, peer: RpcPeer) -> None:
        await peer.run()
        self._stop.set()

    def stop(self) -> None:
        """End the process, in good order."""
        self._stop.set()

    async def _agree(self, peer: RpcPeer) -> None:
        if self._wanted_era is not Era.LEGACY and await self._discovered(peer):
            return
        if self._wanted_era is Era.MODERN:
            raise UpstreamProtocolError(f"upstream {self._spec.label!r} does not speak MCP 2026-07-28 (era = modern)")
        params = {"protocolVersion": LEGACY_VERSION, "capabilities": self._capabilities, "clientInfo": CLIENT_INFO}
        reply = await peer.request("initialize", params, deadline_s=HANDSHAKE_S, may_ask=False)
        result = reply.result
        if not isinstance(result, dict) or result.get("protocolVersion") not in LEGACY_VERSIONS:
            words = f"upstream {self._spec.label!r} did not answer initialize with a version that we speak"
            raise UpstreamProtocolError(words)
        self.description = Description(Era.LEGACY, result)
        await peer.notify("notifications/initialized", None)

    async def _discovered(self, peer: RpcPeer) -> bool:
        """Whether the process answers `server/discover` (2026-07-28, basic/transports/stdio, compatibility)."""
        request = Request("server/discover", {}, capabilities=self._capabilities)
        try:
            reply = await peer.request(request.method, modern_params(request), deadline_s=PROBE_S, may_ask=False)
        except UpstreamTimeout:
            return False
        if not isinstance(reply.result, dict):
            return False
        self.era = Era.MODERN
        self.description = Description(Era.MODERN, reply.result)
        return True

    async def request(self, request: Request, told: Told = told_nobody, asked: Asked = asked_nobody) -> Object:
        """Send a request. Silence beyond its time ends it; progress and a pending question hold the clock."""
        peer = self._peer
        if peer is None or not self.alive:
            raise UpstreamUnavailable(f"upstream {self._spec.label!r} is not running")
        await self._set_level(peer, request)
        params = modern_params(request) if self.era is Era.MODERN else legacy_params(request)
        key = id(request)
        with anyio.move_on_after(request.timeout_s) as clock:
            held = _Clock(clock, request.timeout_s)
            self._tellers[key] = told
            try:
                reply = await peer.request(
                    request.method,
                    params,
                    deadline_s=FOREVER_S,
                    on_notification=held.telling(told) if told is not told_nobody else None,
                    on_request=held.asking(asked) if asked is not asked_nobody else None,
                    may_ask=asked is not asked_nobody,
                )
            finally:
                self._tellers.pop(key, None)
                self.used_at = self._monotonic()
            return _response(reply)
        words = f"upstream {self._spec.label!r} was silent for {request.timeout_s:g} s during {request.method}"
        raise UpstreamTimeout(words)

    async def listen(self, wanted: Object) -> bool:
        """Follow a modern server's changes, which come as news. False when it offers none, or is gone."""
        peer = self._peer
        if peer is None or self.era is not Era.MODERN:
            return False
        request = Request("subscriptions/listen", {"notifications": wanted}, capabilities=self._capabilities)
        self._listening += 1
        try:
            reply = await peer.request(request.method, modern_params(request), deadline_s=FOREVER_S, may_ask=False)
        except UpstreamUnavailable:
            return False
        finally:
            self._listening -= 1
        return reply.error is None

    async def _set_level(self, peer: RpcPeer, request: Request) -> None:
        if self.era is Era.MODERN or not request.log_level or request.log_level == self._level:
            return
        self._level = request.log_level
        if "logging" in self.description.capabilities:
            params = {"level": request.log_level}
            await peer.request("logging/setLevel", params, deadline_s=request.timeout_s, may_ask=False)

    def _message(self, message: JsonObject) -> None:
        try:
            self._inbox.send_nowait(message)
        except anyio.WouldBlock:  # a flood: what is lost is log lines and hints to look again
            return

    async def _pass_on(self) -> None:
        """Log lines go to the one call they can belong to, everything else is news of the upstream as a whole."""
        async for message in self._arrived:
            method, sent = str(message.get("method")), message.get("params")
            params: Object = sent if isinstance(sent, Mapping) else {}
            if method != "notifications/message":
                self._news(method, params)
            elif len(self._tellers) == 1:
                await next(iter(self._tellers.values()))(method, params)


def _response(reply: RpcReply) -> Object:
    return {"error": reply.error} if reply.error is not None else {"result": reply.result}


class _Clock:
    """Lets silence end a request, but not work that is reported or a person who thinks."""

    def __init__(self, scope: anyio.CancelScope, timeout_s: float) -> None:
        self._scope = scope
        self._timeout_s = timeout_s

    def _restart(self) -> None:
        self._scope.deadline = anyio.current_time() + self._timeout_s

    def telling(self, told: Told) -> OnNotification:
        async def on_notification(message: JsonObject) -> None:
            self._restart()
            params = message.get("params")
            await told(str(message.get("method")), params if isinstance(params, Mapping) else {})
            self._restart()

        return on_notification

    def asking(self, asked: Asked) -> OnRequest:
        async def on_request(message: JsonObject) -> JsonObject:
            self._scope.deadline = float("inf")
            params = message.get("params")
            answer = await asked(str(message.get("method")), params if isinstance(params, Mapping) else {})
            self._restart()
            return dict(answer)  # type: ignore[arg-type]  # the answer came from JSON

        return on_request
