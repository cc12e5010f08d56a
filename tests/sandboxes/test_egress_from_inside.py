"""What a program in a box reaches, by the proxy and by itself, is the same whichever driver built the box."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from gateway.boxes import Program
from sandboxes.bubblewrap import Bubblewrap
from sandboxes.driver import Driver
from sandboxes.egress.gate import Terms
from sandboxes.egress.proxy import EgressProxy
from sandboxes.gvisor import Gvisor
from sandboxes.qemu.driver import Qemu
from sandboxes.spec import MIB, BoxSpec, Limits
from tests.sandboxes.egress_world import LOOPBACK, Dialled, ListGate, Names, answering, echo, origin
from tests.sandboxes.places import a_place

PYTHON: Final = "/usr/bin/python3"
LIMITS: Final = Limits(memory_bytes=256 * MIB, work_bytes=8 * MIB, tmp_bytes=8 * MIB)
METADATA: Final = "169.254.169.254"
ADDRESSES: Final = {
    "origin.test": ["127.0.0.1"],
    "rebind.test": ["127.0.0.1"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "metadata.test": [METADATA],
    "mixed.test": ["93.184.215.14", "10.0.0.1"],
}
"""What the gateway's resolver says. Policy permits all of these hosts, and a range for the first only."""
PERMITTED_NAMES: Final = ("rebind.test", "mapped.test", "metadata.test", "mixed.test", METADATA, "0.0.0.0", "::1")
ODD: Final = ("127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1..", "[::1%25lo]", "[::1")

INSIDE: Final = r"""
import http.client, json, os, socket, sys, urllib.error, urllib.request

def fetched(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return [answer.status, answer.read().decode()]
    except urllib.error.HTTPError as exc:
        return [exc.code, exc.read().decode()]

def tunnelled(host, port):
    connection = http.client.HTTPConnection("127.0.0.1", 3128, timeout=10)
    connection.set_tunnel(host, port)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return [answer.status, answer.read().decode()]
    except OSError as exc:
        return [0, str(exc)]

def asked(head):
    with socket.create_connection(("127.0.0.1", 3128), timeout=10) as sock:
        sock.sendall(head.encode() + b"\r\n\r\n")
        said = b""
        while piece := sock.recv(4096):
            said += piece
    return int(said.split()[1])

def direct(host, port, kind):
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as sock:
            sock.settimeout(5)
            sock.connect((host, port))
            sock.send(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01")
            sock.recv(1)
        return "reached"
    except OSError:
        return "closed"

def resolved(host):
    try:
        return socket.getaddrinfo(host, 80) and "reached"
    except OSError:
        return "closed"

def held(port):
    sock = socket.create_connection(("127.0.0.1", 3128), timeout=20)
    sock.sendall(b"CONNECT origin.test:%d HTTP/1.1\r\n\r\n" % port)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    sock.sendall(b"ping")
    print(json.dumps(sock.recv(4).decode()), flush=True)
    try:
        return sock.recv(1).decode()
    except ConnectionResetError:
        return ""

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
TASKS = {
    "fetched": fetched, "tunnelled": tunnelled, "asked": asked, "resolved": resolved, "held": held,
    "direct": lambda host, port, kind: direct(host, port, KINDS[kind]),
    "variables": lambda: sorted(name for name in os.environ if "prox" in name.lower()),
}
for line in sys.stdin:
    task, *arguments = json.loads(line)
    try:
        outcome = TASKS[task](*arguments)
    except Exception as exc:
        outcome = repr(exc)
    print(json.dumps(outcome), flush=True)
"""
"""Does what it is told, line by line, with the means of an ordinary program."""


def _bubblewrap(_cache: Path) -> Driver:
    return Bubblewrap()


def _gvisor(_cache: Path) -> Driver:
    return Gvisor()


def _qemu(cache: Path) -> Driver:
    return Qemu("tcg", cache, Path(os.environ.get("INTERLOCK_KERNEL_DIR", "/")))


DRIVERS: Final[Mapping[str, Callable[[Path], Driver]]] = {
    "bubblewrap": _bubblewrap,
    "gvisor": _gvisor,
    "qemu-tcg": _qemu,
}


@pytest.fixture(scope="module")
def python() -> str:
    if not os.path.exists(PYTHON):
        pytest.skip(f"needs {PYTHON} in the box: apt-get install python3")
    return PYTHON


@pytest.fixture(
    scope="module",
    params=[
        "bubblewrap",
        pytest.param("gvisor", marks=pytest.mark.slow),
        pytest.param("qemu-tcg", marks=pytest.mark.slow),
    ],
)
async def driver(request: pytest.FixtureRequest, python: str, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    made = DRIVERS[request.param](tmp_path_factory.mktemp("cache"))
    found = await made.probe()
    if not found.ok:
        pytest.skip(f"{made.name}: {found.reason}; {found.remedy}")
    return made


class Box:
    """The program in the box, which is told what to do."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._said = b""

    async def does(self, task: str, *arguments: object) -> Any:
        """Have it do one thing; what came of it."""
        await self.begins(task, *arguments)
        return await self.says()

    async def begins(self, task: str, *arguments: object) -> None:
        await self._program.send(json.dumps([task, *arguments]).encode() + b"\n", deadline_s=10)

    async def says(self) -> Any:
        with anyio.fail_after(60):
            while b"\n" not in self._said:
                piece = await self._program.receive()
                assert piece, self._program.obituary()
                self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        return json.loads(line)


@asynccontextmanager
async def a_box(driver: Driver, directory: Path, gate: ListGate, dialled: Dialled) -> AsyncIterator[Box]:
    """A box whose only way out asks this gate."""
    proxy = EgressProxy(gate, resolve=Names(ADDRESSES), dial=dialled)
    sockets = directory / "sockets"
    sockets.mkdir(mode=0o700)
    path = sockets / "egress.sock"
    async with a_place(directory, path) as place, proxy.serving(place.id, path, place.uid):
        spec = BoxSpec("egress test", (PYTHON, "-I", "-c", INSIDE), limits=LIMITS)
        async with await driver.start(spec, place) as program:
            yield Box(program)


def gate_for(port: int) -> ListGate:
    """Permits the origin by address and by name, and hosts at addresses that are not public without a range."""
    permits = {f"127.0.0.1:{port}": LOOPBACK, f"origin.test:{port}": LOOPBACK}
    hosts = (f"[{host}]" if ":" in host else host for host in PERMITTED_NAMES)
    return ListGate(permits | {f"{host}:{port}": Terms() for host in hosts})


async def test_box_reaches_what_is_permitted_and_nothing_else(driver: Driver, tmp_path: Path) -> None:
    dialled = Dialled()
    async with origin(answering(b"hello")) as port:
        gate = gate_for(port)
        async with a_box(driver, tmp_path, gate, dialled) as box:
            assert await box.does("fetched", f"http://127.0.0.1:{port}/") == [200, "hello"]
            assert await box.does("fetched", f"http://Origin.Test.:{port}/") == [200, "hello"]
            assert await box.does("tunnelled", "origin.test", port) == [200, "hello"]
            assert await box.does("tunnelled", "127.0.0.1", port) == [200, "hello"]
            reached, dialled.addresses = dialled.addresses, []

            status, reason = await box.does("fetched", "http://unlisted.test/")
            refused = {where: await _refusal(box, where) for where in _not_for_the_box(port)}
            odd = {host: await box.does("asked", f"CONNECT {host}:{port} HTTP/1.1") for host in ODD}

    assert reached == ["127.0.0.1"] * 4
    assert (status, reason) == (403, "unlisted.test:80 is not permitted: no rule permits it; ask for a rule\n")
    assert refused == dict.fromkeys(refused, (403, 403))
    assert odd == dict.fromkeys(ODD, 400)
    assert dialled.addresses == []
    assert len({box_id for box_id, _ in gate.asked}) == 1


async def _refusal(box: Box, where: str) -> tuple[int, int]:
    connect = await box.does("asked", f"CONNECT {where} HTTP/1.1")
    return connect, await box.does("asked", f"GET http://{where}/ HTTP/1.1")


def _not_for_the_box(port: int) -> list[str]:
    elsewhere = ["127.0.0.1:1", f"127.0.0.2:{port}", "unlisted.test:443", f"[::ffff:10.0.0.1]:{port}", "10.0.0.1:80"]
    wrapped = [f"[::ffff:{METADATA}]:{port}", f"{METADATA}.:{port}", f"[::]:{port}", f"REBIND.test.:{port}"]
    permitted = (f"[{host}]" if ":" in host else host for host in PERMITTED_NAMES)
    return [*elsewhere, *wrapped, *(f"{host}:{port}" for host in permitted)]


async def test_box_reaches_nothing_past_the_proxy(driver: Driver, tmp_path: Path) -> None:
    heard: list[bytes] = []
    async with origin(answering(b"hello", heard)) as port, a_box(driver, tmp_path, gate_for(port), Dialled()) as box:
        outcomes = {
            "gateway": await box.does("direct", "127.0.0.1", port, "tcp"),
            "gateway, IPv6": await box.does("direct", "::1", port, "tcp"),
            "any address": await box.does("direct", "0.0.0.0", port, "tcp"),
            "internet": await box.does("direct", "1.1.1.1", 443, "tcp"),
            "internet, IPv6": await box.does("direct", "2606:4700:4700::1111", 443, "tcp"),
            "metadata": await box.does("direct", METADATA, 80, "tcp"),
            "DNS": await box.does("direct", "8.8.8.8", 53, "udp"),
            "DNS of the machine": await box.does("direct", "127.0.0.53", 53, "udp"),
            "names": await box.does("resolved", "example.com"),
            "names of the gateway": await box.does("resolved", "origin.test"),
        }
        variables = await box.does("variables")

    assert outcomes == dict.fromkeys(outcomes, "closed")
    assert heard == []
    assert {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy"} <= set(variables)


async def test_grant_that_ends_closes_the_tunnel_that_the_box_holds(driver: Driver, tmp_path: Path) -> None:
    async with origin(echo) as port:
        gate = gate_for(port)
        async with a_box(driver, tmp_path, gate, Dialled()) as box:
            await box.begins("held", port)
            assert await box.says() == "ping"

            gate.scopes[0].cancel()

            assert await box.says() == ""
            (traffic,) = await gate.until_carried()

    assert (traffic.sent, traffic.received, traffic.ended) == (4, 4, "cancelled")
