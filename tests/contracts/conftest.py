"""Stores of every kind that a contract has to hold for, opened as often as a test has replicas."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import pytest

from adapters.stores.sql import SqlStore, open_store
from tests.contracts import postgres

Replicas: TypeAlias = Callable[[], Awaitable[SqlStore]] | None
"""Opens one more store on the same state, as another replica would; `None` where the fake is meant."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    with postgres.cluster() as home:
        yield home


@pytest.fixture(params=["fake", "sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def replicas(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Replicas]:
    if request.param == "fake":
        yield None
        return
    url = ""
    if request.param == "postgresql":
        url = postgres.create_database(request.getfixturevalue("cluster"), f"t{uuid4().hex}")
    async with AsyncExitStack() as stack:

        async def one_more() -> SqlStore:
            store = await open_store(url, data_dir=tmp_path / "data", clock_s=time.time)
            stack.push_async_callback(store.aclose)
            return store

        yield one_more
