"""What an API key looks like, and that only the right one of the right time is accepted."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InterlockError, Unauthenticated
from gateway.identity.keyring import KeyRing
from gateway.identity.keys import fault, mint
from gateway.types import Entity, Identity
from tests.fakes import FakeStore
from tests.identity.signing import NOW, Clock

ANA = Entity("user", "user:ana")


def steady(count: int) -> bytes:
    """The same key in each process, so that tests have the same names in all of them."""
    return bytes(range(1, count + 1))


KEY, TEXT = mint(ANA, now_s=int(NOW), roles=["dev"], scopes=["mcp:tools"], tenant="acme", entropy=steady)


async def ring_with(*keys: object, clock: Clock | None = None, store: FakeStore | None = None) -> KeyRing:
    store = store or FakeStore()
    for key in keys or (KEY,):
        await store.put_key(key)  # type: ignore[arg-type]  # only keys are passed
    ring = KeyRing(store, clock_s=clock or Clock(), monotonic_s=clock or Clock())
    await ring.refresh()
    return ring


def test_key_is_long_enough_and_kept_only_as_a_hash() -> None:
    _, key_id, secret = TEXT.split("_")

    assert key_id == KEY.id
    assert len(secret) == 49
    assert 62**43 > 2**256
    assert KEY.secret_sha256 == hashlib.sha256(secret.encode()).digest()
    assert secret not in repr(KEY)


def test_keys_differ_in_everything() -> None:
    made = [mint(ANA, now_s=0) for _ in range(200)]

    assert len({text.split("_")[1] for _, text in made}) == len({text.split("_")[2] for _, text in made}) == 200


@pytest.mark.parametrize("entropy", [b"\x00", b"\xff"])
def test_every_random_value_gives_a_well_formed_key(entropy: bytes) -> None:
    _, text = mint(ANA, now_s=0, entropy=lambda count: entropy * count)

    assert fault(text) == ""
    assert len(text) == len(TEXT)


async def test_key_says_who_calls() -> None:
    ring = await ring_with()

    assert ring.identify(TEXT) == Identity(
        ANA, tenant="acme", roles=("dev",), scopes=("mcp:tools",), method="api_key", credential_id=KEY.id
    )


@settings(deadline=None)
@given(st.data())
async def test_mistyped_key_is_called_mistyped(data: st.DataObject) -> None:
    ring = await ring_with()
    index = data.draw(st.integers(17, len(TEXT) - 1))
    other = data.draw(st.sampled_from("0123456789ABCabc").filter(lambda character: character != TEXT[index]))

    with pytest.raises(Unauthenticated, match="mistyped"):
        ring.identify(TEXT[:index] + other + TEXT[index + 1 :])


@pytest.mark.parametrize(
    "text", [TEXT[:-1], f"{TEXT}x", "ilk_", "ilk__", TEXT.replace("_", "-"), TEXT.upper(), f"{TEXT}\n"]
)
async def test_cut_key_is_called_cut(text: str) -> None:
    ring = await ring_with()

    with pytest.raises(Unauthenticated, match="cut"):
        ring.identify(text)


async def test_key_of_another_gateway_is_unknown() -> None:
    ring = await ring_with()
    _, other = mint(ANA, now_s=0)
    same_id = mint(ANA, now_s=0, entropy=lambda count: bytes.fromhex(KEY.id) if count == 6 else b"\x07" * count)[1]

    for text in (other, same_id):
        with pytest.raises(Unauthenticated, match="not known here") as caught:
            ring.identify(text)
        assert text not in str(caught.value)
        assert caught.value.challenge == "invalid_token"


async def test_nothing_is_accepted_before_the_store_was_read() -> None:
    store = FakeStore()
    await store.put_key(KEY)

    with pytest.raises(Unauthenticated):
        KeyRing(store).identify(TEXT)


async def test_expired_key_is_refused_from_that_second_on() -> None:
    clock = Clock()
    ring = await ring_with(replace(KEY, expires_s=int(NOW) + 10), clock=clock)

    assert ring.identify(TEXT).subject == ANA
    clock.now_s += 10
    with pytest.raises(Unauthenticated, match=r"expired at 2023-11-14T22:13:30\+00:00"):
        ring.identify(TEXT)


async def test_key_revoked_here_is_refused_at_once() -> None:
    ring = await ring_with()
    ring.identify(TEXT)

    assert await ring.revoke(KEY.id) is True

    with pytest.raises(Unauthenticated, match="was revoked"):
        ring.identify(TEXT)
    assert await ring.revoke(KEY.id) is False


async def test_wrong_secret_of_a_revoked_key_learns_nothing() -> None:
    ring = await ring_with(replace(KEY, revoked_s=1))
    guess = mint(ANA, now_s=0, entropy=lambda count: bytes.fromhex(KEY.id) if count == 6 else bytes(count))[1]

    with pytest.raises(Unauthenticated, match="not known here"):
        ring.identify(guess)


async def test_key_revoked_elsewhere_is_refused_within_a_poll() -> None:
    store = FakeStore()
    ring = await ring_with(store=store)
    ring.identify(TEXT)

    async with anyio.create_task_group() as group:
        group.start_soon(ring.run)
        await store.revoke_key(KEY.id, 1)
        ring.notify()
        with anyio.fail_after(5):
            while accepted(ring):
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


async def test_store_is_polled_without_being_told() -> None:
    store = FakeStore()
    ring = KeyRing(store, poll_s=0.001)

    async with anyio.create_task_group() as group:
        group.start_soon(ring.run)
        await store.put_key(KEY)
        with anyio.fail_after(5):
            while not accepted(ring):
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


async def test_store_is_read_again_only_when_it_changed() -> None:
    store = FakeStore()
    ring = await ring_with(store=store)

    assert await ring.refresh() is False
    await store.put_key(replace(KEY, roles=("ops",)))
    assert await ring.refresh() is True
    assert ring.identify(TEXT).roles == ("ops",)


async def test_keys_outlive_a_lost_store_but_not_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    store, clock = FakeStore(), Clock()
    ring = await ring_with(store=store, clock=clock)
    store.fail_with = InterlockError("lost")

    async with anyio.create_task_group() as group:
        group.start_soon(ring.run)
        with anyio.fail_after(5):
            while "did not answer" not in caplog.text:
                await anyio.lowlevel.checkpoint()
        clock.now_s += 600
        assert accepted(ring)
        clock.now_s += 1
        with pytest.raises(Unauthenticated, match="try again later"):
            ring.identify(TEXT)
        store.fail_with = None
        ring.notify()
        with anyio.fail_after(5):
            while not accepted(ring):
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


def accepted(ring: KeyRing) -> bool:
    try:
        ring.identify(TEXT)
    except Unauthenticated:
        return False
    return True
