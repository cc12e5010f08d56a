"""What sessions of code cost: the wait for a box when some are started ahead, the memory of one that is idle."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Final

import anyio

from gateway.boxes import Program
from gateway.errors import SandboxFailure
from sandboxes.code.environment import Environment
from sandboxes.code.pool import Kind, Pool, Shelf, started
from sandboxes.driver import Place
from sandboxes.spec import BoxSpec
from tests.bench import meters
from tests.bench.figures import Row, Spread
from tests.bench.rooms import ANSWER_S, Room, ended, reaper_of

MOST_MS: Final[Mapping[str, float]] = {"bubblewrap": 5}
AHEAD: Final = 2
LOOK_S: Final = 0.005


async def hand_out_rows(room: Room, rounds: int) -> list[Row]:
    """Boxes taken from a pool that is full, made somebody's; its filling up again runs beside that, as it would."""
    environment = _environment(room)
    kind: Kind = (environment.name, environment.box.digest, environment.level)
    async with AsyncExitStack() as places:

        async def source() -> Program:
            place = await places.enter_async_context(room.place(environment.box))
            return await room.driver.start(environment.box, place)

        pool = Pool({kind: Shelf(source, AHEAD, environment.name)})
        async with _running(pool):
            spread = Spread.of([await _hand_out_ms(pool, kind, environment) for _ in range(rounds)])
    return [Row(room.name, "hand-out of a box from the pool", "ms", spread, aim=MOST_MS.get(room.name))]


async def _hand_out_ms(pool: Pool, kind: Kind, environment: Environment) -> float:
    with anyio.fail_after(ANSWER_S):
        while pool.unused < AHEAD:
            if pool.reason:
                raise SandboxFailure(pool.reason)
            await anyio.sleep(LOOK_S)
    began = perf_counter()
    box = pool.take(kind, environment.level)
    if box is None:
        raise SandboxFailure("a full pool had no box")
    try:
        await box.hand_out({"TOKEN": "of the session"})
        return (perf_counter() - began) * 1000
    finally:
        await ended(box.program)


@asynccontextmanager
async def _running(pool: Pool) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run)
        try:
            yield
        finally:
            group.cancel_scope.cancel()


async def memory_rows(room: Room, boxes: int) -> list[Row]:
    """Boxes that wait for their first order, all alive at the same time; memory that they share is shared out."""
    box = _environment(room).box
    async with AsyncExitStack() as stack:
        places: list[Place] = []
        for _ in range(boxes):
            place = await stack.enter_async_context(room.place(box))
            client = await started(partial(room.driver.start, box, place), box.label)
            stack.push_async_callback(ended, client.program)
            places.append(place)
        used = [_pss_mib(reaper_of(place)) for place in places]
    what = f"memory of each of {boxes} idle boxes of code (PSS)"
    return [
        Row(room.name, what, "MiB", Spread.of([inside for inside, _ in used])),
        Row(room.name, "and of the supervisor of each", "MiB", Spread.of([outside for _, outside in used])),
    ]


def _pss_mib(reaper: int) -> tuple[float, float]:
    """Of the box, and of its supervisor."""
    everything, own = meters.pss_mib(reaper), meters.own_pss_mib(reaper)
    return everything - own, own


def _environment(room: Room) -> Environment:
    return Environment("bench", BoxSpec("bench", (), egress=False), room.driver.level)
