"""What the README says about agents is what happens: its client and its command, against a gateway process."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from conformance.gateway import ROOT
from tests.e2e.agents import World, world

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8080"
TIMEOUT_S = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("readme")) as started:
        yield started


def example(pattern: str, made: World) -> str:
    """The one part of the README that fits, with the gateway's address in it."""
    (found,) = re.findall(pattern, README, re.DOTALL)
    assert ADDRESS in found
    return str(found).replace(ADDRESS, made.place.url)


def run(command: list[str], made: World) -> str:
    environ = {**os.environ, "INTERLOCK_KEY": made.ana, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_client_of_the_readme_is_answered(made: World) -> None:
    told = run([sys.executable, "-c", example(r"```python\n(.*?)```", made)], made)

    assert "TASK_STATE_COMPLETED" in told


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here: apt-get install curl")
def test_command_of_the_readme_is_answered(made: World) -> None:
    script = example(r"```\n(curl [^`]*)```", made)

    told = json.loads(run(["sh", "-c", script], made))

    assert told["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
