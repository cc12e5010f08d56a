"""How long a clone of a frozen box takes to its first answer: a server of lines, then one that speaks MCP."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, cast

from gateway.boxes import Program
from gateway.errors import SandboxFailure
from sandboxes.closure import closure_of
from sandboxes.driver import WarmDriver
from sandboxes.spec import MIB, Bind, BoxSpec, Limits
from tests.bench.box_lines import LINE, line_server
from tests.bench.figures import Row, Spread
from tests.bench.rooms import Room, answer_to, ended

PROJECT: Final = Path(__file__).parents[2]
LIMITS: Final = Limits(memory_bytes=1024 * MIB)
MOST_MS: Final[Mapping[tuple[str, str], float]] = {("gvisor", "mcp"): 350, ("qemu-tcg", "lines"): 1000}


@dataclass(frozen=True, slots=True)
class _Server:
    """What is frozen: `prepare` comes before that, `ask` is timed in each clone."""

    spec: BoxSpec
    prepare: Callable[[Program], Awaitable[object]]
    ask: Callable[[Program], Awaitable[object]]


async def line_clone_rows(room: Room, rounds: int) -> list[Row]:
    """From a frozen server of lines."""

    async def asked(program: Program) -> None:
        await answer_to(program, LINE)

    spread = await _thawed(room, _Server(line_server(), asked, asked), rounds)
    aim = MOST_MS.get((room.name, "lines"))
    return [Row(room.name, "frozen server of lines, to the first answer", "ms", spread, aim=aim)]


async def mcp_clone_rows(room: Room, rounds: int) -> list[Row]:
    """From a frozen server that has shaken hands: the first thing that its clones hear is a tool call."""
    spread = await _thawed(room, _Server(_mcp_server(), _initialized, _called), rounds)
    aim = MOST_MS.get((room.name, "mcp"))
    return [Row(room.name, "frozen MCP server, to the first tools/call answered", "ms", spread, aim=aim)]


async def _thawed(room: Room, server: _Server, rounds: int) -> Spread:
    driver = cast("WarmDriver", room.driver)
    frozen = room.directory / f"frozen-{room.name}-{server.spec.digest[-8:]}"
    async with room.place(server.spec) as place:
        program = await driver.start(server.spec, place)
        try:
            await server.prepare(program)
            await driver.freeze(server.spec, place, program, frozen)
        finally:
            await ended(program)
    await _clone_ms(room, driver, server, frozen)  # not counted: it fills caches
    return Spread.of([await _clone_ms(room, driver, server, frozen) for _ in range(rounds)])


async def _clone_ms(room: Room, driver: WarmDriver, server: _Server, frozen: Path) -> float:
    async with room.place(server.spec) as place:
        began = perf_counter()
        clone = await driver.thaw(server.spec, place, frozen)
        try:
            await server.ask(clone)
            return (perf_counter() - began) * 1000
        finally:
            await ended(clone)


def _mcp_server() -> BoxSpec:
    """The Python server of the conformance suite, in a box as for a configured upstream."""
    found = closure_of((sys.executable, "-m", "conformance.everything", "stdio"), {"PATH": "/usr/bin:/bin"})
    binds = (*found.binds, Bind(PROJECT / "conformance", "/opt/project/conformance"))
    env = {**found.env, "PYTHONPATH": "/opt/project"}
    return BoxSpec("an MCP server", found.command, env, binds=binds, limits=LIMITS, egress=False)


async def _initialized(program: Program) -> None:
    who = {"name": "a benchmark", "version": "1"}
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": who}
    _judged(await answer_to(program, _message(1, "initialize", params)), "serverInfo")
    await program.send(_message(None, "notifications/initialized", {}), deadline_s=10)


async def _called(program: Program) -> None:
    params = {"name": "test_simple_text", "arguments": {}}
    _judged(await answer_to(program, _message(2, "tools/call", params)), '"text"')


def _message(number: int | None, method: str, params: Mapping[str, object]) -> bytes:
    numbered = {} if number is None else {"id": number}
    return json.dumps({"jsonrpc": "2.0", **numbered, "method": method, "params": params}).encode() + b"\n"


def _judged(answer: bytes, expected: str) -> None:
    if expected.encode() not in answer:
        raise SandboxFailure(f"the server in the box answered something else: {answer[:200]!r}")
