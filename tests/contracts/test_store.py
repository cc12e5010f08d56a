"""What every state store promises, held against the fake, SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias
from uuid import uuid4

import anyio
import pytest

from gateway.ports import ApiKey, Pin, StateStore
from tests.contracts.conftest import Replicas
from tests.fakes import FakeStore

Opener: TypeAlias = Callable[[], Awaitable[StateStore]]
"""Opens one more store on the same state, as another replica would."""

KEY = ApiKey("k1", b"\x01" * 32, "user", "user:ana", "acme", ("analyst", "dev"), ("mcp:tools",), 10, 20)
PIN = Pin("warehouse", "tool", "query", "sha256:1", b'{"name":"query"}', "user:ana", 30)


@pytest.fixture
def another(replicas: Replicas) -> Opener:
    fake = FakeStore()

    async def opened() -> StateStore:
        return fake if replicas is None else (await replicas())

    return opened


@pytest.fixture
async def store(another: Opener) -> StateStore:
    return await another()


async def test_new_store_is_empty(store: StateStore) -> None:
    assert list(await store.keys()) == []
    assert list(await store.pins("warehouse")) == []
    assert await store.revision() >= 1


async def test_key_comes_back_as_it_was_put(store: StateStore) -> None:
    await store.put_key(KEY)

    assert list(await store.keys()) == [KEY]


async def test_key_of_the_same_id_is_replaced(store: StateStore) -> None:
    await store.put_key(KEY)

    await store.put_key(replace(KEY, roles=()))

    assert list(await store.keys()) == [replace(KEY, roles=())]


async def test_keys_come_oldest_first(store: StateStore) -> None:
    for name, created_s in (("c", 3), ("b", 1), ("a", 3)):
        await store.put_key(replace(KEY, id=name, created_s=created_s))

    found = [key.id for key in await store.keys()]

    assert found == ["b", "a", "c"]


async def test_key_is_revoked_once_and_for_good(store: StateStore) -> None:
    await store.put_key(KEY)

    first, second = await store.revoke_key("k1", 50), await store.revoke_key("k1", 60)

    assert (first, second) == (True, False)
    assert list(await store.keys()) == [replace(KEY, revoked_s=50)]


async def test_unknown_key_is_not_revoked(store: StateStore) -> None:
    before = await store.revision()

    assert await store.revoke_key("nobody", 50) is False
    assert await store.revision() == before


async def test_pins_of_one_upstream_come_by_kind_and_name(store: StateStore) -> None:
    tool_b, tool_upper, prompt = replace(PIN, name="b"), replace(PIN, name="Z"), replace(PIN, kind="prompt", name="z")
    foreign = replace(PIN, upstream="other")

    await store.put_pins([tool_b, foreign, tool_upper, prompt])

    assert list(await store.pins("warehouse")) == [prompt, tool_upper, tool_b]
    assert list(await store.pins("other")) == [foreign]


async def test_accepted_pin_replaces_the_old_one(store: StateStore) -> None:
    await store.put_pins([PIN])

    await store.put_pins([replace(PIN, digest="sha256:2", definition=b"{}", accepted_s=99)])

    assert list(await store.pins("warehouse")) == [replace(PIN, digest="sha256:2", definition=b"{}", accepted_s=99)]


async def test_revision_grows_with_every_change_and_only_then(store: StateStore) -> None:
    seen = [await store.revision()]

    for change in (store.put_key(KEY), store.revoke_key("k1", 1), store.put_pins([PIN])):
        await change
        seen.append(await store.revision())
    await store.put_pins([])
    await store.secret("seal")
    await store.keys()

    assert seen == sorted(set(seen))
    assert await store.revision() == seen[-1]


async def test_secret_is_made_once_per_name(store: StateStore) -> None:
    first, again, other = await store.secret("seal"), await store.secret("seal"), await store.secret("cursor")

    assert first == again
    assert first != other
    assert len(first) == len(other) == 32


async def test_replicas_that_start_together_agree_on_everything(another: Opener) -> None:
    stores: list[StateStore] = []
    given: set[bytes] = set()

    async def start() -> None:
        store = await another()
        stores.append(store)
        given.add(await store.secret("seal"))
        await store.put_key(replace(KEY, id=uuid4().hex))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as replicas:
            for _ in range(4):
                replicas.start_soon(start)

    assert len(given) == 1
    assert {tuple(await store.keys()) for store in stores} == {tuple(await stores[0].keys())}
    assert len(await stores[0].keys()) == 4


async def test_one_replica_sees_what_another_changed(another: Opener) -> None:
    first, second = await another(), await another()
    before = await second.revision()

    await first.put_key(KEY)
    await first.revoke_key("k1", 5)

    assert await second.revision() > before
    assert list(await second.keys()) == [replace(KEY, revoked_s=5)]


async def test_concurrent_changes_are_all_counted(store: StateStore) -> None:
    before = await store.revision()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as writers:
            for number in range(20):
                writers.start_soon(store.put_key, replace(KEY, id=f"k{number}"))

    assert len(await store.keys()) == 20
    assert await store.revision() == before + 20


async def test_key_of_two_tried_to_revoke_at_once_is_revoked_once(another: Opener) -> None:
    first, second = await another(), await another()
    await first.put_key(KEY)
    answers: list[bool] = []

    async def revoke(store: StateStore, now_s: int) -> None:
        answers.append(await store.revoke_key("k1", now_s))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as revokers:
            revokers.start_soon(revoke, first, 100)
            revokers.start_soon(revoke, second, 200)

    assert sorted(answers) == [False, True]
