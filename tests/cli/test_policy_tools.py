"""`interlock policy fmt` and `lint` use what is installed, and say how to get what is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK
from tests.cli.policies import RULES, write_policy
from tests.pdp.opaserver import HOW_TO, opa_program

UNFORMATTED = RULES.replace("\tx < 10", "    x  <  10")
needs_opa = pytest.mark.skipif(not opa_program(), reason=HOW_TO)


@pytest.fixture
def with_opa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(opa_program()).parent))


@pytest.mark.parametrize(("verb", "tool"), [("fmt", "opa"), ("lint", "regal")])
def test_a_missing_tool_is_named_with_the_way_to_get_it(
    verb: str, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    code = main(["policy", verb, "--path", str(tmp_path)])

    complaint = capsys.readouterr().err
    assert code == CANNOT
    assert f"{tool} is not on the PATH; get it with" in complaint


@needs_opa
@pytest.mark.usefixtures("with_opa")
def test_what_is_not_formatted_is_found_without_being_changed(tmp_path: Path) -> None:
    rules = write_policy(tmp_path / "shop", UNFORMATTED)

    code = main(["policy", "fmt", "--check", "--path", str(rules)])

    assert code == NOT_AS_IT_SHOULD_BE
    assert (rules / "shop.rego").read_text() == UNFORMATTED


@needs_opa
@pytest.mark.usefixtures("with_opa")
def test_formatting_changes_the_files(tmp_path: Path) -> None:
    rules = write_policy(tmp_path / "shop", UNFORMATTED)

    codes = [main(["policy", "fmt", *more, "--path", str(rules)]) for more in ([], ["--check"])]

    assert codes == [OK, OK]
    assert (rules / "shop.rego").read_text() == RULES


@needs_opa
@pytest.mark.usefixtures("with_opa")
def test_what_does_not_parse_cannot_be_formatted(tmp_path: Path) -> None:
    rules = write_policy(tmp_path / "shop", "package rules.shop\n\nallow if ((\n")

    assert main(["policy", "fmt", "--path", str(rules)]) == NOT_AS_IT_SHOULD_BE


@needs_opa
@pytest.mark.usefixtures("with_opa")
def test_a_directory_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["policy", "fmt", "--path", str(tmp_path / "nothing")])

    assert code == CANNOT
    assert "nothing" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("regal") is None, reason="regal is not installed")
def test_lint_passes_on_what_regal_found(tmp_path: Path) -> None:
    rules = write_policy(tmp_path / "shop", "package rules.shop\n\nallow = true\n")

    assert main(["policy", "lint", "--path", str(rules)]) == NOT_AS_IT_SHOULD_BE


@pytest.mark.parametrize("found", [0, 3])
def test_the_linters_verdict_is_the_exit_code(found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linter = tmp_path / "regal"
    linter.write_text(f'#!/bin/sh\ntest "$1" = lint && test -d "$2" && exit {found}\nexit 0\n')
    linter.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    code = main(["policy", "lint", "--path", str(write_policy(tmp_path / "shop"))])

    assert code == (OK if found == 0 else NOT_AS_IT_SHOULD_BE)
