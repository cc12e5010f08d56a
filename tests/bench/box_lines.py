"""How long a line of JSON takes to a program and back, inside a box beside outside of any."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Final

from gateway.boxes import Program
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.spec import BoxSpec
from tests.bench.figures import Row, Spread
from tests.bench.rooms import Room, answer_to, ended, interpreter

SERVER: Final = """
import json, sys
for line in sys.stdin:
    sys.stdout.write(json.dumps(json.loads(line)) + "\\n")
    sys.stdout.flush()
"""
LINE: Final = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"text": "x" * 200}}).encode() + b"\n"
MOST_TIMES: Final = 1.5
WARM_UP: Final = 50


def line_server() -> BoxSpec:
    """A program that answers each line with what it says, once it was parsed and written anew."""
    return BoxSpec("a line server", (interpreter(), "-I", "-S", "-c", SERVER), egress=False)


async def line_rows(room: Room, lines: int) -> list[Row]:
    """Lines to both, by turns."""
    spec = line_server()
    async with room.place(spec) as place:
        plain = await ChildProcess.start(ProcessSpec(spec.command))
        try:
            boxed = await room.driver.start(spec, place)
            try:
                inside, outside = await _by_turns(boxed, plain, lines)
            finally:
                await ended(boxed)
        finally:
            await ended(plain)
    aim = MOST_TIMES if room.name == "bubblewrap" else None
    return [Row(room.name, "a line of JSON, there and back", "us", inside, outside, "ratio", aim)]


async def _by_turns(boxed: Program, plain: Program, lines: int) -> tuple[Spread, Spread]:
    inside, outside = [], []
    for _ in range(WARM_UP):
        await _asked_us(boxed)
        await _asked_us(plain)
    for number in range(lines):
        if number % 2:
            inside.append(await _asked_us(boxed))
            outside.append(await _asked_us(plain))
        else:
            outside.append(await _asked_us(plain))
            inside.append(await _asked_us(boxed))
    return Spread.of(inside), Spread.of(outside)


async def _asked_us(program: Program) -> float:
    began = perf_counter()
    await answer_to(program, LINE)
    return (perf_counter() - began) * 1e6
