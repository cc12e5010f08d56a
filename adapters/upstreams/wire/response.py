"""What an upstream answered over HTTP: whole, or piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from adapters.upstreams.wire.answer import Answer
from adapters.upstreams.wire.connection import Connection, Until


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. Header names are lower case; repeated ones are joined with a comma."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class StreamingResponse:
    """An answer whose head is in. Leaving the `async with` block before its end closes the connection.

    The deadline given to `HttpPool.open` covers the body too; `expect_within` moves it.
    """

    __slots__ = ("_answer", "_connection", "_release", "_time", "headers", "status")

    def __init__(
        self, connection: Connection, answer: Answer, release: Callable[[Connection], None], time: Callable[[], float]
    ) -> None:
        self._answer = answer
        self._connection: Connection | None = connection
        self._release = release
        self._time = time
        self.status = answer.status
        self.headers: Mapping[bytes, bytes] = answer.headers
        if answer.complete:
            self.close()

    @property
    def complete(self) -> bool:
        """Whether the whole body has arrived, so that `read` will not wait."""
        return self._answer.complete

    def expect_within(self, deadline_s: float | None) -> None:
        """The rest must arrive within this many seconds from now; `None` waits as long as the connection lasts."""
        if self._connection is not None:
            self._connection.expect_by(None if deadline_s is None else self._time() + deadline_s)

    async def read(self, max_bytes: int) -> bytes:
        """The rest of the body. Raises `UpstreamProtocolError` as soon as the body is known to exceed `max_bytes`."""
        try:
            self._answer.limit(max_bytes)
            if self._connection is not None:
                self._connection.resume()
                await self._connection.wait(Until.END)
        finally:
            self.close()
        return self._answer.take()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. While nobody takes a chunk, the peer is not read from."""
        while True:
            chunk = await self._next_chunk()
            if not chunk:
                return
            yield chunk

    async def _next_chunk(self) -> bytes:
        connection = self._connection
        if connection is None:
            return self._answer.take()
        connection.resume()
        try:
            await connection.wait(Until.SOME)
        except BaseException:
            self.close()
            raise
        if self._answer.complete:
            self.close()
        return self._answer.take()

    def close(self) -> None:
        """Give the connection back if the body is complete, and close it if not."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._release(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
