"""The last bundle that was good, on disk, for a start at which its server cannot be asked."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.pdp.opa_bundle_archive import MAX_COMPRESSED
from gateway import codec

log = logging.getLogger("interlock.policy")

FOLDER: Final = "bundles"


@dataclass(frozen=True, slots=True)
class Kept:
    """A bundle as it was downloaded, with its ETag."""

    archive: bytes
    etag: str


class KeptBundle:
    """The place for bundles from one address, below the data directory. What is there is verified as a new one is."""

    def __init__(self, state_dir: Path, url: str) -> None:
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        self._archive = state_dir / FOLDER / f"{name}.tar.gz"
        self._about = self._archive.with_name(f"{name}.json")

    def read(self) -> Kept | None:
        """What was kept last. Without its ETag when the two files are not of one download."""
        try:
            with self._archive.open("rb") as file:
                archive = file.read(MAX_COMPRESSED + 1)
        except FileNotFoundError:
            return None
        except OSError as exc:
            log.warning("the bundle that was kept cannot be read: %s", exc)
            return None
        return Kept(archive, self._etag_of(archive))

    def write(self, archive: bytes, etag: str) -> None:
        """Keep this one in the place of the last. A disk that does not take it is told, and costs only the copy."""
        about = {"sha256": hashlib.sha256(archive).hexdigest(), "etag": etag}
        try:
            self._archive.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _put(self._archive, archive)
            _put(self._about, codec.dumps(about))
        except OSError as exc:
            log.warning("the bundle is in force, but cannot be kept for the next start: %s", exc)

    def _etag_of(self, archive: bytes) -> str:
        try:
            about = codec.loads(self._about.read_bytes())
        except (OSError, ValueError):
            return ""
        same = isinstance(about, dict) and about.get("sha256") == hashlib.sha256(archive).hexdigest()
        etag = about.get("etag") if isinstance(about, dict) and same else ""
        return etag if isinstance(etag, str) else ""


def _put(path: Path, content: bytes) -> None:
    """In one step, and on disk before the name leads to it. Only the owner can read it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
