"""Signatures over cards: ours hold for others, theirs for us, and nothing that was changed holds at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import rfc8785
from a2a.client.card_resolver import parse_agent_card
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.types import AgentCard
from a2a.utils.signing import (
    InvalidSignaturesError,
    ProtectedHeader,
    create_agent_card_signer,
    create_signature_verifier,
)
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given
from hypothesis import strategies as st
from jwt import PyJWK
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway import codec
from gateway.a2a.card_check import CardRefused
from gateway.a2a.card_shape import core_forms, core_of, signed_forms
from gateway.a2a.card_shelf import CardShelf
from gateway.a2a.cards import Places, security_of
from gateway.errors import InterlockError, UpstreamUnavailable
from gateway.identity import base64url
from gateway.identity.card_keys import CardKeys
from gateway.identity.card_signatures import SignatureRefused, is_near, signatures_of, verify
from gateway.identity.jwks import KeySetMap, parse_keys
from tests.a2a.card_samples import Json, Reader, card_of, entry_of, legacy_card_of, reading, skill
from tests.fakes import FakeStore

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


def _keys(keys: CardKeys) -> KeySetMap:
    return parse_keys(codec.dumps(keys.jwks()), ("ES256",))


def _private_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _signed_by_sdk(card: Json, key: Any, algorithm: str, jku: str | None, *, dual: bool = False) -> Json:
    """A card as an agent on the Python SDK serves it, signed by the SDK."""
    header = ProtectedHeader(kid="k1", alg=algorithm, jku=jku, typ="JOSE")
    message = create_agent_card_signer(_private_pem(key), header)(ParseDict(card, AgentCard()))
    if dual:
        served: Json = agent_card_to_dict(message)
        return served
    plain: Json = MessageToDict(message)
    return plain


def _jwks(algorithm: str, key: Any) -> bytes:
    kinds: dict[str, Callable[..., Any]] = {
        "ES256": ECAlgorithm.to_jwk,
        "RS256": RSAAlgorithm.to_jwk,
        "PS256": RSAAlgorithm.to_jwk,
        "EdDSA": OKPAlgorithm.to_jwk,
    }
    public: Json = kinds[algorithm](key.public_key(), as_dict=True)
    return json.dumps({"keys": [{**public, "kid": "k1"}]}).encode()


def _sdk_accepts(card: Json, keys: CardKeys) -> None:
    """Raises unless the SDK's verifier, which reads our key set, accepts the card as its resolver reads it."""
    entries: Any = keys.jwks()["keys"]
    by_id = {entry["kid"]: PyJWK(dict(entry)) for entry in entries}
    create_signature_verifier(lambda kid, _: by_id[str(kid)], ["ES256"])(parse_agent_card(json.loads(json.dumps(card))))


@given(JSON)
def test_canonical_form_is_that_of_rfc_8785(value: Any) -> None:
    assert codec.jcs(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), float("inf"), float("nan"), "\ud800", {"\udfff": 1}, object()])
def test_what_has_no_canonical_form_is_an_error(value: object) -> None:
    with pytest.raises(ValueError, match=r"no canonical form|surrogates"):
        codec.jcs(value)


def test_names_are_sorted_by_utf_16_units() -> None:
    assert codec.jcs({"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3}) == '{"\u20ac":3,"\U0001f600":2,"\ufb33":1}'.encode()


def test_defaults_are_left_out_as_the_specification_shows() -> None:
    fragment: Json = {
        "name": "Example Agent",
        "description": "",
        "capabilities": {"streaming": False, "pushNotifications": False, "extensions": []},
        "skills": [],
    }

    _, cleaned = signed_forms(fragment)

    assert cleaned == (
        b'{"capabilities":{"pushNotifications":false,"streaming":false},'
        b'"description":"","name":"Example Agent","skills":[]}'
    )


async def test_every_replica_has_the_same_key_and_signs_the_same_bytes() -> None:
    store = FakeStore()

    one, two = await CardKeys.load(store, "https://gw.example/"), await CardKeys.load(store, "https://gw.example")

    assert one.jwks() == two.jwks()
    assert one.sign(card_of()) == two.sign(card_of())
    assert one.key_id != CardKeys(b"b" * 32, "").key_id


def test_key_id_is_the_thumbprint_and_the_key_set_holds_nothing_private() -> None:
    keys = CardKeys(b"a" * 32, "https://gw.example/jwks")

    entries: Any = keys.jwks()["keys"]

    assert len(entries) == 1
    assert set(entries[0]) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert _keys(keys)[keys.key_id, "ES256"].thumbprint() == keys.key_id


def test_signing_clears_what_was_signed_before() -> None:
    keys = CardKeys(b"a" * 32, "https://gw.example/jwks")

    card = keys.sign(keys.sign(card_of()))

    assert len(signatures_of(card)) == 1
    assert signatures_of(card)[0].jwks_url == "https://gw.example/jwks"
    assert verify(card, _keys(keys)) == keys.key_id


@pytest.mark.parametrize(
    "card",
    [
        card_of(),
        card_of(description="", version="", skills=[], defaultInputModes=[], capabilities={}),
        card_of(name="Ünïcode 😀", skills=[skill("a", examples=["é"], inputModes=["a/b"])]),
        card_of(provider={"url": "https://cook.example", "organization": "Cook"}, iconUrl="https://cook.example/i.png"),
        card_of(
            capabilities={
                "streaming": True, "extendedAgentCard": True,
                "extensions": [{"uri": "urn:x", "required": True, "params": {"n": 1.5, "m": 3, "deep": {"a": [1]}}}],
            }
        ),
    ],
    ids=["plain", "empty", "unicode", "links", "extensions"],
)  # fmt: skip
@pytest.mark.parametrize("issuers", [(), ("https://idp.example",)], ids=["keys", "oidc"])
def test_sdk_accepts_what_we_publish(card: Json, issuers: tuple[str, ...]) -> None:
    keys = CardKeys(b"a" * 32, "https://gw.example/jwks")
    shelf = CardShelf(keys.sign, security_of(issuers))

    page = json.loads(shelf.page(entry_of(card), Places("https://gw.example", "", "gw.example:50051")).body)

    _sdk_accepts(page, keys)
    assert core_forms(page)[0] == core_forms(page)[1]
    assert verify(page, _keys(keys), core_forms(page)) == keys.key_id


def test_sdk_refuses_our_card_once_it_was_changed() -> None:
    keys = CardKeys(b"a" * 32, "https://gw.example/jwks")
    page = json.loads(CardShelf(keys.sign, security_of()).page(entry_of(card_of()), Places("https://gw.example")).body)

    page["supportedInterfaces"][0]["url"] = "https://evil.example"

    with pytest.raises(InvalidSignaturesError):
        _sdk_accepts(page, keys)


@pytest.mark.parametrize("dual", [False, True], ids=["1.0", "dual"])
@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("RS256", rsa.generate_private_key(65537, 2048)),
        ("PS256", rsa.generate_private_key(65537, 2048)),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["ES256", "RS256", "PS256", "EdDSA"],
)
async def test_we_accept_what_the_sdk_signs(algorithm: str, key: Any, dual: bool) -> None:
    async with reading() as reader:
        reader.site.jwks = _jwks(algorithm, key)
        card = card_of(
            "https://cook.example/a2a", securitySchemes={"b": {"httpAuthSecurityScheme": {"scheme": "Bearer"}}}
        )
        interfaces: Any = card["supportedInterfaces"]
        interfaces.append({**interfaces[0], "protocolVersion": "0.3"})
        reader.site.publish(_signed_by_sdk(card, key, algorithm, f"{reader.site.url}/jwks", dual=dual))

        entry = await reader.describe()

    assert entry.signed_by == "k1"
    assert codec.jcs(entry.card) == codec.jcs(core_of(entry.card))
    assert entry.interfaces[0].url == "https://cook.example/a2a"


async def _refusal(reader: Reader) -> str:
    with pytest.raises(CardRefused) as refused:
        await reader.describe()
    return str(refused.value)


async def test_unsigned_card_is_taken_and_said_to_be_unsigned() -> None:
    async with reading() as reader:
        reader.site.publish(card_of())

        entry = await reader.describe()

    assert (entry.signed_by, entry.raw) == ("", b"")
    assert [path for path, _ in reader.site.asked] == ["/.well-known/agent-card.json"]


async def test_card_signed_beside_its_keys_is_verified() -> None:
    async with reading() as reader:
        keys = reader.site.signer()
        reader.site.publish(keys.sign(card_of()))

        entry = await reader.describe()

    assert entry.signed_by == keys.key_id
    assert entry.raw == reader.site.card
    assert "signatures" not in entry.card


async def test_signed_card_of_0_3_is_verified_before_it_is_converted() -> None:
    async with reading() as reader:
        keys = reader.site.signer()
        reader.site.publish(keys.sign(legacy_card_of()))

        entry = await reader.describe()

    assert entry.signed_by == keys.key_id
    assert entry.interfaces[0].version == "0.3"


def _stale(card: Json) -> None:
    card["description"] = "something else"


def _legacy_url(card: Json) -> None:
    card["url"] = "https://evil.example/a2a"


def _legacy_extra(card: Json) -> None:
    card["additionalInterfaces"] = [{"url": "https://evil.example/a2a", "transport": "JSONRPC"}]


def _interface(card: Json) -> None:
    interfaces: Any = card["supportedInterfaces"]
    interfaces.insert(0, {"url": "https://evil.example", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"})


def _tenant(card: Json) -> None:
    interfaces: Any = card["supportedInterfaces"]
    interfaces[0]["tenant"] = "evil"


def _header(change: Callable[[Json], object]) -> Callable[[Json], None]:
    def tamper(card: Json) -> None:
        signatures: Any = card["signatures"]
        header = json.loads(base64url.decode(signatures[0]["protected"]))
        change(header)
        signatures[0]["protected"] = base64url.encode(json.dumps(header).encode())

    return tamper


TAMPERED: dict[str, Callable[[Json], None]] = {
    "stale": _stale,
    "legacy url": _legacy_url,
    "legacy interface": _legacy_extra,
    "extra interface": _interface,
    "tenant": _tenant,
    "key id": _header(lambda header: header.update(kid="another")),
    "none": _header(lambda header: header.update(alg="none")),
    "symmetric": _header(lambda header: header.update(alg="HS256")),
    "algorithm": _header(lambda header: header.update(alg="RS256")),
    "critical": _header(lambda header: header.update(crit=["b64"], b64=False)),
    "far keys": _header(lambda header: header.update(jku="https://evil.example/jwks")),
    "near name": _header(lambda header: header.update(jku=str(header["jku"]).replace("127.0.0.1", "localhost"))),
    "no keys": _header(lambda header: header.pop("jku")),
}


@pytest.mark.parametrize("name", TAMPERED)
async def test_tampered_card_is_refused(name: str) -> None:
    async with reading() as reader:
        card = reader.site.signer().sign(card_of())
        TAMPERED[name](card)
        reader.site.publish(card)

        assert await _refusal(reader)


@pytest.mark.parametrize("name", ["legacy url", "legacy interface", "extra interface", "tenant", "stale"])
async def test_tampered_card_that_the_sdk_signed_is_refused(name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    async with reading() as reader:
        reader.site.jwks = _jwks("ES256", key)
        card = _signed_by_sdk(card_of("https://cook.example/a2a"), key, "ES256", f"{reader.site.url}/jwks")
        TAMPERED[name](card)
        reader.site.publish(card)

        assert await _refusal(reader)


async def test_legacy_address_that_repeats_a_signed_one_holds_and_unsigned_members_are_not_used() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    async with reading() as reader:
        reader.site.jwks = _jwks("ES256", key)
        card = _signed_by_sdk(card_of("https://cook.example/a2a"), key, "ES256", f"{reader.site.url}/jwks")
        reader.site.publish({**card, "url": "https://cook.example/a2a", "x-unsigned": "https://evil.example"})

        entry = await reader.describe()

    assert entry.signed_by == "k1"
    assert "evil" not in str(entry.card)
    assert "url" not in entry.card


async def test_another_key_of_the_same_id_is_refused() -> None:
    async with reading() as reader:
        keys = reader.site.signer()
        reader.site.publish(keys.sign(card_of()))
        other = CardKeys(b"z" * 32, "").jwks()["keys"]
        assert isinstance(other, list)
        reader.site.jwks = codec.dumps({"keys": [{**other[0], "kid": keys.key_id}]})

        assert "no signature of the card holds" in await _refusal(reader)


async def test_unreadable_keys_are_a_failure_and_not_a_yes() -> None:
    async with reading() as reader:
        card = reader.site.signer().sign(card_of())
        reader.site.publish(card)
        reader.site.jwks = b"<html>"

        with pytest.raises(UpstreamUnavailable):
            await reader.describe()


async def test_one_of_several_signatures_is_enough() -> None:
    async with reading() as reader:
        keys = reader.site.signer()
        card = keys.sign(card_of())
        stale: Any = CardKeys(b"z" * 32, reader.site.url).sign(card_of())["signatures"]
        good: Any = card["signatures"]
        reader.site.publish({**card, "signatures": [*stale, *good]})

        assert (await reader.describe()).signed_by == keys.key_id


@pytest.mark.parametrize("signatures", ["x", [1], [{}], [{"protected": "e30", "signature": "AA"}], {"a": 1}, [{}] * 17])
def test_signatures_that_cannot_be_read_are_refused(signatures: object) -> None:
    with pytest.raises(SignatureRefused):
        signatures_of(card_of(signatures=signatures))


@given(JSON)
def test_whatever_stands_for_signatures_is_refused_or_unsigned(value: Any) -> None:
    card = card_of(signatures=[{"protected": base64url.encode(codec.dumps(value)), "signature": "AA"}])

    with pytest.raises(InterlockError):
        verify(card, {})


@pytest.mark.parametrize(
    ("jku", "card_url", "near"),
    [
        ("https://a.example/jwks", "https://a.example/.well-known/agent-card.json", True),
        ("https://a.example:443/jwks", "https://a.example/card", True),
        ("http://127.0.0.1:9/jwks", "http://127.0.0.1:9/card", True),
        ("https://b.example/jwks", "https://a.example/card", False),
        ("https://a.example:8443/jwks", "https://a.example/card", False),
        ("http://a.example/jwks", "http://a.example/card", False),
        ("https://a.example@b.example/jwks", "https://a.example/card", False),
        ("https://x@a.example/jwks", "https://a.example/card", False),
        ("", "https://a.example/card", False),
    ],
)
def test_keys_are_fetched_from_the_origin_of_the_card_alone(jku: str, card_url: str, near: bool) -> None:
    assert is_near(jku, card_url) is near


@pytest.mark.parametrize("number", [0.0, -0.0, 1.0, 1e20, 1e21, 1.5e300, 1e-6, 1e-7, -1.25e-9, 5e-324, 0.1, 123.456])
def test_numbers_are_written_as_ecmascript_does(number: float) -> None:
    assert codec.jcs(number) == rfc8785.dumps(number)


def test_nesting_that_cannot_be_followed_is_an_error() -> None:
    value: object = 1
    for _ in range(100_000):
        value = [value]

    with pytest.raises(ValueError, match="too deeply"):
        codec.jcs(value)


def test_card_without_signature_does_not_verify() -> None:
    with pytest.raises(SignatureRefused, match="not signed"):
        verify(card_of(), _keys(CardKeys(b"a" * 32, "")))


@pytest.mark.parametrize("header", ['{"alg":"ES256","kid":"a","kid":"b"}', "[" * 3_000, "not json", "1", ""])
def test_header_that_cannot_be_read_is_no_signature(header: str) -> None:
    entry = {"protected": base64url.encode(header.encode()), "signature": "AA"}

    with pytest.raises(SignatureRefused):
        signatures_of(card_of(signatures=[entry]))


def test_key_of_another_kind_than_the_algorithm_never_verifies() -> None:
    keys = CardKeys(b"a" * 32, "")
    rsa_key = parse_keys(_jwks("RS256", rsa.generate_private_key(65537, 2048)), ("RS256",))["k1", "RS256"]

    with pytest.raises(SignatureRefused, match="holds"):
        verify(keys.sign(card_of()), {(keys.key_id, "ES256"): rsa_key})


def test_secret_of_another_size_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        CardKeys(b"short", "")


async def test_trusted_keys_are_used_without_asking() -> None:
    async with reading() as reader:
        keys = CardKeys(b"k" * 32, "https://elsewhere.example")
        reader.site.publish(keys.sign(card_of()))
        source = replace(reader.source, trusted=_keys(keys))

        entry = await Reader(reader.site, source).describe()

    assert entry.signed_by == keys.key_id
    assert len(reader.site.asked) == 1
