"""How the two ends of a machine's only wire talk: frames of a kind, a stream number and bytes.

Runs in the guest and beside QEMU, with the standard library alone. What comes out of a guest is hostile: a frame that
is too long or of no known kind ends the conversation (`BadFrame`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

TELL, OPEN, DATA, END, GONE, GRANT = range(1, 7)
"""A message (JSON); a new stream; bytes of one; no more bytes of it; nobody reads it; more bytes of it are welcome."""
_HEAD = struct.Struct(">BII")
_COUNT = struct.Struct(">I")


class BadFrame(Exception):
    """The other end does not keep to the protocol."""


class Frame(NamedTuple):
    """One unit of the wire."""

    kind: int
    stream: int
    data: bytes


def packed(kind: int, stream: int = 0, data: bytes = b"") -> bytes:
    """A frame as bytes."""
    return _HEAD.pack(kind, stream, len(data)) + data


def told(message: dict[str, Any]) -> bytes:
    """A message as a frame."""
    return packed(TELL, 0, json.dumps(message).encode())


def granted(stream: int, count: int) -> bytes:
    """So many more bytes are welcome."""
    return packed(GRANT, stream, _COUNT.pack(count))


def message_in(frame: Frame) -> dict[str, Any]:
    """What is said. Raises `BadFrame`."""
    try:
        message = json.loads(frame.data)
    except (ValueError, RecursionError) as exc:
        raise BadFrame("a message that is not JSON") from exc
    if not isinstance(message, dict):
        raise BadFrame("a message that is not an object")
    return message


def count_in(frame: Frame) -> int:
    """How many bytes are granted. Raises `BadFrame`."""
    if len(frame.data) != _COUNT.size:
        raise BadFrame("a grant without a count")
    count: int = _COUNT.unpack(frame.data)[0]
    return count


class Unpacker:
    """Bytes in, whole frames out."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. Raises `BadFrame`."""
        self._held += data
        while len(self._held) >= _HEAD.size:
            kind, stream, length = _HEAD.unpack_from(self._held)
            if length > self._most or not TELL <= kind <= GRANT:
                raise BadFrame(f"a frame of kind {kind} and {length} bytes")
            if len(self._held) < _HEAD.size + length:
                return
            payload = bytes(self._held[_HEAD.size : _HEAD.size + length])
            del self._held[: _HEAD.size + length]
            yield Frame(kind, stream, payload)
