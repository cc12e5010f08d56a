"""Calls reach the server as they should and come back as they were, in both eras, over both transports."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import UpstreamUnavailable
from gateway.types import Era, Resource
from tests.fakes import FakeRelay
from tests.servers.launch import Started, http_server
from tests.upstreams.harness import (
    Running,
    at,
    make_call,
    payload,
    process_of,
    resource_call,
    running,
    text_of,
    tool_call,
)

PEERS = ["legacy-http", "legacy-stdio", "modern-http", "modern-stdio"]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(params=PEERS)
async def peer(
    request: pytest.FixtureRequest, legacy_site: Started, modern_site: Started, tmp_path: Path
) -> AsyncIterator[Running]:
    """A running upstream of each era over each transport."""
    era, _, transport = request.param.partition("-")
    if transport == "http":
        make = at((legacy_site if era == "legacy" else modern_site).url)
    else:
        make, _ = process_of(f"{era}_asker", tmp_path)
    async with running(make) as up:
        yield up


async def test_catalog_is_offered_before_the_first_call(peer: Running) -> None:
    listing = peer.listings[0]

    names = {str(tool["name"]) for tool in listing.tools}
    assert {"echo", "ask_user", "progress"} <= names
    assert {str(prompt["name"]) for prompt in listing.prompts} >= {"greet"}
    assert {str(item["uri"]) for item in listing.resources} >= {"note://one"}
    assert listing.templates[0]["uriTemplate"] == "note://{name}"
    assert listing.server_info["name"] in ("legacy-asker", "modern-asker")
    assert listing.instructions
    assert peer.upstream.health.state == "up"


async def test_call_comes_back_with_every_field_the_server_sent(peer: Running) -> None:
    result = await peer.call("echo", text="hello")

    assert payload(result) == {
        "resultType": "complete",
        "content": [{"type": "text", "text": "hello"}],
        "isError": False,
        "_meta": {"example.org/kept": 1},
        "x-unknown": {"kept": True},
    }


async def test_tool_that_fails_is_a_result(peer: Running) -> None:
    result = await peer.call("fail")

    assert result.outcome == "tool_error"
    assert text_of(result) == "the tool failed on purpose"


async def test_unknown_tool_is_the_servers_error(peer: Running) -> None:
    result = await peer.call("no_such_tool")

    assert result.outcome == "rpc_error"
    assert payload(result)["code"] == -32602


async def test_structured_content_comes_back(peer: Running) -> None:
    result = await peer.call("structured")

    assert payload(result)["structuredContent"] == {"temperature": 21.5, "unit": "C"}


async def test_prompt_is_rendered(peer: Running) -> None:
    resource = Resource("prompt", "x/greet", upstream="x", name="greet")

    result = await peer.execute(make_call("prompts/get", resource, {"name": "greet", "arguments": {"who": "Ana"}}))

    assert payload(result)["messages"][0]["content"]["text"] == "Greet Ana"


async def test_what_one_principal_read_is_never_cacheable_for_others(peer: Running) -> None:
    result = await peer.execute(resource_call("resources/read", "note://one"))

    assert payload(result)["cacheScope"] == "private"
    assert payload(result)["ttlMs"] in (0, 60_000)
    assert payload(result)["contents"][0]["uri"] == "note://one"


async def test_missing_resource_has_the_modern_code(peer: Running) -> None:
    result = await peer.execute(resource_call("resources/read", "note://none"))

    assert result.outcome == "rpc_error"
    assert payload(result)["code"] == -32602


async def test_completion_is_passed_through(peer: Running) -> None:
    params = {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "who", "value": "al"}}
    resource = Resource("prompt", "x/greet", upstream="x", name="greet")

    result = await peer.execute(make_call("completion/complete", resource, params))

    assert payload(result)["completion"]["values"] == ["alice", "albert"]


async def test_client_meta_and_trace_reach_the_server_and_tokens_of_other_hops_do_not(peer: Running) -> None:
    call = tool_call("whoami", params={"_meta": {"example.org/mine": 7}}, traceparent=TRACE, tracestate="vendor=1")

    seen = json.loads(text_of(await peer.execute(call, FakeRelay(wants_progress=True))))

    assert seen["meta"]["example.org/mine"] == 7
    assert seen["meta"]["traceparent"] == TRACE
    assert seen["meta"]["tracestate"] == "vendor=1"
    assert type(seen["meta"]["progressToken"]) is int
    if seen.get("headers"):
        assert seen["headers"]["traceparent"] == TRACE
        assert seen["headers"]["tracestate"] == "vendor=1"


async def test_progress_reaches_the_client_that_asked_for_it(peer: Running) -> None:
    relay = FakeRelay(wants_progress=True)

    await peer.call("progress", relay)

    assert [params["progress"] for method, params in relay.notified if method == "notifications/progress"] == [1, 2, 3]


async def test_client_that_asked_for_nothing_hears_nothing(peer: Running) -> None:
    relay = FakeRelay(era=Era.MODERN)

    await peer.call("progress", relay)
    await peer.call("log", relay)

    assert relay.notified == []


async def test_log_messages_reach_the_client_that_asked_for_them(peer: Running) -> None:
    relay = FakeRelay(log_level="error", era=Era.MODERN)

    await peer.call("log", relay)
    await peer.call("echo", relay, text="so that what came before is passed on")

    levels = [params["level"] for method, params in relay.notified if method == "notifications/message"]
    assert levels[-4:] == ["error", "critical", "alert", "emergency"]


async def test_all_pages_of_a_list_are_offered(tmp_path: Path) -> None:
    make, _ = process_of("legacy_asker", tmp_path, "--page-size", "3")

    async with running(make) as up:
        paged = list(up.tools)

    assert len(paged) == len(set(map(str, paged))) >= 14


async def test_credentials_are_the_gateways_own_and_no_other(modern_site: Started) -> None:
    async with running(at(modern_site.url, headers={"x-api-key": "ours"})) as up:
        seen: dict[str, Any] = json.loads(text_of(await up.call("whoami", FakeRelay(owner="Bearer inbound-token"))))

    assert seen["headers"]["x-api-key"] == "ours"
    assert "authorization" not in seen["headers"]
    assert "inbound-token" not in json.dumps(seen)


async def test_parameter_headers_mirror_the_arguments(modern_site: Started) -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}

    async with running(at(modern_site.url)) as up:
        result = await up.execute(tool_call("region", {"region": "Zürich"}, schema=schema))

    assert json.loads(text_of(result)) == {"argument": "Zürich", "header": "Zürich"}


async def test_client_capabilities_reach_a_modern_server_without_tasks(modern_site: Started) -> None:
    capabilities: dict[str, object] = {
        "roots": {},
        "extensions": {"io.modelcontextprotocol/tasks": {}, "example.org/ui": {}},
    }

    async with running(at(modern_site.url)) as up:
        seen = json.loads(text_of(await up.call("whoami", FakeRelay(capabilities=capabilities))))

    assert seen["meta"]["io.modelcontextprotocol/clientCapabilities"] == {
        "roots": {},
        "extensions": {"example.org/ui": {}},
    }


async def test_one_call_is_one_request(tmp_path: Path) -> None:
    with http_server("counting", tmp_path) as server:
        async with running(at(server.url)) as up:
            for _ in range(5):
                await up.call("echo", text="x")
            stats = up.http._site.pool.stats()

    assert stats.opened <= 2
    assert stats.resent == 0


@pytest.mark.parametrize("status", ["status_401"])
async def test_refused_credential_is_named_as_the_gateways_own(status: str, faulty_site: Started) -> None:
    async with running(at(faulty_site.url)) as up:
        with pytest.raises(UpstreamUnavailable, match="the gateway's own credential \\(HTTP 401\\)"):
            await up.call(status)
        fine = await up.call("fine")

    assert text_of(fine) == "fine"


async def test_call_on_an_upstream_that_is_down_says_why(tmp_path: Path) -> None:
    async with running(at("http://127.0.0.1:9/mcp")) as up:
        with pytest.raises(UpstreamUnavailable, match=r"is not connected: .*cannot be reached"):
            await up.call("echo")

    assert up.upstream.report()["state"] == "down"
    assert up.downs


async def test_configured_era_is_not_negotiable(legacy_site: Started, modern_site: Started) -> None:
    async with (
        running(at(legacy_site.url, era=Era.MODERN)) as legacy,
        running(at(modern_site.url, era=Era.LEGACY)) as modern,
    ):
        pass

    assert "does not speak MCP 2026-07-28" in legacy.downs[0]
    assert "answered initialize with error" in modern.downs[0]


async def test_unsubscribing_is_left_to_the_last_watcher(legacy_site: Started) -> None:
    async with running(at(legacy_site.url)) as up:
        result = await up.execute(resource_call("resources/unsubscribe", "note://one"))

    assert payload(result) == {"resultType": "complete"}
