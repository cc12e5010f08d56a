"""How gVisor's `runsc` is found, called and understood."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sandboxes.host.plan import STAGE

OLDEST: Final = 20240729
"""The first release whose rootless boxes and checkpoints were seen to work; Debian 12's own is of 2022."""
BUNDLE: Final = "bundle"
STATE: Final = "state"
IMAGE: Final = "image"
RUNSC: Final = "runsc"
"""Names in the stage. The program is there too, so that it may lie where the box's user cannot go."""
CREATED: Final = "created"
"""A FIFO in the state directory, in place of a pid file: `runsc` writes to it when the sandbox stands."""

ENV: Final[Mapping[str, str]] = {"PATH": "/usr/bin:/bin"}
_BESIDE_THE_PATH: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_ID: Final = "box"  # state is the box's own, so the name need not be
_GLOBAL: Final = (
    f"--root={STAGE}/{STATE}",
    "--log=/dev/null",  # what stops a box is said on standard error too
    "--platform=systrap",
    "--network=none",
    "--host-uds=open",  # the egress socket; there is no other in the box
    "--overlay2=root:memory",
    "--ignore-cgroups",  # the jail has joined them
)
_PROGRAM: Final = f"{STAGE}/{RUNSC}"
_STARTING: Final = (f"--bundle={STAGE}/{BUNDLE}", f"--pid-file={STAGE}/{STATE}/{CREATED}")
_IMAGE: Final = f"--image-path={STAGE}/{IMAGE}"

RUN: Final = (_PROGRAM, "--rootless", *_GLOBAL, "run", *_STARTING, _ID)
CHECKPOINT: Final = (_PROGRAM, "--rootless", *_GLOBAL, "checkpoint", "--compression=none", _IMAGE, _ID)
RESTORE: Final = ("unshare", "-Ur", _PROGRAM, *_GLOBAL, "restore", *_STARTING, _IMAGE, _ID)
"""`restore` refuses --rootless, but is content to be root of a user namespace."""

_WORDS_LENGTH: Final = 300
_VERSION_S: Final = 5.0


def find(configured: str | None) -> Path | None:
    """The program itself, links followed; `None` where there is none."""
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), *_BESIDE_THE_PATH))
    found = shutil.which(configured or "runsc", path=places)
    return Path(os.path.realpath(found)) if found else None


def version(program: Path) -> str:
    """Its release, such as `20240729.0`. Raises `OSError` and `subprocess.SubprocessError`."""
    said = subprocess.run(  # noqa: S603  # the program is the operator's
        (str(program), "--version"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=dict(ENV),
        timeout=_VERSION_S,
        check=True,
    )
    return release_in(said.stdout.decode("utf-8", "replace"))


def release_in(text: str) -> str:
    """The release in what `--version` prints; the first line's last word where that is no date."""
    dated = re.search(r"\b(\d{8}(?:\.\d+)?)", text)
    if dated:
        return dated[1]
    words = text.split("\n", 1)[0].split()
    return words[-1][:40] if words else "unknown"


def too_old(release: str) -> bool:
    """Whether it is known to be older than what works. What has no date was built from sources, so it is recent."""
    dated = re.match(r"\d{8}", release)
    return dated is not None and int(dated[0]) < OLDEST


def reason_in(stderr: str) -> str:
    """Why `runsc` gave up, out of what it and the program wrote to standard error: one line, without stack traces."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"(running|creating|starting|restoring|checkpoint)\b", line)]
    return (told or lines or ["it said nothing"])[0][:_WORDS_LENGTH].rstrip(": ")
