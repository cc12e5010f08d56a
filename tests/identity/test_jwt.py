"""Which access tokens hold, and that every known trick with the others fails."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError, Unauthenticated
from gateway.identity.identifier import Identification
from gateway.identity.issuers import IssuerSpec, Reach
from gateway.identity.jwks import Pace, parse_keys
from gateway.identity.jwt import JwtVerifier
from gateway.identity.signature import check_signature
from gateway.identity.token_cache import TokenCache
from gateway.types import Credentials, Entity, Identity
from tests.identity.signing import (
    AUDIENCE,
    EC,
    ED,
    ISSUER,
    NOW,
    RSA,
    Clock,
    FakeKeySource,
    Signer,
    b64,
    key_set,
    usual_claims,
)

JWKS = "https://issuer.example/jwks"
SPEC = IssuerSpec(ISSUER, AUDIENCE, jwks_uri=JWKS)
KEY = Signer()
RSA_KEY = Signer("rsa", "RS256", RSA)


def verifier(
    *signers: Signer, spec: IssuerSpec = SPEC, clock: Clock | None = None, source: FakeKeySource | None = None
) -> JwtVerifier:
    clock = clock or Clock()
    source = source or FakeKeySource({JWKS: key_set(*(signers or (KEY, RSA_KEY)))})
    return JwtVerifier([spec], source, cache=TokenCache(clock_s=clock), clock_s=clock, monotonic_s=clock)


async def identity_of(token: str, spec: IssuerSpec = SPEC) -> Identity:
    return await verifier(spec=spec).identify(token)


async def refusal_of(token: str, spec: IssuerSpec = SPEC) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await identity_of(token, spec)
    assert caught.value.challenge in {"invalid_token", "invalid_request"}
    assert token not in str(caught.value)
    assert all(part not in str(caught.value) for part in token.split(".") if len(part) > 8)
    return str(caught.value)


async def test_token_says_who_calls() -> None:
    token = KEY.token(scope="mcp:tools mcp:read", roles=["analyst"], groups=["staff", "analyst"], tenant="acme")

    identity = await identity_of(token)

    assert identity == Identity(
        subject=Entity("user", "user:ana"),
        tenant="acme",
        roles=("analyst", "staff"),
        scopes=("mcp:tools", "mcp:read"),
        method="jwt",
        issuer=ISSUER,
        credential_id="t1",
    )


@pytest.mark.parametrize(
    ("alg", "private"),
    [("RS256", RSA), ("PS256", RSA), ("ES256", EC), ("EdDSA", ED), ("Ed25519", ED)],
)
async def test_asymmetric_algorithms_are_understood(alg: str, private: rsa.RSAPrivateKey) -> None:
    signer = Signer("k1", alg, private)

    identity = await verifier(signer, spec=replace(SPEC, algorithms=(alg,))).identify(signer.token())

    assert identity.subject.id == "user:ana"


def algorithm_none() -> str:
    return f"{KEY.token(header={'alg': 'none'}).rpartition('.')[0]}."


def hmac_with_public_key(alg: str = "HS256") -> str:
    """The classic: the public key, which everybody has, used as the secret of an HMAC."""
    head = json.dumps({"alg": alg, "typ": "at+jwt", "kid": "rsa"}).encode()
    signed = f"{b64(head)}.{b64(json.dumps(usual_claims()).encode())}"
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"{signed}.{b64(hmac.digest(public, signed.encode(), hashlib.sha256))}"


def embedded_key(name: str) -> str:
    own = Signer("k1", "ES256", ec.generate_private_key(ec.SECP256R1()))
    values = {"jwk": own.jwk, "jku": "https://evil.example/jwks", "x5u": "https://evil.example/x5u", "x5c": ["MIIB"]}
    return own.token(header={name: values[name]})


def changed_payload() -> str:
    head, _, signature = KEY.token().split(".")
    return f"{head}.{b64(json.dumps({**usual_claims(), 'sub': 'root'}).encode())}.{signature}"


def deep_actors(depth: int) -> dict[str, object]:
    actor: dict[str, object] = {"sub": "bot"}
    for _ in range(depth - 1):
        actor = {"sub": "bot", "act": actor}
    return actor


def duplicate(claims: str) -> bytes:
    return json.dumps(usual_claims()).encode()[:-1] + f",{claims}}}".encode()


OTHER_EC = Signer("k1", "ES256", ec.generate_private_key(ec.SECP256R1()))
OTHER_ED = Signer("k1", "EdDSA", ed25519.Ed25519PrivateKey.generate())

ATTACKS: dict[str, tuple[Callable[[], str], str]] = {
    "alg none": (algorithm_none, "not signed in a way"),
    "alg NONE": (lambda: KEY.token(header={"alg": "nOnE"}), "not signed in a way"),
    "alg missing": (lambda: KEY.token(header={"alg": ...}), "not signed in a way"),
    "alg not text": (lambda: KEY.token(header={"alg": ["ES256"]}), "not signed in a way"),
    "HS256 with the public key": (hmac_with_public_key, "not signed in a way"),
    "HMAC that calls itself RS256": (lambda: hmac_with_public_key("RS256"), "signature"),
    "algorithm that is not configured": (lambda: KEY.token(header={"alg": "ES384"}), "not signed in a way"),
    "another algorithm for the key": (lambda: KEY.token(header={"alg": "EdDSA"}), "no key"),
    "key of another kind under a known kid": (OTHER_ED.token, "no key"),
    "foreign key under a known kid": (OTHER_EC.token, "signature"),
    "kid of another key": (lambda: Signer("rsa", "ES256", EC).token(), "no key"),
    "unknown kid": (lambda: Signer("k9", "ES256", EC).token(), "no key"),
    "kid that is a path": (lambda: KEY.token(header={"kid": "../../../dev/null"}), "no key"),
    "kid that is SQL": (lambda: KEY.token(header={"kid": "' OR '1'='1"}), "no key"),
    "kid that is not text": (lambda: KEY.token(header={"kid": {"$ne": ""}}), "`kid`"),
    "embedded jwk": (lambda: embedded_key("jwk"), "signature"),
    "jku": (lambda: embedded_key("jku"), "signature"),
    "x5u": (lambda: embedded_key("x5u"), "signature"),
    "x5c": (lambda: embedded_key("x5c"), "signature"),
    "crit": (lambda: KEY.token(header={"crit": ["exp"], "exp": NOW}), "critical header"),
    "crit, empty": (lambda: KEY.token(header={"crit": []}), "critical header"),
    "b64 false": (lambda: KEY.token(header={"b64": False, "crit": ["b64"]}), "critical header"),
    "typ of an ID token": (lambda: KEY.token(header={"typ": "JWT"}), "type at\\+jwt"),
    "typ missing": (lambda: KEY.token(header={"typ": ...}), "type at\\+jwt"),
    "typ not text": (lambda: KEY.token(header={"typ": 1}), "type at\\+jwt"),
    "wrong issuer": (lambda: KEY.token(iss="https://evil.example"), "issuer"),
    "issuer with a slash more": (lambda: KEY.token(iss=f"{ISSUER}/"), "issuer"),
    "issuer in other case": (lambda: KEY.token(iss=ISSUER.upper()), "issuer"),
    "issuer missing": (lambda: KEY.token(iss=...), "issuer"),
    "issuer not text": (lambda: KEY.token(iss=[ISSUER]), "issuer"),
    "wrong audience": (lambda: KEY.token(aud="https://other.example"), "another resource"),
    "audience is a prefix": (lambda: KEY.token(aud=AUDIENCE[:-1]), "another resource"),
    "audience missing": (lambda: KEY.token(aud=...), "another resource"),
    "audience empty": (lambda: KEY.token(aud=[]), "another resource"),
    "audience is an object": (lambda: KEY.token(aud={AUDIENCE: 1}), "another resource"),
    "exp missing": (lambda: KEY.token(exp=...), "no `exp`"),
    "exp null": (lambda: KEY.token(exp=None), "no `exp`"),
    "expired": (lambda: KEY.token(exp=NOW - 31), "expired"),
    "exp is text": (lambda: KEY.token(exp="9999999999"), "`exp`"),
    "exp is true": (lambda: KEY.token(exp=True), "`exp`"),
    "exp is infinite": (lambda: KEY.token(duplicate('"exp ":1').replace(b'"exp":', b'"exp":1e999,"x":')), "`exp`"),
    "exp is Infinity": (lambda: KEY.token(duplicate('"x":Infinity')), "payload"),
    "not valid yet": (lambda: KEY.token(nbf=NOW + 31), "`nbf`"),
    "issued in the future": (lambda: KEY.token(iat=NOW + 31), "`iat`"),
    "iat missing": (lambda: KEY.token(iat=...), "lacks iat"),
    "jti and client_id missing": (lambda: KEY.token(jti=..., client_id=""), "lacks client_id, jti"),
    "sub missing": (lambda: KEY.token(sub=...), "lacks sub"),
    "sub not text": (lambda: KEY.token(sub=7), "`sub`"),
    "duplicate claim": (lambda: KEY.token(duplicate('"sub":"root"')), "unique names"),
    "duplicate claim, deeper": (lambda: KEY.token(duplicate('"act":{"sub":"a","sub":"b"}')), "unique names"),
    "duplicate header": (
        lambda: KEY.token(header=b'{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"k1"}'),
        "header .* unique names",
    ),
    "payload is a list": (lambda: KEY.token(b"[]"), "payload"),
    "payload is not JSON": (lambda: KEY.token(b"\xff\xfe"), "payload"),
    "payload nests deeply": (lambda: KEY.token(b'{"a":' * 2_000 + b"1" + b"}" * 2_000), "payload"),
    "header is a list": (lambda: KEY.token(header=b'["alg"]'), "header"),
    "delegated too often": (lambda: KEY.token(act=deep_actors(9)), "more than 8 times"),
    "delegated very often": (lambda: KEY.token(act=deep_actors(300)), "more than 8 times"),
    "actor is text": (lambda: KEY.token(act="bot"), "not an actor"),
    "actor null": (lambda: KEY.token(act=None), "not an actor"),
    "actor without a name": (lambda: KEY.token(act={}), "does not name"),
    "actor with a number": (lambda: KEY.token(act={"sub": 1}), "`sub`"),
    "actor of another issuer": (lambda: KEY.token(act={"sub": "bot", "iss": "https://evil.example"}), "not an actor"),
    "bound to a client's key": (lambda: KEY.token(cnf={"jkt": "x"}), "bound to a key"),
    "roles not text": (lambda: KEY.token(roles=[1]), "`roles`"),
    "roles an object": (lambda: KEY.token(roles={"admin": True}), "`roles`"),
    "scope a number": (lambda: KEY.token(scope=1), "`scope`"),
    "tenant a list": (lambda: KEY.token(tenant=["acme", "evil"]), "`tenant`"),
    "subject of two": (lambda: KEY.token(sub="ana\x1fuser:bo"), "`sub` .* control"),
    "actor of two": (lambda: KEY.token(act={"sub": "a\x1fagent:b"}), "`sub` .* control"),
    "client of two": (lambda: KEY.token(client_id="ide\x1fx"), "`client_id` .* control"),
    "tenant of two": (lambda: KEY.token(tenant="acme\x1fevil"), "`tenant` .* control"),
    "identifier with a line": (lambda: KEY.token(jti="1\n2"), "`jti` .* control"),
    "role with a null": (lambda: KEY.token(roles=["admin\x00"]), "`roles` .* control"),
    "one role with an escape": (lambda: KEY.token(roles="admin\x1b[2J"), "`roles` .* control"),
    "scope with a delete": (lambda: KEY.token(scope="a \x7f"), "`scope` .* control"),
    "scopes with a C1 control": (lambda: KEY.token(scope=["a\x9f"]), "`scope` .* control"),
    "changed payload": (changed_payload, "signature"),
    "signature cut": (lambda: KEY.token()[:-2], "signature|neither"),
    "signature empty": (lambda: f"{KEY.token().rpartition('.')[0]}.", "signature"),
    "signature of zeros": (lambda: f"{KEY.token().rpartition('.')[0]}.{b64(bytes(64))}", "signature"),
    "signature in DER": (lambda: f"{KEY.token().rpartition('.')[0]}.{b64(bytes(70))}", "signature"),
    "padded": (lambda: KEY.token() + "==", "signature"),
    "padded payload": (lambda: KEY.token().replace(".", "=.", 1), "neither"),
    "four parts": (lambda: KEY.token() + ".x", "neither"),
    "encrypted": (lambda: "a.b.c.d.e", "neither"),
    "no dot": (lambda: "a" * 40, "neither"),
    "too long": (lambda: KEY.token(x="a" * 16_384), "neither"),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_token_that_does_not_hold_is_refused(name: str) -> None:
    make, message = ATTACKS[name]

    refusal = await refusal_of(make())

    assert re.search(message, refusal)


def test_signature_counts_only_with_the_agreed_algorithm() -> None:
    keys = parse_keys(key_set(RSA_KEY), ["RS256"])

    check_signature(RSA_KEY.token(), keys["rsa", "RS256"], "RS256")
    with pytest.raises(Unauthenticated):
        check_signature(RSA_KEY.token(), keys["rsa", "RS256"], "PS256")


async def test_headers_that_bring_keys_along_change_nothing_for_a_genuine_token() -> None:
    source = FakeKeySource({JWKS: key_set(KEY)})
    header = {"jwk": OTHER_EC.jwk, "jku": "https://evil.example", "x5u": "https://evil.example", "x5t": "x", "own": 1}

    identity = await verifier(source=source).identify(KEY.token(header=header))

    assert identity.subject.id == "user:ana"
    assert source.asked == [(JWKS, "public")]


async def test_key_of_one_issuer_does_not_sign_for_another() -> None:
    other = IssuerSpec("https://other.example", AUDIENCE, jwks_uri="https://other.example/jwks")
    source = FakeKeySource({JWKS: key_set(KEY), other.jwks_uri: key_set(OTHER_EC)})
    both = JwtVerifier([SPEC, other], source, cache=TokenCache(clock_s=Clock()), clock_s=Clock())

    with pytest.raises(Unauthenticated, match="signature"):
        await both.identify(OTHER_EC.token())

    assert (await both.identify(OTHER_EC.token(iss=other.issuer))).issuer == other.issuer


@pytest.mark.parametrize("changed", [{"exp": NOW - 29}, {"nbf": NOW + 29}, {"iat": NOW + 29}, {"exp": NOW + 0.5}])
async def test_clocks_may_differ_a_little(changed: dict[str, float]) -> None:
    assert (await identity_of(KEY.token({**usual_claims(), **changed}))).subject.id == "user:ana"


async def test_audience_may_be_one_of_several() -> None:
    assert (await identity_of(KEY.token(aud=["https://x.example", AUDIENCE]))).subject.id == "user:ana"


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
async def test_type_is_read_as_a_media_type(typ: str) -> None:
    assert (await identity_of(KEY.token(header={"typ": typ}))).subject.id == "user:ana"


async def test_older_issuer_may_be_allowed_its_type_and_fewer_claims() -> None:
    token = KEY.token(header={"typ": "JWT"}, jti=..., iat=..., client_id=..., scp=["a", "b"])

    identity = await identity_of(token, replace(SPEC, token_types=("at+jwt", "jwt")))

    assert (identity.credential_id, identity.scopes) == ("", ("a", "b"))


async def test_older_issuer_must_still_say_who_the_token_is_for() -> None:
    refusal = await refusal_of(KEY.token(header={"typ": "JWT"}, sub=...), replace(SPEC, token_types=("jwt",)))

    assert "no `sub`" in refusal


async def test_delegation_runs_from_the_user_to_the_agent_that_calls() -> None:
    token = KEY.token(act={"sub": "report-bot", "act": {"client_id": "planner", "iss": ISSUER}})

    identity = await identity_of(token)

    assert identity.subject == Entity("agent", "agent:report-bot")
    assert identity.on_behalf_of == Entity("user", "user:ana")
    assert identity.delegation == ("user:ana", "agent:planner", "agent:report-bot")


async def test_delegation_may_be_as_long_as_configured() -> None:
    identity = await identity_of(KEY.token(act=deep_actors(8)))

    assert len(identity.delegation) == 9


async def test_client_that_acts_for_itself_is_an_agent() -> None:
    identity = await identity_of(KEY.token(sub="ide"))

    assert identity.subject == Entity("agent", "agent:ide")
    assert (identity.on_behalf_of, identity.delegation) == (None, ())


async def test_client_may_count_as_the_actor() -> None:
    spec = replace(SPEC, client_is_actor=True)

    identity = await identity_of(KEY.token(), spec)

    assert identity.subject == Entity("agent", "agent:ide")
    assert identity.delegation == ("user:ana", "agent:ide")
    assert (await identity_of(KEY.token(sub="ide"), spec)).delegation == ()


async def test_nobody_chooses_the_type_of_their_own_subject() -> None:
    identity = await identity_of(KEY.token(sub="agent:root"))

    assert identity.subject == Entity("user", "user:agent:root")


async def test_issuer_may_be_trusted_to_type_its_subjects() -> None:
    spec = replace(SPEC, typed_subjects=True)

    identity = await identity_of(KEY.token(sub="service:cron"), spec)

    assert identity.subject == Entity("service", "service:cron")
    for sub in ("ana", ":ana", "user:"):
        assert "type:name" in await refusal_of(KEY.token(sub=sub), spec)


async def test_issuer_may_speak_for_one_tenant_only() -> None:
    spec = replace(SPEC, tenant="acme")

    assert (await identity_of(KEY.token(), spec)).tenant == "acme"
    assert (await identity_of(KEY.token(tenant="acme"), spec)).tenant == "acme"
    assert "does not speak for" in await refusal_of(KEY.token(tenant="evil"), spec)


async def test_roles_may_be_one_text_or_lie_deeper() -> None:
    spec = replace(SPEC, role_claims=("role", "realm_access.roles", "a.b", "https://x.example/roles"))
    claims = {"role": "dev", "realm_access": {"roles": ["ops"]}, "a": "text", "https://x.example/roles": ["x"]}

    identity = await identity_of(KEY.token({**usual_claims(), **claims}), spec)

    assert identity.roles == ("dev", "ops", "x")


async def test_token_without_a_key_id_is_checked_with_the_only_fitting_key() -> None:
    token = KEY.token(header={"kid": ...})

    assert (await verifier(KEY, RSA_KEY).identify(token)).subject.id == "user:ana"
    with pytest.raises(Unauthenticated, match="no key"):
        await verifier(KEY, Signer("k2", "ES256", EC)).identify(token)


async def test_token_is_checked_once_while_it_is_remembered() -> None:
    clock = Clock()
    cache = TokenCache(clock_s=clock)
    source = FakeKeySource({JWKS: key_set(KEY)})
    tokens = JwtVerifier([SPEC], source, cache=cache, clock_s=clock, monotonic_s=clock)
    identification = Identification(tokens=tokens, cache=cache)
    token = KEY.token(exp=NOW + 600)

    first = await identification.identify(Credentials(token))
    second = await identification.identify(Credentials(token))

    assert first is second
    clock.now_s += 60
    assert await identification.identify(Credentials(token)) is not first
    clock.now_s += 600
    with pytest.raises(Unauthenticated, match="expired"):
        await identification.identify(Credentials(token))


async def test_token_is_not_remembered_beyond_its_expiry() -> None:
    clock = Clock()
    cache = TokenCache(clock_s=clock)
    tokens = JwtVerifier([SPEC], FakeKeySource({JWKS: key_set(KEY)}), cache=cache, clock_s=clock, monotonic_s=clock)
    token = KEY.token(exp=NOW + 5)
    await tokens.identify(token)

    assert cache.get(token) is not None
    clock.now_s += 5
    assert cache.get(token) is None


async def test_token_whose_key_was_withdrawn_is_forgotten() -> None:
    clock = Clock()
    cache = TokenCache(clock_s=clock)
    source = FakeKeySource({JWKS: key_set(KEY)})
    tokens = JwtVerifier([SPEC], source, cache=cache, clock_s=clock, monotonic_s=clock)
    new = Signer("k2", "ES256", ec.generate_private_key(ec.SECP256R1()))
    old_token = KEY.token()
    await tokens.identify(old_token)
    source.documents[JWKS] = key_set(new)
    clock.now_s += 30

    await tokens.identify(new.token())

    assert cache.get(old_token) is None
    with pytest.raises(Unauthenticated, match="no key"):
        await tokens.identify(old_token)


async def test_keys_of_all_issuers_are_fetched_before_a_token_needs_them() -> None:
    class Telling(FakeKeySource):
        async def fetch(self, url: str, reach: Reach) -> bytes:
            try:
                return await super().fetch(url, reach)
            finally:
                if {asked for asked, _ in self.asked} == {JWKS, other.jwks_uri} and len(self.asked) > 3:
                    enough.set()

    other = IssuerSpec("https://other.example", AUDIENCE, jwks_uri="https://other.example/jwks")
    enough = anyio.Event()
    source = Telling({JWKS: key_set(KEY)})
    pace = Pace(refresh_s=0.001, retry_s=0.001)
    tokens = JwtVerifier([SPEC, other], source, cache=TokenCache(clock_s=Clock()), clock_s=Clock(), pace=pace)

    async with anyio.create_task_group() as group:
        group.start_soon(tokens.run)
        with anyio.fail_after(5):
            await enough.wait()
        group.cancel_scope.cancel()

    assert (await tokens.identify(KEY.token())).subject.id == "user:ana"


async def test_same_issuer_twice_is_a_fault() -> None:
    with pytest.raises(ConfigError, match="twice"):
        JwtVerifier([SPEC, SPEC], FakeKeySource(), cache=TokenCache(clock_s=Clock()))


@settings(deadline=None)
@given(
    st.text(alphabet=st.characters(codec="ascii"), max_size=200)
    | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*", fullmatch=True)
)
async def test_no_text_makes_the_verifier_fail_otherwise_than_by_refusing(text: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier().identify(text)


@settings(deadline=None)
@given(st.data())
async def test_no_changed_character_of_a_token_goes_unseen(data: st.DataObject) -> None:
    token = TOKEN
    index = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda character: character != token[index]))

    with pytest.raises(Unauthenticated):
        await verifier().identify(token[:index] + other + token[index + 1 :])


TOKEN = KEY.token()
JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5)
NAMES = st.sampled_from(
    ["iss", "aud", "exp", "nbf", "iat", "sub", "act", "scope", "scp", "roles", "groups", "tenant", "client_id", "jti"]
)


@settings(deadline=None)
@given(st.dictionaries(NAMES, JSON | st.dictionaries(NAMES, JSON)))
async def test_no_signed_claims_make_the_verifier_fail_otherwise_than_by_refusing(claims: dict[str, object]) -> None:
    token = KEY.token({**usual_claims(), **claims})

    try:
        identity = await identity_of(token)
    except Unauthenticated:
        return
    assert identity.issuer == ISSUER
    assert identity.subject.id
