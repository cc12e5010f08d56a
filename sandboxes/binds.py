"""What a bind looks like as text: `/srv/data`, `/srv/data:rw`, `/srv/data:/in/box`, `/srv/data:/in/box:rw`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from sandboxes.spec import WORK, Bind

FORM: Final = "write it as /srv/data (read-only), /srv/data:rw, /srv/data:/in/box or /srv/data:/in/box:rw"

_TEXT: Final = re.compile(r"(?P<source>[^:\0]+)(?P<target>:/[^:\0]*)?(?::(?P<mode>r[ow]))?")
_TAKEN: Final = (WORK, "/tmp", "/etc")  # noqa: S108  # places in the box
"""Places that the box has of its own; something *below* them may be shown."""
_TAKEN_WHOLE: Final = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sys", "/dev", "/run"
)  # fmt: skip


def bind_of(text: str, base_dir: Path) -> Bind:
    """The bind that a text means; a relative source is relative to `base_dir`. Raises `ValueError`."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r}: {FORM}")
    try:
        source = Path(os.path.normpath(base_dir / Path(match["source"]).expanduser()))
    except RuntimeError as exc:
        raise ValueError(f"{text!r}: there is nobody of that name, whose home it could be") from exc
    return Bind(source, (match["target"] or "").removeprefix(":"), match["mode"] == "rw")


def place_fault(bind: Bind) -> str:
    """Why it cannot be where it is to be in the box; empty when it can."""
    place = bind.place
    if place == "/" or not place.startswith("/") or os.path.normpath(place) != place or place.startswith("//"):
        return f"{place!r} is no place in a box: give an absolute path without . or .. after the colon"
    if place in _TAKEN or any(place == top or place.startswith(f"{top}/") for top in _TAKEN_WHOLE):
        return f"{place!r} is something that each box has of its own: give another place after the colon"
    return ""
