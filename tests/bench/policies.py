"""What decisions cost: the stage that asks and the engine that answers, embedded in both ways and in an OPA server.

Every figure is that of one round, and rounds are interleaved: row for row, the median over all of them, none left out,
beside the embedded engine inline in the same rounds. No decision is answered from a cache, and every question differs.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import anyio

from adapters.detectors import all_detectors
from adapters.pdp.activation import Engine, EngineSpec, build_engine
from adapters.pdp.bundle import Bundle, load_bundle
from conformance.gateway import ROOT
from gateway import codec
from gateway.app.policy import ActivePolicy
from gateway.app.remote_policy import open_remote
from gateway.authz.authz import Authz
from gateway.authz.detection import Detection
from gateway.config.fields import policy_library, starter_policies
from gateway.decisions.event import event_of
from gateway.decisions.files import SegmentLimits, Segments
from gateway.errors import InterlockError
from gateway.ports import Decided
from gateway.types import Call, Entity, FrozenDict, Identity, Resource, freeze
from tests.bench.figures import Row, Spread, Unmeasured, table
from tests.bench.machine import Machine
from tests.pdp.opaserver import HOW_TO, opa_program, running_opa

Place: TypeAlias = Literal["inline", "process", "opa"]
"""Where the rules are evaluated: in the gateway, in a worker of its own, in a server on loopback."""

LIST_TOOLS: Final = 100
TIMEOUT_S: Final = 10.0
"""Far above the gateway's own limit: what is slow is to be measured, not ended."""
REPLAYED: Final = 100_000
REPLAY_S: Final = 120.0
"""What replaying so many may take."""
PACKS: Final = ROOT / "policies" / "packs"
_CHUNK: Final = 1_000
_CALLER: Final = Identity(Entity("agent", "agent:bench"), tenant="acme", roles=("developer",), method="api_key")
_CALLS_EACH: Final = 50
"""So many are within what packs allow to one caller in a minute."""

_WORDS: Final = {"decision": "decision", "list": f"list of {LIST_TOOLS} tools"}
_CLOCKS: Final[Mapping[str, Callable[[], int]]] = {"": time.perf_counter_ns, "CPU ": time.thread_time_ns}
"""Time as it passes, and that of this thread alone, to which nothing else on a busy machine adds."""

AIMS_MS: Final[Mapping[tuple[str, Place], tuple[float, float]]] = {
    ("decision", "inline"): (0.7, 2.5),
    ("decision", "process"): (0.7, 2.5),
    ("decision", "opa"): (1.5, 6.0),
    ("list", "inline"): (6.0, 15.0),
    ("list", "process"): (6.0, 15.0),
    ("list", "opa"): (6.0, 15.0),
}
"""The most that the median and the 99th percentile are to be, with the starter's rules."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How often each thing is done in a round, and how many decisions are replayed; 0 replays none."""

    rounds: int = 5
    decisions: int = 1_000
    lists: int = 100
    warm_up: int = 50
    replayed: int = REPLAYED


@dataclass(slots=True)
class Report:
    """All that was found out."""

    machine: Machine
    rows: list[Row] = field(default_factory=list)
    faults: list[Unmeasured] = field(default_factory=list)

    def as_json(self) -> str:
        """For programs."""
        rows, faults = [row.as_json() for row in self.rows], [asdict(fault) for fault in self.faults]
        return json.dumps({"machine": asdict(self.machine), "rows": rows, "unmeasured": faults}, indent=2)

    def as_text(self) -> str:
        """For people."""
        return "\n".join([str(self.machine), "", table(self.rows, self.faults, driver="engine", plain="inline")])


class Track(NamedTuple):
    """One engine by one clock."""

    place: Place
    clock: str


@dataclass(frozen=True, slots=True)
class Desk:
    """The stage of the gateway that decides, over one engine."""

    authz: Authz
    numbers: Iterator[int] = field(default_factory=count)

    async def decide(self) -> None:
        """One call, which differs from all others in an argument that the rules read."""
        number = next(self.numbers)
        caller = replace(_CALLER, subject=Entity("agent", f"agent:{number // _CALLS_EACH}"))
        await self.authz.decide(_call(_tool("read_file"), {"path": f"notes/{number}.txt"}), caller)

    async def list_tools(self) -> None:
        """What of a hundred tools this caller may see."""
        tools = [_tool(f"read_{number:03}" if number % 2 else f"tool_{number:03}") for number in range(LIST_TOOLS)]
        seen = await self.authz.visible(_call(_server(), {}, "mcp.tools.list"), _CALLER, tools)
        assert len(seen) == LIST_TOOLS // 2


async def measure(place: Path, effort: Effort | None = None) -> Report:
    """Measure all there is here; what is not, stands in the report with the reason."""
    effort = effort or Effort()
    report = Report(Machine.now())
    policies = {"starter": _starter(), "starter and all packs": _with_packs(place)}
    for name, bundle in policies.items():
        async with _desks(bundle, report) as desks:
            report.rows += await _rows("decision", name, desks, effort.decisions, effort, Desk.decide)
            if name == "starter":
                report.rows += await _rows("list", name, desks, effort.lists, effort, Desk.list_tools)
    if effort.replayed:
        report.rows.append(await _replay(place, policies["starter"], effort.replayed))
    report.machine = report.machine.until_now()
    return report


def _starter() -> Bundle:
    return load_bundle([policy_library(), starter_policies()])


def _with_packs(place: Path) -> Bundle:
    """The starter's rules with all packs beside them, as the documentation says to put them there."""
    mine = place / "mine"
    shutil.copytree(starter_policies() / "grants", mine / "grants")
    shutil.copy(starter_policies() / "starter.rego", mine)
    for pack in sorted(PACKS.iterdir()):
        shutil.copytree(pack / pack.name, mine / pack.name)
    return load_bundle([policy_library(), mine])


@asynccontextmanager
async def _desks(bundle: Bundle, report: Report) -> AsyncIterator[dict[Place, Desk]]:
    """The same rules behind each engine that is to be had."""
    async with AsyncExitStack() as stack:
        engines: dict[Place, Engine] = {
            "inline": await build_engine(EngineSpec("inline", TIMEOUT_S, 0, run_tests=False), bundle),
            "process": await build_engine(EngineSpec("process", TIMEOUT_S, 0, run_tests=False), bundle),
        }
        if opa_program():
            url = stack.enter_context(running_opa())
            engines["opa"] = await open_remote(url, "", bundle, TIMEOUT_S)
        elif not report.faults:
            report.faults.append(Unmeasured("opa", "everything", HOW_TO))
        for engine in engines.values():
            stack.callback(engine.close)
        desks = {name: _desk(engine) for name, engine in engines.items()}
        yield {name: desk for name, desk in desks.items() if await _answers(name, desk, report)}


async def _answers(name: Place, desk: Desk, report: Report) -> bool:
    try:
        await desk.decide()
    except InterlockError as fault:
        report.faults.append(Unmeasured(name, "decisions", str(fault)))
        return False
    return True


def _desk(engine: Engine, tap: _Kept | None = None) -> Desk:
    """The stage as the gateway composes it: detectors look where the rules read what they find."""
    ids, policy = count(), ActivePolicy()
    policy.activate(engine)
    return Desk(
        Authz(
            policy,
            env="dev",
            clock_ns=time.time_ns,
            monotonic_ns=time.monotonic_ns,
            new_id=lambda: f"d{next(ids)}",
            response_differs=policy.response_differs,
            detection=Detection(all_detectors(), policy.reads_findings),
            tap=tap,
        )
    )


async def _rows(
    what: str,
    policy: str,
    desks: Mapping[Place, Desk],
    times: int,
    effort: Effort,
    ask: Callable[[Desk], Awaitable[None]],
) -> list[Row]:
    """The median and the 99th percentile of each engine, round by round."""
    tracks = [Track(name, "") for name in desks] + [Track("inline", "CPU ")]
    rounds: dict[Track, list[tuple[float, float]]] = {track: [] for track in tracks}
    for number in range(effort.rounds):
        for track in tracks[:: 1 if number % 2 == 0 else -1]:
            warm_up = effort.warm_up if number == 0 else 1
            rounds[track].append(await _round(desks[track.place], ask, times, warm_up, _CLOCKS[track.clock]))
    found = []
    for track, figures in rounds.items():
        aims = AIMS_MS[what, track.place] if policy == "starter" else (None, None)
        for index, (share, aim) in enumerate(zip(("p50", "p99"), aims, strict=True)):
            beside = None if track.place == "inline" else rounds[Track("inline", "")]
            plain = None if beside is None else Spread.of(each[index] for each in beside)
            label = f"{_WORDS[what]}, {policy}, {track.clock}{share} of {times}"
            found.append(Row(track.place, label, "ms", Spread.of(each[index] for each in figures), plain, aim=aim))
    return found


async def _round(
    desk: Desk, ask: Callable[[Desk], Awaitable[None]], times: int, warm_up: int, now_ns: Callable[[], int]
) -> tuple[float, float]:
    for _ in range(warm_up):
        await ask(desk)
    took: list[int] = []
    for _ in range(times):
        began = now_ns()
        await ask(desk)
        took.append(now_ns() - began)
    took.sort()
    return took[len(took) // 2] / 1e6, took[min(len(took) - 1, len(took) * 99 // 100)] / 1e6


class _Kept:
    """Keeps decisions as the gateway's log does, for a replay."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._lines: list[bytes] = []

    def decided(self, decided: Decided) -> None:
        """As the port says."""
        self._lines.append(codec.dumps(event_of(decided, {"id": "bench", "version": "0"}, time.time_ns())))
        if len(self._lines) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what is left."""
        self._segments.append(self._lines)
        self._lines = []


async def _replay(place: Path, bundle: Bundle, times: int) -> Row:
    """The command that authors use, over a log of so many decisions that all differ in what the rules read."""
    segments = Segments.open(place / "decisions", SegmentLimits(segment_bytes=sys.maxsize), time.time_ns)
    kept = _Kept(segments)
    engine = await build_engine(EngineSpec("inline", TIMEOUT_S, 0, run_tests=False), bundle)
    desk = _desk(engine, kept)
    for _ in range(times):
        await desk.decide()
    kept.flush()
    segments.close()
    engine.close()
    words = ["policy", "replay", "--log", str(segments.directory), "--since", "all", "--json"]
    command = [sys.executable, "-m", "gateway", *words, "--against", str(starter_policies())]
    began = time.monotonic()
    with anyio.fail_after(10 * REPLAY_S):
        told = json.loads((await anyio.run_process(command, cwd=ROOT)).stdout)
    took = time.monotonic() - began
    assert told["counts"]["replayed"] == times, told["counts"]
    label = f"replay of {times} decisions ({times / took:.0f} a second)"
    return Row("processes", label, "s", Spread.of([took]), aim=REPLAY_S * times / REPLAYED)


def _tool(name: str) -> Resource:
    catalog = FrozenDict({"risk": "medium", "labels": ()})
    return Resource("tool", f"files/{name}", "files", name, catalog=catalog, hints=FrozenDict({"readOnlyHint": True}))


def _server() -> Resource:
    return Resource("mcp_server", "*", "", "*")


def _call(resource: Resource, arguments: Mapping[str, object], action: str = "mcp.tools.call") -> Call:
    params = freeze({"name": resource.name, "arguments": arguments})
    assert isinstance(params, FrozenDict)
    return Call("c1", action, action.removeprefix("mcp.").replace(".", "/"), resource, params)
