"""Claims of revision 2025-11-25 that the official suite does not show, through a real gateway."""

from __future__ import annotations

import json
from typing import Any, Final

import anyio
import httpx2
import pytest

from tests.conformance.talking import LEGACY, World, messages
from tests.servers.launch import matching, noted

ACCEPT: Final = "application/json, text/event-stream"


class LegacySession:
    """A legacy client, written out so that a test sees every header."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.headers = {"accept": ACCEPT}

    def post(self, body: Any, **headers: str) -> httpx2.Response:
        """Send whatever is given."""
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx2.post(self.url, json=body, headers={**self.headers, **extra}, timeout=20)

    def initialize(self, version: str = LEGACY, capabilities: dict[str, Any] | None = None) -> dict[str, Any]:
        """Begin the session; the result of `initialize`."""
        info = {"name": "test", "version": "1"}
        params = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": info}
        response = self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        result: dict[str, Any] = messages(response)[-1]["result"]
        self.headers |= {
            "mcp-session-id": response.headers["mcp-session-id"],
            "mcp-protocol-version": result["protocolVersion"],
        }
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return result

    def request(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one request."""
        return messages(self.post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))[-1]


def _session(world: World, upstream: str = "legacy") -> LegacySession:
    session = LegacySession(world.url(upstream))
    session.initialize()
    return session


@pytest.mark.requirement("mcp:2025-11-25:version-same")
@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_version_that_the_gateway_speaks_is_answered_with_itself(open_world: World, version: str) -> None:
    assert LegacySession(open_world.url("legacy")).initialize(version)["protocolVersion"] == version


@pytest.mark.requirement("mcp:2025-11-25:version-other")
@pytest.mark.parametrize("version", ["1999-01-01", "2099-01-01", "2026-07-28"])
def test_any_other_version_is_answered_with_the_latest_of_the_era(open_world: World, version: str) -> None:
    assert LegacySession(open_world.url("legacy")).initialize(version)["protocolVersion"] == LEGACY


@pytest.mark.requirement("mcp:2025-11-25:no-batch")
def test_batch_is_refused(open_world: World) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

    response = _session(open_world).post([ping, {**ping, "id": 2}])

    assert 400 <= response.status_code < 500


@pytest.mark.requirement("mcp:2025-11-25:notification-202", "mcp:2025-11-25:cancel-unknown")
def test_notification_is_accepted_and_an_unknown_cancellation_changes_nothing(open_world: World) -> None:
    session = _session(open_world)

    accepted = session.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "none"}})

    assert accepted.status_code == 202
    assert session.request("ping")["result"] == {}


@pytest.mark.requirement("mcp:2025-11-25:session-id")
def test_session_ids_are_visible_ascii_and_never_the_same(open_world: World) -> None:
    ids = [_session(open_world).headers["mcp-session-id"] for _ in range(3)]

    assert len(set(ids)) == 3
    assert all(len(name) >= 22 and all(0x21 <= ord(sign) <= 0x7E for sign in name) for name in ids)


@pytest.mark.requirement("mcp:2025-11-25:session-missing")
def test_request_without_its_session_is_refused(open_world: World) -> None:
    session = _session(open_world)
    del session.headers["mcp-session-id"]

    response = session.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})

    assert response.status_code == 400


@pytest.mark.requirement("mcp:2025-11-25:version-header")
def test_unknown_version_header_is_refused(open_world: World) -> None:
    response = _session(open_world).post(
        {"jsonrpc": "2.0", "id": 1, "method": "ping"}, mcp_protocol_version="1999-01-01"
    )

    assert response.status_code == 400


@pytest.mark.requirement("mcp:2025-11-25:cursors")
def test_all_pages_are_listed_under_opaque_cursors(open_world: World) -> None:
    session, names, params = _session(open_world), list[str](), dict[str, Any]()
    while True:
        page = session.request("tools/list", **params)["result"]
        names += [tool["name"] for tool in page["tools"]]
        if "nextCursor" not in page:
            break
        params = {"cursor": page["nextCursor"]}

    assert {"echo", "exit"} <= set(names)
    assert session.request("tools/list", cursor="made-up")["error"]["code"] == -32602


@pytest.mark.requirement("mcp:2025-11-25:cancel")
@pytest.mark.parametrize("upstream", ["legacy", "lines"])
async def test_cancelled_call_is_cancelled_upstream(open_world: World, upstream: str) -> None:
    session = await anyio.to_thread.run_sync(_session, open_world, upstream)
    record = open_world.legacy.record if upstream == "legacy" else open_world.lines_journal
    waiting, cancelled = (len(matching(record, event, "slow")) for event in ("waiting", "cancelled"))
    call = {"jsonrpc": "2.0", "id": 77, "method": "tools/call", "params": {"name": "slow", "arguments": {}}}
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 77}}

    with anyio.fail_after(20):
        async with httpx2.AsyncClient(timeout=20) as http, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: http.post(session.url, json=call, headers=session.headers))
            await noted(record, "waiting", after=waiting)
            await http.post(session.url, json=cancel, headers=session.headers)
            entry = await noted(record, "cancelled", name="slow", after=cancelled)
            tasks.cancel_scope.cancel()

    assert entry["name"] == "slow"


@pytest.mark.requirement("mcp:2025-11-25:get-stream", "mcp:2025-11-25:tools-changed", "mcp:2025-11-25:updated")
@pytest.mark.parametrize("upstream", ["legacy", "modern"])
async def test_session_hears_of_changes_and_of_what_it_subscribed_to(open_world: World, upstream: str) -> None:
    session = await anyio.to_thread.run_sync(_session, open_world, upstream)
    session.request("resources/subscribe", uri="note://one")
    wanted = {"notifications/resources/updated", "notifications/tools/list_changed"}
    heard: set[str] = set()

    with anyio.fail_after(20):
        async with (
            httpx2.AsyncClient(timeout=20) as http,
            http.stream("GET", session.url, headers=session.headers) as stream,
        ):
            assert stream.headers["content-type"].startswith("text/event-stream")
            for name, arguments in (("touch", {"uri": "note://one"}), ("change", {})):
                params = {"name": name, "arguments": arguments}
                call = {"jsonrpc": "2.0", "id": name, "method": "tools/call", "params": params}
                await http.post(session.url, json=call, headers=session.headers)
            async for line in stream.aiter_lines():
                if line.startswith("data:") and line[5:].strip():
                    heard.add(json.loads(line[5:]).get("method", ""))
                if wanted <= heard:
                    break

    assert wanted <= heard
