"""Lines out of a byte stream whose other end may be an enemy."""

from __future__ import annotations


class LineTooLong(Exception):
    """The other end sent a line of more bytes than it may. The text quotes none of it."""


class LineSplitter:
    """Cuts a byte stream into lines, and holds no more than one line of the allowed size and a piece."""

    __slots__ = ("_max_bytes", "_tail")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tail = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends. Raises `LineTooLong`, and has forgotten all then."""
        first, *rest = data.split(b"\n")
        self._tail += first
        lines: list[bytes] = []
        for piece in rest:
            lines.append(bytes(self._tail))
            self._tail = bytearray(piece)
        if any(len(line) > self._max_bytes for line in (*lines, self._tail)):
            self._tail.clear()
            raise LineTooLong(f"a line exceeds the limit of {self._max_bytes} bytes")
        return lines
