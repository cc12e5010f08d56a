"""Boxes by bubblewrap for the tests: what runs in them, and what came out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sandboxes.bubblewrap import Bubblewrap
from sandboxes.spec import BoxSpec
from tests.sandboxes.places import a_place, output_of

PYTHON = "/usr/bin/python3"


async def working_bubblewrap() -> Bubblewrap:
    """The driver; skips the test where there is no program for it."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    return Bubblewrap()


def sh(script: str, **options: object) -> BoxSpec:
    return BoxSpec("box", ("/bin/sh", "-c", script), **options)  # type: ignore[arg-type]  # each test knows which


def py(program: str, **options: object) -> BoxSpec:
    if not os.path.exists(PYTHON):
        pytest.skip("no Python of the system here: apt-get install python3-minimal")
    return BoxSpec("box", (PYTHON, "-ISu", "-c", program), **options)  # type: ignore[arg-type]  # as above


async def said_by(driver: Bubblewrap, spec: BoxSpec, directory: Path, egress: Path | None = None) -> str:
    async with a_place(directory, egress, spec.limits) as place:
        _, output, complaints = await output_of(driver, spec, place)
    return output.decode() + complaints
