"""Real MCP servers answer from inside the box of every driver, and from clones of a frozen one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final, cast

import anyio
import pytest

from adapters.upstreams.wire.jsonlines import JsonLines
from gateway.boxes import Program
from sandboxes.closure import closure_of
from sandboxes.driver import Driver, WarmDriver
from sandboxes.spec import MIB, Bind, BoxSpec, Limits
from tests.peers.npm import npm_peers
from tests.peers.servers import repository
from tests.sandboxes.drivers import DRIVERS
from tests.sandboxes.places import a_place

pytestmark = pytest.mark.slow

ANSWER_S: Final = 120.0
"""An emulated machine takes its time to import a server."""
LIMITS: Final = Limits(memory_bytes=1024 * MIB)
PROJECT: Final = Path(__file__).parents[2]
DATA: Final = "/data"


@dataclass(frozen=True)
class Server:
    """How a server is started in a box, and a call with what its answer has to hold."""

    command: tuple[str, ...]
    tool: str
    arguments: Mapping[str, object]
    answer: str
    binds: tuple[Bind, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def spec(self) -> BoxSpec:
        """The box for it: what its command needs, found as for a configured upstream."""
        found = closure_of(self.command, {"PATH": "/usr/bin:/bin"})
        env = {**found.env, **self.env}
        return BoxSpec("a server", found.command, env, binds=(*found.binds, *self.binds), limits=LIMITS, egress=False)


def git_server(place: Path) -> Server:
    if find_spec("mcp_server_git") is None:
        pytest.skip("mcp-server-git is not installed: pip install 'interlock-gateway[demo]'")
    binds = (Bind(repository(place / "repository"), f"{DATA}/repository"),)
    # The repository belongs to somebody else in the box, which git distrusts.
    trust = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    at = {"repo_path": f"{DATA}/repository"}
    command = (sys.executable, "-m", "mcp_server_git", "--repository", at["repo_path"])
    return Server(command, "git_log", at, "the first commit", binds, trust)


def python_server(place: Path) -> Server:
    binds = (Bind(PROJECT / "conformance", "/opt/project/conformance"),)
    command = (sys.executable, "-m", "conformance.everything", "stdio")
    return Server(command, "test_simple_text", {}, "text", binds, {"PYTHONPATH": "/opt/project"})


def everything_server(place: Path) -> Server:
    command = tuple(npm_peers().command("everything", "stdio"))
    return Server(command, "echo", {"message": "hello, box"}, "hello, box")


def files_server(place: Path) -> Server:
    (place / "files").mkdir()
    (place / "files" / "hello.txt").write_text("hello from a file")
    command = tuple(npm_peers().command("filesystem", f"{DATA}/files"))
    arguments = {"path": f"{DATA}/files/hello.txt"}
    return Server(command, "read_text_file", arguments, "hello from a file", (Bind(place / "files", f"{DATA}/files"),))


SERVERS: Final[Mapping[str, Callable[[Path], Server]]] = {
    "mcp-server-git": git_server,
    "python": python_server,
    "server-everything": everything_server,
    "server-filesystem": files_server,
}


@pytest.fixture(scope="module", params=list(DRIVERS))
async def driver(request: pytest.FixtureRequest) -> Driver:
    made = DRIVERS[request.param].make()
    found = await made.probe()
    if not found.ok:
        pytest.skip(f"{made.name}: {found.reason}; {found.remedy}")
    return made


@dataclass
class Client:
    """Speaks just enough MCP."""

    lines: JsonLines
    number: int = 0

    @classmethod
    def of(cls, program: Program, number: int = 0) -> Client:
        return cls(JsonLines(program, max_line_bytes=4 * MIB, label="a server"), number)

    async def asked(self, method: str, params: Mapping[str, object]) -> Mapping[str, object]:
        self.number += 1
        await self.lines.send({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params})
        with anyio.fail_after(ANSWER_S):
            while True:
                message = await self.lines.receive()
                if message.get("id") == self.number and "method" not in message:
                    result = message.get("result")
                    assert isinstance(result, dict), message
                    return result

    async def initialized(self) -> None:
        who = {"name": "a test", "version": "1"}
        asked = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": who}
        assert "serverInfo" in await self.asked("initialize", asked)
        await self.lines.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def called(self, server: Server) -> str:
        return str(await self.asked("tools/call", {"name": server.tool, "arguments": server.arguments}))


@pytest.mark.parametrize("name", list(SERVERS))
async def test_a_real_server_answers_from_inside_the_box(driver: Driver, name: str, tmp_path: Path) -> None:
    server = SERVERS[name](tmp_path)
    spec = server.spec()

    async with a_place(tmp_path, limits=LIMITS) as place, await driver.start(spec, place) as program:
        client = Client.of(program)
        await client.initialized()
        answer = await client.called(server)

    assert server.answer in answer


@pytest.mark.parametrize("name", ["python", "server-everything"])
async def test_a_real_server_frozen_after_its_handshake_goes_on_with_the_first_call(
    driver: Driver, name: str, tmp_path: Path
) -> None:
    if not hasattr(driver, "freeze"):
        pytest.skip(f"{driver.name} cannot freeze boxes")
    if driver.name == "qemu-tcg" and name == "python":
        pytest.skip("an emulated machine is frozen with server-everything, and Python in test_qemu.py")
    freezer = cast("WarmDriver", driver)
    server = SERVERS[name](tmp_path)
    spec = server.spec()
    frozen = tmp_path / "frozen"

    async with a_place(tmp_path, limits=LIMITS) as place:
        program = await driver.start(spec, place)
        client = Client.of(program)
        await client.initialized()
        await freezer.freeze(spec, place, program, frozen)
    async with a_place(tmp_path, limits=LIMITS) as place, await freezer.thaw(spec, place, frozen) as clone:
        answer = await Client.of(clone, client.number).called(server)

    assert server.answer in answer
