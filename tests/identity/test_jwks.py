"""Issuers' keys: found, rotated, kept when the issuer is away, and never taken from the wrong place."""

from __future__ import annotations

import json

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError, Unauthenticated
from gateway.identity.discovery import KeysUnavailable, keys_uri, metadata_urls
from gateway.identity.issuers import IssuerSpec, Reach
from gateway.identity.jwks import MAX_DOCUMENT, IssuerKeys, Pace, parse_keys
from tests.identity.signing import AUDIENCE, ED, ISSUER, RSA, Clock, FakeKeySource, Signer, key_set

JWKS = "https://issuer.example/jwks"
SPEC = IssuerSpec(ISSUER, AUDIENCE, jwks_uri=JWKS)
OLD = Signer("old")
NEW = Signer("new")
ALL = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")


def keys_of(source: FakeKeySource, clock: Clock, changes: list[str] | None = None) -> IssuerKeys:
    seen = changes if changes is not None else []
    return IssuerKeys(SPEC, source, monotonic_s=clock, on_change=lambda: seen.append("changed"))


async def test_key_is_fetched_once_and_kept() -> None:
    source, changes = FakeKeySource({JWKS: key_set(OLD)}), list[str]()
    keys = keys_of(source, Clock(), changes)

    for _ in range(3):
        await keys.key("old", "ES256")

    assert source.asked == [(JWKS, "public")]
    assert changes == ["changed"]


async def test_rotated_key_is_found_when_the_first_token_needs_it() -> None:
    source, clock, changes = FakeKeySource({JWKS: key_set(OLD)}), Clock(), list[str]()
    keys = keys_of(source, clock, changes)
    await keys.key("old", "ES256")
    source.documents[JWKS] = key_set(NEW)
    clock.now_s += 30

    await keys.key("new", "ES256")

    assert changes == ["changed", "changed"]
    with pytest.raises(Unauthenticated, match="no key"):
        await keys.key("old", "ES256")


async def test_unknown_keys_cause_one_fetch_in_thirty_seconds() -> None:
    source, clock = FakeKeySource({JWKS: key_set(OLD)}), Clock()
    keys = keys_of(source, clock)
    await keys.key("old", "ES256")

    for second in range(60):
        with pytest.raises(Unauthenticated, match="no key"):
            await keys.key(f"unknown-{second}", "ES256")
        clock.now_s += 1

    assert len(source.asked) == 2


async def test_tokens_that_come_together_wait_for_one_fetch() -> None:
    class Slow(FakeKeySource):
        async def fetch(self, url: str, reach: Reach) -> bytes:
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            return await super().fetch(url, reach)

    source = Slow({JWKS: key_set(OLD)})
    keys = keys_of(source, Clock())

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(keys.key, "old", "ES256")

    assert len(source.asked) == 1


async def test_client_that_goes_away_does_not_waste_the_fetch() -> None:
    entered, release = anyio.Event(), anyio.Event()

    class Held(FakeKeySource):
        async def fetch(self, url: str, reach: Reach) -> bytes:
            entered.set()
            await release.wait()
            return await super().fetch(url, reach)

    keys = keys_of(Held({JWKS: key_set(OLD)}), Clock())
    async with anyio.create_task_group() as group:
        group.start_soon(keys.key, "old", "ES256")
        with anyio.fail_after(5):
            await entered.wait()
        group.cancel_scope.cancel()
        release.set()

    assert await keys.key("old", "ES256")


async def test_issuer_that_hangs_is_given_up() -> None:
    class Hanging(FakeKeySource):
        async def fetch(self, url: str, reach: Reach) -> bytes:
            await anyio.sleep_forever()
            raise AssertionError

    keys = IssuerKeys(SPEC, Hanging(), pace=Pace(fetch_s=0.01), monotonic_s=Clock())

    with anyio.fail_after(5), pytest.raises(Unauthenticated, match="cannot be read at the moment"):
        await keys.key("old", "ES256")


async def test_keys_outlive_an_absent_issuer_but_not_for_ever() -> None:
    source, clock = FakeKeySource({JWKS: key_set(OLD)}), Clock()
    keys = keys_of(source, clock)
    await keys.key("old", "ES256")
    source.documents[JWKS] = KeysUnavailable("gone")

    assert await keys.refresh() is False
    clock.now_s += 21_600
    assert await keys.key("old", "ES256")
    clock.now_s += 1
    with pytest.raises(Unauthenticated, match="cannot be read at the moment"):
        await keys.key("old", "ES256")


async def test_withdrawn_keys_are_withdrawn() -> None:
    source, clock = FakeKeySource({JWKS: key_set(OLD)}), Clock()
    keys = keys_of(source, clock)
    await keys.key("old", "ES256")
    source.documents[JWKS] = b'{"keys":[]}'

    assert await keys.refresh() is True

    with pytest.raises(Unauthenticated, match="no key"):
        await keys.key("old", "ES256")


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys":{}}', b"\xff", b" " * MAX_DOCUMENT + b"{}"])
async def test_document_that_is_no_key_set_changes_nothing(document: bytes) -> None:
    source = FakeKeySource({JWKS: key_set(OLD)})
    keys = keys_of(source, Clock())
    await keys.key("old", "ES256")
    source.documents[JWKS] = document

    assert await keys.refresh() is False
    assert await keys.key("old", "ES256")


def test_key_set_of_absurd_length_is_refused() -> None:
    with pytest.raises(KeysUnavailable, match="more than 100"):
        parse_keys(json.dumps({"keys": [{}] * 101}).encode(), ALL)


def test_each_key_serves_the_algorithms_that_it_can() -> None:
    plain = [
        {"kid": signer.kid, **signer.public()} for signer in (Signer("r", "", RSA), Signer("e"), Signer("o", "", ED))
    ]

    keys = parse_keys(json.dumps({"keys": plain}).encode(), ALL)

    assert set(keys) == {("r", "RS256"), ("r", "PS256"), ("e", "ES256"), ("o", "EdDSA"), ("o", "Ed25519")}


EC_JWK = Signer("k").jwk
RSA_JWK = Signer("k", "RS256", RSA).jwk
WEAK = Signer("k", "RS256", rsa.generate_private_key(65537, 1024)).jwk  # weak on purpose


@pytest.mark.parametrize(
    "entry",
    [
        {**EC_JWK, "use": "enc"},
        {**EC_JWK, "key_ops": ["sign"]},
        {**EC_JWK, "key_ops": "verify"},
        {**EC_JWK, "alg": "ES384"},
        {**EC_JWK, "crv": "P-384"},
        {**EC_JWK, "crv": "secp256k1"},
        {**EC_JWK, "d": "AAAA"},
        {**EC_JWK, "kid": 1},
        {**EC_JWK, "x": EC_JWK["y"]},
        {**EC_JWK, "x": 5},
        {**EC_JWK, "y": ...},
        {**RSA_JWK, "n": "A" * 2_000},
        {**RSA_JWK, "n": 5},
        {**RSA_JWK, "n": "*" * 342},
        {**RSA_JWK, "e": ""},
        {**RSA_JWK, "e": "AA"},
        WEAK,
        {"kty": "oct", "k": "c2VjcmV0", "kid": "k"},
        {"kty": ["EC"]},
        {},
        "text",
        None,
    ],
)
def test_key_that_must_not_be_used_is_ignored_beside_a_good_one(entry: dict[str, object] | str | None) -> None:
    cleaned = {name: value for name, value in entry.items() if value is not ...} if isinstance(entry, dict) else entry

    keys = parse_keys(json.dumps({"keys": [cleaned, OLD.jwk]}).encode(), ALL)

    assert set(keys) == {("old", "ES256")}


def test_first_of_two_keys_with_one_name_is_meant() -> None:
    second = Signer("old", "ES256", ec.generate_private_key(ec.SECP256R1()))

    keys = parse_keys(key_set(OLD, second), ALL)

    assert keys["old", "ES256"].as_dict()["x"] == OLD.jwk["x"]


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4)
MEMBER = st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "sig", "AQAB", "A" * 342, EC_JWK["x"]]) | JSON


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "key_ops", "alg", "kid"]), MEMBER))
def test_no_entry_of_a_key_set_breaks_anything(entry: dict[str, object]) -> None:
    keys = parse_keys(json.dumps({"keys": [entry, OLD.jwk]}).encode(), ALL)

    assert ("old", "ES256") in keys


@pytest.mark.parametrize(
    ("issuer", "urls"),
    [
        (
            "https://as.example",
            [
                "https://as.example/.well-known/oauth-authorization-server",
                "https://as.example/.well-known/openid-configuration",
            ],
        ),
        (
            "https://as.example/tenant1",
            [
                "https://as.example/.well-known/oauth-authorization-server/tenant1",
                "https://as.example/.well-known/openid-configuration/tenant1",
                "https://as.example/tenant1/.well-known/openid-configuration",
            ],
        ),
    ],
)
def test_metadata_is_looked_for_where_the_rfcs_put_it(issuer: str, urls: list[str]) -> None:
    assert list(metadata_urls(issuer)) == urls


async def test_keys_are_found_through_the_metadata() -> None:
    spec = IssuerSpec(ISSUER, AUDIENCE)
    metadata = json.dumps({"issuer": ISSUER, "jwks_uri": JWKS}).encode()
    source = FakeKeySource({f"{ISSUER}/.well-known/openid-configuration": metadata, JWKS: key_set(OLD)})

    assert await IssuerKeys(spec, source, monotonic_s=Clock()).key("old", "ES256")
    assert [url for url, _ in source.asked][-1] == JWKS


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "another issuer"),
        (json.dumps({"issuer": f"{ISSUER}/", "jwks_uri": JWKS}).encode(), "another issuer"),
        (json.dumps({"issuer": ISSUER}).encode(), "no usable jwks_uri"),
        (json.dumps({"issuer": ISSUER, "jwks_uri": ["x"]}).encode(), "no usable jwks_uri"),
        (json.dumps({"issuer": ISSUER, "jwks_uri": "http://issuer.example/jwks"}).encode(), "no usable jwks_uri"),
        (json.dumps({"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"}).encode(), "no usable jwks_uri"),
    ],
)
async def test_metadata_that_does_not_hold_is_not_followed(document: bytes, message: str) -> None:
    source = FakeKeySource({f"{ISSUER}/.well-known/oauth-authorization-server": document})

    with pytest.raises(KeysUnavailable, match=message) as caught:
        await keys_uri(IssuerSpec(ISSUER, AUDIENCE), source)

    assert "openid-configuration: it answers with status 404" in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"issuer": "http://issuer.example"}, "https URL"),
        ({"issuer": "https://issuer.example/?x=1"}, "https URL"),
        ({"issuer": "https://issuer.example/#x"}, "https URL"),
        ({"issuer": "https://"}, "https URL"),
        ({"issuer": "https://user:pw@issuer.example"}, "https URL"),
        ({"issuer": "https://issuer.example:port"}, "https URL"),
        ({"issuer": "issuer"}, "https URL"),
        ({"audience": ""}, "audience: is empty"),
        ({"jwks_uri": "http://issuer.example/jwks"}, "jwks_uri"),
        ({"algorithms": ()}, "algorithms"),
        ({"algorithms": ("HS256",)}, "algorithms"),
        ({"algorithms": ("RS256", "none")}, "algorithms"),
        ({"token_types": ()}, "token_types"),
        ({"token_types": ("dpop+jwt",)}, "token_types"),
        ({"leeway_s": 301.0}, "leeway_s"),
        ({"leeway_s": -1.0}, "leeway_s"),
        ({"max_delegation": 0}, "max_delegation"),
    ],
)
def test_issuer_that_could_not_be_trusted_is_not_configured(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IssuerSpec(**{"issuer": ISSUER, "audience": AUDIENCE, **changed})  # type: ignore[arg-type]  # faults on purpose


def test_all_faults_of_an_issuer_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        IssuerSpec("http://issuer.example", "", algorithms=())

    assert [path.rpartition(".")[2] for path, _ in caught.value.faults] == ["issuer", "audience", "algorithms"]


@pytest.mark.parametrize(
    ("spec", "reach"),
    [
        (IssuerSpec(ISSUER, AUDIENCE), "public"),
        (IssuerSpec(ISSUER, AUDIENCE, private_network=True), "private"),
        (IssuerSpec("http://127.0.0.1:9000", AUDIENCE), "loopback"),
        (IssuerSpec("http://[::1]:9000", AUDIENCE), "loopback"),
        (IssuerSpec("https://localhost", AUDIENCE, private_network=True), "loopback"),
    ],
)
def test_keys_are_asked_for_only_where_the_issuer_is(spec: IssuerSpec, reach: Reach) -> None:
    assert spec.reach == reach
