"""Sends one push notification to its receiver: over a connection to an address that was judged for this very try."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import anyio

from adapters.upstreams.a2a.push_addresses import Receivers
from adapters.upstreams.wire.http import HttpPool, Origin
from gateway.a2a.push_outbox import Deliver, Letter, Receipt
from gateway.errors import InterlockError, InvalidCall, PolicyDenied, UpstreamTimeout, UpstreamUnavailable

TIMEOUT_S: Final = 15.0
"""Section 4.3.3 recommends 10 to 30 seconds."""

_AGAIN: Final = frozenset({408, 425, 429})
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


class PushSender:
    """One try at a time (`gateway.a2a.push_outbox.Deliver`). No redirect is followed and no answer's body is read."""

    def __init__(
        self, receivers: Receivers, *, timeout_s: float = TIMEOUT_S, tls: ssl.SSLContext | None = None
    ) -> None:
        self._receivers = receivers
        self._timeout_s = timeout_s
        self._tls = tls

    async def deliver(self, letter: Letter) -> Receipt:
        """What became of the try; what went wrong is told without address or secret."""
        try:
            with anyio.fail_after(self._timeout_s):
                return await self._sent(letter)
        except TimeoutError:
            return _failed(UpstreamTimeout())
        except InterlockError as exc:
            return _failed(exc)

    async def _sent(self, letter: Letter) -> Receipt:
        origins, target = await self._receivers.pinned(letter.url)
        failure: InterlockError = UpstreamUnavailable("no address")
        for left, origin in zip(range(len(origins), 0, -1), origins, strict=True):
            pool = self._pool(origin, left)
            async with pool:
                try:
                    return await self._exchange(pool, target, letter)
                except (UpstreamUnavailable, UpstreamTimeout) as exc:
                    if pool.stats().opened:  # it may have been received: what comes next is another try
                        raise
                    failure = exc
        raise failure

    def _pool(self, origin: Origin, left: int) -> HttpPool:
        return HttpPool(
            origin,
            label="a push notification receiver",
            max_connections=1,
            connect_timeout_s=self._timeout_s / (left + 1),
            tls=self._tls,
        )

    async def _exchange(self, pool: HttpPool, target: str, letter: Letter) -> Receipt:
        answer = await pool.open("POST", target, letter.headers, letter.body, deadline_s=self._timeout_s)
        async with answer:
            return receipt_of(answer.status, answer.headers.get(b"retry-after", b"").decode("latin-1"))


def _failed(error: InterlockError) -> Receipt:
    """The rules for errors of ours that have no status."""
    match error:
        case PolicyDenied():
            return Receipt("refused", why=str(error))
        case InvalidCall():
            return Receipt("refused", why="it cannot be sent as an HTTP request")
        case UpstreamTimeout():
            return Receipt("retry", why="the receiver did not answer in time")
        case UpstreamUnavailable():
            return Receipt("retry", why="the receiver cannot be reached, or went away")
        case _:
            return Receipt("retry", why="the receiver does not speak HTTP/1.1")


def receipt_of(status: int, retry_after: str) -> Receipt:
    """What a receiver's status means. Only what may change by itself is tried again."""
    if 200 <= status < 300:
        return Receipt("delivered", status)
    if status >= 500 or status in _AGAIN:
        return Receipt("retry", status, "the receiver answered with an error", _seconds(retry_after))
    why = "the receiver redirects, which is not followed" if 300 <= status < 400 else "the receiver refused it"
    return Receipt("refused", status, why)


def _seconds(retry_after: str) -> float:
    """What `Retry-After` asks for (RFC 9110 section 10.2.3): seconds, or a date."""
    if _SECONDS.fullmatch(retry_after):
        return float(retry_after)
    try:
        when = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _fits(sender: PushSender) -> Deliver:
    return sender.deliver
