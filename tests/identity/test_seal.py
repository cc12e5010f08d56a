"""Sealed state comes back as it was, to whom it was given, in time, or not at all."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codec import JsonValue
from gateway.errors import InvalidCall
from gateway.identity.seal import MAX_SEALED, MAX_TTL_S, Sealer

A, B = b"a" * 32, b"b" * 32
NOW = 1_700_000_000.5
VALUE: JsonValue = {"upstream": "warehouse", "ids": [1, 2]}


def sealer(keys: Sequence[bytes] = (A,), audience: str = "https://gateway.example") -> Sealer:
    return Sealer(keys, audience)


def sealed(by: Sealer | None = None, purpose: str = "cursor", principal: str = "ana", ttl_s: int = 60) -> str:
    return (by or sealer()).seal(purpose, VALUE, principal=principal, ttl_s=ttl_s, now_s=NOW)


def opened(
    token: str, by: Sealer | None = None, purpose: str = "cursor", principal: str = "ana", now_s: float = NOW
) -> JsonValue:
    return (by or sealer()).open(purpose, token, principal=principal, now_s=now_s)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(JSON, st.text(), st.text())
def test_state_comes_back_as_it_was(value: JsonValue, purpose: str, principal: str) -> None:
    token = sealer().seal(purpose, value, principal=principal, ttl_s=5, now_s=NOW)

    assert sealer().open(purpose, token, principal=principal, now_s=NOW) == value


def test_same_state_never_looks_the_same_and_shows_nothing() -> None:
    tokens = {sealed() for _ in range(50)}

    assert len(tokens) == 50
    assert all(b"warehouse" not in base64.urlsafe_b64decode(token + "==") for token in tokens)


@settings(deadline=None)
@given(st.data())
def test_no_changed_character_goes_unseen(data: st.DataObject) -> None:
    token = sealed()
    index = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda character: character != token[index]))

    with pytest.raises(InvalidCall):
        opened(token[:index] + other + token[index + 1 :])


@settings(deadline=None)
@given(
    st.text(max_size=120) | st.binary(max_size=120).map(lambda raw: base64.urlsafe_b64encode(b"\x01" + raw).decode())
)
def test_no_foreign_text_is_opened_or_breaks_anything(token: str) -> None:
    with pytest.raises(InvalidCall):
        opened(token)


def test_cut_or_lengthened_state_is_refused() -> None:
    token = sealed()

    for changed in (token[:-1], token[1:], token + "A", token + "=", "", " " + token, token[:28], token[:27]):
        with pytest.raises(InvalidCall, match="not given to you"):
            opened(changed)


def test_state_is_of_use_only_to_its_principal_purpose_and_gateway() -> None:
    token = sealed()
    parted = sealed(purpose="ab", principal="c")

    refusals = [
        raises_foreign(lambda: opened(token, principal="bo")),
        raises_foreign(lambda: opened(token, purpose="session")),
        raises_foreign(lambda: opened(token, by=sealer(audience="https://other.example"))),
        raises_foreign(lambda: opened(token, by=sealer([B]))),
        raises_foreign(lambda: opened(parted, purpose="a", principal="bc")),
    ]

    assert all(refusals)


def raises_foreign(attempt: Callable[[], JsonValue]) -> bool:
    with pytest.raises(InvalidCall, match="not given to you"):
        attempt()
    return True


def test_state_expires() -> None:
    token = sealed(ttl_s=60)

    assert opened(token, now_s=NOW + 59) == VALUE
    with pytest.raises(InvalidCall, match="the cursor has expired"):
        opened(token, now_s=NOW + 60)


def test_expiry_cannot_be_moved() -> None:
    raw = bytearray(base64.urlsafe_b64decode(sealed() + "=="))
    raw[8] ^= 1

    with pytest.raises(InvalidCall):
        opened(base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="))


def test_state_from_a_far_future_is_refused_before_anything_is_derived() -> None:
    token = sealed(ttl_s=MAX_TTL_S)

    with pytest.raises(InvalidCall, match="not given to you"):
        opened(token, now_s=NOW - 2)


def test_older_keys_still_open() -> None:
    token = sealed(by=sealer([A]))

    assert opened(token, by=sealer([B, A])) == VALUE
    assert opened(sealed(by=sealer([B, A])), by=sealer([B])) == VALUE


def test_state_too_large_for_a_header_is_refused_on_both_sides() -> None:
    with pytest.raises(ValueError, match="the cursor is too large"):
        sealer().seal("cursor", "x" * MAX_SEALED, principal="", ttl_s=5, now_s=NOW)
    with pytest.raises(InvalidCall):
        opened("A" * (MAX_SEALED + 1))


@pytest.mark.parametrize("ttl_s", [0, -1, MAX_TTL_S + 1])
def test_state_that_would_live_too_long_is_not_made(ttl_s: int) -> None:
    with pytest.raises(ValueError, match="lives for 1 to"):
        sealed(ttl_s=ttl_s)


@pytest.mark.parametrize("keys", [[], [b"short"], [A, b"x" * 33]])
def test_sealing_needs_real_keys(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sealer(keys)
