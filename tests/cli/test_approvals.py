"""`interlock approvals` and `interlock kill` say what helps when they cannot do what they are asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conformance.processes import free_port
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, main
from gateway.cli.remote import KEY_VARIABLE, printable

COMMANDS = [
    ["approvals", "list"],
    ["approvals", "show", "apr-1"],
    ["approvals", "approve", "apr-1"],
    ["approvals", "deny", "apr-1", "--reason", "no"],
    ["approvals", "grants"],
    ["kill", "list"],
    ["kill", "set", "everything"],
    ["kill", "clear", "tool", "bank/pay"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_key_it_says_how_to_make_one(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)

    assert main(command) == CANNOT

    told = capsys.readouterr().err
    assert KEY_VARIABLE in told
    assert "interlock keys create --subject user:YOU --role" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_gateway_it_says_where_it_looked(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "ilk_x")
    url = f"http://127.0.0.1:{free_port()}"

    assert main([*command, "--url", url]) == CANNOT

    told = capsys.readouterr().err
    assert url in told
    assert "interlock up" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--arguments", "{"], "not JSON"),
        (["--any-arguments"], "--uses"),
        (["--url", "localhost"], "no address"),
        (["--url", "http://localhost:99999"], "no address"),
        (["--url", "http://["], "no address"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "ilk_x")

    assert main(["approvals", "approve", "apr-1", *words]) == CANNOT

    assert told in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"first\nsecond\n", b"\xff\xfe", "ключ".encode()])
def test_key_file_that_holds_no_key_is_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(content)

    assert main(["approvals", "list", "--key-file", str(tmp_path / "key")]) == CANNOT

    assert "ilk_" in capsys.readouterr().err


@pytest.fixture
def refusing() -> Iterator[str]:
    """Something that answers as a gateway whose rule repeats what a caller wrote."""

    class Refusal(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = json.dumps({"error": "no \x1b[2J", "code": "policy_denied"}).encode()
            self.send_response(409)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(5)


def test_terminal_is_not_obeying_what_a_gateway_says(
    refusing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "ilk_x")

    code = main(["approvals", "approve", "apr-1", "--url", refusing])

    assert code == NOT_AS_IT_SHOULD_BE
    assert capsys.readouterr().err == "error: no \\x1b[2J\n"


def test_terminal_is_not_obeying_titles() -> None:
    assert printable("pay \x1b[2J\u202e") == "pay \\x1b[2J\\x202e"
