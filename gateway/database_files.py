"""The file of an SQLite database, made before SQLite makes it for everyone to read."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def make_private(file: Path) -> None:
    """Make the file (0600) if it is not there, and take it from everybody else if it is. Raises `OSError`.

    A database that exists is not opened, not even for a moment: closing any descriptor of it takes the locks of all
    connections that this process has to it (POSIX; sqlite.org/howtocorrupt.html section 2.2). The next process that
    closes the database would then remove its write-ahead log, and with it all that is written here from there on.
    """
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR))
    if not file.is_file():
        raise OSError(f"{file} is no file")
    file.chmod(0o600)  # SQLite gives its -wal and -shm files the mode of the database
