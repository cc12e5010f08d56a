"""Finds the end of a request's body, so that nothing behind it reaches the origin as a second request."""

from __future__ import annotations

import re
from typing import Final, Protocol

_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,12}")
_MAX_SIZE_LINE: Final = 12


class CutOff(Exception):
    """The connection must not go on, because of what is sent over it. The message says why, for the record."""


class Body(Protocol):
    """What goes to the origin of the bytes that a client sends."""

    @property
    def complete(self) -> bool:
        """Whether no more belongs to this request."""

    def feed(self, data: bytes) -> bytes:
        """What of it may be sent now; what is behind the end is dropped. Raises `CutOff`."""


class Exact:
    """As many bytes as `Content-Length` says."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def complete(self) -> bool:
        """See `Body`."""
        return self._left == 0

    def feed(self, data: bytes) -> bytes:
        """See `Body`."""
        taken = data[: self._left]
        self._left -= len(taken)
        return taken


class Chunked:
    """Chunks (RFC 9112 section 7.1) in their plainest form, written anew: no extensions and no trailers."""

    def __init__(self) -> None:
        self._held = b""
        """What was received and not yet understood, from `_at` on: between two calls no more than part of a line."""
        self._at = 0
        self._left = 0
        self._in_chunk = False
        self._last = False
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """See `Body`."""
        self._held, self._at = self._held[self._at :] + data, 0
        out: list[bytes] = []
        while not self.complete and self._step(out):
            pass
        return b"".join(out)

    def _step(self, out: list[bytes]) -> bool:
        """Understand one piece more, if it is there."""
        if self._left:
            return self._content(out)
        return self._line_break(out) if self._in_chunk else self._size(out)

    def _size(self, out: list[bytes]) -> bool:
        end = self._held.find(b"\r\n", self._at, self._at + _MAX_SIZE_LINE + 2)
        if end < 0:
            if len(self._held) - self._at >= _MAX_SIZE_LINE + 2:
                raise CutOff("a chunk without its size")
            return False
        line = self._held[self._at : end]
        if not _SIZE.fullmatch(line):
            raise CutOff("a chunk size that is none")
        self._at, self._left, self._in_chunk = end + 2, int(line, 16), True
        self._last = self._left == 0
        out.append(b"%x\r\n" % self._left)
        return True

    def _content(self, out: list[bytes]) -> bool:
        taken = self._held[self._at : self._at + self._left]
        self._at += len(taken)
        self._left -= len(taken)
        out.append(taken)
        return bool(taken)

    def _line_break(self, out: list[bytes]) -> bool:
        found = self._held[self._at : self._at + 2]
        if not b"\r\n".startswith(found):
            raise CutOff("a chunk that is longer than its size, or a trailer")
        if len(found) < 2:
            return False
        self._at += 2
        self._in_chunk, self.complete = False, self._last
        out.append(found)
        return True
