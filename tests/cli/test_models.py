"""`interlock models`, as far as it needs no gateway: what a route is asked for, and what is missing to teach one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.main import CANNOT

CATALOGUE = '[models."echo/a"]\n[models."echo/b"]\n[routes.auto]\nweak = "echo/a"\nstrong = "echo/b"\n'


def config(directory: Path) -> str:
    """A gateway with one route."""
    (directory / "models.toml").write_text(CATALOGUE)
    path = directory / "interlock.toml"
    path.write_text('[upstreams.echo]\ntype = "echo"\n')
    return str(path)


def test_what_the_gateway_would_refuse_is_explained_as_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["models", "route", "--explain", "hello", "--config", config(tmp_path)]

    refused = main([*words, "--route", "auto:cheep"])

    assert refused == CANNOT
    assert "a route prefers cheap, best, fast, and not cheep" in capsys.readouterr().err
    assert main([*words, "--route", "auto:cheap"]) == 0


def test_a_route_is_not_taught_without_the_packages_and_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "adapters.routers", None)
    table = tmp_path / "judged.csv"
    table.write_text("prompt,weak_correct,strong_correct,task\nhello,1,1,chat\n")

    code = main(["models", "calibrate", str(table), "--config", config(tmp_path)])

    assert code == CANNOT
    assert "is not installed, which routers are made with: install the extra 'memory'" in capsys.readouterr().err
