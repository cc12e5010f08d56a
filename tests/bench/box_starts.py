"""How long a box takes from the order to the first byte of its program, beside the same program without a box."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Final, TypeAlias

import anyio

from gateway.errors import PolicyDenied
from sandboxes.boxes import Boxes, Wanted
from sandboxes.egress.gate import Carry, Destination
from sandboxes.egress.proxy import EgressProxy
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.ledger import Ledger
from sandboxes.probing import Probes
from sandboxes.spec import BoxSpec
from tests.bench.figures import Row, Spread
from tests.bench.rooms import ANSWER_S, Room, Start, ended, heard

COMMAND: Final = ("/bin/sh", "-c", "echo up; read end")
BARE: Final = "start of a child"
PLAIN: Final = "start outside of a box, beside a child without supervisor"
BOX: Final = "start in a box, to the first byte"
MANAGED: Final = "the same with the gateway's records and egress relay"
MOST_ADDED_MS: Final[Mapping[str, float]] = {"bubblewrap": 15, "gvisor": 300, "qemu-tcg": 12_000}

Timed: TypeAlias = Callable[[], Awaitable[float]]


async def start_rows(room: Room, rounds: int) -> list[Row]:
    """Starts in interleaved rounds, every second one in reverse order."""
    spec, managed = BoxSpec("a benchmark", COMMAND, egress=False), BoxSpec("a benchmark", COMMAND)

    async def in_a_box() -> float:
        async with room.place(spec) as place:
            return await first_byte_ms(lambda: room.driver.start(spec, place))

    async with _gateway(room) as boxes:
        wanted = Wanted(managed, room.driver.level, "a benchmark", driver=room.name)
        ways: dict[str, Timed] = {
            BARE: _unsupervised_ms,
            PLAIN: lambda: first_byte_ms(_plain),
            BOX: in_a_box,
            MANAGED: lambda: first_byte_ms(lambda: boxes.start(wanted)),
        }
        took = await _taken(ways, rounds)
    plain, aim = took[PLAIN], MOST_ADDED_MS.get(room.name)
    return [
        Row(room.name, PLAIN, "ms", plain, took[BARE]),
        Row(room.name, BOX, "ms", took[BOX], plain, "added", aim),
        Row(room.name, MANAGED, "ms", took[MANAGED], plain),
    ]


async def _taken(ways: Mapping[str, Timed], rounds: int) -> Mapping[str, Spread]:
    for timed in ways.values():  # the first of each is not counted: it fills caches
        await timed()
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            took[name].append(await ways[name]())
    return {name: Spread.of(values) for name, values in took.items()}


async def first_byte_ms(start: Start) -> float:
    """From the order to the first byte that the program writes."""
    began = perf_counter()
    program = await start()
    try:
        with anyio.fail_after(ANSWER_S):
            await heard(program)
        return (perf_counter() - began) * 1000
    finally:
        await ended(program)


async def _plain() -> ChildProcess:
    return await ChildProcess.start(ProcessSpec(COMMAND))


async def _unsupervised_ms() -> float:
    """A child of ours without anything: not even a supervisor."""
    pipe = asyncio.subprocess.PIPE
    began = perf_counter()
    child = await asyncio.create_subprocess_exec(*COMMAND, stdin=pipe, stdout=pipe, stderr=pipe)
    assert child.stdout is not None
    await child.stdout.readline()
    took = perf_counter() - began
    await child.communicate(b"\n")
    return took * 1000


@asynccontextmanager
async def _gateway(room: Room) -> AsyncIterator[Boxes]:
    """Boxes as a gateway starts them, with one driver."""
    ledger, probes = Ledger.of(room.directory / "state"), Probes()
    boxes = Boxes((room.driver,), ledger, probes, EgressProxy(_Closed()), room.cgroups)
    try:
        await probes.of(room.driver)
        async with boxes.running():
            yield boxes
    finally:
        ledger.close()


class _Closed:
    """Lets nothing out."""

    async def connect(self, box_id: str, destination: Destination, carry: Carry) -> None:
        raise PolicyDenied("nothing is permitted here")
