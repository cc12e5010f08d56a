"""Which endpoint a request goes to: by path, by host, and by nothing that only looks like it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from gateway.app.endpoints import Front, Parts, host_of
from tests.a2a.app_world import NAME, AppWorld, opened, settings_of
from tests.a2a.card_samples import card_of, entry_of
from tests.a2a.worlds import message, request
from tests.mcp.asgi import Answer, Header, Json, fetch

CARD = "/.well-known/agent-card.json"
ANA: Header = (b"authorization", b"Bearer ana")
LOCAL: Header = (b"host", b"127.0.0.1:8080")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AppWorld]:
    agents = {NAME: {"card_url": "http://127.0.0.1:9/card"}, "other": {"card_url": "http://127.0.0.1:9/card"}}
    settings = settings_of(tmp_path, **{f"agents__{name}": dict(table) for name, table in agents.items()})
    async with opened(tmp_path, settings) as made:
        made.upstream.payload = b'{"carried":"out"}'
        made.a2a.shared.agents.put(entry_of(card_of(), name=NAME))
        yield made


async def get(front: Front, path: str, *headers: Header) -> Answer:
    return await fetch(front, b"", [LOCAL, ANA, *headers] if not headers else list(headers), method="GET", path=path)


def urls_in(card: Answer) -> set[str]:
    """Where the card says the agent is, without the paths of bindings."""
    assert card.status == 200
    return {one["url"].removesuffix("/") for one in card.message["supportedInterfaces"]}


async def test_card_of_an_agent_is_below_its_name_and_nobody_elses(world: AppWorld) -> None:
    front = world.front()
    front.offer((), (NAME,))

    found = await get(front, f"/agents/{NAME}{CARD}")
    unknown = [await get(front, path) for path in (f"/agents/other{CARD}", "/agents/", f"/agents/%70lanner{CARD}")]

    assert urls_in(found) == {f"http://127.0.0.1:8080/agents/{NAME}"}
    assert [record.call.resource.id for record in world.trail.records] == [NAME]
    assert [answer.status for answer in unknown] == [404] * 3
    assert b"no agent of this name" in unknown[0].body


async def test_agent_that_is_not_offered_any_more_is_not_there(world: AppWorld) -> None:
    front = world.front()
    front.offer((), (NAME, "other"))
    before = set(front.calls())
    front.offer((), ("other",))

    answer = await get(front, f"/agents/{NAME}{CARD}")

    assert (before, set(front.calls())) == ({NAME, "other"}, {"other"})
    assert answer.status == 404


async def test_path_that_only_decodes_to_agents_is_not_theirs(world: AppWorld) -> None:
    front = world.front()
    sent: list[Json] = []
    front.offer((), (NAME,))
    path = f"/agents/{NAME}{CARD}"
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.replace("/agents", "/%61gents").encode(),
        "query_string": b"", "headers": [LOCAL, ANA],
    }  # fmt: skip

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append({**event})

    await front(scope, receive, send)

    assert sent[0]["status"] == 418


async def test_without_agents_their_paths_are_the_rests(world: AppWorld) -> None:
    front = world.front(without=True)
    front.offer((NAME,), ())

    answer = await get(front, f"/agents/{NAME}{CARD}")

    assert answer.body == b"the rest"
    assert front.calls() == {}


async def test_without_agents_there_is_no_endpoint_to_make(world: AppWorld) -> None:
    parts: Parts = world.parts(without=True)

    with pytest.raises(LookupError):
        parts.agent(NAME)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"planner.localhost:8080", 200),
        (b"PLANNER.localhost:8080", 200),
        (b"planner.localhost", 418),
        (b"stranger.localhost:8080", 418),
        (b"127.0.0.1:8080", 418),
    ],
)
async def test_agent_has_a_host_of_its_own(world: AppWorld, host: bytes, status: int) -> None:
    front = world.front()
    front.offer((), (NAME,))

    answer = await get(front, CARD, (b"host", host), ANA)

    assert answer.status == status
    if status == 200:
        assert urls_in(answer) == {"http://planner.localhost:8080"}


async def test_two_hosts_are_nobodys(world: AppWorld) -> None:
    front = world.front()
    front.offer((), (NAME,))

    answer = await get(front, CARD, (b"host", b"planner.localhost:8080"), (b"host", b"planner.localhost:8080"), ANA)

    assert answer.status == 418


async def test_gateway_that_is_known_by_an_address_has_no_hosts_for_agents(world: AppWorld) -> None:
    front = world.front(url="http://192.0.2.7:8080")
    front.offer((), (NAME,))

    answer = await get(front, CARD, (b"host", b"planner.localhost:8080"), ANA)

    assert answer.status == 418


async def test_operations_are_carried_out_over_both_http_bindings(world: AppWorld) -> None:
    front = world.front()
    front.offer((), (NAME,))
    kind = (b"content-type", b"application/json")
    headers = [LOCAL, ANA, kind, (b"a2a-version", b"1.0")]
    said: Json = {"message": message()}

    over_rpc = await fetch(
        front, json.dumps(request("SendMessage", said)).encode(), headers, method="POST", path=f"/agents/{NAME}"
    )
    over_http = await fetch(
        front, json.dumps(said).encode(), headers, method="POST", path=f"/agents/{NAME}/message:send"
    )

    assert over_rpc.message["result"] == over_http.message == {"carried": "out"}


async def test_who_is_nobody_is_told_where_to_read_about_tokens(world: AppWorld) -> None:
    front = world.front()
    front.offer((), (NAME,))

    of_agent = await get(front, f"/agents/{NAME}{CARD}", LOCAL)
    of_catalogue = await get(front, "/.well-known/ai-catalog.json", LOCAL)

    assert of_agent.status == of_catalogue.status == 401
    metadata = "http://127.0.0.1:8080/.well-known/oauth-protected-resource"
    assert f'resource_metadata="{metadata}/agents/{NAME}"' in of_agent.header("www-authenticate")
    assert f'resource_metadata="{metadata}"' in of_catalogue.header("www-authenticate")


async def test_what_is_not_http_is_the_rests(world: AppWorld) -> None:
    events: list[object] = []

    async def receive() -> dict[str, object]:
        return {"type": "lifespan.startup"}

    async def send(event: object) -> None:
        events.append(event)

    await world.front()({"type": "lifespan"}, receive, send)

    assert events == []


async def test_catalogue_is_a_call(world: AppWorld) -> None:
    front = world.front()

    answer = await get(front, "/.well-known/ai-catalog.json")

    assert answer.status == 200
    assert f"{NAME}/.well-known/agent-card.json" in answer.body.decode()
    assert [record.call.method for record in world.trail.records] == ["catalog/read"]


async def test_server_is_an_agent_too_and_an_agent_has_an_mcp_endpoint(world: AppWorld) -> None:
    front = world.front()
    front.offer(("time",), (NAME,))

    answers = [
        await get(front, path) for path in (f"/servers/{NAME}/mcp", "/servers/time/mcp/", "/mcp", "/servers/x/mcp")
    ]

    assert set(front.calls()) == {"time", NAME}
    assert [answer.status == 418 for answer in answers] == [False, False, False, True]


@pytest.mark.parametrize(
    ("name", "url", "origin"),
    [
        ("planner", "http://127.0.0.1:8080", "http://planner.localhost:8080"),
        ("planner", "http://[::1]:8080", "http://planner.localhost:8080"),
        ("Planner", "https://gate.example", "https://planner.gate.example"),
        ("planner", "https://gate.example:8443/base", "https://planner.gate.example:8443"),
        ("a_b", "https://gate.example", ""),
        ("-a", "https://gate.example", ""),
        ("a" * 64, "https://gate.example", ""),
        ("planner", "http://192.0.2.7:1", ""),
        ("planner", "http://[2001:db8::1]:1", ""),
        ("planner", "unix:/socket", ""),
    ],
)
def test_host_of_an_agent_is_a_name_below_the_gateways(name: str, url: str, origin: str) -> None:
    assert host_of(name, url) == origin
