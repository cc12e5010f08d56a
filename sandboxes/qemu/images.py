"""Disk images with files of the host, made once and kept: a directory of the host as a read-only disk of a guest."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import SandboxFailure
from sandboxes.host.direct import opened
from sandboxes.spec import MIB

MOST_BYTES: Final = 2048 * MIB
"""Largest content of one image."""
_MOST_ENTRIES: Final = 200_000
_KEEP_BYTES: Final = 8192 * MIB
"""How much of what was not used for longest is kept."""
_MKFS_S: Final = 300
_UUID: Final = "8f2d7c1a-0000-4000-8000-000000000000"
_FEATURES: Final = "^has_journal,^resize_inode,^metadata_csum,^huge_file"
_SERIAL_CHARS: Final = 20
"""Longest serial number of a virtio disk."""
_FORMAT: Final = b"ext4 3\0"
CONTENT: Final = "content"
"""What of an image is shown: at its top there is a lost+found."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file, link or directory: where it is here, where it is to be, and what tells whether it changed."""

    source: str
    place: str
    status: os.stat_result

    def key(self) -> bytes:
        """What the image's name depends on."""
        kind, status = stat.S_IFMT(self.status.st_mode), self.status
        link = os.readlink(self.source) if kind == stat.S_IFLNK else ""
        changed = "" if kind == stat.S_IFDIR else f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
        return f"{self.place}\0{status.st_mode} {changed}\0{link}\n".encode("utf-8", "surrogateescape")


def items_below(source: str, place: str = "") -> Iterator[Item]:
    """A file, or all that is in a directory, as it is to stand at `place`.

    Raises `OSError`, also where a symbolic link is on the way: boxes may write to what is shown to others.
    """
    status = os.lstat(source)
    yield Item(source, place, status)
    todo = [(source, place)] if stat.S_ISDIR(status.st_mode) else []
    while todo:
        directory, at = todo.pop()
        for name, status in _listed(directory):
            item = Item(f"{directory}/{name}", f"{at}/{name}", status)
            yield item
            if stat.S_ISDIR(status.st_mode):
                todo.append((item.source, item.place))


def _listed(directory: str) -> list[tuple[str, os.stat_result]]:
    file = opened(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(file) as entries:
            return sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
    finally:
        os.close(file)


class Images:
    """A directory of images, each named by what is in it. Safe to use by many processes at once."""

    def __init__(self, directory: Path, mkfs: str = "mkfs.ext4") -> None:
        self._directory = directory
        self._mkfs = mkfs

    def keep(self, content: bytes, kind: str) -> Path:
        """A file with that content."""
        self._check_own()
        path = self._directory / f"{hashlib.sha256(content).hexdigest()}.{kind}"
        if not _fresh(path):
            with self._in_the_making(path) as made:
                made.write_bytes(content)
        return path

    def of(self, items: Iterable[Item], what: str) -> Path:
        """An image of these items. Raises `SandboxFailure` when they are too large or cannot be read."""
        self._check_own()
        try:
            listed = list(self.limited(items, what))
            path = self._directory / f"{_digest(listed)}.ext4"
            if not _fresh(path):
                self._make(path, listed, what)
                self._prune(path)
        except (OSError, subprocess.SubprocessError) as exc:
            said = getattr(exc, "stderr", b"") or b""
            detail = said.decode("utf-8", "replace").strip()[-300:] or str(exc)
            raise SandboxFailure(f"no disk image of {what} can be made: {detail}") from exc
        return path

    def limited(self, items: Iterable[Item], what: str) -> Iterator[Item]:
        """The items, as long as they are not too large for an image. Raises `SandboxFailure`."""
        size = 0
        for count, item in enumerate(items):
            size += item.status.st_size
            if size > MOST_BYTES or count >= _MOST_ENTRIES:
                raise SandboxFailure(
                    f"{what} is more than {MOST_BYTES // MIB} MiB or {_MOST_ENTRIES} files, and a virtual machine gets "
                    "a copy; bind a smaller directory or choose another driver"
                )
            yield item

    def _make(self, path: Path, items: list[Item], what: str) -> None:
        size = sum(-(-item.status.st_size // 4096) * 4096 + 4096 for item in items)
        blocks = (size + size // 16 + 8 * MIB) // 4096
        with self._in_the_making(path) as made, tempfile.TemporaryDirectory(dir=self._directory) as staging:
            stage = Path(staging, "root")
            _staged(stage, items)
            command = [_found(self._mkfs), "-q", "-F", "-b", "4096", "-O", _FEATURES, "-m", "0", "-U", _UUID]
            command += ["-E", f"hash_seed={_UUID},lazy_itable_init=0,root_owner=0:0", "-N", str(len(items) + 256)]
            command += ["-d", str(stage), str(made), str(blocks + len(items) // 8)]
            env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "E2FSPROGS_FAKE_TIME": "1000000000"}
            subprocess.run(command, check=True, capture_output=True, env=env, timeout=_MKFS_S)  # noqa: S603  # ours

    def _check_own(self) -> None:
        """What others may write to could hold an image that is not what its name says."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._directory.lstat()
        except OSError as exc:
            raise SandboxFailure(f"disk images cannot be kept in {self._directory}: {exc.strerror}") from exc
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise SandboxFailure(
                f"{self._directory} is not a directory that only this user may write to, so no disk image is kept there"
            )

    def _in_the_making(self, path: Path) -> _Making:
        return _Making(path)

    def _prune(self, newest: Path) -> None:
        """Make room: away with what was not used for longest. Machines that run keep what they have open."""
        files = [(path.stat().st_mtime, path.stat().st_blocks * 512, path) for path in self._directory.glob("*.ext4")]
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= _KEEP_BYTES:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                total -= size


class _Making:
    """A file that gets its name when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")

    def __enter__(self) -> Path:
        return self._made

    def __exit__(self, kind: object, exc: object, traceback: object) -> None:
        if kind is None:
            self._made.chmod(0o444)  # the directory is closed to others; a box's user gets the file alone
            self._made.rename(self._path)
        else:
            self._made.unlink(missing_ok=True)


def serial_of(image: Path) -> str:
    """What the guest knows the disk by."""
    return image.name[:_SERIAL_CHARS]


def _fresh(path: Path) -> bool:
    """Whether it is there; then it was used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _digest(items: Iterable[Item]) -> str:
    digest = hashlib.sha256(_FORMAT)
    for item in items:
        digest.update(item.key())
    return digest.hexdigest()


def _staged(stage: Path, items: list[Item]) -> None:
    """Copy the items to where they are to be below `stage`, hard links kept as such."""
    stage.mkdir(mode=0o755)
    first: dict[tuple[int, int], Path] = {}
    made: set[Path] = set()
    for item in items:
        target = Path(f"{stage}/{CONTENT}{item.place}")
        if target.parent not in made:
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            made.add(target.parent)
        mode = item.status.st_mode
        if stat.S_ISDIR(mode):
            target.mkdir(exist_ok=True)
            target.chmod(0o700 if _hidden(item, stat.S_IXOTH) else 0o755)
        elif stat.S_ISLNK(mode):
            target.symlink_to(os.readlink(item.source))
        elif stat.S_ISREG(mode):
            _copied(item, target, first)


def _copied(item: Item, target: Path, first: dict[tuple[int, int], Path]) -> None:
    identity = (item.status.st_dev, item.status.st_ino)
    if identity in first:
        os.link(first[identity], target)
        return
    first[identity] = target
    with open(opened(item.source, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if (found.st_dev, found.st_ino) != identity:
            raise OSError(errno.ESTALE, "it was replaced meanwhile", item.source)
        if item.status.st_mode & stat.S_IROTH and _link(file.fileno(), target):
            return  # without a copy, where it is on the same file system
        with open(target, "xb") as copy:
            shutil.copyfileobj(file, copy)
    mode = 0o555 if item.status.st_mode & 0o111 else 0o444
    target.chmod(mode & 0o700 if _hidden(item, stat.S_IROTH) else mode)
    os.utime(target, ns=(item.status.st_mtime_ns, item.status.st_mtime_ns))


def _hidden(item: Item, right: int) -> bool:
    """Whether a box's own user could not get at it in a bind either; where we have none to give, it is our own."""
    return os.geteuid() == 0 and not item.status.st_mode & right


def _link(source: int, target: Path) -> bool:
    try:
        os.link(f"/proc/self/fd/{source}", target, src_dir_fd=source)  # by which the descriptor is followed
    except OSError:
        return False
    return True


def _found(program: str) -> str:
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise SandboxFailure(
            f"there is no {program!r} here; install e2fsprogs (Debian, Ubuntu: apt-get install e2fsprogs)"
        )
    return path
