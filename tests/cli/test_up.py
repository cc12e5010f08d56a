"""`interlock up` serves from nothing, shows what it does as a client of itself, and ends when it is told to."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.main import CommandFailed
from gateway.cli.sockets import free_port
from gateway.cli.up import expected_in
from gateway.errors import ConfigError

DEADLINE_S = 120


def up(config: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "gateway", "up", "--config", str(config), *words]


def once(config: Path, *words: str) -> dict[str, object]:
    """What `interlock up --once --json` answers."""
    done = subprocess.run(
        up(config, "--once", "--json", *words), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@contextmanager
def serving(config: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway that serves; its process and address."""
    with subprocess.Popen(up(config, "--json", *words), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, str(json.loads(process.stdout.readline())["url"])
        finally:
            process.kill()


def status(url: str) -> int:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    connection.close()
    return answer.status


@pytest.mark.slow
def test_first_run_shows_a_call_that_is_allowed_one_that_is_denied_and_a_filtered_list(tmp_path: Path) -> None:
    answer = once(tmp_path / "interlock.toml")

    shown = answer["demonstration"]
    assert isinstance(shown, list)
    assert [one["name"] for one in shown] == ["allowed", "denied", "sandboxed", "filtered"]
    assert all(one["ok"] for one in shown), shown
    assert str(answer["key"]).startswith("ilk_")
    assert answer["mcpServers"]


@pytest.mark.slow
def test_configuration_with_nothing_to_hide_is_no_failure_of_the_demonstration(tmp_path: Path) -> None:
    config = tmp_path / "interlock.toml"
    listen = f"[listen]\nport = {free_port('127.0.0.1')}\n"
    config.write_text(f'{listen}[upstreams.time]\ntype = "mcp"\ncommand = ["mcp-server-time"]\nsandbox = "none"\n')

    shown = once(config)["demonstration"]

    assert isinstance(shown, list)
    assert [(one["name"], one["ok"]) for one in shown] == [("allowed", True), ("filtered", True)]


@pytest.mark.slow
def test_key_is_shown_on_the_first_run_only(tmp_path: Path) -> None:
    first = once(tmp_path / "interlock.toml")

    second = once(tmp_path / "interlock.toml")

    assert "key" in first
    assert "key" not in second


@pytest.mark.slow
def test_key_of_the_first_run_is_nowhere_on_disk(tmp_path: Path) -> None:
    key = str(once(tmp_path / "interlock.toml")["key"]).encode()

    holding = [path for path in tmp_path.rglob("*") if path.is_file() and key in path.read_bytes()]

    assert not holding


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    config = tmp_path / "interlock.toml"
    config.write_text(f"[listen]\nport = {free_port('127.0.0.1')}\n")

    with serving(config) as (process, url):
        alive = status(url)
        process.send_signal(number)
        code = process.wait(timeout=30)

    assert alive == 200
    assert code == 0


@pytest.mark.slow
def test_configuration_of_somebodys_own_gets_no_demonstration_and_no_key(tmp_path: Path) -> None:
    config = tmp_path / "interlock.toml"
    config.write_text(f"[listen]\nport = {free_port('127.0.0.1')}\n")

    with subprocess.Popen(up(config, "--json"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        answer = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)

    assert set(answer) == {"url", "upstreams", "agents", "mcpServers"}


@pytest.mark.slow
def test_addresses_of_agents_are_told_and_a_name_that_no_agent_has_is_said_to_be_none(tmp_path: Path) -> None:
    config = tmp_path / "interlock.toml"
    listen = f"[listen]\nport = {free_port('127.0.0.1')}\ngrpc_port = {free_port('127.0.0.1')}\n"
    config.write_text(listen + '[agents.ghost]\ncard_url = "http://127.0.0.1:1/card"\n')

    with subprocess.Popen(up(config), stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            assert process.stdout is not None
            told = _told(process.stdout)
            url = told.partition("listening on ")[2].partition("\n")[0]
            code, body = _got(url, "/agents/gost/message:send")
        finally:
            process.kill()

    assert "0 upstreams and 1 agents" in told
    assert f"{url}/servers/ghost/mcp, {url}/agents/ghost or http://ghost.localhost:" in told
    assert "agents over gRPC" in told
    assert f"{url}/.well-known/ai-catalog.json" in told
    assert code == 404
    assert "no agent of this name is served here" in body


def _told(lines: Iterable[str]) -> str:
    """What is printed until the gateway serves."""
    found = []
    for line in lines:
        found.append(line)
        if "serving until" in line:
            break
    return "".join(found)


def _got(url: str, path: str) -> tuple[int, str]:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def test_port_that_is_taken_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        (tmp_path / "interlock.toml").write_text(f"[listen]\nport = {number}\n")

        code = main(["up", "--config", str(tmp_path / "interlock.toml")])

    assert code == 2
    assert f"port {number} on 127.0.0.1 is taken" in capsys.readouterr().err


def test_other_address_than_loopback_with_anonymous_is_refused_before_anything_listens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "interlock.toml").write_text('[identity]\nanonymous = "dev"\n')

    code = main(["up", "--host", "192.0.2.1", "--config", str(tmp_path / "interlock.toml")])

    assert code == 2
    assert "identity.anonymous: is for loopback only" in capsys.readouterr().err


def test_failure_that_a_person_can_act_on_is_found_in_a_group() -> None:
    group = BaseExceptionGroup("outer", [ExceptionGroup("inner", [ConfigError([("a", "b")]), ValueError()])])

    assert str(expected_in(group)) == "a: b"


def test_failure_that_nobody_foresaw_stays_what_it_is() -> None:
    group = ExceptionGroup("outer", [ValueError("x")])

    assert expected_in(group) is group
    assert not isinstance(expected_in(group), CommandFailed)


def test_configuration_that_cannot_be_written_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["up", "--config", str(tmp_path / "none" / "interlock.toml")])

    assert code == 2
    assert "cannot be written: there is no directory" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
