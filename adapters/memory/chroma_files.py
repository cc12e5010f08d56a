"""What Chroma's files have that nobody wrote there.

hnswlib makes the files of a new index from memory that it has not cleared: whatever this process had there before, a
vector that was erased or a secret, would be on disk. It reads no more than its header counts, so the rest can go.
"""

from __future__ import annotations

from pathlib import Path
from struct import Struct, error
from typing import Final

_HEADER: Final = Struct("=iQQQQ")
"""How `header.bin` begins: layout, offset, how many elements there is room for, how many there are, bytes of one."""
_LAYOUT: Final = 1
_LENGTH_BYTES: Final = 4
"""Of an element in `length.bin`."""


def blank_unused(directory: Path) -> None:
    """Overwrite what an index's files have beyond its elements.

    Raises `RuntimeError` for files of another layout, and `OSError`.
    """
    for header in directory.glob("*/header.bin"):
        try:
            layout, _, _, count, size = _HEADER.unpack_from(header.read_bytes())
        except error as exc:
            raise RuntimeError("the header of its index is cut off") from exc
        if layout != _LAYOUT:
            raise RuntimeError(f"its index is laid out in an unknown way ({layout}): use chromadb 1.5")
        _blank(header.with_name("data_level0.bin"), count * size)
        _blank(header.with_name("length.bin"), count * _LENGTH_BYTES)


def _blank(path: Path, start: int) -> None:
    if path.stat().st_size <= start:
        return
    with path.open("r+b") as file:
        file.seek(start)
        rest = file.read()
        if rest.count(0) < len(rest):
            file.seek(start)
            file.write(bytes(len(rest)))
