"""Whether an index in Chroma's files can be loaded: hnswlib trusts them, and follows a wrong number out of its memory.

A process that was killed, or a machine that lost power, as the files were written may leave such ones.
"""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from struct import Struct, error
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_HEADER: Final = Struct("=iQQQQQQiIQQQdQ")
_LAYOUT: Final = 1
_LENGTH: Final = Struct("=I")
_COUNTED: Final = 0xFFFF
"""The bits of the first number of a list that say how many follow."""


class _Header(NamedTuple):
    layout: int
    offset: int
    room: int
    elements: int
    size: int
    label: int
    data: int
    top: int
    entry: int
    links: int
    links_at_bottom: int
    wanted_links: int
    factor: float
    construction: int


def check_graphs(directory: Path) -> None:
    """Raises `RuntimeError` for an index that leads out of itself, and `OSError`."""
    for path in directory.glob("*/header.bin"):
        try:
            header = _Header(*_HEADER.unpack(path.read_bytes()))
            sound = header.layout != _LAYOUT or _sound(header, path)  # of another one nothing is known here
        except (error, ValueError) as exc:
            raise RuntimeError("the files of its index are cut off") from exc
        if not sound:
            raise RuntimeError("the files of its index are damaged")


def _sound(header: _Header, path: Path) -> bool:
    bottom = 4 * (1 + header.links_at_bottom)
    if (header.offset, header.data, header.label, header.size) != (0, bottom, header.size - 8, header.label + 8):
        return False
    if header.elements > header.room or path.with_name("length.bin").stat().st_size < 4 * header.elements:
        return False
    if not header.elements:
        return True
    shape = (header.elements, header.size)
    stored: NDArray[np.uint8] = np.memmap(path.with_name("data_level0.bin"), np.uint8, "r", shape=shape)
    lists = np.ascontiguousarray(stored[:, :bottom]).view("<u4")
    levels = np.zeros(header.elements, np.int64)
    if not _leads_inside(lists, levels, 0):
        return False
    return _sound_above(header, path.with_name("link_lists.bin").read_bytes(), levels)


def _sound_above(header: _Header, data: bytes, levels: NDArray[np.int64]) -> bool:
    """Whether the levels above the lowest are, of which few elements have any."""
    one, start, parts = 4 * (1 + header.links), 0, list[tuple[int, bytes]]()
    for element in range(header.elements):
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size + length
        if length % one or start > len(data):
            return False
        levels[element] = length // one
        parts += zip(range(1, 1 + length // one), repeat(data[start - length : start]), strict=False)
    if header.entry >= header.elements or levels[header.entry] != header.top or levels.max() > header.top:
        return False
    lists = (np.frombuffer(part, "<u4").reshape(-1, 1 + header.links)[level - 1 : level] for level, part in parts)
    return all(_leads_inside(found, levels, level) for (level, _), found in zip(parts, lists, strict=True))


def _leads_inside(lists: NDArray[np.uint32], levels: NDArray[np.int64], level: int) -> bool:
    """Whether all that follows in the lists is there, and as high up."""
    counts = lists[:, 0] & _COUNTED
    if counts.max(initial=0) > lists.shape[1] - 1:
        return False
    led = lists[:, 1:][np.arange(lists.shape[1] - 1) < counts[:, None]]
    return not led.size or bool(led.max() < len(levels) and levels[led].min() >= level)
