"""Reads from a program or library which others it needs, without running it (ldd may).

The files may be anybody's, so whatever does not hold what its headers say counts as needing nothing.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

_MAGIC: Final = b"\x7fELF\x02\x01"
_HEADER: Final = struct.Struct("<16xHHIQQQIHHHHHH")
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
_DYNAMIC: Final = struct.Struct("<qQ")
_LOAD, _DYN, _INTERP = 1, 2, 3
_NEEDED, _STRTAB, _RPATH, _RUNPATH = 1, 5, 15, 29
_MOST_ENTRIES: Final = 4096
_LONGEST_NAME: Final = 4096
_MOST_LIBRARIES, _MOST_DIRECTORIES = 512, 64
"""Every library is looked for in every directory."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the loader will look for."""

    libraries: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    """Where it looks first; `$ORIGIN` is the file's own directory."""
    loader: str = ""


def is_elf(path: Path) -> bool:
    """Whether it is a 64-bit little-endian program or library."""
    try:
        with open(path, "rb", opener=_opener) as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def _opener(path: str, flags: int) -> int:
    """Of what may have become a pipe meanwhile we do not wait for the other end."""
    return os.open(path, flags | os.O_NONBLOCK)


def needs_of(path: Path) -> Needs:
    """What a file needs; nothing when it is no program, or cannot be read or understood."""
    try:
        with open(path, "rb", opener=_opener) as file:
            head = file.read(_HEADER.size)
            if not head.startswith(_MAGIC):
                return Needs()
            return _Image(file, head).needs()
    except (OSError, struct.error, ValueError, OverflowError):
        return Needs()


def loadable(data: bytes) -> bytes:
    """A program or library without what only debuggers read; other files as they are."""
    try:
        if not data.startswith(_MAGIC):
            return data
        fields = list(_HEADER.unpack_from(data))
        headers = [_PROGRAM.unpack_from(data, fields[4] + number * fields[8]) for number in range(fields[9])]
    except struct.error:
        return data
    end = max((header[2] + header[5] for header in headers if header[0] == _LOAD), default=len(data))
    fields[5] = fields[11] = fields[12] = 0  # there are no section headers any more
    return data[:16] + _HEADER.pack(*fields)[16:] + data[_HEADER.size : end]


class _Image:
    """One file, its headers at hand."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self._file = file
        fields = _HEADER.unpack(head)
        offset, size, count = fields[4], fields[8], fields[9]
        if size != _PROGRAM.size:
            raise ValueError("program headers of another size")
        table = self._at(offset, size * count)
        self._segments = [_PROGRAM.unpack_from(table, number * size) for number in range(count)]

    def needs(self) -> Needs:
        entries = self._dynamic()
        strings = self._file_offset(next((value for tag, value in entries if tag == _STRTAB), 0))
        needed = [value for tag, value in entries if tag == _NEEDED]
        libraries = tuple(self._text(strings + value) for value in needed[:_MOST_LIBRARIES])
        paths = [self._text(strings + value) for tag, value in entries if tag in (_RPATH, _RUNPATH)][:2]
        directories = tuple(directory for path in paths for directory in path.split(":") if directory)
        loader = next((self._text(segment[2]) for segment in self._segments if segment[0] == _INTERP), "")
        return Needs(libraries, directories[:_MOST_DIRECTORIES], loader)

    def _dynamic(self) -> list[tuple[int, int]]:
        for kind, _, offset, _, _, size, _, _ in self._segments:
            if kind == _DYN:
                data = self._at(offset, min(size, _MOST_ENTRIES * _DYNAMIC.size))
                return list(_DYNAMIC.iter_unpack(data[: len(data) // _DYNAMIC.size * _DYNAMIC.size]))
        return []

    def _file_offset(self, address: int) -> int:
        for kind, _, offset, start, _, size, _, _ in self._segments:
            if kind == _LOAD and start <= address < start + size:
                return int(address - start + offset)
        return 0

    def _text(self, offset: int) -> str:
        return self._at(offset, _LONGEST_NAME).partition(b"\0")[0].decode("utf-8", "surrogateescape")

    def _at(self, offset: int, count: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(count)
