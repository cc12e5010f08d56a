"""`interlock doctor` says what is missing, what that costs and what to do, and never shows a secret."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.drivers import isolation
from gateway.cli.findings import Finding, State
from gateway.cli.host import data_directory, port, programs, python_and_packages
from gateway.cli.selftest import audit_log, policy, upstreams
from gateway.config import Settings, loads

QUICK = '[sandbox]\ndrivers = ["bubblewrap"]\n'
"""No machine is started to see whether one starts."""


def settings(tmp_path: Path, text: str = "") -> Settings:
    return loads(text, tmp_path)


@contextmanager
def http_server(answers: dict[str, tuple[int, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """A server on loopback with fixed answers; its address, and the credentials that it was sent."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the standard library names it
            seen.append(self.headers.get("Authorization", ""))
            status, body = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_report_names_each_program_with_what_works_without_it() -> None:
    found = {finding.subject: finding for finding in programs()}

    assert set(found) == {"git", "node", "opa", "bwrap", "nginx", "postgres"}
    for finding in found.values():
        assert finding.state is State.GOOD or (finding.state is State.OPTIONAL and finding.remedy)


def test_missing_program_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    git = next(finding for finding in programs() if finding.subject == "git")

    assert git.state is State.OPTIONAL
    assert "apt-get install git" in git.remedy


def test_python_is_reported_with_its_version() -> None:
    found = {finding.subject: finding for finding in python_and_packages()}

    assert found["python"].state is State.GOOD
    assert {"packages", "lock"} <= set(found)


def test_port_in_use_is_noticed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]

        finding = port(settings(tmp_path, f"[listen]\nport = {number}\n"))

    assert finding.state is State.OPTIONAL
    assert "in use" in finding.what
    assert port(settings(tmp_path, f"[listen]\nport = {number}\n")).state is State.GOOD


def test_running_gateway_is_recognized_at_its_port(tmp_path: Path) -> None:
    with http_server({"/healthz": (200, b"ok")}) as (url, _):
        finding = port(settings(tmp_path, f"[listen]\nport = {url.rpartition(':')[2]}\n"))

    assert finding.state is State.GOOD
    assert finding.what == f"a gateway answers at {url}"


def test_address_of_another_machine_is_a_fault(tmp_path: Path) -> None:
    finding = port(settings(tmp_path, '[listen]\nhost = "192.0.2.1"\n'))

    assert finding.state is State.WRONG
    assert "cannot listen on 192.0.2.1" in finding.what


@pytest.mark.parametrize(("mode", "state"), [(0o700, State.GOOD), (0o755, State.WRONG)])
def test_data_that_others_can_read_is_a_fault(tmp_path: Path, mode: int, state: State) -> None:
    (tmp_path / ".interlock").mkdir()
    (tmp_path / ".interlock").chmod(mode)

    finding = data_directory(settings(tmp_path))

    assert finding.state is state
    assert (state is State.GOOD) or "chmod 700" in finding.remedy


def test_data_directory_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / ".interlock").write_text("x")

    assert data_directory(settings(tmp_path)).state is State.WRONG


def test_starter_policies_decide() -> None:
    assert policy(Settings()).state is State.GOOD


def test_policies_that_permit_everybody_everything_are_a_fault(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "open.rego").write_text("package rules.open\n\nallow := true\n")

    finding = policy(settings(tmp_path, '[policy]\npath = "rules"\n'))

    assert finding.state is State.WRONG
    assert "permits an unknown caller" in finding.what


@pytest.mark.parametrize("text", ["package", None], ids=["broken", "missing"])
def test_policies_that_cannot_decide_are_a_fault(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "rules").mkdir()
        (tmp_path / "rules" / "bad.rego").write_text(text)

    assert policy(settings(tmp_path, '[policy]\npath = "rules"\n')).state is State.WRONG


def test_policies_that_a_gateway_would_refuse_are_named_with_a_command_that_says_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "bad.rego").write_text("package rules.bad\n\nallow if {\n")

    config = tmp_path / "interlock.toml"
    config.write_text('[policy]\npath = "rules"\n')

    finding = policy(settings(tmp_path, config.read_text()))

    assert finding.state is State.WRONG
    assert "bad.rego:" in finding.what
    assert main([*finding.remedy.split()[1:], "--config", str(config)]) == 1
    assert "bad.rego:" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["embedded", "authzen"])
def test_policy_that_is_elsewhere_is_not_said_to_decide(tmp_path: Path, engine: str) -> None:
    text = f'[policy]\nengine = "{engine}"\nurl = "http://127.0.0.1:9/x"\n'

    assert "http://127.0.0.1:9/x, which was not asked" in policy(settings(tmp_path, text)).what


def test_opa_is_asked_whether_it_is_there(tmp_path: Path) -> None:
    with http_server({"/health": (200, b"{}")}) as (url, _):
        there = policy(settings(tmp_path, f'[policy]\nengine = "opa"\nurl = "{url}"\n'))
    gone = policy(settings(tmp_path, f'[policy]\nengine = "opa"\nurl = "{url}"\n'))

    assert (there.state, gone.state) == (State.GOOD, State.WRONG)


def test_no_audit_log_yet_is_no_fault(tmp_path: Path) -> None:
    assert audit_log(settings(tmp_path)).state is State.GOOD


def test_running_gateway_is_asked_about_its_upstreams(tmp_path: Path) -> None:
    body = {
        "upstreams": [
            {"name": "a", "down": "", "era": "modern", "tools": 3},
            {"name": "b", "down": "exited with 1", "era": "", "tools": 0, "stderr": ["x", "no such module"]},
        ]
    }
    with http_server({"/admin/upstreams": (200, json.dumps(body).encode())}) as (url, seen):
        text = f'[listen]\npublic_url = "{url}"\n' + "".join(
            f'[upstreams.{name}]\ntype = "mcp"\ncommand = ["sh"]\n' for name in "abc"
        )

        found = list(upstreams(settings(tmp_path, text), "the-key"))

    assert seen == ["Bearer the-key"]
    assert [finding.state for finding in found] == [State.GOOD, State.WRONG, State.GOOD]
    assert found[0].what == "serves; modern, 3 tools"
    assert found[1].lines == ("x", "no such module")
    assert "no gateway was asked" in found[2].what


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"upstreams": 3}', b'{"upstreams": [3]}'])
def test_senseless_answer_of_a_gateway_is_no_answer(tmp_path: Path, body: bytes) -> None:
    with http_server({"/admin/upstreams": (200, body)}) as (url, _):
        text = f'[listen]\npublic_url = "{url}"\n[upstreams.a]\ntype = "mcp"\ncommand = ["sh"]\n'

        (finding,) = upstreams(settings(tmp_path, text), "")

    assert "no gateway was asked" in finding.what


@pytest.mark.parametrize(
    ("kind", "entry", "state", "what"),
    [
        ("sandbox", "", State.GOOD, "is built in"),
        ("mcp", 'command = ["sh"]', State.GOOD, "sh is installed"),
        ("mcp", 'command = ["no-such-program"]', State.WRONG, "no-such-program is not on PATH"),
        ("mcp", 'url = "http://127.0.0.1:1/mcp"', State.WRONG, "127.0.0.1:1 cannot be reached"),
    ],
)
def test_without_a_gateway_upstreams_are_looked_at_from_outside(
    tmp_path: Path, kind: str, entry: str, state: State, what: str
) -> None:
    text = f'[listen]\nport = 1\n[upstreams.a]\ntype = "{kind}"\n{entry}\n'

    (finding,) = upstreams(settings(tmp_path, text), "")

    assert finding.state is state
    assert what in finding.what


def test_driver_that_is_not_there_is_reported_and_stops_nothing_that_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    driver, verdict = isolation(settings(tmp_path, QUICK))

    assert (driver.subject, driver.state) == ("sandbox driver bubblewrap", State.OPTIONAL)
    assert "apt-get install bubblewrap" in driver.remedy
    assert (verdict.state, verdict.remedy) == (State.OPTIONAL, "interlock sandbox doctor")


def test_upstream_that_no_driver_can_keep_apart_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    upstreams = "".join(
        f'[upstreams.{name}]\ntype = "mcp"\n{entry}\n'
        for name, entry in {
            "boxed": 'command = ["sh"]',
            "hosted": 'command = ["sh"]\nsandbox = "none"',
            "remote": 'url = "http://127.0.0.1:1/"',
        }.items()
    )

    *_, verdict = isolation(settings(tmp_path, QUICK + upstreams))

    assert verdict.state is State.WRONG
    assert verdict.what.endswith("so these cannot run: boxed")


def test_installed_driver_that_fails_is_reported_with_its_version_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bwrap").write_text("#!/bin/sh\n[ $1 = --version ] && echo bubblewrap 9.9.9 || exit 3\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    driver, verdict = isolation(settings(tmp_path, QUICK))

    assert "version 9.9.9 is installed and does not work: " in driver.what
    assert (driver.state, verdict.state) == (State.OPTIONAL, State.OPTIONAL)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bwrap is not here: apt-get install bubblewrap")
def test_driver_that_works_is_reported_with_what_it_gives(tmp_path: Path) -> None:
    driver, verdict = isolation(settings(tmp_path, QUICK))

    assert (driver.state, verdict.state) == (State.GOOD, State.GOOD)
    assert driver.what.startswith("level process, version ")
    assert verdict.what == "level process is asked for, and bubblewrap gives process"


def test_report_comes_as_json_and_the_exit_code_says_whether_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "interlock.toml").write_text(f'{QUICK}[upstreams.a]\ntype = "mcp"\ncommand = ["no-such-program"]\n')

    code = main(["doctor", "--json", "--config", str(tmp_path / "interlock.toml")])

    answer = json.loads(capsys.readouterr().out)
    assert code == 1
    assert not answer["ok"]
    assert {"subject", "state", "what", "remedy", "lines"} == set(answer["findings"][0])


def test_faulty_configuration_is_reported_and_the_rest_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "interlock.toml").write_text("[listen]\nprt = 1\n")

    code = main(["doctor", "--config", str(tmp_path / "interlock.toml")])

    out = capsys.readouterr().out
    assert code == 1
    assert "WRONG   configuration" in out
    assert "-> interlock check" in out


def test_secret_that_is_not_there_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    (tmp_path / "interlock.toml").write_text(
        f'{QUICK}[upstreams.a]\ntype = "mcp"\ncommand = ["sh"]\nenv = {{ TOKEN = "env:NOT_THERE" }}\n'
    )

    main(["doctor", "--config", str(tmp_path / "interlock.toml")])

    assert "upstreams.a.env.TOKEN" in capsys.readouterr().out


def test_key_has_to_be_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--key", "ilk_hunter2", "--config", str(tmp_path / "interlock.toml")])

    assert code == 2
    assert "hunter2" not in capsys.readouterr().err


def test_finding_without_a_remedy_has_nothing_to_do() -> None:
    assert Finding("a", State.GOOD, "b").remedy == ""
