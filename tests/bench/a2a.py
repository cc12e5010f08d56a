"""What a governed call to an A2A agent costs beside the agent alone: whole answers, and events of streams.

The agent spends next to nothing (`tests.servers.agent`). Streams are measured twice: as fast as the agent writes, when
many events come at once, and with a pause after each event, when every event is a turn of the event loop of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import orjson

from conformance.gateway import LABELS, ROOT, Plan, Table, started
from conformance.processes import free_port, running
from tests.bench.comparison import Measured, as_text, compare
from tests.bench.load import Shot
from tests.bench.probes import Finding
from tests.bench.targets import EVERYTHING_ON, Target, Upstream, make_key, nginx

AGENT: Final = "counter"
"""Not the agent whose key calls: that would come back to itself."""
BURST_EVENTS: Final = 1_000
PACED_EVENTS: Final = 100
PACE_MS: Final = 10
EVENT_US: Final = 100.0
"""What a forwarded event may cost of the gateway's CPU."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of call. `events` are those of one call, 1 for a whole answer."""

    name: str
    method: str
    text: str
    events: int
    expect: bytes
    connections: tuple[int, ...]
    warm_up: int

    def asked(self, target: Target) -> Shot:
        """The call, ready to be written."""
        message = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": self.text}]}
        return a2a_shot(target.url, self.method, {"message": message}, expect=self.expect, token=target.token)


_DONE: Final = b"TASK_STATE_COMPLETED"
KINDS: Final = (
    Kind("SendMessage", "SendMessage", "hello", 1, _DONE, (1, 8, 64), 300),
    Kind("stream, at once", "SendStreamingMessage", f"stream {BURST_EVENTS} 0", BURST_EVENTS + 2, _DONE, (1, 8), 8),
    Kind(
        f"stream, every {PACE_MS} ms",
        "SendStreamingMessage",
        f"stream {PACED_EVENTS} {PACE_MS}",
        PACED_EVENTS + 2,
        _DONE,
        (32,),
        8,
    ),
)


@dataclass(frozen=True, slots=True)
class Report:
    """The rows of every kind, and what was to be held."""

    rows: Sequence[tuple[Kind, Sequence[Measured]]]

    @property
    def findings(self) -> list[Finding]:
        """The limits."""
        return [finding for kind, rows in self.rows for row in rows for finding in _limits(kind, row)]

    def as_text(self) -> str:
        """A table per kind and concurrency, events below those of streams, then the limits."""
        parts = []
        for kind, rows in self.rows:
            parts.append(f"{kind.name}\n{as_text(rows)}")
            parts += [_events(kind, row) for row in rows if kind.events > 1]
        return "\n".join([*parts, "", *(str(finding) for finding in self.findings)])

    def as_json(self) -> str:
        """The same for programs."""
        rows = [{"kind": kind.name, "events": kind.events, **asdict(row)} for kind, rows in self.rows for row in rows]
        limits = [{**asdict(finding), "ok": finding.ok} for finding in self.findings]
        return orjson.dumps({"a2a": rows, "limits": limits}, option=orjson.OPT_INDENT_2).decode()


def _events(kind: Kind, row: Measured) -> str:
    rate, cost = row.per_second * kind.events, row.cpu_us / kind.events
    return f"  {row.target:<12}{row.connections:>3} at a time: {rate:>9.0f} events/s, {cost:>7.1f} us of CPU each"


def _limits(kind: Kind, row: Measured) -> list[Finding]:
    if row.target not in {"evaluated", "cached"}:
        return []
    at = f"{kind.name}: {row.target}, {row.connections} at a time"
    reason = row.error.rpartition("\n")[2][:120]
    found = [
        Finding(f"{at}: requests beyond one per call", row.extra_requests, "", 0),
        Finding(f"{at}: calls that failed {reason}".rstrip(), row.errors, "", 0),
    ]
    if kind.events > 1:
        found.append(Finding(f"{at}: CPU per event", row.cpu_us / kind.events, "us", EVENT_US))
    return found


def a2a_shot(url: str, method: str, params: Table, *, expect: bytes, token: str = "") -> Shot:
    """A request of A2A 1.0 over JSON-RPC."""
    parts = urlsplit(url)
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    headers = {
        "Host": f"localhost:{parts.port}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "A2A-Version": "1.0",
        **({"Authorization": f"Bearer {token}"} if token else {}),
        "Content-Length": str(len(body)),
    }
    head = f"POST {parts.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return Shot("127.0.0.1", parts.port or 80, head.encode() + b"\r\n" + body, expect)


@contextmanager
def agent(place: Path) -> Iterator[Upstream]:
    """The agent, running."""
    port = free_port()
    command = [sys.executable, "-m", "tests.servers.agent", "--port", str(port)]
    with running(command, port=port, log=place / f"agent-{port}.log", cwd=ROOT) as process:
        yield Upstream(port, process.pid)


@contextmanager
def governed(place: Path, behind: Upstream, *, name: str, command: str = "", cache: bool = True) -> Iterator[Target]:
    """The gateway before the agent, with an API key, the starter policies, audit and telemetry."""
    place.mkdir(parents=True, exist_ok=True)
    token = "" if command else make_key(place)
    card = f"http://127.0.0.1:{behind.port}/.well-known/agent-card.json"
    agents: dict[str, Table] = {f"agents.{AGENT}": {"card_url": card, "labels": LABELS}}
    plan = Plan({}, {**EVERYTHING_ON, **agents, "policy": {"cache": cache}}, command=command)
    with started(plan, place) as server:
        yield Target(name, f"{server.url}/agents/{AGENT}", server.process.pid, token)


async def measure(place: Path, *, rounds: int, seconds: float, command: str = "") -> Report:
    """Measure every kind of call against the agent, nginx if there is one, and the gateway with and without cache."""
    with ExitStack() as stack:
        behind = stack.enter_context(agent(place))
        plain = stack.enter_context(nginx(place, behind))
        found = [Target("upstream", f"http://127.0.0.1:{behind.port}/", behind.pid), plain]
        for name, cache in (("evaluated", False), ("cached", True)):
            one = governed(place / name, behind, name=name, command=command, cache=cache)
            found.append(stack.enter_context(one))
        targets = [target for target in found if target is not None]
        rows = []
        for kind in KINDS:
            measured = await compare(
                behind,
                targets,
                connections=kind.connections,
                rounds=rounds,
                seconds=seconds,
                what=kind.asked,
                warm_up=kind.warm_up,
            )
            rows.append((kind, measured))
    return Report(rows)
