"""Holds a tunnel's first bytes until it is known that a TLS client in it asks for the host that was permitted.

Otherwise one permitted host of a content network would open all others behind the same addresses (domain fronting).

* A ClientHello that names another server than the `CONNECT` host, or cannot be read, ends the tunnel. So does any name
  in a tunnel to a bare address: policy was asked about the address only.
* One that names no server goes through: the server chooses, as it does for other protocols.
* Encrypted ClientHello is judged by its outer name. An inner one cannot be seen, and browsers send a random one always.
* What does not begin as TLS goes through as it is: policy permitted host and port, not a protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandboxes.egress.body import CutOff
from sandboxes.egress.hosts import BadRequest, canonical_host

MAX_HELLO: Final = 32 * 1024
MAX_RECORDS: Final = 16

_HANDSHAKE: Final = 0x16
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0


class SameServer:
    """Passes a tunnel's bytes on, the first of them only when they are as they should be. Fills `Body`."""

    complete = False

    def __init__(self, host: str) -> None:
        self._host = host
        self._held = b""
        self._judged = False

    def feed(self, data: bytes) -> bytes:
        """See `Body`."""
        if self._judged or not data:
            return data
        self._held += data
        if self._held[:1] == bytes([_HANDSHAKE]) and not self._seen():
            return b""
        self._judged, held, self._held = True, self._held, b""
        return held

    def _seen(self) -> bool:
        """Whether the hello is there as a whole; it is judged then."""
        hello = _handshake(self._held)
        if hello is None:
            if len(self._held) > MAX_HELLO:
                raise CutOff("a TLS hello that is too long")
            return False
        for name in _server_names(hello):
            if name != self._host:
                raise CutOff("TLS for another server than the tunnel's")
        return True


def _handshake(data: bytes) -> bytes | None:
    """The ClientHello within one or more TLS records (RFC 8446 sections 4 and 5.1); `None` until all of it is there."""
    message = bytearray()
    records = _Reader(data)
    for _ in range(MAX_RECORDS):
        if records.left < 5:
            return None
        kind, _, size = records.number(1), records.number(2), records.number(2)
        if kind != _HANDSHAKE or size == 0:
            raise CutOff("a TLS hello that cannot be read")
        message += records.some(min(size, records.left))
        if message[:1] not in (b"", bytes([_CLIENT_HELLO])):
            raise CutOff("TLS that does not begin with a hello")
        end = 4 + int.from_bytes(message[1:4])
        if len(message) >= 4 and len(message) >= end:
            return bytes(message[4:end])
    raise CutOff("a TLS hello in too many records")


def _server_names(hello: bytes) -> Iterator[str]:
    """Every name in the server_name extensions (RFC 6066 section 3), each in its one form."""
    reader = _Reader(hello)
    reader.some(2 + 32)  # version, random
    for length in (1, 2, 1):  # session, cipher suites, compression
        reader.some(reader.number(length))
    extensions = _Reader(reader.some(reader.number(2)) if reader.left else b"")
    while extensions.left:
        kind, content = extensions.number(2), extensions.some(extensions.number(2))
        if kind == _SERVER_NAME:
            yield from _names(content)


def _names(content: bytes) -> Iterator[str]:
    reader = _Reader(content)
    names = _Reader(reader.some(reader.number(2)))
    while names.left:
        kind, name = names.number(1), names.some(names.number(2))
        if kind != _HOST_NAME:
            raise CutOff("a TLS hello with an unknown kind of name")
        try:
            yield canonical_host(name.decode("ascii"))
        except (BadRequest, UnicodeDecodeError) as exc:
            raise CutOff("a TLS hello whose server name is none") from exc


class _Reader:
    """Takes numbers and pieces off bytes; short ones are a fault."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def some(self, size: int) -> bytes:
        if size > self.left:
            raise CutOff("a TLS hello that cannot be read")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.some(size))
