"""What every box looks like from inside, whichever driver builds it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

from gateway.errors import SandboxFailure
from sandboxes.spec import PROXY_PORT, WORK, Bind, BoxSpec

UID: Final = 1000
"""The program's user and group as it sees them, where the driver can choose."""
HOSTNAME: Final = "box"
EGRESS_SOCKET: Final = "/run/egress.sock"
GUEST: Final = "/run/interlock"
"""Where `guest_files` are found in the box, read-only."""
GUEST_SOURCE: Final = Path(__file__).parent / "guest"
SHIM: Final = f"{GUEST}/enter.pl"
PERL: Final = "/usr/bin/perl"
"""Essential on Debian and Ubuntu, and up in a millisecond, which a second Python would not be."""

TMP: Final = "/tmp"  # noqa: S108  # the box's own
SHM: Final = "/dev/shm"  # noqa: S108  # the box's own
SCRATCH: Final = (WORK, TMP, SHM)
"""What is memory of limited size, writable and never executable."""

_TOPS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
BASE_LINKS: Final = tuple((f"/{top}", os.readlink(f"/{top}")) for top in _TOPS if os.path.islink(f"/{top}"))
"""Symbolic links beside /usr where the base is the host's (`base=None`): (/bin, usr/bin), ..."""
_OWN: Final = frozenset({"proc", "sys", "dev", "run", "tmp", "workspace"})
"""What a box has of its own, whatever its base."""

_ETC_COPIES: Final = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/services",
    "/etc/protocols",
    "/etc/mime.types",
    "/etc/ssl/openssl.cnf",
)
_ETC_DIRECTORIES: Final = (
    "/etc/alternatives",
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/crypto-policies",
)
_LARGEST_COPY: Final = 4 * 1024 * 1024


def variables(spec: BoxSpec, egress: bool) -> dict[str, str]:
    """The environment of the program: all of it, and nothing of ours."""
    base = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": WORK, "TMPDIR": TMP, "LANG": "C.UTF-8"}
    return base | (_proxies() if egress else {}) | dict(spec.env) | dict(spec.secrets)


def _proxies() -> dict[str, str]:
    url = f"http://127.0.0.1:{PROXY_PORT}"
    names = ("http_proxy", "https_proxy", "all_proxy")
    found = {name: url for lower in names for name in (lower, lower.upper())}
    return found | {"no_proxy": "", "NO_PROXY": "", "NODE_USE_ENV_PROXY": "1"}


def etc_files(uid: int) -> dict[str, bytes]:
    """Files of /etc by path: made up where the host's would tell about the host, else small copies of the host's."""
    made = {
        "/etc/passwd": f"box:x:{uid}:{uid}:box:{WORK}:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        "/etc/group": f"box:x:{uid}:\nnogroup:x:65534:\n",
        "/etc/hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n",
        "/etc/hostname": f"{HOSTNAME}\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n",
    }
    return {path: text.encode() for path, text in made.items()} | dict(_copied())


def _copied() -> Iterator[tuple[str, bytes]]:
    for path in _ETC_COPIES:
        try:
            with open(path, "rb") as file:
                content = file.read(_LARGEST_COPY)
        except OSError:  # not on this system: programs do without it there too
            continue
        yield path, content


def etc_binds() -> tuple[Bind, ...]:
    """Directories of the host's /etc that hold no secret and that programs cannot do without, those that exist."""
    return tuple(Bind(Path(path)) for path in _ETC_DIRECTORIES if os.path.isdir(path))


@cache
def guest_files() -> dict[str, bytes]:
    """Our programs in the box by path. Copies, since the box's user need not be able to read our own files."""
    programs = (path for path in GUEST_SOURCE.iterdir() if path.suffix in {".pl", ".py"})
    return {f"{GUEST}/{path.name}": path.read_bytes() for path in sorted(programs)}


def base_binds(spec: BoxSpec) -> tuple[Bind, ...]:
    """What the box is made of, each at its place: /usr and so on of the host, or what is in the base.

    Beside them come `base_links`, the box's own /workspace, /tmp, /run, /dev and /proc, and at the host's base
    `etc_files`.
    """
    if spec.base is None:
        unmerged = [f"/{top}" for top in _TOPS if os.path.isdir(f"/{top}") and not os.path.islink(f"/{top}")]
        return tuple(Bind(Path(path)) for path in ("/usr", *unmerged))
    real = (entry for entry in _top_of(spec.base) if not entry.is_symlink())
    return tuple(Bind(Path(entry.path), f"/{entry.name}") for entry in real)


def base_links(spec: BoxSpec) -> tuple[tuple[str, str], ...]:
    """Symbolic links at the top of the box, as (place, target)."""
    if spec.base is None:
        return BASE_LINKS
    return tuple((f"/{entry.name}", os.readlink(entry.path)) for entry in _top_of(spec.base) if entry.is_symlink())


def _top_of(base: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(base) as entries:
            return sorted((item for item in entries if item.name not in _OWN), key=lambda item: item.name)
    except OSError as exc:
        raise SandboxFailure(f"the base {str(base)!r} cannot be read: {(exc.strerror or '').lower()}") from exc


def has_shim(spec: BoxSpec) -> bool:
    """Whether `entry` can do anything in this box: it needs a Perl there."""
    return os.path.isfile((spec.base or Path("/")) / PERL.lstrip("/"))


def entry(spec: BoxSpec, *, landlock: bool, egress: bool) -> tuple[str, ...]:
    """What stands in front of the command *in* the box: the second wall, and the relay to the egress socket.

    Without Perl there is no second wall. Raises `SandboxFailure` when there could be no relay for want of it.
    """
    if not has_shim(spec):
        if egress:
            raise SandboxFailure(
                f"{spec.label!r}: {spec.base} has no {PERL}, which the relay to the network needs; "
                "add it (Debian: perl-base) or set egress = false"
            )
        return ()
    if not (landlock or egress):
        return ()
    rules = _rules(spec) if landlock else ()
    relay = ("relay", str(PROXY_PORT), EGRESS_SOCKET) if egress else ()
    return (PERL, SHIM, *rules, *relay, "--")


def _rules(spec: BoxSpec) -> tuple[str, ...]:
    """Landlock's rules as words. Write and execute never go together, and what is in none can be listed at most."""
    run = [bind.place for bind in base_binds(spec) if bind.place != "/etc"]
    run += [GUEST, *(bind.place for bind in spec.binds if not bind.writable), *spec.files]
    write = [*SCRATCH[:2], "/dev", *(bind.place for bind in spec.binds if bind.writable)]
    return (
        "landlock",
        *_words("list", ["/"]),
        *_words("run", run),
        *_words("read", ["/etc", "/proc"]),
        *_words("write", write),
    )


def _words(right: str, paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        yield from (right, path)
