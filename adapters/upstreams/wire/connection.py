"""One keep-alive connection that carries one exchange at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, cast

from adapters.upstreams.wire.answer import Answer
from adapters.upstreams.wire.tcpfacts import Probe, watch_over
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable

_HIGH_WATER: Final = 256 * 1024
"""Body bytes that may wait for their reader before the peer is made to wait."""
_FRESH_S: Final = 0.5
"""So soon after an exchange a peer hardly ever closes."""
_EAGER_BYTES: Final = 256 * 1024
"""A body announced as no larger than this is awaited together with its head: one wake-up instead of two."""


class Until(Enum):
    """What a waiting task waits for."""

    HEAD = auto()
    SOME = auto()
    END = auto()


class NotSent(Exception):
    """The reused connection was already closed by the peer: it has received nothing of the request."""


class Connection(asyncio.Protocol):
    """Bytes between one socket and one `Answer`. `on_lost` is called once, when the socket is gone."""

    __slots__ = (
        "_acked_at_start",
        "_acked_before",
        "_answer",
        "_error",
        "_label",
        "_loop",
        "_lost",
        "_on_lost",
        "_paused",
        "_probe",
        "_sent_bytes",
        "_timer",
        "_transport",
        "_until",
        "_waiter",
        "exchanges",
        "idle_since",
    )

    def __init__(self, label: str, probe: Probe, on_lost: Callable[[Connection], None]) -> None:
        self._label = label
        self._probe = probe
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None
        self._until = Until.END
        self._paused = False
        self._lost = False
        self._acked_at_start = 0
        self._acked_before = 0
        self._sent_bytes = 0
        self.exchanges = 0
        self.idle_since = 0.0

    # What the pool does with it

    def fit_for_reuse(self) -> bool:
        """Whether the peer still listens, as far as the kernel knows.

        The kernel is not asked (a system call) about a connection that served a moment ago, if what the peer had
        acknowledged before a request can be told from our own count should the peer have closed after all.
        """
        transport = self._transport
        if self._lost or transport is None or transport.is_closing():
            return False
        if self._acked_at_start and self._loop.time() - self.idle_since < _FRESH_S:
            return True
        facts = self._probe(transport)
        self._acked_before = facts.acked_bytes
        return facts.open

    def send(self, head: bytes, body: bytes, answer: Answer, when: float) -> None:
        """Send the one request of this exchange; `when` is its deadline on the loop's clock."""
        transport = self._transport
        if transport is None or self._lost:
            raise UpstreamUnavailable(f"upstream {self._label} closed the connection")
        self._answer = answer
        self.exchanges += 1
        self._timer = self._loop.call_at(when, self._expire)
        if self._acked_at_start:
            self._acked_before = self._acked_at_start + self._sent_bytes
        data = head + body
        self._sent_bytes += len(data)
        transport.write(data)

    async def wait(self, until: Until) -> None:
        """Return when the answer is that far. Whatever else happens, cancellation included, closes the connection."""
        if self._error is None and not self._reached(until):
            self._until = until
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            except BaseException:
                self.abort()
                raise
            finally:
                self._waiter = None
        if self._error is not None:
            raise self._error

    def expect_by(self, when: float | None) -> None:
        """Move the deadline of the exchange; `None` takes it away."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None and self._answer is not None:
            self._timer = self._loop.call_at(when, self._expire)

    def resume(self) -> None:
        """The reader has taken what was buffered: let the peer send on."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def finish(self) -> bool:
        """End the exchange. Returns whether the connection can carry another; it is closed if not."""
        answer, transport = self._answer, self._transport
        self.expect_by(None)
        self._answer = None
        clean = answer is not None and answer.complete and answer.keep_alive and not self._lost
        if clean and transport is not None and not transport.is_closing() and transport.get_write_buffer_size() == 0:
            self.resume()
            return True
        if answer is not None:
            answer.abandon()
        self.abort()
        return False

    def abort(self) -> None:
        """Close at once: this is what cancels a call (MCP 2026-07-28, basic/transports, "Cancellation")."""
        if self._transport is not None:
            self._transport.abort()

    def fail(self, error: InterlockError) -> None:
        """End the exchange with this error."""
        self._give_up(error)

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its ancestry
        watch_over(transport)
        if transport.get_extra_info("sslcontext") is None:  # under TLS more bytes travel than we count
            self._acked_at_start = self._probe(transport).acked_bytes  # 1 on Linux, for the handshake; 0: unknown

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        answer = self._answer
        if answer is None:  # nobody asked: whatever it is must not become the answer to the next request
            self.abort()
            return
        try:
            answer.feed(data)
        except UpstreamProtocolError as exc:
            self._give_up(exc)
            return
        if self._waiter is not None and self._reached(self._until):
            self._wake()
        if answer.max_bytes is None and answer.buffered > _HIGH_WATER and not self._paused:
            self._paused = True
            if self._transport is not None:
                self._transport.pause_reading()

    def eof_received(self) -> None:
        """See `asyncio.Protocol`. Returns nothing, so that the transport closes itself."""
        self._ended(closed_by_peer=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        # A broken pipe, other than a reset, means that the peer's end-of-stream came before our bytes were refused.
        self._ended(closed_by_peer=isinstance(exc, BrokenPipeError), reset=exc is not None)
        self._lost = True
        self._on_lost(self)

    def _ended(self, *, closed_by_peer: bool, reset: bool = False) -> None:
        answer = self._answer
        if answer is None or self._error is not None:
            return
        if closed_by_peer and not answer.started and self._nothing_arrived():
            self._give_up(NotSent())
            return
        if reset and not answer.complete:
            self._give_up(UpstreamUnavailable(f"upstream {self._label} dropped the connection during the call"))
            return
        try:
            answer.end()
        except UpstreamUnavailable as error:
            self._give_up(error)
            return
        self._wake()

    def _nothing_arrived(self) -> bool:
        """Whether the peer closed before a byte of this request reached it.

        Only for a connection that served before: there the count of acknowledged bytes is known to work, and the
        end-of-stream carries the peer's last word on what it received.
        """
        if self.exchanges < 2 or self._acked_before == 0 or self._transport is None:
            return False
        return self._probe(self._transport).acked_bytes <= self._acked_before

    def _reached(self, until: Until) -> bool:
        answer = self._answer
        if answer is None or answer.complete:
            return True
        if until is Until.HEAD:
            return answer.head_done and not 0 <= answer.content_length <= _EAGER_BYTES
        return until is Until.SOME and answer.buffered > 0

    def _expire(self) -> None:
        self._timer = None
        self._give_up(UpstreamTimeout(f"upstream {self._label} did not answer in time"))

    def _give_up(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()

    def _wake(self) -> None:
        # The error travels in an attribute: one set on a future that nobody awaits any more would be logged.
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
