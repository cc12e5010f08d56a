"""Servers that several tests share, and the event loop that the gateway runs on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.launch import Started, http_server


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="package")
def legacy_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with http_server("legacy_asker", tmp_path_factory.mktemp("legacy")) as started:
        yield started


@pytest.fixture(scope="package")
def modern_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with http_server("modern_asker", tmp_path_factory.mktemp("modern")) as started:
        yield started


@pytest.fixture(scope="package")
def faulty_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with http_server("faulty", tmp_path_factory.mktemp("faulty")) as started:
        yield started
