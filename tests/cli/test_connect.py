"""`interlock connect` adds one entry to a client's settings and leaves everything else exactly as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.clients import CLIENTS, PLACEHOLDER, Place

URL = "http://127.0.0.1:8080/mcp"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return tmp_path / "settings.json"


def connect(settings: Path, client: str, *more: str) -> int:
    config = settings.with_name("interlock.toml")
    return main(["connect", client, "--config", str(config), "--file", str(settings), *more])


@pytest.mark.parametrize(
    ("client", "key", "entry"),
    [
        (
            "claude-code",
            "mcpServers",
            {"type": "http", "url": URL, "headers": {"Authorization": "Bearer ${INTERLOCK_KEY}"}},
        ),
        (
            "vscode",
            "servers",
            {"type": "http", "url": URL, "headers": {"Authorization": "Bearer ${input:interlock-key}"}},
        ),
        ("cursor", "mcpServers", {"url": URL, "headers": {"Authorization": "Bearer ${env:INTERLOCK_KEY}"}}),
        (
            "generic",
            "mcpServers",
            {"type": "http", "url": URL, "headers": {"Authorization": "Bearer ${INTERLOCK_KEY}"}},
        ),
    ],
)
def test_each_client_gets_the_entry_that_it_understands(settings: Path, client: str, key: str, entry: object) -> None:
    code = connect(settings, client, "--write")

    assert code == 0
    assert json.loads(settings.read_text())[key] == {"interlock": entry}


def test_claude_desktop_gets_a_bridge_whose_key_the_person_fills_in(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connect(settings, "claude-desktop", "--write")

    entry = json.loads(settings.read_text())["mcpServers"]["interlock"]
    assert entry["command"] == "npx"
    assert URL in entry["args"]
    assert entry["env"] == {"INTERLOCK_AUTHORIZATION": f"Bearer {PLACEHOLDER}"}
    assert f"replace {PLACEHOLDER}" in capsys.readouterr().out


def test_vscode_is_told_to_ask_for_the_key_once(settings: Path) -> None:
    settings.write_text('{"inputs": [{"id": "other"}]}')

    connect(settings, "vscode", "--write")
    connect(settings, "vscode", "--write", "--name", "second")

    inputs = json.loads(settings.read_text())["inputs"]
    assert [item["id"] for item in inputs] == ["other", "interlock-key"]


def test_without_write_the_entry_is_only_printed(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = connect(settings, "generic")

    assert code == 0
    assert json.loads(capsys.readouterr().out)["mcpServers"]["interlock"]["url"] == URL
    assert not settings.exists()


def test_everything_else_in_the_file_stays(settings: Path) -> None:
    settings.write_text(
        '{\n    "theme": "dark",\n    "mcpServers": {"own": {"command": "x", "odd": [1.5]}},\n    "last": "ünï"\n}'
    )

    connect(settings, "cursor", "--write")

    after = json.loads(settings.read_text())
    assert list(after) == ["theme", "mcpServers", "last"]
    assert after["mcpServers"]["own"] == {"command": "x", "odd": [1.5]}
    assert '\n    "last": "ünï"' in settings.read_text()


def test_file_is_kept_as_a_backup(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings.write_text('{"mcpServers": {}}')
    settings.chmod(0o640)

    connect(settings, "cursor", "--write")

    (kept,) = settings.parent.glob("settings.json.*.bak")
    assert kept.read_text() == '{"mcpServers": {}}'
    assert str(kept) in capsys.readouterr().out
    assert settings.stat().st_mode & 0o777 == 0o640


def test_second_time_changes_nothing(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connect(settings, "vscode", "--write")
    before = settings.read_bytes()

    code = connect(settings, "vscode", "--write")

    assert code == 0
    assert settings.read_bytes() == before
    assert not list(settings.parent.glob("*.bak"))
    assert "nothing to do" in capsys.readouterr().out


def test_dry_run_shows_the_change_and_makes_none(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings.write_text('{"mcpServers": {}}\n')

    code = connect(settings, "cursor", "--write", "--dry-run")

    assert code == 0
    assert '+    "interlock": {' in capsys.readouterr().out
    assert settings.read_text() == '{"mcpServers": {}}\n'
    assert not list(settings.parent.glob("*.bak"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{\n // mine\n "servers": {}\n}', "has comments or trailing commas"),
        ('{"servers": {},}', "has comments or trailing commas"),
        ('{"servers": {', "is not JSON"),
        ("[]", "does not hold a JSON object"),
        ('{"servers": []}', "servers is not an object"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
    ],
)
def test_file_that_would_lose_something_is_refused(
    settings: Path, text: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.write_text(text)

    code = connect(settings, "vscode", "--write")

    assert code == 2
    assert why in capsys.readouterr().err
    assert settings.read_text() == text


def test_linked_file_stays_a_link(settings: Path) -> None:
    real = settings.with_name("dotfiles.json")
    real.write_text("{}")
    settings.symlink_to(real)

    connect(settings, "cursor", "--write")

    assert settings.is_symlink()
    assert "interlock" in real.read_text()


def test_address_is_that_of_the_configuration(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings.with_name("interlock.toml").write_text('[listen]\npublic_url = "https://gate.example.com"\n')

    connect(settings, "generic", "--upstream", "files", "--name", "files")

    entry = json.loads(capsys.readouterr().out)["mcpServers"]["files"]
    assert entry["url"] == "https://gate.example.com/servers/files/mcp"


def test_client_without_a_known_file_has_to_be_told_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["connect", "generic", "--write", "--config", str(tmp_path / "interlock.toml")])

    assert code == 2
    assert "give it with --file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("client", "platform", "expected"),
    [
        ("claude-desktop", "linux", "/home/ana/.config/Claude/claude_desktop_config.json"),
        ("claude-desktop", "darwin", "/home/ana/Library/Application Support/Claude/claude_desktop_config.json"),
        ("claude-desktop", "win32", "/roaming/Claude/claude_desktop_config.json"),
        ("vscode", "linux", "/home/ana/.config/Code/User/mcp.json"),
        ("vscode", "darwin", "/home/ana/Library/Application Support/Code/User/mcp.json"),
        ("cursor", "win32", "/home/ana/.cursor/mcp.json"),
        ("claude-code", "linux", "/project/.mcp.json"),
    ],
)
def test_settings_are_where_each_system_keeps_them(client: str, platform: str, expected: str) -> None:
    place = Place(platform, Path("/home/ana"), Path("/project"), Path("/roaming"))
    find = CLIENTS[client].file

    assert find is not None
    assert find(place) == Path(expected)
