"""Which kind of credential is looked at how, and that nobody is anonymous by accident."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import InterlockError, Unauthenticated
from gateway.identity.bearer import MAX_BEARER, bearer_of
from gateway.identity.identifier import Anonymous, Identification
from gateway.identity.jwt import JwtVerifier
from gateway.identity.keyring import KeyRing
from gateway.identity.keys import mint
from gateway.identity.token_cache import TokenCache
from gateway.types import Credentials, Entity, Identity
from tests.fakes import FakeStore
from tests.identity.signing import Clock, FakeKeySource, Signer, key_set
from tests.identity.test_jwt import JWKS, SPEC

SIGNER = Signer()
KEY, TEXT = mint(Entity("agent", "agent:bot"), now_s=0, entropy=bytes)


async def identification(*, keys: bool = True, tokens: bool = True, anonymous: bool = True) -> Identification:
    store, clock = FakeStore(), Clock()
    await store.put_key(KEY)
    ring = KeyRing(store, clock_s=clock, monotonic_s=clock)
    await ring.refresh()
    cache = TokenCache(clock_s=clock)
    jwts = JwtVerifier([SPEC], FakeKeySource({JWKS: key_set(SIGNER)}), cache=cache, clock_s=clock, monotonic_s=clock)
    return Identification(
        keys=ring if keys else None,
        tokens=jwts if tokens else None,
        cache=cache,
        anonymous=Anonymous("dev", roles=("dev",)) if anonymous else None,
    )


async def test_key_and_token_are_told_apart() -> None:
    both = await identification()

    assert (await both.identify(Credentials(TEXT))).method == "api_key"
    assert (await both.identify(Credentials(SIGNER.token()))).method == "jwt"


async def test_caller_on_this_machine_may_be_anonymous() -> None:
    found = await (await identification()).identify(Credentials(on_loopback=True))

    assert found == Identity(Entity("anonymous", "anonymous:dev"), roles=("dev",), method="anonymous")


async def test_caller_from_elsewhere_is_never_anonymous() -> None:
    with pytest.raises(Unauthenticated, match="only callers on this machine") as caught:
        await (await identification()).identify(Credentials(client_ip="127.0.0.1"))

    assert caught.value.challenge == ""


async def test_nobody_is_anonymous_unless_configured() -> None:
    with pytest.raises(Unauthenticated, match="no credential"):
        await (await identification(anonymous=False)).identify(Credentials(on_loopback=True))


CUT_TOKEN = pytest.param(SIGNER.token()[:-2], id="cut-token")


@pytest.mark.parametrize("bearer", ["x", "ilk_x", TEXT[:-1], CUT_TOKEN, " ", "a.b.c", "é", "\ud800", "\x00"])
async def test_bad_credential_is_refused_where_none_would_do(bearer: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await (await identification()).identify(Credentials(bearer, on_loopback=True))

    assert caught.value.challenge


async def test_what_cannot_be_read_is_refused_with_what_is_wrong_and_never_anonymous() -> None:
    with pytest.raises(Unauthenticated, match="two headers") as caught:
        await (await identification()).identify(Credentials(on_loopback=True, fault="two headers"))

    assert caught.value.challenge == "invalid_request"


async def test_credential_of_absurd_length_is_not_looked_at() -> None:
    with pytest.raises(Unauthenticated, match="reasonable length"):
        await (await identification()).identify(Credentials("ilk_" + "a" * MAX_BEARER))


async def test_kind_that_is_not_configured_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="API keys are not accepted"):
        await (await identification(keys=False)).identify(Credentials(TEXT))
    with pytest.raises(Unauthenticated, match="access tokens are not accepted"):
        await (await identification(tokens=False)).identify(Credentials(SIGNER.token()))


@settings(deadline=None)
@given(st.text(max_size=80), st.sampled_from(["", "ilk_", "eyJ", TEXT[:20]]))
async def test_no_text_passes_or_breaks_anything(text: str, start: str) -> None:
    bearer = start + text
    if not bearer:
        return

    with pytest.raises(Unauthenticated) as caught:
        await (await identification()).identify(Credentials(bearer, on_loopback=True))

    assert len(bearer) < 8 or bearer not in str(caught.value)


def test_cache_forgets_the_oldest_when_it_is_full() -> None:
    cache = TokenCache(clock_s=Clock(0.0), max_entries=2)
    for token in ("a", "b", "a", "c"):
        cache.put(token, Identity(), until_s=1)

    assert [cache.get(token) is not None for token in "abc"] == [True, False, True]
    cache.purge()
    assert cache.get("c") is None


@pytest.mark.parametrize(
    ("value", "bearer"),
    [(b"Bearer abc", "abc"), (b"bearer  a-._~+/b== ", "a-._~+/b=="), (f"BEARER {TEXT}".encode(), TEXT)],
)
def test_bearer_is_read_as_rfc_6750_writes_it(value: bytes, bearer: str) -> None:
    assert bearer_of([value]) == bearer


def test_request_without_the_header_has_no_bearer() -> None:
    assert bearer_of([]) == ""


@pytest.mark.parametrize(
    "value",
    [b"", b"Bearer", b"Bearer ", b"Basic YTpi", b"Bearer a b", b"Bearer a,b", b"Bearera", b"Bearer =", b"Bearer \xff"],
)
def test_header_that_is_no_bearer_is_not_taken_for_none(value: bytes) -> None:
    with pytest.raises(Unauthenticated) as caught:
        bearer_of([value])

    assert caught.value.challenge == "invalid_request"


def test_two_headers_are_one_too_many() -> None:
    with pytest.raises(Unauthenticated, match="more than one"):
        bearer_of([b"Bearer a", b"Bearer b"])


def test_header_of_absurd_length_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="longer than"):
        bearer_of([b"Bearer " + b"a" * MAX_BEARER])


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60) | st.binary(max_size=20).map(lambda tail: b"Bearer " + tail), max_size=3))
@example([b"Bearer \r\nx"])
def test_what_is_read_from_any_header_is_a_plain_word(values: list[bytes]) -> None:
    try:
        bearer = bearer_of(values)
    except InterlockError:
        return

    assert bearer.isascii()
    assert bearer.isprintable()
    assert bool(bearer) == bool(values)
