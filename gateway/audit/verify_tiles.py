"""Proves offline that an exported tile directory is the log that its checkpoint signed."""

from __future__ import annotations

from pathlib import Path

from gateway.audit.checkpoint import BadNote, Checkpoint, VerifierKey
from gateway.audit.merkle import HASH_BYTES, TILE_WIDTH, Frontier, leaf_hash, tree_root
from gateway.audit.report import Fault, Kept, Report, Unverifiable, kept_checkpoint, key_for
from gateway.audit.tiles import tile_path, tile_width, unpack_bundle
from gateway.audit.verify import expiry, read_entry


def is_tile_directory(directory: Path) -> bool:
    """Whether this looks like an export, and not like a data directory."""
    return (directory / "checkpoint").is_file()


def verify_tiles(directory: Path, *, key: VerifierKey | None = None, kept: bytes | None = None) -> Report:
    """Check every entry, tile and the checkpoint of an export. Raises `Unverifiable`, `OSError`."""
    remarks: list[str] = []
    key = key_for(directory, key, remarks)
    try:
        checkpoint = key.open((directory / "checkpoint").read_bytes())
    except BadNote as exc:
        raise Unverifiable(f"{directory}/checkpoint: {exc}") from exc
    report = Report(key.name, remarks=remarks)
    _TileCheck(directory, report, checkpoint, kept_checkpoint(kept, key, report)).run()
    return report


class _TileCheck:
    """Walks the entry bundles in order, growing the tree again."""

    def __init__(self, directory: Path, report: Report, checkpoint: Checkpoint, kept: Kept | None) -> None:
        self._directory, self._report, self._signed, self._kept = directory, report, checkpoint, kept
        self._tree = Frontier()
        self._expired_before = 0

    def run(self) -> None:
        """Fill in the report."""
        bundles = range(-(-self._signed.size // TILE_WIDTH))
        present = [n for n in bundles if self._file("entries", n).exists()]
        start = present[0] if present else len(bundles)
        self._report.first = self._report.size = start * TILE_WIDTH
        self._tree = Frontier.from_edge(self._edge_before(start))
        for index in range(start, len(bundles)):
            self._bundle(index)
        self._upper_tiles(start)
        self._end()

    def _file(self, level: int | str, index: int) -> Path:
        height = 0 if level == "entries" else int(level)
        return self._directory / tile_path(level, index, tile_width(height, index, self._signed.size))

    def _hashes(self, level: int, index: int) -> list[bytes]:
        """The hashes of a tile; what is missing or too short is empty."""
        try:
            blob = self._file(level, index).read_bytes()
        except FileNotFoundError:
            return []
        whole = len(blob) == HASH_BYTES * tile_width(level, index, self._signed.size)
        return [blob[at : at + HASH_BYTES] for at in range(0, len(blob), HASH_BYTES)] if whole else []

    def _edge_before(self, start: int) -> list[list[bytes]]:
        """The unfinished tiles of the tree before the first bundle that was not pruned."""
        edge: list[list[bytes]] = [[]]
        level = 1
        while start:
            edge.append(self._hashes(level, start // TILE_WIDTH)[: start % TILE_WIDTH])
            start //= TILE_WIDTH
            level += 1
        return edge

    def _bundle(self, index: int) -> None:
        first = index * TILE_WIDTH
        width = tile_width(0, index, self._signed.size)
        entries = self._entries(index, first, width)
        hashes = self._hashes(0, index)
        if len(hashes) != width:
            self._report.find(
                Fault.UNREADABLE, 0, (first, first + width - 1), f"{tile_path(0, index, width)}: not whole"
            )
            hashes = [leaf_hash(entry) for entry in entries]
        for seq, (entry, leaf) in enumerate(zip(entries, hashes, strict=False), first):
            self._entry(seq, entry, leaf)
        for leaf in hashes:
            self._tree.append(leaf)
            self._see()
        self._report.size = first + width

    def _entries(self, index: int, first: int, width: int) -> list[bytes]:
        name = tile_path("entries", index, width)
        try:
            entries = unpack_bundle((self._directory / name).read_bytes())
        except (FileNotFoundError, BadNote) as exc:
            self._report.find(Fault.REMOVED, 0, (first, first + width - 1), f"{name}: {type(exc).__name__}")
            return []
        if len(entries) != width:
            message = f"{name} holds {len(entries)} records, not {width}"
            self._report.find(Fault.REMOVED, 0, (first, first + width - 1), message)
        return entries

    def _entry(self, seq: int, entry: bytes, leaf: bytes) -> None:
        if leaf != leaf_hash(entry):
            self._report.find(Fault.CHANGED, 0, (seq, seq), "the record is not the one that was hashed")
        content = read_entry(entry)
        if content.get("seq") != seq:
            self._report.find(Fault.REORDERED, 0, (seq, seq), f"the record says that it is number {content.get('seq')}")
        self._expired_before = max(self._expired_before, expiry(content))

    def _upper_tiles(self, start: int) -> None:
        """Each hash above level 0 must be that of the full tile below it, as far as that was not pruned."""
        level, first = 1, start
        while self._signed.size >> (8 * level):
            for index in range(first // TILE_WIDTH, -(-(self._signed.size >> (8 * level)) // TILE_WIDTH)):
                self._upper_tile(level, index, first)
            level, first = level + 1, first // TILE_WIDTH

    def _upper_tile(self, level: int, index: int, first_child: int) -> None:
        width = tile_width(level, index, self._signed.size)
        hashes = self._hashes(level, index)
        span = TILE_WIDTH**level
        seqs = (index * TILE_WIDTH * span, (index * TILE_WIDTH + width) * span - 1)
        if len(hashes) != width:
            self._report.find(Fault.UNREADABLE, 0, seqs, f"{tile_path(level, index, width)}: not whole")
            return
        for child, node in enumerate(hashes, index * TILE_WIDTH):
            if child >= first_child and tree_root(self._hashes(level - 1, child)) != node:
                stretch = (child * span, (child + 1) * span - 1)
                message = f"{tile_path(level, index, width)} does not hold the hash of the tile below"
                self._report.find(Fault.CHANGED, 0, stretch, message)

    def _end(self) -> None:
        report, signed = self._report, self._signed
        if (self._tree.size, self._tree.root()) == (signed.size, signed.root):
            report.signed_size, report.checkpoints = signed.size, 1
        else:
            seqs = (report.first, max(report.first, signed.size - 1))
            report.find(Fault.CHANGED, 0, seqs, f"the tiles are not what the checkpoint of size {signed.size} signed")
        if report.first > self._expired_before:
            gap = (self._expired_before, report.first - 1)
            report.find(Fault.REMOVED, 0, gap, "no retention marker explains that these records are gone")
        if self._kept is not None:
            self._kept.judge(report)

    def _see(self) -> None:
        if self._kept is not None:
            self._kept.see(self._tree)
