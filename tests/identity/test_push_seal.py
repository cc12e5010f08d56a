"""What is sealed for one record opens for that record only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.push_seal import PushSealer

OLD, NEW = b"o" * 32, b"n" * 32
RECORD = ("planner", "t1", "cfg", "ana")


@given(st.binary(max_size=300), st.lists(st.text(max_size=8), max_size=5))
def test_sealed_text_opens_again_and_is_never_the_same_twice(plain: bytes, bound: list[str]) -> None:
    sealer = PushSealer([NEW])

    one, two = sealer.seal(plain, bound), sealer.seal(plain, bound)

    assert sealer.open(one, bound) == sealer.open(two, bound) == plain
    assert one != two


@pytest.mark.parametrize("other", [("planner", "t2", "cfg", "ana"), ("planner", "t1cfg", "", "ana"), RECORD[:3], ()])
def test_text_of_one_record_does_not_open_for_another(other: tuple[str, ...]) -> None:
    sealer = PushSealer([NEW])

    with pytest.raises(ValueError, match="of another record"):
        sealer.open(sealer.seal(b"secret", RECORD), other)


def test_every_changed_byte_is_noticed() -> None:
    sealer = PushSealer([NEW])
    sealed = sealer.seal(b"secret", RECORD)

    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(ValueError, match="sealed"):
            sealer.open(changed, RECORD)
    for length in range(len(sealed)):
        with pytest.raises(ValueError, match="sealed"):
            sealer.open(sealed[:length], RECORD)


def test_keys_can_be_rotated() -> None:
    sealed = PushSealer([OLD]).seal(b"secret", RECORD)

    assert PushSealer([NEW, OLD]).open(sealed, RECORD) == b"secret"
    with pytest.raises(ValueError, match="another key"):
        PushSealer([NEW]).open(sealed, RECORD)


@pytest.mark.parametrize("keys", [[], [b"short"], [OLD, b""]])
def test_weak_keys_are_refused(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        PushSealer(keys)
