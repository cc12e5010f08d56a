"""What is measured: the upstream itself, nginx in front of it, and the gateway with everything on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2

from conformance.gateway import ROOT, Gateway, Plan, Table, started
from conformance.processes import free_port, running

UPSTREAM: Final = "bench"
EVERYTHING_ON: Final[Mapping[str, Table]] = {"identity": {"anonymous": ""}}

_NGINX: Final = """\
daemon off;
worker_processes 1;
pid {place}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  keepalive_requests 1000000000;
  upstream bench {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://bench;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers calls. `pid` is the process whose CPU is counted."""

    name: str
    url: str
    pid: int
    token: str = ""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The counting server."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def forget(self) -> None:
        """Start counting anew."""
        httpx2.delete(f"http://127.0.0.1:{self.port}/count", timeout=30)

    def counted(self) -> Counted:
        """What was received since."""
        seen = httpx2.get(f"http://127.0.0.1:{self.port}/count", timeout=30).json()
        return Counted(seen["methods"], seen["connections"])


@dataclass(frozen=True, slots=True)
class Counted:
    """How often each method reached the upstream, and over how many connections."""

    methods: Mapping[str, int] = field(default_factory=dict)
    connections: int = 0

    def extra(self, calls: int) -> int:
        """Requests beyond one `tools/call` per call."""
        return sum(self.methods.values()) - calls


@contextmanager
def upstream(place: Path, *, tools: int = 2) -> Iterator[Upstream]:
    """The counting server, running."""
    port = free_port()
    command = [sys.executable, "-m", "tests.servers.counting", "--port", str(port), "--tools", str(tools)]
    with running(command, port=port, log=place / f"upstream-{port}.log", cwd=ROOT) as process:
        yield Upstream(port, process.pid)


@contextmanager
def nginx(place: Path, behind: Upstream) -> Iterator[Target | None]:
    """nginx with a pool of kept-alive connections; None where it is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    config = place / "nginx.conf"
    config.write_text(_NGINX.format(place=place, upstream=behind.port, port=port))
    command = [program, "-e", "stderr", "-c", str(config), "-p", str(place)]
    with running(command, port=port, log=place / "nginx.log") as process:
        yield Target("nginx", f"http://127.0.0.1:{port}/mcp", process.pid)


@contextmanager
def gateway(
    place: Path, upstreams: Mapping[str, Table], *, name: str, command: str = "", cache: bool = True
) -> Iterator[tuple[Target, Gateway]]:
    """The gateway with an API key, the starter policies, audit and telemetry; `cache` is the decision cache."""
    place.mkdir(parents=True, exist_ok=True)
    token = "" if command else make_key(place)
    plan = Plan(upstreams, {**EVERYTHING_ON, "policy": {"cache": cache}}, command=command)
    with started(plan, place) as server:
        first = next(iter(upstreams))
        yield Target(name, server.endpoint(first), server.process.pid, token), server


def make_key(place: Path) -> str:
    """An API key in the state below `place`, made with the gateway's own command."""
    arguments = ["keys", "create", "--data", str(place / "state"), "--subject", "agent:bench", "--role", "dev"]
    made = subprocess.run(  # our own command line
        [sys.executable, "-m", "gateway", *arguments, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return str(json.loads(made.stdout)["key"])


@contextmanager
def all_targets(
    place: Path, *, command: str = "", with_gateway: bool = True
) -> Iterator[tuple[Upstream, list[Target]]]:
    """The upstream, nginx if there is one, and the gateway twice: each decision evaluated, and decisions cached."""
    with ExitStack() as stack:
        behind = stack.enter_context(upstream(place))
        found = [Target("upstream", behind.url, behind.pid), stack.enter_context(nginx(place, behind))]
        for name, cache in (("evaluated", False), ("cached", True)) if with_gateway else ():
            table: Table = {"url": behind.url}
            started_one = gateway(place / name, {UPSTREAM: table}, name=name, command=command, cache=cache)
            found.append(stack.enter_context(started_one)[0])
        yield behind, [target for target in found if target is not None]
