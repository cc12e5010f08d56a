"""The small files that a box is shown: its own, or one copy for all boxes whose content is the same."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class View:
    """Files by relative path, and directories that are there even when they are empty. Anybody may read them."""

    files: Mapping[str, bytes]
    directories: Collection[str] = ()

    @property
    def digest(self) -> str:
        """Tells these from any others."""
        found = hashlib.sha256()
        for path in sorted(self.directories):
            found.update(b"directory %d %b\n" % (len(os.fsencode(path)), os.fsencode(path)))
        for path, content in sorted(self.files.items()):
            found.update(b"file %d %d %b\n" % (len(os.fsencode(path)), len(content), os.fsencode(path)))
            found.update(content)
        return found.hexdigest()

    def write(self, place: Path) -> None:
        """Put them down at a place that is not there yet, where nobody else may enter. Raises `OSError`."""
        os.mkdir(place)
        os.chmod(place, 0o755)  # noqa: S103  # below the gateway's own directory, which nobody else may enter
        for path in self.directories:
            _directory(place, path)
        for path, content in self.files.items():
            _directory(place, os.path.dirname(path))
            with open(place / path, "xb") as file:
                file.write(content)
                os.fchmod(file.fileno(), 0o555)

    def kept(self, root: Path) -> Path:
        """Where the one copy below `root` is, made at its first use. Raises `OSError`.

        It is only ever shown read-only, and never removed, since boxes that live may see it. There is one of some
        hundred kilobytes for each change of the host's own files.
        """
        place = root / self.digest
        if not place.is_dir():
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix="new-", dir=root))
            try:
                self.write(fresh / "made")
                _settled(fresh / "made", place)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        return place


def _settled(made: Path, place: Path) -> None:
    """All of it or nothing: the name appears when everything is there."""
    try:
        made.rename(place)
    except OSError:
        if not place.is_dir():  # else somebody else was faster
            raise


def _directory(place: Path, path: str) -> None:
    here = str(place)
    for name in filter(None, path.split("/")):
        here = os.path.join(here, name)
        if not os.path.isdir(here):
            os.mkdir(here)
            os.chmod(here, 0o755)  # noqa: S103  # as above
