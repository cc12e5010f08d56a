"""How each MCP client is told of a server: in which file, under which key, and how it reads a secret from outside.

No entry holds the API key: the client takes it from the environment or asks its user.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

Object: TypeAlias = dict[str, object]

KEY_VARIABLE: Final = "INTERLOCK_KEY"
PLACEHOLDER: Final = "REPLACE-WITH-YOUR-KEY"


@dataclass(frozen=True, slots=True)
class Place:
    """Where files of this user are: arguments, so that every system's answer can be tested on any."""

    platform: str
    home: Path
    here: Path
    app_data: Path

    @classmethod
    def of_this_process(cls, environ: Mapping[str, str] = os.environ) -> Place:
        home = Path.home()
        return cls(sys.platform, home, Path.cwd(), Path(environ.get("APPDATA") or home / "AppData" / "Roaming"))

    @property
    def applications(self) -> Path:
        """Where desktop applications keep their settings."""
        match self.platform:
            case "darwin":
                return self.home / "Library" / "Application Support"
            case "win32":
                return self.app_data
            case _:
                return self.home / ".config"


@dataclass(frozen=True, slots=True)
class Client:
    """One kind of client."""

    name: str
    servers_key: str
    entry: Callable[[str], Object]
    file: Callable[[Place], Path] | None
    """Its settings file, or `None` when only the person knows."""
    next_step: str
    inputs: tuple[Object, ...] = ()
    """What it asks its user for (VS Code)."""


def _bearer(reference: str) -> Object:
    return {"Authorization": f"Bearer {reference}"}


def _http(reference: str) -> Callable[[str], Object]:
    return lambda url: {"type": "http", "url": url, "headers": _bearer(reference)}


def _without_type(reference: str) -> Callable[[str], Object]:
    return lambda url: {"url": url, "headers": _bearer(reference)}


def _bridged(url: str) -> Object:
    """Claude Desktop starts processes only, so the entry is a bridge; it sets no variable but those written here."""
    return {
        "command": "npx",
        "args": ["-y", "mcp-remote", url, "--header", "Authorization:${INTERLOCK_AUTHORIZATION}"],
        "env": {"INTERLOCK_AUTHORIZATION": f"Bearer {PLACEHOLDER}"},
    }


_SET_VARIABLE: Final = f"set {KEY_VARIABLE} to an API key (`interlock keys create`) in the environment that starts it"

CLIENTS: Final[Mapping[str, Client]] = {
    client.name: client
    for client in (
        Client(
            "claude-code",
            "mcpServers",
            _http(f"${{{KEY_VARIABLE}}}"),
            lambda place: place.here / ".mcp.json",
            f"{_SET_VARIABLE}; --file ~/.claude.json writes it for all projects",
        ),
        Client(
            "claude-desktop",
            "mcpServers",
            _bridged,
            lambda place: place.applications / "Claude" / "claude_desktop_config.json",
            f"replace {PLACEHOLDER} in that file with an API key (`interlock keys create`), then restart it "
            "(the bridge needs Node.js)",
        ),
        Client(
            "vscode",
            "servers",
            _http("${input:interlock-key}"),
            lambda place: place.applications / "Code" / "User" / "mcp.json",
            "VS Code asks for the API key (`interlock keys create`) when it first connects, and keeps it",
            ({"type": "promptString", "id": "interlock-key", "description": "Interlock API key", "password": True},),
        ),
        Client(
            "cursor",
            "mcpServers",
            _without_type(f"${{env:{KEY_VARIABLE}}}"),
            lambda place: place.home / ".cursor" / "mcp.json",
            _SET_VARIABLE,
        ),
        Client("generic", "mcpServers", _http(f"${{{KEY_VARIABLE}}}"), None, _SET_VARIABLE),
    )
}


def settings_with(client: Client, name: str, url: str, settings: Object) -> Object:
    """`settings` with the gateway's entry in it, everything else as it was."""
    servers = settings.get(client.servers_key)
    changed = {
        **settings,
        client.servers_key: {**(servers if isinstance(servers, dict) else {}), name: client.entry(url)},
    }
    if client.inputs:
        changed["inputs"] = _with_inputs(settings.get("inputs"), client.inputs)
    return changed


def _with_inputs(present: object, wanted: tuple[Object, ...]) -> list[object]:
    kept = list(present) if isinstance(present, list) else []
    ids = {item.get("id") for item in kept if isinstance(item, dict)}
    return [*kept, *(item for item in wanted if item["id"] not in ids)]
