"""`interlock sandbox` says what works, runs a command behind walls, and shows and ends boxes."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.boxes import Level
from gateway.cli import main
from gateway.cli.sandbox import settings_at
from sandboxes.cgroups import Cgroups
from sandboxes.ledger import Ledger
from sandboxes.rootfs import python_of

ROOT = Path(__file__).parents[2]
QUICK = '[sandbox]\ndrivers = ["bubblewrap"]\n'

needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bwrap is not here: apt-get install bubblewrap")


@pytest.fixture
def config(tmp_path: Path) -> str:
    return written(tmp_path, QUICK)


def written(directory: Path, text: str) -> str:
    (directory / "interlock.toml").write_text(text)
    return str(directory / "interlock.toml")


def interlock(*words: str, config: str) -> list[str]:
    return [sys.executable, "-m", "gateway", "sandbox", words[0], "--config", config, *words[1:]]


@contextmanager
def sleeping(config: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a box, until it has said that it runs."""
    words = interlock("run", "--", "/bin/sh", "-c", "echo up; exec sleep 60", config=config)
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


@needs_bwrap
def test_doctor_names_what_works_and_what_boxes_are_made_by(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["sandbox", "doctor", "--config", config])

    out = capsys.readouterr().out
    assert code == 0
    assert out.startswith("ok      bubblewrap: level process, version ")
    assert out.endswith("level process (sandbox.level) is asked for, and boxes are made by bubblewrap: process\n")


def test_doctor_says_what_to_do_where_nothing_works(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    code = main(["sandbox", "doctor", "--config", config])

    out = capsys.readouterr().out
    assert code == 1
    assert "without bubblewrap (level process): there is no 'bwrap' here" in out
    assert "-> install bubblewrap" in out
    assert "no driver works here that gives level process (sandbox.level)" in out


def test_doctor_shows_what_the_box_of_each_upstream_sees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool/run").write_text("#!/bin/sh\n")
    (tmp_path / "tool/run").chmod(0o755)
    (tmp_path / "data").mkdir()
    text = f"""{QUICK}
[upstreams.tool]
type = "mcp"
command = ["{tmp_path}/tool/run"]
binds = ["data:/data:rw"]
[upstreams.bad]
type = "mcp"
command = ["sh"]
binds = ["/proc:/p"]
[upstreams.hosted]
type = "mcp"
command = ["sh"]
sandbox = "none"
"""

    code = main(["sandbox", "doctor", "--json", "--config", written(tmp_path, text)])

    report = json.loads(capsys.readouterr().out)
    assert code == 1
    assert not report["ok"]
    assert [driver["name"] for driver in report["drivers"]] == ["bubblewrap"]
    tool, bad = report["upstreams"]
    assert tool["shows"] == {f"{tmp_path}/tool/run": "the program", "/data": "configured, writable"}
    assert "upstreams.bad.binds[0]: /proc is the kernel's view" in bad["fault"]


def test_doctor_says_in_words_what_upstreams_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    text = f'{QUICK}[upstreams.a]\ntype = "mcp"\ncommand = ["sh"]\nbinds = ["data"]\n'

    main(["sandbox", "doctor", "--config", written(tmp_path, text)])

    out = capsys.readouterr().out
    assert f"upstream a: its box sees /usr and\n          | {tmp_path}/data: configured\n" in out


@needs_bwrap
def test_command_runs_behind_walls_and_its_exit_status_is_ours(config: str, capfd: pytest.CaptureFixture[str]) -> None:
    script = "id -u; ls /home /root 2>/dev/null; echo fault >&2; exit 7"

    code = main(["sandbox", "run", "--verbose", "--config", config, "--", "sh", "-c", script])

    out, err = capfd.readouterr()
    assert (code, out) == (7, "1000\n")
    assert "bubblewrap" in err.splitlines()[0]
    assert err.endswith("fault\n")


@needs_bwrap
def test_standard_streams_pass_through_whole(config: str) -> None:
    sent = os.urandom(3_000_000)

    done = subprocess.run(
        interlock("run", "--", "cat", config=config), cwd=ROOT, input=sent, capture_output=True, timeout=60, check=False
    )

    assert done.returncode == 0
    assert done.stdout == sent


@needs_bwrap
def test_command_that_reads_no_more_ends_as_it_does(config: str, tmp_path: Path) -> None:
    (tmp_path / "endless").write_bytes(b"y\n" * 3_000_000)
    with (tmp_path / "endless").open("rb") as endless:
        done = subprocess.run(
            interlock("run", "--", "head", "-1", config=config),
            cwd=ROOT, stdin=endless, capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, b"y\n", b"")


@needs_bwrap
def test_bind_is_seen_in_the_box(config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data/file").write_text("content")

    code = main(["sandbox", "run", "--bind", f"{tmp_path}/data:/data", "--config", config, "--", "cat", "/data/file"])

    assert (code, capfd.readouterr().out) == (0, "content")


@needs_bwrap
def test_environment_is_what_the_box_is_made_from(
    config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "environments").mkdir()
    (tmp_path / "environments/data.toml").write_text(
        'env = { MODE = "fast" }\nsecrets = { KEY = "env:THE_KEY" }\nfiles = { "/opt/a" = { text = "from a file" } }\n'
    )
    os.environ["THE_KEY"] = "opens"
    try:
        asked = ["--environment", "data", "--config", config]
        code = main(["sandbox", "run", *asked, "--", "sh", "-c", "echo $MODE $KEY; cat /opt/a"])
    finally:
        del os.environ["THE_KEY"]

    assert (code, capfd.readouterr().out) == (0, "fast opens\nfrom a file")


@needs_bwrap
@pytest.mark.slow
def test_packages_of_an_environment_can_be_imported_in_the_box(
    config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if python_of(None) is None:
        pytest.skip("there is no python3 in /usr: apt-get install python3")
    with zipfile.ZipFile(tmp_path / "alpha-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("alpha.py", "VERSION = 'one'\n")
        wheel.writestr("alpha-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: alpha\nVersion: 1.0\n")
        wheel.writestr("alpha-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("alpha-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    (tmp_path / "environments").mkdir()
    (tmp_path / "environments/data.toml").write_text('packages = ["alpha==1.0"]\n')

    script = "import alpha; print(alpha.VERSION)"
    asked = ["--environment", "data", "--config", config]
    code = main(["sandbox", "run", *asked, "--", "/usr/bin/python3", "-c", script])

    out, err = capfd.readouterr()
    assert (code, out) == (0, "one\n"), err
    assert "environment 'data': installing alpha 1.0" in err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--environment", "nope", "--", "true"], "there is no environment 'nope'; there are: default"),
        (["--level", "vm", "--", "true"], "isolation of level vm is needed and not available"),
        (["--driver", "gvisor", "--", "true"], "driver 'gvisor' is not in sandbox.drivers"),
        (["--bind", "/root:/r", "--", "true"], "--bind[0]: /root"),
        (["--bind", "a:b", "--", "true"], "--bind 'a:b': write it as"),
        (["--", "no-such-program"], "COMMAND: 'no-such-program' is no program here"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    words: list[str], what: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["sandbox", "run", "--config", config, *words])

    err = capsys.readouterr().err
    assert code == 2
    assert what in err
    assert err.count("\n") == 1


@needs_bwrap
def test_boxes_are_listed_and_ended_by_another_process(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    with sleeping(config) as process:
        main(["sandbox", "list", "--json", "--config", config])
        (box,) = json.loads(capsys.readouterr().out)["boxes"]
        main(["sandbox", "list", "--config", config])
        listed = capsys.readouterr().out

        code = main(["sandbox", "kill", box["id"], "--config", config])

        assert process.wait(30) == 137
    assert code == 0
    assert (box["driver"], box["level"], box["phase"]) == ("bubblewrap", "process", "running")
    assert box["purpose"] == "interlock sandbox run"
    assert box["id"] in listed
    assert "running" in listed
    assert capsys.readouterr().out == f"ended {box['id']}\n"


@needs_bwrap
def test_box_is_gone_with_the_command_that_made_it(config: str, tmp_path: Path) -> None:
    ledger = Ledger.of(tmp_path / ".interlock")
    with sleeping(config) as process:
        (entry,) = ledger.entries()
        reaper = os.pidfd_open(entry.pid)

        process.kill()
        process.wait(30)

        assert select.select([reaper], [], [], 30)[0]
        os.close(reaper)
    assert ledger.entries() == ()
    ledger.sweep(Cgroups())


def test_all_boxes_may_be_none(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "kill", "--all", "--config", config]) == 0
    assert main(["sandbox", "list", "--config", config]) == 0
    assert capsys.readouterr().out == "no boxes\n"


def test_unknown_box_cannot_be_ended(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["sandbox", "kill", "abc", "--config", config])

    assert code == 2
    assert "there is no box 'abc'; `interlock sandbox list` shows" in capsys.readouterr().err


def test_what_an_earlier_run_left_is_listed_as_such(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger.of(tmp_path / ".interlock")
    ledger.make("abc", driver="bubblewrap", version="1", level=Level.PROCESS, environment="", purpose="upstream a")
    ledger.close()

    main(["sandbox", "list", "--config", config])

    assert "upstream a  (left behind: the next start clears it away)" in capsys.readouterr().out
    assert ledger.sweep(Cgroups()) == ("abc",)


def test_without_a_configuration_the_defaults_are_beside_where_it_would_be(tmp_path: Path) -> None:
    settings = settings_at(tmp_path / "interlock.toml")

    assert settings.state.dir == tmp_path / ".interlock"
    assert settings.environments == tmp_path / "environments"


@pytest.mark.parametrize("verb", ["doctor", "run", "list", "kill"])
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["sandbox", verb, "--help"])

    assert left.value.code == 0
    assert f"interlock sandbox {verb}" in capsys.readouterr().out
