"""What every test has: asyncio's own loop, unless its folder asks for another, and the same random cases in CI."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple, Unpack

import pytest
from hypothesis import settings

# In CI a failure must be the change's, so the cases are always the same there; everywhere else they are new each time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# A test that forks does so to try what a process with one thread may do. gRPC, once it was used, starts its own threads
# again in every forked child; it reads this at its import.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


Args = TypeVarTuple("Args")


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop, which is not disturbed when gRPC has something for it after its end.

    grpc.aio has one poller for all loops of a process, and the loop that runs hands on what comes for another. The end
    of a call that was cancelled in one test may so come in the next, for a loop that is closed: nobody waits for it,
    and the library has no way to wait until all is through. A gateway has one loop from its start to its end.
    """

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Args]], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        if self.is_closed() and getattr(callback, "__name__", "") == "_handle_callback_wrapper":
            return asyncio.Handle(callback, args, self)
        return super().call_soon_threadsafe(callback, *args, context=context)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": Loop}
