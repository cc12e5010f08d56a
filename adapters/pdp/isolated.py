"""The embedded engine in a process of its own, with a deadline that holds.

A worker that is not done in time is killed and started anew; until the new one is ready every question is answered
with "unavailable", which is a no. Everything happens in callbacks of the event loop: no task outlives its caller.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from adapters.pdp import worker
from adapters.pdp.bundle import Bundle, Fault, PolicyRefused
from adapters.pdp.regorus import ENGINE, RULES, question_text, unavailable
from adapters.pdp.spelled_out import spelled_out
from adapters.pdp.trial import MEMORY_BYTES, spawn_worker
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer, Entrypoint, PolicyDecisionPoint

TIMEOUT_S: Final = 0.05
STARTUP_S: Final = 20.0
MAX_WAITING: Final = 512
MAX_REPLY_BYTES: Final = 4 << 20
_LONGEST_PAUSE_S: Final = 5.0


@dataclass(slots=True, eq=False)
class _Request:
    """One question on its way, with the timer that ends its wait."""

    message: bytes
    reply: asyncio.Future[tuple[bytes, bytes]]
    deadline: asyncio.TimerHandle | None = None

    def resolve(self, kind: bytes, payload: bytes) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        if not self.reply.done():
            self.reply.set_result((kind, payload))

    def fail(self, reason: str, message: str) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        if not self.reply.done():
            self.reply.set_exception(PolicyEngineUnavailable(message, reason=reason))


class _Link:
    """One worker process and the socket to it. It answers one question at a time; the others wait here."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float, memory_bytes: int) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self.process: subprocess.Popen[bytes]
        self.process, self._peer = spawn_worker(memory_bytes)
        self._peer.setblocking(False)
        self._waiting: deque[_Request] = deque()
        self._current: _Request | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._unsent = b""
        self._received = bytearray()
        self.over: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._peer, self._on_readable)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return self._current is None

    def ask(self, message: bytes, limit_s: float) -> _Request:
        """Queue one message; its reply fails after `limit_s`, wherever it is by then."""
        request = _Request(message, self._loop.create_future())
        request.deadline = self._loop.call_later(limit_s, request.fail, "timeout", "policy took too long")
        self._waiting.append(request)
        if self._current is None:
            self._next(limit_s)
        return request

    def end(self, reason: str, message: str) -> None:
        """Kill the process and fail everything that waits for it."""
        if self.over.done():
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._loop.remove_reader(self._peer)
        self._loop.remove_writer(self._peer)
        self._peer.close()
        self.process.kill()
        self.process.wait()
        current, self._current = self._current, None
        if current is not None:
            current.fail(reason, message)
        while self._waiting:
            self._waiting.popleft().fail("pdp_unavailable", "the policy engine is being restarted")
        self.over.set_result(None)

    def _next(self, limit_s: float) -> None:
        while self._waiting:
            request = self._waiting.popleft()
            if request.reply.done():  # it gave up while it waited
                continue
            self._current = request
            self._alarm = self._loop.call_later(limit_s, self.end, "timeout", "policy took too long and was ended")
            self._send(request.message)
            return

    def _send(self, message: bytes) -> None:
        self._unsent = message
        self._on_writable()
        if self._unsent and not self.over.done():
            self._loop.add_writer(self._peer, self._on_writable)

    def _on_writable(self) -> None:
        try:
            sent = self._peer.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.end("pdp_unavailable", "the policy engine went away")
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._loop.remove_writer(self._peer)

    def _on_readable(self) -> None:
        try:
            part = self._peer.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self.end("pdp_unavailable", "the policy engine went away")
            return
        self._received += part
        self._take_reply()

    def _take_reply(self) -> None:
        if len(self._received) < worker.HEADER.size:
            return
        kind, size = worker.HEADER.unpack_from(self._received)
        end = worker.HEADER.size + size
        if size > MAX_REPLY_BYTES or self._current is None:
            self.end("policy_output_invalid", "the answer of policy is too large")
            return
        if len(self._received) < end:
            return
        payload = bytes(self._received[worker.HEADER.size : end])
        del self._received[:end]
        current, self._current = self._current, None
        if self._alarm is not None:
            self._alarm.cancel()
        current.resolve(kind, payload)
        self._next(self._timeout_s)


class IsolatedPdp:
    """`PolicyDecisionPoint` in a worker process. Call `start` before the first question, `close` after the last.

    An evaluation that takes longer than `timeout_s` is killed: its caller gets `reason="timeout"`.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        timeout_s: float = TIMEOUT_S,
        startup_s: float = STARTUP_S,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.bundle = bundle
        self.revision = bundle.revision
        self._timeout_s = timeout_s
        self._startup_s = startup_s
        self._memory_bytes = memory_bytes
        self._link: _Link | None = None
        self._ready = False
        self._closing = False
        self._pause_s = 0.0
        self.restarts = 0

    async def start(self) -> None:
        """Return when the worker has loaded the policy. Raises `PolicyRefused` when it cannot."""
        loading = self._launch()
        try:
            kind, payload = await loading.reply
        except PolicyEngineUnavailable as exc:
            self.close()
            raise PolicyRefused([Fault("policy", 0, 0, f"the engine did not start: {exc}")]) from exc
        failure = worker.failure_in(kind, payload)
        if failure is not None:
            self.close()
            raise PolicyRefused([Fault(failure.file, failure.line, failure.col, failure.text)]) from failure

    @property
    def ready(self) -> bool:
        """Whether a question would be asked now, rather than refused."""
        return self._ready

    @property
    def pid(self) -> int:
        """The worker's process id; 0 when there is none."""
        return self._link.process.pid if self._link is not None and not self._link.over.done() else 0

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
        """As the port says."""
        return Answer(await self.value_of(RULES[entrypoint], question), self.revision, ENGINE)

    async def value_of(self, rule: str, question: Mapping[str, object]) -> object:
        """The value of a rule, such as `data.interlock.monitored`. Raises as `evaluate` does."""
        link = self._link
        if link is None or not self._ready or link.over.done():
            raise PolicyEngineUnavailable("the policy engine is not running yet")
        if link.waiting >= MAX_WAITING:
            raise PolicyEngineUnavailable("too many questions wait for the policy engine")
        text = rule.encode() + b"\0" + question_text(question)
        kind, payload = await link.ask(worker.frame(worker.EVALUATE, text), self._timeout_s).reply
        failure = worker.failure_in(kind, payload)
        if failure is not None:
            raise unavailable(failure) from failure
        value: object = orjson.loads(payload)
        return value

    def close(self) -> None:
        """End the worker and start no other."""
        self._closing = True
        self._ready = False
        if self._link is not None:
            self._link.end("pdp_unavailable", "the policy engine was closed")

    def _launch(self) -> _Request:
        loop = asyncio.get_running_loop()
        link = self._link = _Link(loop, self._timeout_s, self._memory_bytes)
        link.over.add_done_callback(self._on_over)
        loading = link.ask(
            worker.frame(worker.LOAD, worker.load_payload(spelled_out(self.bundle), self.bundle.data)), self._startup_s
        )
        loading.reply.add_done_callback(self._on_loaded)
        return loading

    def _on_loaded(self, reply: asyncio.Future[tuple[bytes, bytes]]) -> None:
        if reply.cancelled() or reply.exception() is not None or reply.result()[0] != worker.VALUE:
            if self._link is not None:
                self._link.end("pdp_unavailable", "the policy engine did not start")
            return
        self._ready = not self._closing
        self._pause_s = 0.0

    def _on_over(self, _: asyncio.Future[None]) -> None:
        self._ready = False
        if not self._closing:
            self._retry_later()

    def _retry_later(self) -> None:
        pause_s, self._pause_s = self._pause_s, min(max(0.1, self._pause_s * 2), _LONGEST_PAUSE_S)
        asyncio.get_running_loop().call_later(pause_s, self._relaunch)

    def _relaunch(self) -> None:
        if self._closing:
            return
        self.restarts += 1
        try:
            self._launch()
        except OSError:  # no process or socket to be had now: the next try comes after a longer pause
            self._retry_later()


_: type[PolicyDecisionPoint] = IsolatedPdp
