"""The entries of a tar archive from somebody else, in time that grows with its length and no faster.

The standard library's reader searches headers with regular expressions: 200 bytes of an archive stop the process for
minutes, before a signature could be looked at (CVE-2024-6232). This one reads what bundles are made of (POSIX.1-2001
with its extended headers, GNU's long names) and nothing that two readers read differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

FILE: Final = b"0"
DIRECTORY: Final = b"5"

_BLOCK: Final = 512
_POSIX: Final = b"ustar\0"
_OLD_FILE: Final = b"\0"
_EXTENDED: Final = b"x"
_EXTENDED_FOR_ALL: Final = b"g"
_LONG_NAME: Final = b"L"
_LONGEST_LENGTH: Final = 9


class DamagedTar(ValueError):
    """The archive cannot be read, from the byte `at` on."""

    def __init__(self, at: int) -> None:
        super().__init__(f"not a tar archive from byte {at} on")
        self.at = at


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: `kind` is the type flag of its header, `FILE` for files in archives of any age."""

    name: str
    kind: bytes
    content: bytes


def entries(raw: bytes) -> Iterator[Entry]:
    """What is in the archive, in its order. Raises `DamagedTar`."""
    at, more = 0, dict[bytes, bytes]()
    while at < len(raw) or not at:
        header = raw[at : at + _BLOCK]
        if header and not header.strip(b"\0"):  # the end, after which nothing may come
            _check(not more and not raw[at:].strip(b"\0"), at)
            return
        try:
            entry, used = _entry(header, raw, at, more)
            more = _said_of_next(entry, more)
        except ValueError as exc:
            raise DamagedTar(at) from exc
        if entry.kind not in (_EXTENDED, _LONG_NAME, _EXTENDED_FOR_ALL):
            yield entry
        at += used
    _check(not more and at == len(raw), at)


def _entry(header: bytes, raw: bytes, at: int, more: dict[bytes, bytes]) -> tuple[Entry, int]:
    """What this header begins, and how many bytes it takes."""
    _check(len(header) == _BLOCK and _octal(header[148:156]) == sum(header) - sum(header[148:156]) + 8 * ord(" "), at)
    kind = header[156:157]
    size = int(more[b"size"]) if b"size" in more else _octal(header[124:136])
    name = more[b"path"].decode() if b"path" in more else _name(header)
    if kind == _OLD_FILE:
        kind = DIRECTORY if name.endswith("/") else FILE
    _check(kind != DIRECTORY or not size, at)  # some readers skip so many bytes, some do not
    start = at + _BLOCK
    content = raw[start : start + size]
    padded = -(-size // _BLOCK) * _BLOCK
    _check(start + padded <= len(raw), at)
    return Entry(name, kind, content), _BLOCK + padded


def _said_of_next(entry: Entry, more: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What an entry says of the one after it, beside `more`."""
    if entry.kind == _EXTENDED:
        return _together(more, _records(entry.content))
    if entry.kind == _LONG_NAME:
        return _together(more, {b"path": entry.content.partition(b"\0")[0]})
    if entry.kind != _EXTENDED_FOR_ALL:
        return {}
    if _records(entry.content):
        raise ValueError("a name or size for every entry")
    return more


def _together(more: dict[bytes, bytes], said: dict[bytes, bytes]) -> dict[bytes, bytes]:
    if more:
        raise ValueError("two headers for one entry")
    return said


def _records(content: bytes) -> dict[bytes, bytes]:
    """The name and size in an extended header (POSIX.1-2017, pax, "pax Extended Header"); the rest says nothing."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + _LONGEST_LENGTH)
        length = content[at:space] if space > at else b""
        end = at + int(length) if length.isdigit() else 0
        name, equals, value = content[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(content) or content[end - 1 : end] != b"\n" or not equals:
            raise ValueError("not a record of an extended header")
        if name.startswith(b"GNU.sparse.") or name in found:
            raise ValueError("a record that not every reader reads alike")
        if name in (b"path", b"size"):
            found[name] = value
        at = end
    if not found.get(b"size", b"0").isdigit() or len(found.get(b"size", b"")) > _LONGEST_LENGTH:
        raise ValueError("not a size")
    return found


def _name(header: bytes) -> str:
    name, prefix = (field.partition(b"\0")[0].decode() for field in (header[:100], header[345:500]))
    if header[257:263] != _POSIX and any(header[345:500]):
        raise ValueError("a field that only some readers take for a part of the name")
    return f"{prefix}/{name}" if prefix else name


def _octal(field: bytes) -> int:
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise ValueError("not a number")
    return int(digits or b"0", 8)


def _check(holds: bool, at: int) -> None:
    if not holds:
        raise DamagedTar(at)
