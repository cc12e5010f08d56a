"""Sends something every so often, and at the end gives what is under way and what is left a bounded time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskStatus


async def pump(
    send: Callable[[], Awaitable[None]], *, every_s: float, drain_s: float, task_status: TaskStatus[None]
) -> None:
    """Call `send` every `every_s` seconds until cancelled, then once more; after the cancellation at most `drain_s`.

    A `send` that is under way when the cancellation comes is not torn off: what a healthy receiver is about to
    acknowledge would be lost.
    """
    stop = anyio.Event()
    scope = anyio.CancelScope(shield=True)

    async def sending() -> None:
        with scope:
            while not stop.is_set():
                with anyio.move_on_after(every_s):
                    await stop.wait()
                await send()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sending)
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            scope.deadline = anyio.current_time() + drain_s
            stop.set()
