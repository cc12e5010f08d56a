"""Boxes by bubblewrap: what the relay to the egress socket does, and that nobody in the box can do it harm."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from sandboxes.bubblewrap import Bubblewrap
from sandboxes.spec import Limits
from tests.sandboxes.bubblewrap_boxes import py, said_by, sh, working_bubblewrap


@pytest.fixture
async def bubblewrap() -> Bubblewrap:
    return await working_bubblewrap()


@asynccontextmanager
async def egress(directory: Path) -> AsyncIterator[Path]:
    """A socket whose other side answers each connection with what it got, once that has ended."""
    path = directory / "egress.sock"
    listener = await anyio.create_unix_listener(path, mode=0o666)

    async def answer(stream: SocketStream) -> None:
        async with stream:
            got = b"".join([piece async for piece in stream])
            if got != b"hang up":
                await stream.send(b"got " + got)

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        yield path
        group.cancel_scope.cancel()


TALK = """
import json, os, socket, sys
def talk(data):
    with socket.create_connection(('127.0.0.1', 3128), timeout=20) as s:
        s.sendall(data); s.shutdown(socket.SHUT_WR)
        got = b''
        while piece := s.recv(65536): got += piece
        return got
"""


async def test_relay_listens_before_the_program_runs_and_passes_ends_on(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    program = TALK + "print(talk(b'first').decode(), talk(b'').decode(), len(talk(b'x' * 3000000)), talk(b'hang up'))"

    async with egress(tmp_path) as socket_path:
        said = await said_by(bubblewrap, py(program), tmp_path, socket_path)

    assert said == "got first got  3000004 b''\n"


async def test_relay_holds_many_connections_at_once_and_no_more_than_its_cap(
    bubblewrap: Bubblewrap, tmp_path: Path
) -> None:
    program = (
        TALK
        + """
open_ones = [socket.create_connection(('127.0.0.1', 3128), timeout=20) for _ in range(100)]
for s in open_ones: s.sendall(b'x')
for s in open_ones: s.shutdown(socket.SHUT_WR)
print([s.recv(100) for s in open_ones].count(b'got x'))
"""
    )

    async with egress(tmp_path) as socket_path:
        said = await said_by(bubblewrap, py(program), tmp_path, socket_path)

    assert said == "100\n"


async def test_relay_with_few_files_serves_as_many_as_it_can_and_goes_on(
    bubblewrap: Bubblewrap, tmp_path: Path
) -> None:
    program = (
        TALK
        + """
open_ones = []
try:
    while True: open_ones.append(socket.create_connection(('127.0.0.1', 3128), timeout=20))
except OSError: pass
for s in open_ones: s.close()
print([talk(b'x') for _ in range(30)].count(b'got x'))
"""
    )

    async with egress(tmp_path) as socket_path:
        said = await said_by(bubblewrap, py(program, limits=Limits(open_files=16)), tmp_path, socket_path)

    assert said == "30\n"


async def test_relay_is_nobodys_child_and_cannot_be_harmed_or_seen_into(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    landlock = "landlock" in (await bubblewrap.probe()).features
    program = (
        TALK
        + """
import subprocess
try: os.wait()
except ChildProcessError: print('no child')
relay = [p for p in os.listdir('/proc') if p.isdigit() and b'relay.pl' in open(f'/proc/{p}/cmdline', 'rb').read()][0]
try: os.kill(int(relay), 9)
except PermissionError: print('not killed')
try: print(b'TOKEN' in open(f'/proc/{relay}/environ', 'rb').read())
except PermissionError: print('not read')
os.killpg(0, 0)
print(talk(b'still').decode())
"""
    )

    async with egress(tmp_path) as socket_path:
        spec = py(program, secrets={"TOKEN": "s3cret"})
        said = await said_by(bubblewrap, spec, tmp_path, socket_path) if landlock else ""

    if not landlock:
        pytest.skip("this kernel has no Landlock, or there is no Perl")
    assert said.splitlines() == ["no child", "not killed", "not read", "got still"]


async def test_relay_that_nobody_serves_closes_connections(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead.sock"))  # does not listen

    with dead:
        said = await said_by(bubblewrap, py(TALK + "print(talk(b'x'))"), tmp_path, tmp_path / "dead.sock")

    assert said == "b''\n" or "OSError" in said or "ConnectionResetError" in said


async def test_box_with_egress_has_proxy_variables_and_one_without_has_not(
    bubblewrap: Bubblewrap, tmp_path: Path
) -> None:
    async with egress(tmp_path) as path:
        with_one = await said_by(bubblewrap, sh("env; ls /run"), tmp_path, path)
        declined = await said_by(bubblewrap, sh("env; ls /run", egress=False), tmp_path, path)
    without = await said_by(bubblewrap, sh("env; ls /run"), tmp_path)

    assert "HTTPS_PROXY=http://127.0.0.1:3128" in with_one
    assert "egress.sock" in with_one
    for said in (declined, without):
        assert "3128" not in said
        assert "egress.sock" not in said
