"""How many connections through the egress proxy there may be, and that nothing is left of any of them."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream

from sandboxes.egress.gate import Traffic
from sandboxes.egress.limits import EgressLimits, Pace
from sandboxes.egress.sockets import accept, listen
from tests.sandboxes.egress_world import (
    LOOPBACK,
    ListGate,
    all_of,
    ask,
    echo,
    nothing_left,
    origin,
    serving,
    status_of,
    tunnel,
)

MIB = 1024 * 1024


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def test_connections_over_the_cap_are_turned_away_until_one_ends(tmp_path: Path) -> None:
    async with origin(echo) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate, limits=EgressLimits(connections=2)) as path:
            request = f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode()
            async with tunnel(path, f"127.0.0.1:{port}"), tunnel(path, f"127.0.0.1:{port}") as second:
                refused = await ask(path, request)
                await second.send_eof()
                await all_of(second)
                await gate.until_carried()
                async with tunnel(path, f"127.0.0.1:{port}"):
                    pass

    assert status_of(refused) == 503
    assert b"Retry-After: 1\r\n" in refused
    assert len(gate.asked) == 3


async def test_connections_of_all_boxes_together_are_capped(tmp_path: Path) -> None:
    async with origin(echo) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        limits = EgressLimits(total_connections=1)
        async with serving(tmp_path, gate, limits=limits) as path, tunnel(path, f"127.0.0.1:{port}"):
            refused = await ask(path, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())

    assert status_of(refused) == 503


async def test_new_connections_come_at_the_boxs_pace(tmp_path: Path) -> None:
    async with serving(tmp_path, ListGate(), limits=EgressLimits(rate_per_s=50, burst=2)) as path:
        started = anyio.current_time()

        answers = [await ask(path, b"CONNECT a.test:1 HTTP/1.1\r\n\r\n") for _ in range(7)]

        took = anyio.current_time() - started
    assert [status_of(answer) for answer in answers] == [403] * 7
    assert took >= 4 / 50


async def test_refused_connections_use_up_more_of_it(tmp_path: Path) -> None:
    limits = EgressLimits(rate_per_s=50, burst=2, refused_counts=10)
    async with serving(tmp_path, ListGate(), limits=limits) as path:
        started = anyio.current_time()

        for _ in range(4):
            await ask(path, b"CONNECT a.test:1 HTTP/1.1\r\n\r\n")

        took = anyio.current_time() - started
    assert took >= 18 / 50


def test_pace_lets_a_burst_through_and_then_so_many_per_second() -> None:
    now = 0.0
    pace = Pace(10, 2, lambda: now)

    assert [pace.delay_s() for _ in range(4)] == pytest.approx([0, 0, 0.1, 0.2])
    now = 100.0
    assert [pace.delay_s() for _ in range(3)] == pytest.approx([0, 0, 0.1])


async def test_two_hundred_tunnels_at_once(tmp_path: Path) -> None:
    with nothing_left():
        carried = await _two_hundred(tmp_path)

    assert {(traffic.sent, traffic.received, traffic.ended) for traffic in carried} == {(3000, 3000, "closed")}


async def _two_hundred(directory: Path) -> list[Traffic]:
    async with origin(echo) as port, AsyncExitStack() as stack:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        limits = EgressLimits(connections=200, burst=1000)
        path = await stack.enter_async_context(serving(directory, gate, limits=limits))
        streams = [await stack.enter_async_context(tunnel(path, f"127.0.0.1:{port}")) for _ in range(200)]

        async def talk(stream: ByteStream, word: bytes) -> None:
            await stream.send(word * 1000)
            await stream.send_eof()
            assert await all_of(stream) == word * 1000

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for number, stream in enumerate(streams):
                    group.start_soon(talk, stream, b"%03d" % number)
        return await gate.until_carried(200)


@pytest.mark.parametrize("steps", range(8))
async def test_box_that_ends_at_any_moment_leaves_nothing(tmp_path: Path, steps: int) -> None:
    with nothing_left():
        async with origin(echo) as port:
            gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
            async with serving(tmp_path, gate) as path:
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
                    client.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\nhello".encode())
                    for _ in range(steps * steps):
                        await anyio.lowlevel.checkpoint()


async def test_machine_that_is_short_of_descriptors_accepts_later(tmp_path: Path) -> None:
    listener = listen(tmp_path / "s.sock")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s.sock"))
        lowest = os.dup(0)
        os.close(lowest)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            with anyio.move_on_after(0.05) as tried:
                await accept(listener)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with anyio.fail_after(5):
            (await accept(listener)).close()

    assert tried.cancelled_caught
