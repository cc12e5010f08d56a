"""JSON objects, one a line, over a byte stream (MCP, basic/transports, "stdio")."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Final, Protocol

from gateway import codec
from gateway.codec import JsonObject
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamUnavailable
from gateway.lines import LineSplitter, LineTooLong

_MAX_NOISE_LINES: Final = 200


class ByteDuplex(Protocol):
    """What lines travel on: `ChildProcess` is one."""

    async def send(self, data: bytes, *, deadline_s: float) -> None: ...

    async def receive(self) -> bytes: ...

    def obituary(self) -> str: ...


class JsonLines:
    """Messages to and from one process.

    Lines that are no JSON object are noise (many programs greet on standard output): counted and skipped, until 200
    come in a row. An array is taken for a batch of messages, as MCP 2025-03-26 allows.
    """

    def __init__(
        self, duplex: ByteDuplex, *, max_line_bytes: int, label: str, max_noise_lines: int = _MAX_NOISE_LINES
    ) -> None:
        self._duplex = duplex
        self._lines = LineSplitter(max_line_bytes)
        self._label = repr(label)
        self._max_noise_lines = max_noise_lines
        self._noise_in_a_row = 0
        self._ready: deque[JsonObject] = deque()
        self._end: InterlockError | None = None
        self.noise_lines = 0
        """Lines skipped so far."""

    @property
    def closed(self) -> str:
        """Why there will be no more messages; empty while there may be."""
        return "" if self._end is None else str(self._end)

    async def send(self, message: Mapping[str, object], *, deadline_s: float = 10.0) -> None:
        """Send one message. Raises `UpstreamTimeout` if the peer does not read, `UpstreamUnavailable` if it is gone."""
        await self._duplex.send(codec.dumps(message) + b"\n", deadline_s=deadline_s)

    async def receive(self) -> JsonObject:
        """The next message.

        Raises `UpstreamUnavailable` at the end and `UpstreamProtocolError` for garbage, and the same ever after.
        """
        while not self._ready:
            if self._end is not None:
                raise self._end
            await self._receive_some()
        return self._ready.popleft()

    async def __aiter__(self) -> AsyncIterator[JsonObject]:
        """All messages until the peer ends; `closed` then says why."""
        while True:
            try:
                message = await self.receive()
            except (UpstreamUnavailable, UpstreamProtocolError):
                return
            yield message

    async def _receive_some(self) -> None:
        data = await self._duplex.receive()
        if not data:
            self._end = UpstreamUnavailable(self._duplex.obituary())
            return
        try:
            for line in self._lines.feed(data):
                self._take(line)
        except (LineTooLong, UpstreamProtocolError) as exc:
            self._end = UpstreamProtocolError(f"upstream {self._label} cannot be understood: {exc}")

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        messages = _messages_in(line)
        if not messages:
            self._count_noise()
            return
        self._noise_in_a_row = 0
        self._ready.extend(messages)

    def _count_noise(self) -> None:
        self.noise_lines += 1
        self._noise_in_a_row += 1
        if self._noise_in_a_row > self._max_noise_lines:
            raise UpstreamProtocolError(f"{self._noise_in_a_row} lines in a row were not JSON objects")


def _messages_in(line: bytes) -> list[JsonObject]:
    try:
        value = codec.loads(line)
    except ValueError:
        return []
    match value:
        case dict():
            return [value]
        case list():
            return [item for item in value if isinstance(item, dict)]
        case _:
            return []
