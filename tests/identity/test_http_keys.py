"""Keys over real HTTP: rotation while tokens come in, and addresses that are never asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec

from adapters.identity.jwks import HttpKeySource, is_within
from gateway.errors import Unauthenticated
from gateway.identity.discovery import KeysUnavailable
from gateway.identity.issuers import IssuerSpec, Reach
from gateway.identity.jwks import Pace
from gateway.identity.jwt import JwtVerifier
from gateway.identity.token_cache import TokenCache
from tests.identity.signing import AUDIENCE, Clock, Signer, key_set


class Issuer:
    """A real HTTP server with metadata and a key set that a test can change."""

    def __init__(self) -> None:
        self.keys = b""
        self.asked: list[str] = []
        self.url = ""

    async def metadata(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"})

    async def jwks(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        return web.Response(body=self.keys, content_type="application/jwk-set+json")


async def redirect(request: web.Request) -> web.Response:
    raise web.HTTPFound("/jwks")


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    try:
        while True:
            await answer.write(b"x" * 65_536)
    except ConnectionError:
        return answer


async def silent(request: web.Request) -> web.Response:
    await anyio.sleep_forever()
    return web.Response()


@asynccontextmanager
async def running() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", issuer.metadata)
    app.router.add_get("/jwks", issuer.jwks)
    app.router.add_get("/redirect", redirect)
    app.router.add_get("/endless", endless)
    app.router.add_get("/silent", silent)
    async with TestServer(app, host="127.0.0.1") as server:
        issuer.url = f"http://127.0.0.1:{server.port}"
        yield issuer


async def test_keys_are_discovered_and_rotated_while_tokens_come_in() -> None:
    old, new = Signer("old"), Signer("new", "ES256", ec.generate_private_key(ec.SECP256R1()))
    clock = Clock()
    with anyio.fail_after(30):
        async with running() as issuer, HttpKeySource() as source:
            issuer.keys = key_set(old)
            spec = IssuerSpec(issuer.url, AUDIENCE)
            cache = TokenCache(clock_s=clock)
            tokens = JwtVerifier([spec], source, cache=cache, clock_s=clock, monotonic_s=clock, pace=Pace())

            before = await tokens.identify(old.token(iss=issuer.url))
            issuer.keys = key_set(old, new)
            clock.now_s += 30
            overlap = await tokens.identify(new.token(iss=issuer.url))
            still = await tokens.identify(old.token(iss=issuer.url))
            issuer.keys = key_set(new)
            clock.now_s += 30
            with pytest.raises(Unauthenticated, match="no key"):
                await tokens.identify(Signer("newer").token(iss=issuer.url))
            with pytest.raises(Unauthenticated, match="no key"):
                await tokens.identify(old.token(iss=issuer.url))

    assert before == overlap == still
    assert issuer.asked == ["/.well-known/openid-configuration", "/jwks"] * 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/redirect", "status 302"),
        ("/missing", "status 404"),
        ("/endless", "larger than 262144"),
        ("/silent", "cannot be read"),
    ],
)
async def test_issuer_that_misbehaves_harms_nothing(path: str, message: str) -> None:
    with anyio.fail_after(30):
        async with running() as issuer, HttpKeySource(timeout_s=0.5) as source:
            with pytest.raises(KeysUnavailable, match=message):
                await source.fetch(issuer.url + path, "loopback")


async def test_issuer_that_is_not_there_is_named_as_such() -> None:
    async with running() as issuer:
        url = f"{issuer.url}/jwks"

    async with HttpKeySource() as source:
        with anyio.fail_after(30), pytest.raises(KeysUnavailable, match="cannot be read"):
            await source.fetch(url, "loopback")


@pytest.mark.parametrize(
    ("url", "reach"),
    [
        ("http://issuer.example/jwks", "public"),
        ("file:///etc/passwd", "public"),
        ("https://10.0.0.1/jwks", "public"),
        ("https://169.254.169.254/latest/meta-data", "private"),
        ("https://[::ffff:127.0.0.1]/jwks", "public"),
        ("https://127.0.0.1:1/jwks", "private"),
        ("https://8.8.8.8/jwks", "loopback"),
        ("https://localhost:1/jwks", "public"),
        ("http://127.0.0.1.:1/jwks", "public"),
    ],
)
async def test_address_out_of_reach_is_never_asked(url: str, reach: Reach) -> None:
    async with HttpKeySource() as source:
        with anyio.fail_after(30), pytest.raises(KeysUnavailable, match=r"not an https URL|is not |no address of"):
            await source.fetch(url, reach)


async def test_name_is_judged_by_what_it_resolves_to() -> None:
    with anyio.fail_after(30):
        async with running() as issuer, HttpKeySource() as source:
            issuer.keys = json.dumps({"keys": []}).encode()
            url = issuer.url.replace("127.0.0.1", "localhost") + "/jwks"

            allowed = await source.fetch(url, "loopback")
            with pytest.raises(KeysUnavailable, match="no address of localhost is private"):
                await source.fetch(url, "private")

    assert allowed == issuer.keys
    assert issuer.asked == ["/jwks"]


@pytest.mark.parametrize(
    ("address", "reaches"),
    [
        ("8.8.8.8", {"public", "private"}),
        ("2001:4860:4860::8888", {"public", "private"}),
        ("64:ff9b::808:808", {"public", "private"}),
        ("10.1.2.3", {"private"}),
        ("192.168.1.1", {"private"}),
        ("fd00::1", {"private"}),
        ("64:ff9b::a01:203", {"private"}),
        ("2002:a01:203::1", {"private"}),
        ("127.0.0.1", {"loopback"}),
        ("::1", {"loopback"}),
        ("::ffff:127.0.0.1", {"loopback"}),
        ("64:ff9b::7f00:1", {"loopback"}),
        ("0.0.0.0", set()),
        ("::", set()),
        ("169.254.169.254", set()),
        ("fe80::1", set()),
        ("224.0.0.1", set()),
        ("255.255.255.255", set()),
        ("100.64.0.1", set()),
    ],
)
def test_reach_of_addresses(address: str, reaches: set[Reach]) -> None:
    every: tuple[Reach, ...] = ("public", "private", "loopback")

    assert {reach for reach in every if is_within(ip_address(address), reach)} == reaches
