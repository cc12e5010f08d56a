"""The suite as one file that a Python in a box can run."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Final

PLACE: Final = "/opt/escape.pyz"
"""Where a box has it."""
_PACKAGE: Final = Path(__file__).parent
_MAIN: Final = "import sys\nfrom sandboxes.escape.{0} import main\nsys.exit(main())\n"


def bundle(program: str = "inside") -> bytes:
    """A zip archive to be run with `python3 -I -S`, always the same for the same source."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in _texts(program):
            archive.writestr(zipfile.ZipInfo(name), text)
    return packed.getvalue()


def _texts(program: str) -> list[tuple[str, str]]:
    sources = [(f"sandboxes/escape/{path.name}", path.read_text("utf-8")) for path in sorted(_PACKAGE.glob("*.py"))]
    return [("__main__.py", _MAIN.format(program)), ("sandboxes/__init__.py", ""), *sources]
