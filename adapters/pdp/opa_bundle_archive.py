"""The archive that OPA calls a bundle, read as a hostile upload and written so that equal files give equal bytes.

An archive is a gzipped tar of plain files. Whatever else a tar can hold (links, devices, sparse files), names that
lead elsewhere or come twice, and anything that two readers could read differently is refused rather than skipped:
a file that is skipped here could be the one with the denials.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

from adapters.pdp.bundle import Fault, PolicyRefused
from adapters.pdp.opa_bundle_tar import DIRECTORY, FILE, DamagedTar, Entry, entries

MAX_COMPRESSED: Final = 16 << 20
MAX_EXPANDED: Final = 64 << 20
MAX_FILES: Final = 4_096
MAX_NAME: Final = 512

_GZIP: Final = 31


def refused(what: str, file: str = "bundle") -> PolicyRefused:
    """The bundle is not used, because of that."""
    return PolicyRefused([Fault(file, 0, 0, what)])


def unpacked(archive: bytes) -> dict[str, bytes]:
    """The files of an archive by their names, without a leading `/`. Raises `PolicyRefused`."""
    files: dict[str, bytes] = {}
    try:
        for entry in _plain_files(_expanded(archive)):
            name = _name(entry.name)
            if name in files:
                raise refused("is in the bundle twice", name)
            files[name] = entry.content
    except DamagedTar as exc:
        what = "has a damaged part inside" if exc.at else "is no tar archive that can be read"
        raise refused(f"{what}; build it again") from exc
    return files


def packed(files: Mapping[str, bytes]) -> bytes:
    """An archive of these files. The same files give the same bytes, whoever packs them and when."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(f"/{_name(name)}")
            entry.size = len(files[name])
            tar.addfile(entry, io.BytesIO(files[name]))
    return gzip.compress(raw.getvalue(), mtime=0)


def _expanded(archive: bytes) -> bytes:
    if len(archive) > MAX_COMPRESSED:
        raise refused(f"is larger than {MAX_COMPRESSED} bytes")
    reader = zlib.decompressobj(_GZIP)
    try:
        raw = reader.decompress(archive, MAX_EXPANDED + 1)
    except zlib.error as exc:
        raise refused("is not gzip: a bundle is a .tar.gz file, as `interlock policy bundle build` writes") from exc
    if len(raw) > MAX_EXPANDED or reader.unconsumed_tail:
        raise refused(f"is larger than {MAX_EXPANDED} bytes when expanded")
    if not reader.eof:
        raise refused("is cut off; get it again")
    if reader.unused_data:
        raise refused("has more after its end; build it again")
    return raw


def _plain_files(raw: bytes) -> Iterator[Entry]:
    """All but the directories, which say nothing."""
    for count, entry in enumerate(entries(raw)):
        if count >= MAX_FILES:
            raise refused(f"has more than {MAX_FILES} entries")
        if entry.kind == DIRECTORY:
            continue
        if entry.kind != FILE:
            raise refused("is a link or something else that is no plain file", _shown(entry.name))
        yield entry


def _name(name: str) -> str:
    """The name without what stands in front of it. Raises `PolicyRefused` for one that leads anywhere else."""
    plain = name.removeprefix("./").removeprefix("/")
    steps = plain.split("/")
    if len(name) > MAX_NAME or not name.isprintable() or "\\" in name or any(step in ("", ".", "..") for step in steps):
        raise refused("is not a name that a file of a bundle can have", _shown(name))
    return plain


def _shown(name: str) -> str:
    return repr(name[:80])[1:-1]
