"""The command line answers with one line and an exit code, and starts quickly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = {"pydantic", "mcp", "sqlalchemy", "anyio", "starlette", "cryptography", "opentelemetry"}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *words], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )


def test_help_lists_every_command() -> None:
    done = run("--help")

    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ") and line[4] != " "}
    assert {entry.name for entry in COMMANDS} <= listed


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom gateway.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', *{name.partition('.')[0] for name in sys.modules})"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )

    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("name", [entry.name for entry in COMMANDS])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])

    assert left.value.code == 0
    assert f"interlock {name}" in capsys.readouterr().out


def test_no_command_is_a_usage_error() -> None:
    done = run()

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_unknown_command_is_a_usage_error_that_names_the_known_ones() -> None:
    done = run("chekc")

    assert done.returncode == 2
    assert "'check'" in done.stderr


def test_version_is_printed() -> None:
    done = run("--version")

    assert done.returncode == 0
    assert done.stdout.startswith("interlock ")


def test_expected_failure_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["connect", "import", str(tmp_path / "none.json"), "--config", str(tmp_path / "interlock.toml")])

    assert code == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none.json'}: no such file\n"
