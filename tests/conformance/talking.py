"""A gateway in front of the asking servers, and the few ways of talking to it that the protocol tests need."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from conformance.gateway import ROOT, Gateway, Plan, started
from tests.servers.launch import Started, http_server, stdio_server

MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
PREFIX: Final = "io.modelcontextprotocol/"
ALLOW: Final = 'package rules.open\n\ndefault allow := false\n\nallow if input.resource.type != ""\n'

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class World:
    """A running gateway with the upstreams `legacy`, `modern`, `arrays` (HTTP), `lines` and `modernlines` (stdio)."""

    gateway: Gateway
    legacy: Started
    modern: Started
    lines_journal: Path

    def url(self, upstream: str = "") -> str:
        """The endpoint of one upstream, or the merged one."""
        return self.gateway.endpoint(upstream) if upstream else f"{self.gateway.url}/mcp"


@contextmanager
def world(place: Path, *, anonymous: bool = True) -> Iterator[World]:
    """Everything started; ended with the block."""
    policy = place / "policy"
    policy.mkdir()
    (policy / "open.rego").write_text(ALLOW)
    with ExitStack() as stack:
        legacy = stack.enter_context(http_server("legacy_asker", place, "--page-size", "5"))
        modern = stack.enter_context(http_server("modern_asker", place, "--page-size", "5"))
        arrays = stack.enter_context(http_server("modern_asker", place, "--arrays"))
        lines, journal = stdio_server("legacy_asker", place)
        modern_lines, _ = stdio_server("modern_asker", place)
        upstreams: dict[str, dict[str, object]] = {
            "legacy": {"url": legacy.url},
            "modern": {"url": modern.url},
            "arrays": {"url": arrays.url},
            "lines": {"command": lines, "cwd": str(ROOT), "sandbox": "none"},
            "modernlines": {"command": modern_lines, "cwd": str(ROOT), "sandbox": "none"},
        }
        tables = {"policy": {"path": str(policy)}, "identity": {"anonymous": "dev" if anonymous else ""}}
        gateway = stack.enter_context(started(Plan(upstreams, tables), place))
        yield World(gateway, legacy, modern, journal)


def envelope(**more: object) -> Json:
    """The `_meta` that every modern request carries."""
    return {PREFIX + "protocolVersion": MODERN, PREFIX + "clientCapabilities": {}, **more}


def request(method: str, params: Mapping[str, object] | None = None, meta: Mapping[str, object] | None = None) -> Json:
    """A modern request."""
    return {
        "jsonrpc": "2.0",
        "id": 1,
        "method": method,
        "params": {**(params or {}), "_meta": {**envelope(), **(meta or {})}},
    }


def call(tool: str, arguments: Mapping[str, object] | None = None, meta: Mapping[str, object] | None = None) -> Json:
    """A modern tools/call."""
    return request("tools/call", {"name": tool, "arguments": dict(arguments or {})}, meta)


def headers_for(body: Mapping[str, Any]) -> dict[str, str]:
    """The headers that say what the body says."""
    params = body.get("params", {})
    named = params.get("uri") if body.get("method") == "resources/read" else params.get("name")
    return {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": MODERN,
        "mcp-method": str(body.get("method")),
        **({"mcp-name": named} if named else {}),
    }


def post(url: str, body: Mapping[str, Any], **headers: str) -> httpx2.Response:
    """Send one modern message. Keyword headers are written with `_` for `-`."""
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.post(url, json=body, headers={**headers_for(body), **extra}, timeout=20)


def answer(response: httpx2.Response) -> Json:
    """The response message: the whole body, or the last event of a stream."""
    return messages(response)[-1]


def messages(response: httpx2.Response) -> list[Json]:
    """All messages of an answer."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        message: Json = response.json()
        return [message]
    lines = response.text.splitlines()
    return [json.loads(line[5:]) for line in lines if line.startswith("data:") and line[5:].strip()]


def said(message: Mapping[str, Any]) -> str:
    """The text of a tool's result."""
    text: str = message["result"]["content"][0]["text"]
    return text
