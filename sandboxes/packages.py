"""Installs the pinned Python packages of an environment, once, into a directory that its boxes see read-only.

Only wheels are taken, which are unpacked and never run here. Every package that ends up in the box has to be pinned,
also those that others need: nothing floats, so that the same pins are the same packages tomorrow. A pin may carry the
hashes of its wheels; once one does, all have to (pip's hash-checking mode).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Final, TypeAlias

import anyio
from anyio import to_thread

from gateway.boxes import Program
from gateway.errors import SandboxFailure, UpstreamTimeout, UpstreamUnavailable
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.rootfs import Python, python_of
from sandboxes.spec import Bind, BoxSpec

PLACE: Final = "/opt/packages"
"""Where a box has them."""
INSTALL_S: Final = 900.0
_LOOK_S: Final = 0.1

Progress: TypeAlias = Callable[[str], None]

_PIN: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)==(?P<version>[0-9A-Za-z][0-9A-Za-z.!+_-]{0,98})"
    r"(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})*)"
)
_HANDED_ON: Final = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NETRC",
    "XDG_CONFIG_HOME",
)
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_UNREACHABLE: Final = re.compile(r"connection|timed? ?out|name resolution|network|retries|proxy", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Pin:
    """One package in exactly one version, by its normalized name."""

    name: str
    version: str
    hashes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As pip reads it."""
        return f"{self.name}=={self.version}" + "".join(f" --hash=sha256:{value}" for value in self.hashes)


def pinned(texts: Sequence[str]) -> tuple[Pin, ...]:
    """The pins that these texts mean, sorted. Raises `ValueError`."""
    found: dict[str, Pin] = {}
    for text in texts:
        match = _PIN.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r}: pin one version exactly, name==1.2.3, with hashes as --hash=sha256:... behind it"
            )
        pin = Pin(_normal(match["name"]), match["version"], tuple(sorted(re.findall(r"[0-9a-f]{64}", match["hashes"]))))
        if pin.name in found:
            raise ValueError(f"{pin.name} is pinned twice; remove one")
        found[pin.name] = pin
    if len({bool(pin.hashes) for pin in found.values()}) > 1:
        raise ValueError("either every package has hashes or none has: pip checks all of them or none")
    return tuple(found[name] for name in sorted(found))


def bind_of_packages(directory: Path) -> Bind:
    """How a box sees what was installed."""
    return Bind(Path(os.path.realpath(directory)), PLACE)


async def equipped(spec: BoxSpec, pins: Sequence[Pin], cache: PackageCache, progress: Progress) -> BoxSpec:
    """The box with those packages on its PYTHONPATH, installed if they are not yet. Raises `SandboxFailure`."""
    if not pins:
        return spec
    python = await to_thread.run_sync(python_of, spec.base)
    if python is None:
        raise SandboxFailure(f"environment {spec.label!r} has packages, and its base has no Python for them")
    directory = await cache.installed(spec.label, pins, python, progress)
    path = os.pathsep.join(filter(None, (PLACE, spec.env.get("PYTHONPATH", ""))))
    return replace(spec, binds=(*spec.binds, bind_of_packages(directory)), env={**spec.env, "PYTHONPATH": path})


@dataclass(frozen=True, slots=True)
class PackageCache:
    """The packages of all environments below one directory of the gateway's own, by digest of their pins."""

    directory: Path
    environ: Mapping[str, str]

    def place_of(self, pins: Sequence[Pin], python: Python) -> Path:
        """Where they are, or will be."""
        words = "\n".join((python.version, os.uname().machine, *(pin.text for pin in pins)))
        return self.directory / hashlib.sha256(words.encode()).hexdigest()[:32]

    async def installed(
        self, label: str, pins: Sequence[Pin], python: Python, progress: Progress, *, within_s: float = INSTALL_S
    ) -> Path:
        """Install them if they are not yet, telling `progress` what happens. Raises `SandboxFailure`."""
        place = self.place_of(pins, python)
        if place.is_dir():
            return place
        self.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        try:
            with anyio.fail_after(within_s):
                async with _alone(place.with_suffix(".lock")):
                    if not place.is_dir():  # nobody did it while we waited
                        await self._install(label, pins, python, progress)
        except TimeoutError as exc:
            raise SandboxFailure(f"environment {label!r}: its packages were not installed in {within_s:g} s") from exc
        return place

    async def _install(self, label: str, pins: Sequence[Pin], python: Python, progress: Progress) -> None:
        place = self.place_of(pins, python)
        for left in self.directory.glob(f"{place.name}.new-*"):  # an installation that was killed; the lock is ours
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=self.directory, prefix=f"{place.name}.new-") as scratch:
            target, wanted = Path(scratch, "packages"), _listed(Path(scratch, "pins.txt"), pins)
            progress(f"environment {label!r}: installing {', '.join(f'{pin.name} {pin.version}' for pin in pins)}")
            await _run(label, _command(python, target, wanted), self._variables(scratch), progress)
            await to_thread.run_sync(_checked, label, target, pins)
            os.rename(target, place)

    def _variables(self, scratch: str) -> dict[str, str]:
        """What pip needs of our environment: where its index is and how to get there. No secret that is not for it."""
        proxies = (*_PROXIES, *(name.upper() for name in _PROXIES))
        names = [name for name in self.environ if name.startswith("PIP_") or name in _HANDED_ON or name in proxies]
        return {name: self.environ[name] for name in names} | {"TMPDIR": scratch, "PYTHONNOUSERSITE": "1"}


def _listed(path: Path, pins: Sequence[Pin]) -> Path:
    path.write_text("".join(f"{pin.text}\n" for pin in pins), encoding="utf-8")
    return path


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _command(python: Python, target: Path, wanted: Path) -> tuple[str, ...]:
    return (
        *_pip(), "install", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--retries=2",
        "--timeout=15", "--progress-bar=off", "--target", str(target), "--requirement", str(wanted),
        "--python-version", python.version, "--implementation", "cp", "--no-compile",
    )  # fmt: skip


def _pip() -> tuple[str, ...]:
    if util.find_spec("pip") is not None:
        return (sys.executable, "-I", "-m", "pip")
    found = shutil.which("pip3") or shutil.which("pip")
    if found is None:
        raise SandboxFailure(f"packages cannot be installed without pip: run {sys.executable} -m ensurepip")
    return (found,)


async def _run(label: str, command: Sequence[str], env: Mapping[str, str], progress: Progress) -> None:
    spec = ProcessSpec(tuple(command), env=env, cwd="/", label=f"pip for environment {label}")
    try:
        async with await ChildProcess.start(spec) as pip:
            await _told(pip, progress)
            status = await pip.wait()
            said = pip.stderr
    except (UpstreamUnavailable, UpstreamTimeout) as exc:
        raise SandboxFailure(f"environment {label!r}: pip does not run: {exc}") from exc
    if status != 0:
        raise SandboxFailure(f"environment {label!r}: its packages cannot be installed: {_reason(said)}")


async def _told(pip: Program, progress: Progress) -> None:
    rest = b""
    while data := await pip.receive():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                progress(line.decode("utf-8", "replace").strip())


def _reason(stderr: str) -> str:
    lines = [line.removeprefix("ERROR: ").strip() for line in stderr.splitlines() if line.startswith("ERROR: ")]
    words = "; ".join(dict.fromkeys(lines)) or stderr.strip()[-500:] or "pip says nothing"
    if _UNREACHABLE.search(stderr):
        return f"{words} (the package index cannot be reached: set PIP_INDEX_URL, or a proxy, or install once online)"
    return f"{words} (only wheels are taken; is there one of this version for this system?)"


def _checked(label: str, target: Path, pins: Sequence[Pin]) -> None:
    """What was installed is what is pinned, no more, and boxes may read all of it."""
    present = {_normal(found.metadata["Name"]): found.version for found in metadata.distributions(path=[str(target)])}
    floating = sorted(
        f"{name}=={version}" for name, version in present.items() if name not in {pin.name for pin in pins}
    )
    if floating:
        raise SandboxFailure(
            f"environment {label!r}: its packages need others, which have to be pinned too: add {', '.join(floating)}"
        )
    for parent, _, names in os.walk(target):
        os.chmod(parent, 0o755)  # noqa: S103  # a box reads it as another user; what is around it is 0700
        for name in names:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                os.chmod(path, 0o444)


@asynccontextmanager
async def _alone(path: Path) -> AsyncGenerator[None]:
    """Nobody else installs the same meanwhile, not even another gateway."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _taken(lock):  # noqa: ASYNC110  # another process holds it: there is no event to wait for
            await anyio.sleep(_LOOK_S)
        yield
    finally:
        os.close(lock)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
