"""One gateway for the tests of a file; its providers are as new for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from tests.models_http.world import World, world
from tests.servers.models import Say


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A gateway between clients and providers."""
    async with world(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
async def there(gateway: World) -> AsyncIterator[World]:
    """The same, with providers that were asked nothing yet."""
    for provider in (gateway.one, gateway.other):
        provider.say, provider.mode, provider.released = Say(), "ok", anyio.Event()
        provider.seen.clear()
    yield gateway
    for provider in (gateway.one, gateway.other):
        provider.released.set()
