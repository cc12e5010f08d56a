"""Cards, signers and a web site of an agent, for the tests of cards."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

from adapters.identity.jwks import HttpKeySource
from adapters.upstreams.a2a.card_source import CardFacts, CardSource, FetchedCard
from adapters.upstreams.wire.http import HttpPool, Origin
from gateway import codec
from gateway.a2a.card_check import frozen, interfaces_of
from gateway.a2a.directory import AgentEntry
from gateway.identity.card_keys import CardKeys

Json = dict[str, object]

UPSTREAM = "http://10.1.2.3:9000/a2a"


def skill(skill_id: str, **more: object) -> Json:
    """A skill with the least that it must have."""
    return {"id": skill_id, "name": skill_id.title(), "description": f"does {skill_id}", "tags": ["x"], **more}


def card_of(at: str = UPSTREAM, /, **more: object) -> Json:
    """A card of 1.0 with one interface."""
    return {
        "name": "Recipe Agent",
        "description": "cooks",
        "version": "1.2.0",
        "supportedInterfaces": [{"url": at, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
        "capabilities": {"streaming": True, "pushNotifications": False},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [skill("cook"), skill("shop")],
        **more,
    }


def legacy_card_of(at: str = UPSTREAM, /, **more: object) -> Json:
    """A card of 0.3."""
    rest = {name: value for name, value in card_of().items() if name != "supportedInterfaces"}
    return {**rest, "url": at, "preferredTransport": "JSONRPC", "protocolVersion": "0.3.0", **more}


def entry_of(card: Mapping[str, object], **more: object) -> AgentEntry:
    """An agent that shows this card, pinned."""
    base = AgentEntry("cook", frozen(card), interfaces_of(card), "sha256:1", pinned=True, fetched_s=1_700_000_000)
    return AgentEntry(**{**{name: getattr(base, name) for name in base.__dataclass_fields__}, **more})


async def as_shown(entry: AgentEntry) -> AgentEntry:
    """A judge that accepts everything."""
    return entry


@dataclass
class Site:
    """A web site with a card and a key set, both of which a test can change."""

    card: bytes = b"{}"
    jwks: bytes = b'{"keys":[]}'
    etag: str = ""
    status: int = 200
    url: str = ""
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    @property
    def card_url(self) -> str:
        return f"{self.url}/.well-known/agent-card.json"

    def publish(self, card: Mapping[str, object]) -> None:
        self.card = json.dumps(card).encode()

    def signer(self, secret: bytes = b"a" * 32) -> CardKeys:
        """Keys of the agent's own, published beside the card."""
        keys = CardKeys(secret, self.url)
        self.jwks = codec.dumps(keys.jwks())
        return keys

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, dict(request.headers)))
        if request.path != "/.well-known/agent-card.json":
            return web.Response(body=self.jwks, content_type="application/json")
        if self.etag and request.headers.get("If-None-Match") == self.etag:
            return web.Response(status=304)
        headers = {"ETag": self.etag} if self.etag else {}
        if self.status in {301, 302, 307, 308}:
            headers["Location"] = "/jwks"
        return web.Response(status=self.status, body=self.card, content_type="application/json", headers=headers)


@dataclass
class Reader:
    """A site, and the source that reads its card."""

    site: Site
    source: CardSource

    async def describe(self, *, skills: tuple[str, ...] = ()) -> AgentEntry:
        fetched = await self.source.fetch()
        assert isinstance(fetched, FetchedCard)
        return await self.source.described(fetched, CardFacts("cook", skills=skills), as_shown, now_s=7)


@asynccontextmanager
async def reading(*headers: tuple[bytes, bytes], timeout_s: float = 5.0) -> AsyncIterator[Reader]:
    """A running site, and a source that reads it over real connections."""
    site = Site()
    app = web.Application()
    app.router.add_get("/{path:.*}", site.answer)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    site.url = f"http://127.0.0.1:{server.port}"
    try:
        async with HttpPool(Origin.parse(site.url), label="cook") as pool, HttpKeySource() as keys:
            yield Reader(site, CardSource(site.card_url, pool, keys, headers, timeout_s=timeout_s))
    finally:
        await server.close()
