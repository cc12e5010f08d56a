"""Who gets into a whole gateway: keys, tokens of a real issuer, nobody else; and what an upstream learns of it."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from conformance.gateway import Plan, Table
from gateway.errors import ConfigError
from tests.conformance.talking import call, headers_for, request
from tests.e2e.place import ALLOW_ALL, Place, in_process, new_key, prepare, rules
from tests.identity.signing import RSA, Signer, key_set
from tests.servers.launch import http_server

SIGNER = Signer("rsa-1", "RS256", RSA)


@dataclass(frozen=True, slots=True)
class Issuer:
    """A real issuer of tokens on loopback."""

    url: str

    def token(self, audience: object, **changed: object) -> str:
        """A token that is good now, for that audience."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": audience, "sub": "ana", "client_id": "ide", "jti": "t", "iat": now}
        return SIGNER.token({**claims, "exp": now + 300, "roles": ["developer"], **changed})


@contextmanager
def issuer() -> Iterator[Issuer]:
    """An issuer with metadata (RFC 8414) and a key set, over HTTP."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            metadata = json.dumps({"issuer": url, "jwks_uri": f"{url}/jwks"}).encode()
            body = key_set(SIGNER) if self.path == "/jwks" else metadata
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Issuer(url)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asking(tmp_path: Path, url: str, identity: Table | None = None, **tables: Table) -> Place:
    """A gateway in front of one upstream, that allows everybody who gets in everything."""
    policy = rules(tmp_path, all=ALLOW_ALL)
    return prepare(tmp_path, Plan({"one": {"url": url}}, {"policy": policy, "identity": identity or {}, **tables}))


async def test_nobody_is_challenged_and_pointed_to_metadata_that_names_the_resource(tmp_path: Path) -> None:
    with issuer() as corp, http_server("modern_asker", tmp_path) as upstream:
        place = asking(tmp_path, upstream.url, **{"identity.issuers.corp": {"issuer": corp.url}})
        body = request("tools/list")
        async with in_process(place), httpx2.AsyncClient(trust_env=False) as http:
            refused = await http.post(place.endpoint("one"), json=body, headers=headers_for(body))
            challenge = refused.headers["www-authenticate"]
            metadata = (await http.get(challenge.split('resource_metadata="')[1].split('"')[0])).json()

    assert refused.status_code == 401
    assert challenge.startswith("Bearer ")
    assert "error=" not in challenge
    assert metadata["resource"] == place.endpoint("one")
    assert metadata["authorization_servers"] == [corp.url]


async def test_token_of_the_issuer_for_this_gateway_or_an_endpoint_of_it_is_accepted(tmp_path: Path) -> None:
    with issuer() as corp, http_server("modern_asker", tmp_path) as upstream:
        place = asking(tmp_path, upstream.url, **{"identity.issuers.corp": {"issuer": corp.url}})
        told = []
        async with in_process(place):
            for path in ("", "/", "/mcp", "/servers/one/mcp"):
                async with place.caller(corp.token(f"{place.url}{path}")) as ana:
                    told.append((await ana.call("one__echo", {"text": "hello"})).text)

    assert told == ["hello"] * 4


@pytest.mark.requirement("mcp:2026-07-28:auth-audience")
async def test_token_for_another_resource_is_refused(tmp_path: Path) -> None:
    with issuer() as corp, http_server("modern_asker", tmp_path) as upstream:
        place = asking(tmp_path, upstream.url, **{"identity.issuers.corp": {"issuer": corp.url}})
        wrong: list[object] = [
            "https://other.example/mcp",
            f"{place.url}0/mcp",
            f"{place.url}.evil.example/mcp",
            "",
            [],
        ]
        statuses = []
        async with in_process(place):
            for audience in [*wrong, None]:
                async with place.caller(corp.token(audience)) as ana:
                    statuses.append((await ana.call("one__echo", {"text": "x"})).status)

    assert statuses == [401] * 6


async def test_configured_audience_is_the_only_one(tmp_path: Path) -> None:
    with issuer() as corp, http_server("modern_asker", tmp_path) as upstream:
        table: Table = {"issuer": corp.url, "audience": "urn:interlock"}
        place = asking(tmp_path, upstream.url, **{"identity.issuers.corp": table})
        statuses = []
        async with in_process(place):
            for audience in ("urn:interlock", "urn:interlock/x", place.url, place.endpoint()):
                async with place.caller(corp.token(audience)) as ana:
                    statuses.append((await ana.call("one__echo", {"text": "x"})).status)

    assert statuses == [200, 401, 401, 401]


async def test_expired_token_and_one_of_a_stranger_are_refused(tmp_path: Path) -> None:
    with issuer() as corp, http_server("modern_asker", tmp_path) as upstream:
        place = asking(tmp_path, upstream.url, **{"identity.issuers.corp": {"issuer": corp.url}})
        tokens = [corp.token(place.url, exp=int(time.time()) - 600), corp.token(place.url, iss="https://x.example")]
        statuses = []
        async with in_process(place):
            for token in tokens:
                async with place.caller(token) as ana:
                    statuses.append((await ana.call("one__echo", {"text": "x"})).status)

    assert statuses == [401, 401]


async def test_anonymous_is_let_in_only_where_configured_and_never_through_a_proxy(tmp_path: Path) -> None:
    with http_server("modern_asker", tmp_path) as upstream:
        place = asking(tmp_path, upstream.url, {"anonymous": "dev"})
        body = call("one__echo", {"text": "x"})
        async with in_process(place), place.caller() as nobody:
            direct = await nobody.send(body)
            proxied = await nobody.send(body, x_forwarded_for="203.0.113.9")
            wrong = await nobody.send(body, authorization="Bearer ilk_wrong")

    assert (direct.status, proxied.status, wrong.status) == (200, 401, 401)


def test_anonymous_with_another_address_than_loopback_is_refused_at_the_start(tmp_path: Path) -> None:
    place = prepare(tmp_path, Plan({}, {"identity": {"anonymous": "dev"}, "listen": {"host": "192.0.2.1"}}))

    with pytest.raises(ConfigError, match="loopback only"):
        place.settings()


@pytest.mark.parametrize("server", ["legacy_asker", "modern_asker"])
async def test_credential_of_the_client_never_reaches_an_upstream(tmp_path: Path, server: str) -> None:
    with issuer() as corp, http_server(server, tmp_path) as upstream:
        place = asking(tmp_path, upstream.url, **{"identity.issuers.corp": {"issuer": corp.url}})
        key, token = await new_key(place, "ana"), corp.token(place.url)
        told = []
        async with in_process(place):
            for credential in (key, token):
                async with place.caller(credential) as ana:
                    told.append(await ana.call("one__whoami"))
        seen = upstream.record.read_text()

    assert not any(one.failed for one in told)
    assert all("authorization" not in json.loads(one.text)["headers"] for one in told)
    assert key not in seen
    assert token not in seen


async def test_upstream_gets_the_credential_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2E_UPSTREAM_TOKEN", "upstream-secret")
    with http_server("modern_asker", tmp_path) as upstream:
        one: Table = {"url": upstream.url, "headers": {"Authorization": "Bearer env:E2E_UPSTREAM_TOKEN"}}
        place = prepare(tmp_path, Plan({"one": one}, {"policy": rules(tmp_path, all=ALLOW_ALL)}))
        key = await new_key(place, "ana")
        async with in_process(place), place.caller(key) as ana:
            told = await ana.call("one__whoami")

    assert json.loads(told.text)["headers"]["authorization"] == "Bearer upstream-secret"
