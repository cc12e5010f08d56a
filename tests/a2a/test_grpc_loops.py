"""What grpc.aio still has for the loop of one test does not fail another."""

from __future__ import annotations

import asyncio
import gc
import socket
from typing import Any

import grpc.aio
import pytest

from tests.conftest import Loop


@pytest.mark.parametrize("kept", [True, False])
def test_end_of_a_call_that_comes_after_its_loop_is_dropped(kept: bool) -> None:
    calls: list[object] = []
    faults: list[dict[str, Any]] = []

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with asyncio.Runner(loop_factory=Loop) as first:
            first.run(_left(silent.getsockname()[1], calls))
        if not kept:
            calls.clear()
            gc.collect()
        with asyncio.Runner(loop_factory=Loop) as second:
            second.get_loop().set_exception_handler(lambda loop, context: faults.append(context))
            second.run(_refused())

    assert faults == []


async def _left(port: int, calls: list[object]) -> None:
    """Calls that nobody waits for, begun."""
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    ask: Any = channel.unary_unary("/none/none")
    calls += [channel, *(ask(b"", timeout=0.05 * number) for number in range(1, 5))]
    await asyncio.sleep(0)


async def _refused() -> None:
    """A call of the loop that runs now, for longer than what is left of the others."""
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        ask: Any = channel.unary_unary("/none/none")
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(b"", timeout=0.4, wait_for_ready=True)
