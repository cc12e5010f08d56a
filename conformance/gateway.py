"""A gateway to measure: its configuration written to a folder of its own, its process started and ready."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from conformance.processes import START_S, NotStarted, free_port, running, tail

ROOT: Final = Path(__file__).resolve().parent.parent
COMMAND_VARIABLE: Final = "INTERLOCK_GATEWAY_COMMAND"
DEFAULT_COMMAND: Final = f"{shlex.quote(sys.executable)} -m gateway up --no-demo --config {{config}}"
LABELS: Final = ("conformance",)
"""The starter policies open upstreams with this label to the role `dev`, callbacks too."""

Table = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a gateway is started with. `tables` are sections of `interlock.toml`, dotted names allowed."""

    upstreams: Mapping[str, Table]
    tables: Mapping[str, Table] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    url: str
    process: subprocess.Popen[bytes]
    config: Path
    log: Path

    def endpoint(self, upstream: str) -> str:
        """Where the one upstream of that name is served with its names untouched."""
        return f"{self.url}/servers/{upstream}/mcp"


@contextmanager
def started(plan: Plan, place: Path) -> Iterator[Gateway]:
    """A gateway of that plan, everything it writes below `place`, ready for calls. Raises `NotStarted`."""
    port = free_port()
    config = write_config(plan, place, port)
    log = place / "gateway.log"
    with running(command_for(plan, config), port=port, log=log, env=plan.env, cwd=ROOT) as process:
        _await_ready(port, process, log)
        yield Gateway(f"http://localhost:{port}", process, config, log)


def command_for(plan: Plan, config: Path) -> list[str]:
    """The command line: the plan's, else that of the environment, else the gateway of this checkout."""
    template = plan.command or os.environ.get(COMMAND_VARIABLE) or DEFAULT_COMMAND
    return [part.replace("{config}", str(config)) for part in shlex.split(template)]


def write_config(plan: Plan, place: Path, port: int) -> Path:
    """`interlock.toml` for loopback with an anonymous principal and the starter policies."""
    tables: dict[str, Table] = {
        "listen": {"host": "127.0.0.1", "port": port},
        "identity": {"anonymous": "dev"},
        "state": {"dir": str(place / "state")},
    }
    for name, table in plan.tables.items():
        tables[name] = {**tables.get(name, {}), **table}
    tables.update(
        {f"upstreams.{name}": {"type": "mcp", "labels": LABELS, **table} for name, table in plan.upstreams.items()}
    )
    config = place / "interlock.toml"
    config.write_text("\n".join(_section(name, table) for name, table in tables.items()))
    return config


def _section(name: str, table: Table) -> str:
    lines = [f"{key} = {_value(value)}" for key, value in table.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    return json.dumps(value)  # TOML's strings, numbers and booleans are written as JSON's


def _await_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotStarted(f"the gateway ended with status {process.returncode}:\n{tail(log)}")
        if _status(port) != http.client.SERVICE_UNAVAILABLE:
            return
        time.sleep(0.05)
    raise NotStarted(f"the gateway is not ready after {START_S:.0f} s:\n{tail(log)}")


def _status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except OSError:
        return http.client.SERVICE_UNAVAILABLE
    finally:
        connection.close()
