"""What operators read over HTTP, and who may."""

from __future__ import annotations

import json

import pytest

from tests.mcp.asgi import Answer, Header, fetch
from tests.mcp.worlds import World

HOST: Header = (b"host", b"localhost:8080")
EVIL: Header = (b"host", b"evil.example.org")
ROOT: Header = (b"authorization", b"Bearer root")
ANA: Header = (b"authorization", b"Bearer ana")


async def get(world: World, path: str, *headers: Header) -> Answer:
    return await fetch(world.front, headers=headers, method="GET", path=path)


async def test_readiness_names_each_part_that_is_not() -> None:
    world = World()

    well = await get(world, "/readyz", HOST)
    world.faults["audit"] = "disk full"
    ill = await get(world, "/readyz", HOST)

    assert (well.status, json.loads(well.body)) == (200, {"ready": True, "faults": {}})
    assert (ill.status, json.loads(ill.body)) == (503, {"ready": False, "faults": {"audit": "disk full"}})


async def test_metrics_are_given_as_prometheus_reads_them() -> None:
    answer = await get(World(), "/metrics", HOST)

    assert (answer.status, answer.body) == (200, b"interlock_calls 1\n")
    assert answer.header("content-type").startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize("path", ["/readyz", "/metrics", "/admin/upstreams"])
async def test_page_of_a_stranger_cannot_read_what_operators_read(path: str) -> None:
    world = World()

    by_host, by_origin = await get(world, path, EVIL, ROOT), await get(world, path, HOST, ROOT, (b"origin", b"null"))

    assert (by_host.status, by_origin.status) == (421, 403)


@pytest.mark.requirement("mcp:2026-07-28:auth-metadata")
@pytest.mark.parametrize(("path", "resource"), [("", "/mcp"), ("/mcp", "/mcp"), ("/servers/a/mcp", "/servers/a/mcp")])
async def test_metadata_of_each_resource_stands_where_rfc_9728_says(path: str, resource: str) -> None:
    answer = await get(World(), f"/.well-known/oauth-protected-resource{path}", HOST)

    assert json.loads(answer.body)["resource"] == f"http://127.0.0.1:8080{resource}"


@pytest.mark.parametrize(
    ("headers", "status"), [([ROOT], 200), ([ANA], 403), ([], 403), ([(b"authorization", b"x")], 401)]
)
async def test_only_administrators_see_the_upstreams(headers: list[Header], status: int) -> None:
    answer = await get(World(), "/admin/upstreams", HOST, *headers)

    assert answer.status == status
    if status == 200:
        assert json.loads(answer.body) == {"upstreams": [{"name": "files", "down": ""}]}
