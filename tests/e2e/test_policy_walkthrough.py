"""The walk-through of the policies' README does what it says: its commands, in order, in an empty directory."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.gateway import ROOT
from conformance.processes import free_port

pytestmark = pytest.mark.slow

README = ROOT / "policies" / "README.md"
HEADING = "## Ten minutes"
PORT = "8080"
MOST_S = 300
"""All of it together; a person takes ten minutes because of the reading."""


def walkthrough() -> str:
    """The commands of the section, as one script that ends at the first that fails."""
    sections = [
        part for part in re.split(r"^(?=## )", README.read_text(), flags=re.MULTILINE) if part.startswith(HEADING)
    ]
    assert len(sections) == 1
    blocks = re.findall(r"^```sh\n(.*?)^```$", sections[0], re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(re.findall(r"^\*\*[0-9]\. ", sections[0], re.MULTILINE))
    return "set -eux\n" + "\n".join(blocks)


def run(script: str, directory: Path) -> tuple[int, str]:
    """The exit code and all that was printed. Whatever it started is ended with it."""
    own = Path(sys.executable).parent
    environ = {**os.environ, "PATH": f"{own}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environ.pop("INTERLOCK_CONFIG", None)
    process = subprocess.Popen(
        ["sh", "-c", script],
        cwd=directory,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=MOST_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed = process.communicate()[0] + f"\nnot done after {MOST_S} s"
    else:
        _end_group(process.pid)
    return process.returncode, printed


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # the script ended what it had started


@pytest.mark.skipif(
    any(
        shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") is None
        for name in ("curl", "mcp-server-time", "interlock")
    ),
    reason="needs curl, mcp-server-time and interlock on the PATH",
)
def test_a_rule_gets_from_nothing_to_the_live_gateway(tmp_path: Path) -> None:
    script = walkthrough().replace(PORT, str(free_port()))

    code, printed = run(script, tmp_path)

    log = tmp_path / "gateway.log"
    assert code == 0, f"{printed}\n---- gateway.log\n{log.read_text() if log.exists() else 'none'}"
    assert "newly denied" in (tmp_path / "replay.txt").read_text()
    assert "allow->deny" in (tmp_path / "shadow.txt").read_text()
    assert (tmp_path / "mine" / "places.rego").read_text() == (tmp_path / "next" / "places.rego").read_text()
    assert "only times in Europe" in printed
