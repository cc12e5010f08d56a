"""What is installed is pinned by hash, comes from no named index, and is the same for running and for developing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("run", "dev", "peers")
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*(?:\[[a-z,-]+\])?)==([^\s;\\]+)", re.MULTILINE)


def lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.lock").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_package_is_pinned_with_hashes(name: str) -> None:
    entries = re.split(r"\n(?=[a-z0-9])", lock(name).strip())

    assert all(PIN.match(entry) and "--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("name", NAMES)
def test_lock_names_no_index_and_no_address(name: str) -> None:
    assert "://" not in lock(name)
    assert "--index" not in lock(name)


def test_what_is_developed_with_holds_what_is_run() -> None:
    run, dev = set(PIN.findall(lock("run"))), set(PIN.findall(lock("dev")))

    assert run <= dev


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").iterdir()), ids=lambda path: str(path.name))
def test_every_script_can_be_run_and_explains_itself(path: Path) -> None:
    lines = path.read_text().splitlines()

    assert os.access(path, os.X_OK)
    assert lines[0] == "#!/bin/sh"
    assert lines[1].startswith("# ")
