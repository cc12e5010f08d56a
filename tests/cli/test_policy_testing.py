"""`interlock policy test` says how much the tests reach, and runs them again when a file changes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import PIPE

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from gateway.cli import main
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK
from tests.cli.policies import RULES, TESTS, write_policy

UNREACHED = RULES + "\nbig(x) if {\n\tx > 100\n}\n\nlarge if big(input.resource.properties.arguments.amount)\n"


def test_coverage_is_a_percentage_per_file_and_overall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = write_policy(tmp_path / "shop", UNREACHED)

    code = main(["policy", "test", "--coverage", "--json", "--path", str(rules)])

    coverage = json.loads(capsys.readouterr().out)["coverage"]
    assert code == OK
    assert 50 < coverage["files"]["shop/shop.rego"] < 100
    assert coverage["percent"] == coverage["files"]["shop/shop.rego"]
    assert "lib/interlock.rego" in coverage["files"]


def test_coverage_is_printed_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = write_policy(tmp_path / "shop", UNREACHED)

    main(["policy", "test", "--coverage", "--path", str(rules)])

    printed = capsys.readouterr().out
    assert "shop/shop.rego: not reached: " in printed
    assert "% of your files" in printed


@pytest.mark.parametrize(("percent", "expected"), [("50", OK), ("99.5", NOT_AS_IT_SHOULD_BE)])
def test_too_little_coverage_is_not_as_it_should_be(
    tmp_path: Path, percent: str, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = write_policy(tmp_path / "shop", UNREACHED)

    code = main(["policy", "test", "--fail-under", percent, "--path", str(rules)])

    assert code == expected
    assert ("less than 99.5 %" in capsys.readouterr().out) == (expected != OK)


@pytest.mark.parametrize("percent", ["-1", "101", "all", "nan"])
def test_what_is_no_percentage_is_a_mistake_of_usage(percent: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["policy", "test", "--fail-under", percent])

    assert stopped.value.code == CANNOT
    assert "no percentage" in capsys.readouterr().err


def test_a_directory_that_is_not_there_cannot_be_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["policy", "test", "--watch", "--path", str(tmp_path / "nothing")])

    assert code == CANNOT
    assert "nothing: not a directory that can be watched" in capsys.readouterr().err


async def test_a_change_runs_the_tests_again_until_ctrl_c(tmp_path: Path) -> None:
    rules = write_policy(tmp_path / "shop")

    async with await watching(rules) as process:
        lines = printed(process)
        before = await until(lines, "waiting for a change")
        (rules / "shop.rego").write_text(RULES.replace("x < 10", "x < 2"))
        broken = await until(lines, "waiting for a change")
        (rules / "shop.rego").write_text(RULES.replace("x < 10", "x < ("))
        unreadable = await until(lines, "waiting for a change")
        (rules / "shop_test.rego").write_text(TESTS + "\ntest_more if true\n")
        (rules / "shop.rego").write_text(RULES)
        mended = await until(lines, "0 failed")
        await until(lines, "waiting for a change")
        process.send_signal(signal.SIGINT)
        code = await process.wait()

    assert any(line.endswith(" 0 failed") for line in before)
    assert any("changed: shop.rego" in line for line in broken)
    assert any("test_small_is_allowed: is undefined" in line for line in broken)
    assert any("shop/shop.rego:13:1:" in line for line in unreadable)
    assert mended[-1].endswith(" 0 failed")
    assert code == OK


async def watching(rules: Path) -> Process:
    command = [sys.executable, "-u", "-m", "gateway", "policy", "test", "--watch", "--path", str(rules)]
    return await anyio.open_process(command, stdin=None, stdout=PIPE, stderr=PIPE)


async def printed(process: Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    rest = ""
    async for text in TextReceiveStream(process.stdout):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line


async def until(lines: AsyncIterator[str], words: str) -> list[str]:
    """The lines up to the first with these words."""
    seen: list[str] = []
    with anyio.fail_after(60):
        async for line in lines:
            seen.append(line)
            if words in line:
                return seen
    raise AssertionError(f"it ended without {words!r}: {seen}")
