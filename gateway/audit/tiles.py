"""The log as static files in the C2SP tlog-tiles layout, for any web server and any C2SP client.

c2sp.org/tlog-tiles: `checkpoint`, `tile/<L>/<N>[.p/<W>]` and `tile/entries/<N>[.p/<W>]`. After retention has deleted
segments the export begins at the next multiple of 256 ("Pruning"): tiles that end at or before it are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.audit.checkpoint import BadNote, Checkpoint, VerifierKey
from gateway.audit.keys import VERIFIER_KEY, load_verifier
from gateway.audit.merkle import TILE_WIDTH, Frontier, leaf_hash, tree_root
from gateway.audit.segment import Meta, Row, read_meta, read_rows, read_signed, reading, segment_paths


def tile_path(level: int | str, index: int, width: int = TILE_WIDTH) -> str:
    """Where a tile lives; `level` is a number or `entries`; `width` below 256 names a partial tile."""
    groups = [f"{index % 1000:03}"]
    while index := index // 1000:
        groups.append(f"x{index % 1000:03}")
    suffix = f".p/{width}" if width < TILE_WIDTH else ""
    return f"tile/{level}/{'/'.join(reversed(groups))}{suffix}"


def tile_width(level: int, index: int, size: int) -> int:
    """How many hashes that tile has in a tree of `size` entries; 0 when there is no such tile."""
    return max(0, min(TILE_WIDTH, (size >> (8 * level)) - index * TILE_WIDTH))


def pack_bundle(entries: Sequence[bytes]) -> bytes:
    """An entry bundle: each entry after its 16-bit big-endian length."""
    return b"".join(len(entry).to_bytes(2) + entry for entry in entries)


def unpack_bundle(blob: bytes) -> list[bytes]:
    """The entries of a bundle. Raises `BadNote` when it is cut short."""
    entries, start = [], 0
    while start < len(blob):
        end = start + 2 + int.from_bytes(blob[start : start + 2])
        if start + 2 > len(blob) or end > len(blob):
            raise BadNote("the entry bundle is cut short")
        entries.append(blob[start + 2 : end])
        start = end
    return entries


@dataclass(frozen=True, slots=True)
class Export:
    """What an export wrote."""

    checkpoint: Checkpoint
    first: int
    """The minimum index (tlog-tiles, "Pruning"): entries before it are not in the export."""
    files: int


def export_tiles(directory: Path, target: Path) -> Export:
    """Write, or bring up to date, the tiles of the log in `directory` (`<data>/audit`) under `target`.

    Everything up to the last signed checkpoint. The checkpoint is replaced last, so a reader at any moment sees a
    whole tree. Raises `BadNote` when the log or the target is not what it should be, `OSError`, `sqlite3.Error`.
    """
    paths = [path for _, path in segment_paths(directory)]
    if not paths:
        raise BadNote(f"{directory}: there is no audit log here")
    key = load_verifier(directory)
    with reading(paths[-1]) as db:
        note = read_signed(db)[-1].note
    checkpoint = key.open(note.encode())
    _refuse_other_log(target, key, checkpoint)
    with reading(paths[0]) as db:
        writer = _Writer(target, checkpoint.size, read_meta(db))
    for path in paths:
        with reading(path) as db:
            writer.add(read_rows(db))
    writer.finish()
    if writer.root() != checkpoint.root:
        raise BadNote("the entries are not those of the last checkpoint; run 'interlock audit verify'")
    _write(target / VERIFIER_KEY, f"{key}\n".encode())
    _write(target / "checkpoint", note.encode())
    return Export(checkpoint, writer.first, writer.files)


@dataclass(slots=True)
class _Writer:
    """Turns a run of entries into tiles, beginning where the oldest segment does (at a multiple of 256)."""

    target: Path
    size: int
    meta: Meta
    files: int = 0
    _levels: list[list[bytes]] = field(default_factory=list)
    _finished: list[int] = field(default_factory=list)
    _bundle: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._levels = [list(tile) for tile in self.meta.edge]
        self._finished = [(self.first >> (8 * level)) // TILE_WIDTH for level in range(len(self._levels))]

    @property
    def first(self) -> int:
        return self.meta.first

    def add(self, rows: Iterator[Row]) -> None:
        """Take entries in order; those after the checkpoint are not part of the export."""
        for row in rows:
            if row.seq < self.size:
                self._bundle.append(row.body)
                self._push(0, leaf_hash(row.body))

    def finish(self) -> None:
        """Write the partial tiles of the checkpoint's size."""
        for level, tile in enumerate(self._levels):
            if tile:
                self._put_tile(level, tile)

    def root(self) -> bytes:
        """Root of everything added."""
        return Frontier.from_edge(self._levels).root()

    def _push(self, level: int, node: bytes) -> None:
        if level == len(self._levels):
            self._levels.append([])
            self._finished.append(0)
        tile = self._levels[level]
        tile.append(node)
        if len(tile) == TILE_WIDTH:
            self._put_tile(level, tile)
            self._finished[level] += 1
            self._levels[level] = []
            self._push(level + 1, tree_root(tile))

    def _put_tile(self, level: int, tile: Sequence[bytes]) -> None:
        index = self._finished[level]
        self._put(tile_path(level, index, len(tile)), b"".join(tile))
        if level == 0:
            self._put(tile_path("entries", index, len(tile)), pack_bundle(self._bundle))
            self._bundle = []

    def _put(self, name: str, blob: bytes) -> None:
        """Tiles never change, so one that is there already is left alone."""
        path = self.target / name
        if not path.exists():
            _write(path, blob)
            self.files += 1


def _refuse_other_log(target: Path, key: VerifierKey, checkpoint: Checkpoint) -> None:
    path = target / "checkpoint"
    if not path.exists():
        return
    try:
        exported = key.open(path.read_bytes())
    except BadNote as exc:
        raise BadNote(f"{target} holds the export of another log ({exc}); choose an empty directory") from exc
    if exported.size > checkpoint.size:
        raise BadNote(f"{target} holds {exported.size} entries of this log, which now has only {checkpoint.size}")


def _write(path: Path, blob: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(blob)
    os.replace(draft, path)
