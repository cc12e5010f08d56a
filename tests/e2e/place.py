"""A whole gateway for a test: in this process for speed, or as the process that a person would start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import anyio
import httpx2

from conformance.gateway import ROOT, Plan, Table, write_config
from conformance.processes import free_port, running
from gateway.app import Ready, serve
from gateway.cli.bootstrap import opened
from gateway.cli.keys import create_key
from gateway.config import Settings, load
from gateway.types import Entity
from tests.e2e.caller import Caller

START_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where one gateway keeps its things and listens."""

    directory: Path
    port: int

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.directory / "interlock.toml"

    @property
    def state(self) -> Path:
        """The data directory."""
        return self.directory / "state"

    @property
    def log(self) -> Path:
        """What the gateway printed, when it is a process."""
        return self.directory / "gateway.log"

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def endpoint(self, upstream: str = "") -> str:
        """The merged endpoint, or that of one upstream."""
        return f"{self.url}/servers/{upstream}/mcp" if upstream else f"{self.url}/mcp"

    def caller(self, key: str = "", upstream: str = "") -> Caller:
        """A modern client of that endpoint."""
        return Caller(self.endpoint(upstream), key)

    def settings(self) -> Settings:
        """What the configuration says now."""
        return load(self.config)

    def write(self, plan: Plan, *, broken: str = "") -> None:
        """Put this configuration in the place of the one before, all at once; `broken` is appended to it."""
        shadow = self.directory / "next"
        shadow.mkdir(exist_ok=True)
        state: Table = {"dir": str(self.state), **plan.tables.get("state", {})}
        anonymous: Table = {"anonymous": "", **plan.tables.get("identity", {})}
        tables = {**plan.tables, "state": state, "identity": anonymous}
        written = write_config(replace(plan, tables=tables), shadow, self.port)
        if broken:
            written.write_text(f"{written.read_text()}\n{broken}\n")
        os.replace(written, self.config)


def prepare(directory: Path, plan: Plan) -> Place:
    """The configuration of a gateway that is not running yet. Without other words in it, it asks for API keys."""
    place = Place(directory, free_port())
    place.write(plan)
    return place


def rules(directory: Path, **teams: str) -> Table:
    """Write one Rego package for each team, and give the `policy` table that names their directory."""
    folder = directory / "policy"
    folder.mkdir(exist_ok=True)
    for team, text in teams.items():
        shadow = directory / f"{team}.rego"
        shadow.write_text(f"package rules.{team}\n\nimport future.keywords.not\n\ndefault allow := false\n\n{text}\n")
        os.replace(shadow, folder / f"{team}.rego")
    return {"path": str(folder)}


def on_the_host(command: Sequence[str]) -> Table:
    """A server of these tests as an upstream: what it notes lies where no sandbox would let it write."""
    return {"command": list(command), "cwd": str(ROOT), "sandbox": "none"}


ALLOW_ALL: Final = 'allow if input.resource.type != ""'


async def new_key(place: Place, name: str, *roles: str, kind: str = "user") -> str:
    """An API key of `user:NAME`, or of another kind of subject, made as the command line makes one."""
    async with opened(place.settings()) as store:
        subject = Entity(kind, f"{kind}:{name}")
        _, text = await create_key(store, subject=subject, now_s=int(time.time()), roles=roles)
    return text


@asynccontextmanager
async def in_process(place: Place) -> AsyncIterator[Ready]:
    """Serve on this event loop; ended in good order with the block."""
    send, receive = anyio.create_memory_object_stream[Ready](1)
    stop = anyio.Event()

    async def run() -> None:
        await serve(place.settings(), ready=send.send, stop=stop)

    async with send, receive, anyio.create_task_group() as group:
        group.start_soon(run)
        with anyio.fail_after(START_S):
            ready = await receive.receive()
        try:
            yield ready
        finally:
            stop.set()


@contextmanager
def as_process(place: Place, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """`interlock up` as a process, ready for calls; ended with the block."""
    command = [sys.executable, "-m", "gateway", "up", "--no-demo", "--config", str(place.config)]
    with running(command, port=place.port, log=place.log, env=env, cwd=ROOT) as process:
        httpx2.get(f"{place.url}/readyz", timeout=START_S)
        yield process


def interlock(place: Place, *words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line in the directory of the configuration."""
    command = [sys.executable, "-m", "gateway", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "INTERLOCK_CONFIG": str(place.config)}
    return subprocess.run(
        command, cwd=place.directory, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )
