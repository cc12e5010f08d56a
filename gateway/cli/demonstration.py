"""Acts as a real client of the running gateway: a call that is allowed, one that is denied, a list that is filtered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

READY_S: Final = 45.0
"""How long the upstreams may take to start, cold."""
PACE_S: Final = 0.2
CALL_S: Final = 20.0

ALLOWED: Final[tuple[str, dict[str, object]]] = ("time__get_current_time", {"timezone": "Etc/UTC"})
DENIED: Final[tuple[tuple[str, dict[str, object]], ...]] = (
    ("git__git_commit", {"repo_path": ".", "message": "not by an agent"}),
    ("vault__get_current_time", {"timezone": "Etc/UTC"}),
)
CODE: Final = """\
import os, urllib.error, urllib.request
print("files here:", *sorted(os.listdir("/")))
try:
    urllib.request.urlopen("http://example.org/", timeout=10)
    print("the network is open")
except urllib.error.HTTPError as refusal:
    print("http://example.org/:", refusal.code, refusal.read().decode().strip())
"""
"""What an agent might send: it looks around, and tries to get out."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One thing that was shown: whether it went as it should, and what the client saw."""

    name: str
    ok: bool
    title: str
    detail: str


async def demonstrate(url: str, key: str, admin_key: str, upstreams: Sequence[str]) -> list[Shown]:
    """Use the gateway at `url` as a developer would; `admin_key` only counts what a developer does not see."""
    expected = [name for name in ("time", "git", "vault", "everything", "sandbox") if name in upstreams]
    shown: list[Shown] = []
    try:
        everything = await _tools(url, admin_key, expected)
        shown.extend(await _calls(url, key, expected))
        # Where nothing is configured that a developer may not do, nothing is hidden.
        must_hide = any(name.partition("__")[0] in expected for name, _ in DENIED)
        shown.append(_filtered(await _tools(url, key, []), everything, must_hide=must_hide))
    except* (MCPError, httpx2.HTTPError, OSError) as group:
        shown.append(Shown("connection", False, "use the gateway as a client: it did not answer", str(_leaf(group))))
    return shown


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _calls(url: str, key: str, expected: Sequence[str]) -> list[Shown]:
    shown = []
    async with _client(url, key) as client:
        if "time" in expected:
            shown.append(_allowed(await _call(client, *ALLOWED)))
        for name, arguments in DENIED:
            if name.partition("__")[0] in expected:
                shown.append(_denied(name, await _call(client, name, arguments)))
        if "sandbox" in expected:
            shown.append(_boxed(await _call(client, "sandbox__run_code", {"language": "python", "code": CODE})))
    return shown


def _allowed(result: CallToolResult | str) -> Shown:
    ok = isinstance(result, CallToolResult) and not result.is_error
    return Shown("allowed", ok, f"call {ALLOWED[0]}: {'allowed' if ok else 'NOT allowed'}", _text(result))


def _denied(name: str, result: CallToolResult | str) -> Shown:
    text = _text(result)
    refused = isinstance(result, str) or bool(result.is_error)
    explained = "rule " in text and "What would help" in text
    verdict = "denied, with the rule and what would help" if refused and explained else "NOT denied as it should be"
    return Shown("denied", refused and explained, f"call {name}: {verdict}", text)


def _boxed(result: CallToolResult | str) -> Shown:
    text = _text(result)
    ok = isinstance(result, CallToolResult) and not result.is_error and ": 403 " in text
    verdict = "ran in a sandbox, its connection refused by policy" if ok else "did NOT run as it should"
    return Shown("sandboxed", ok, f"call sandbox__run_code: {verdict}", text)


def _filtered(seen: Sequence[str], everything: Sequence[str], *, must_hide: bool) -> Shown:
    hidden = sorted(set(everything) - set(seen))
    ok = set(seen) <= set(everything) and (bool(seen and hidden) or not must_hide)
    title = f"list the tools: {len(seen)} of {len(everything)} shown to the role developer"
    named = f"{', '.join(hidden[:6])}{', ...' if len(hidden) > 6 else ''}"
    return Shown("filtered", ok, title, f"hidden: {named or 'none'}")


async def _call(client: Client, name: str, arguments: dict[str, object]) -> CallToolResult | str:
    """The result, or what the protocol error said."""
    try:
        with anyio.fail_after(CALL_S):
            return await client.call_tool(name, arguments)
    except MCPError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {CALL_S:.0f} s"


async def _tools(url: str, key: str, expected: Sequence[str]) -> list[str]:
    """The names in the merged list, once every expected upstream is in it or the time for starting is over."""
    names: list[str] = []
    with anyio.move_on_after(READY_S):
        while True:
            names = await _listed(url, key)
            if all(any(name.startswith(f"{upstream}__") for name in names) for upstream in expected):
                break
            await anyio.sleep(PACE_S)
    return names


async def _listed(url: str, key: str) -> list[str]:
    async with _client(url, key) as client:
        names: list[str] = []
        cursor: str | None = None
        while True:
            page = await client.list_tools(cursor=cursor)
            names.extend(tool.name for tool in page.tools)
            if not (cursor := page.next_cursor):
                return names


@asynccontextmanager
async def _client(url: str, key: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=CALL_S, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), cache=None) as client,
    ):
        yield client


def _text(result: CallToolResult | str) -> str:
    if isinstance(result, str):
        return result
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))
