"""`interlock connect import` takes a client's servers over and leaves every secret where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.importing import servers_in, toml_of, translate
from gateway.config import Settings, load, loads

Server = dict[str, object]


def translated(servers: dict[str, object]) -> tuple[Settings, dict[str, str], dict[str, str]]:
    done = translate(servers, Settings())
    return loads(toml_of(done.upstreams), Path("/base")), done.variables, dict(done.skipped)


def test_process_becomes_an_upstream_with_its_command() -> None:
    server: Server = {"command": "npx", "args": ["-y", "server-files", 'a "b"'], "env": {"LOG": "x"}, "cwd": "/srv"}

    settings, variables, _ = translated({"My Files": server})

    upstream = settings.upstreams["my-files"]
    assert upstream.command == ("npx", "-y", "server-files", 'a "b"')
    assert dict(upstream.env) == {"LOG": "x"}
    assert upstream.cwd == Path("/srv")
    assert variables == {}


@pytest.mark.parametrize("key", ["url", "serverUrl", "httpUrl"])
def test_address_becomes_an_upstream_whatever_the_client_calls_it(key: str) -> None:
    settings, _, _ = translated({"remote": {key: "https://mcp.example.com/mcp", "type": "http"}})

    assert settings.upstreams["remote"].url == "https://mcp.example.com/mcp"


@pytest.mark.parametrize(
    ("name", "value", "variable"),
    [
        ("GITHUB_TOKEN", "hunter2", "GITHUB_TOKEN"),
        ("PLAIN", "ghp_0123456789abcdef", "PLAIN"),
        ("DATABASE_URL", "postgres://u:hunter2@db/x", "DATABASE_URL"),
        ("SEED", "a8f5f167f44f4964e6c998dee827110c", "SEED"),
        ("TENANT", "123e4567-e89b-12d3-a456-426614174000", "TENANT"),
        ("ANY", "${MY_VAR}", "MY_VAR"),
        ("ANY", "${env:MY_VAR}", "MY_VAR"),
        ("ANY", "${input:my-key}", "MY_KEY"),
    ],
)
def test_secret_in_the_environment_becomes_a_reference(name: str, value: str, variable: str) -> None:
    settings, variables, _ = translated({"a": {"command": "x", "env": {name: value}}})

    assert settings.upstreams["a"].env[name] == f"env:{variable}"
    assert variables == {variable: f"a: env.{name}"}
    assert "hunter2" not in str(settings)


@pytest.mark.parametrize("value", ["Bearer hunter2", "Bearer ${A_AUTHORIZATION}"])
def test_credential_in_a_header_becomes_a_reference_behind_its_scheme(value: str) -> None:
    settings, variables, _ = translated({"a": {"url": "http://127.0.0.1/mcp", "headers": {"Authorization": value}}})

    assert settings.upstreams["a"].headers["Authorization"].startswith("Bearer env:")
    assert len(variables) == 1


def test_two_servers_do_not_share_a_variable_for_different_secrets() -> None:
    settings, variables, _ = translated(
        {"a": {"command": "x", "env": {"API_KEY": "one"}}, "b": {"command": "y", "env": {"API_KEY": "two"}}}
    )

    assert settings.upstreams["a"].env["API_KEY"] == "env:API_KEY"
    assert settings.upstreams["b"].env["API_KEY"] == "env:B_API_KEY"
    assert set(variables) == {"API_KEY", "B_API_KEY"}


@pytest.mark.parametrize(
    ("server", "why"),
    [
        ("x", "not an object"),
        ({}, "neither a url nor a command"),
        ({"command": "x", "disabled": True}, "disabled"),
        ({"url": "http://127.0.0.1/sse", "type": "sse"}, "HTTP+SSE"),
        ({"command": "x", "args": "y"}, "not a list"),
        ({"command": "x", "args": ["--api-key=hunter2"]}, "seems to hold a secret"),
        ({"command": "x", "args": ["--token", "hunter2"]}, "seems to hold a secret"),
        ({"command": "x", "args": ["Authorization: Bearer hunter2"]}, "seems to hold a secret"),
        ({"command": "x", "args": ["${workspaceFolder}"]}, "holds a variable"),
        ({"command": "x", "env": {"A": "${B}-${C}"}}, "mixes text and variables"),
        ({"command": "x", "env": []}, "not an object"),
        ({"url": "https://u:hunter2@h/mcp"}, "a variable or a secret"),
        ({"url": "http://127.0.0.1:8080/mcp"}, "is this gateway"),
    ],
)
def test_server_that_cannot_be_taken_over_is_left_out_with_the_reason(server: object, why: str) -> None:
    settings, _, skipped = translated({"a": server})

    assert not settings.upstreams
    assert why in skipped["a"]
    assert "hunter2" not in skipped["a"]


def test_names_are_made_fit_and_distinct() -> None:
    settings, _, _ = translated({name: {"command": name} for name in ("A b", "a__b", "a.b", "ü", "x" * 40)})

    assert list(settings.upstreams) == ["a-b", "a-b-2", "a-b-3", "imported", "x" * 31]


@pytest.mark.parametrize(
    "text",
    ['{"mcpServers": {"a": {}}}', '{"servers": {"a": {}}}', '{"mcp": {"servers": {"a": {}}}}'],
    ids=["usual", "vscode", "nested"],
)
def test_servers_are_found_wherever_the_client_puts_them(text: str) -> None:
    assert servers_in(json.loads(text), "file") == {"a": {}}


def test_file_with_comments_is_appended_to_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "interlock.toml").write_text("[listen]\nport = 9000")
    (tmp_path / "mcp.json").write_text(
        '{ // mine\n "servers": {"a": {"command": "x", "env": {"TOKEN": "hunter2", "U": "http://x//y"},},}}'
    )

    code = main(["connect", "import", str(tmp_path / "mcp.json"), "--config", str(tmp_path / "interlock.toml")])

    said = capsys.readouterr().out
    settings = load(tmp_path / "interlock.toml")
    assert code == 0
    assert settings.listen.port == 9000
    assert dict(settings.upstreams["a"].env) == {"TOKEN": "env:TOKEN", "U": "http://x//y"}
    assert "  TOKEN  (a: env.TOKEN)" in said
    assert "hunter2" not in said + (tmp_path / "interlock.toml").read_text()
    assert list(tmp_path.glob("interlock.toml.*.bak"))


def test_second_import_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"a": {"command": "x"}}}')
    words = ["connect", "import", str(tmp_path / "mcp.json"), "--config", str(tmp_path / "interlock.toml")]
    main(words)
    before = (tmp_path / "interlock.toml").read_bytes()

    code = main(words)

    assert code == 0
    assert (tmp_path / "interlock.toml").read_bytes() == before
    assert "left out a: it is an upstream already" in capsys.readouterr().out


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"a": {"command": "x"}}}')

    code = main(["connect", "import", str(tmp_path / "mcp.json"), "--config", str(tmp_path / "i.toml"), "--dry-run"])

    assert code == 0
    assert "+[upstreams.a]" in capsys.readouterr().out
    assert not (tmp_path / "i.toml").exists()
