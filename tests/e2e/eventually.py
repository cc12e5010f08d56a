"""Waits for something that another process or task is about to make true."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

T = TypeVar("T")

PAUSE_S: Final = 0.05


async def eventually(look: Callable[[], Awaitable[T]], *, within_s: float = 10.0) -> T:
    """The first truthy thing that `look` gives. Raises `TimeoutError`."""
    with anyio.fail_after(within_s):
        while True:
            found = await look()
            if found:
                return found
            await anyio.sleep(PAUSE_S)
    raise TimeoutError
