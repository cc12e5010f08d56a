"""`python -m tests.bench`: compares a governed call with the upstream alone and with nginx, everything switched on.

python -m tests.bench                       the comparison and the short probes, a few minutes
python -m tests.bench --gate                a short run that fails when a governed call costs too much CPU
python -m tests.bench --long                the same as without, and 100,000 calls
python -m tests.bench --no-gateway          only the upstream and nginx
python -m tests.bench --a2a                 what calls to an A2A agent cost instead, and the events of its streams
python -m tests.bench --policy              what decisions cost instead: embedded, in OPA, lists, replay, a few minutes
python -m tests.bench --memory              what recall costs with 100,000 records (--records), minutes
python -m tests.bench --recall FILE         how much of the evidence is recalled on LoCoMo (locomo10.json), minutes
python -m tests.bench --sandboxes           what boxes cost instead: starts, clones, lines and memory, a few minutes
python -m tests.bench --routing TABLE...    how well the gain router does on judged tables instead, a few minutes
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Final

import uvloop

from conformance.processes import NotStarted, end_when_told
from gateway.embedding import EmbeddingUnavailable
from tests.bench import a2a, meters, policies, sandboxes
from tests.bench.comparison import Measured, as_text, compare
from tests.bench.load import LoadFailed
from tests.bench.probes import Finding, huge_answers, long_list, many_calls, ten_upstreams
from tests.bench.targets import all_targets

GATE_CPU_US: Final = 600.0
"""What a governed call may cost before the gate fails, on a core that is left alone: twice the aim."""

GATE_TIMES_UPSTREAM: Final = 20.0
"""The same in calls of the upstream alone, which cost 30 us there: on a slow machine, the limit grows with these."""

GATE_ROUNDS: Final = 12

ALONE: Final = ("sandboxes", "a2a", "policy", "memory", "recall", "routing")
COMPARED: Final = ("gate", "long", "no_probes", "no_gateway")


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gate", action="store_true", help="short; fails when a call costs too much CPU")
    parser.add_argument("--long", action="store_true", help="also 100,000 calls")
    parser.add_argument("--no-probes", action="store_true", help="only the comparison")
    parser.add_argument("--no-gateway", action="store_true", help="only the upstream and nginx")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--gateway", default="", metavar="COMMAND", help="another gateway; {config} is its file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--a2a", action="store_true", help="calls to an agent, and events of its streams")
    parser.add_argument("--policy", action="store_true", help="what decisions cost, beside their aims; always succeeds")
    parser.add_argument("--memory", action="store_true", help="what recall costs, beside its aims; always succeeds")
    parser.add_argument("--records", type=int, help="with --memory (100000)")
    parser.add_argument("--recall", type=Path, metavar="FILE", help="locomo10.json; fails below the aim")
    parser.add_argument("--embedder", choices=("minilm", "hashing"), help="with --recall (minilm)")
    parser.add_argument("--sandboxes", action="store_true", help="what boxes cost, beside their aims; always succeeds")
    parser.add_argument("--routing", type=Path, nargs="+", metavar="TABLE", help="judged answers, as RouteLLM has them")
    names = ", ".join(sandboxes.NAMES)
    parser.add_argument("--driver", action="append", choices=sandboxes.NAMES, metavar="NAME", help=f"one of {names}")
    options = parser.parse_args(arguments)
    _alone(parser, options)
    if options.driver and not options.sandboxes:
        parser.error("--driver goes with --sandboxes")
    if options.embedder and not options.recall:
        parser.error("--embedder goes with --recall")
    if options.records is not None and (options.records < 1 or not options.memory):
        parser.error("--records goes with --memory, and is above 0")
    options.embedder = options.embedder or "minilm"
    return options


def _alone(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what is a measurement of its own beside another, or beside what is only for the comparison."""
    given = [f"--{name}" for name in ALONE if getattr(options, name)]
    others = [f"--{name.replace('_', '-')}" for name in COMPARED if getattr(options, name)]
    if given and len(given) + len(others) > 1:
        parser.error(f"{given[0]} is a measurement of its own: leave out {', '.join([*given[1:], *others])}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; 1 when a limit is exceeded, 2 when it could not be measured."""
    options = options_of(arguments)
    if not meters.available():
        sys.stderr.write("error: the benchmark reads /proc, which this system does not have\n")
        return 2
    end_when_told()
    for asked, measured in ((options.sandboxes, _sandboxes), (options.routing, _routing), (options.recall, _recall)):
        if asked:
            return measured(options)
    try:
        for wanted, run in ((options.a2a, _a2a), (options.policy, _policy), (options.memory, _memory)):
            if wanted:
                return run(options)
        with tempfile.TemporaryDirectory(prefix="interlock-bench-") as place:
            rows, findings = uvloop.run(_measure(options, Path(place)))
    except (NotStarted, LoadFailed, TimeoutError) as fault:
        sys.stderr.write(f"error: {fault}\n")
        return 2
    sys.stdout.write((_as_json(rows, findings) if options.json else _as_text(rows, findings)) + "\n")
    return 0 if all(finding.ok for finding in findings) else 1


def _a2a(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as place:
        report = uvloop.run(
            a2a.measure(Path(place), rounds=options.rounds, seconds=options.seconds, command=options.gateway)
        )
    sys.stdout.write((report.as_json() if options.json else report.as_text()) + "\n")
    return 0 if all(finding.ok for finding in report.findings) else 1


def _policy(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as place:
        report = uvloop.run(policies.measure(Path(place)))
    sys.stdout.write((report.as_json() if options.json else report.as_text()) + "\n")
    return 0


def _memory(options: argparse.Namespace) -> int:
    memory = _with_numpy("memory")
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as place:
        report = uvloop.run(memory.measure(Path(place), records=options.records or memory.RECORDS))
    sys.stdout.write((report.as_json() if options.json else report.as_text()) + "\n")
    return 0


def _routing(options: argparse.Namespace) -> int:
    routing = _with_numpy("routing")
    try:
        report = routing.measure(options.routing)
    except (OSError, ValueError, EmbeddingUnavailable) as fault:
        sys.stderr.write(f"error: {fault}\n")
        return 2
    sys.stdout.write((report.as_json() if options.json else report.as_text()) + "\n")
    return 0


def _recall(options: argparse.Namespace) -> int:
    recall = _with_numpy("recall")
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as place:
        try:
            embedder = recall.embedder_of(options.embedder)
            scores = uvloop.run(recall.measure(options.recall, Path(place), embedder))
        except (OSError, ValueError, KeyError, EmbeddingUnavailable) as fault:
            sys.stderr.write(f"error: {options.recall}: {fault!r}\n")
            return 2
    sys.stdout.write((scores.as_json() if options.json else scores.as_text()) + "\n")
    return 0 if scores.of("hybrid") >= recall.AIM else 1


def _sandboxes(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as place:
        report = uvloop.run(sandboxes.measure(Path(place), options.driver or ()))
    sys.stdout.write((report.as_json() if options.json else report.as_text()) + "\n")
    return 0


def _with_numpy(name: str) -> ModuleType:
    """A measurement that needs the extra `memory`, imported only where it is asked for."""
    try:
        return importlib.import_module(f"tests.bench.{name}")
    except ImportError as fault:
        sys.stderr.write(f"error: --{name} needs the extra 'memory' ({fault}): pip install -e '.[memory]'\n")
        raise SystemExit(2) from fault


async def _measure(options: argparse.Namespace, place: Path) -> tuple[list[Measured], list[Finding]]:
    quick: bool = options.gate
    with all_targets(place, command=options.gateway, with_gateway=not options.no_gateway) as (behind, targets):
        rows = await compare(
            behind,
            targets,
            connections=[8] if quick else options.connections,
            rounds=GATE_ROUNDS if quick else options.rounds,
            seconds=1.0 if quick else options.seconds,
        )
    findings = [finding for row in rows for finding in _limits(row, rows)]
    if not (quick or options.no_probes or options.no_gateway):
        for probe in (long_list, ten_upstreams, huge_answers, *((many_calls,) if options.long else ())):
            findings += await probe(place, options.gateway)
    return rows, findings


def _limits(row: Measured, rows: Sequence[Measured]) -> list[Finding]:
    if row.target not in {"evaluated", "cached"}:
        return []
    at = f"{row.target}, {row.connections} at a time"
    found = [
        Finding(f"{at}: upstream requests beyond one per call", row.extra_requests, "", 0),
        Finding(f"{at}: calls that failed {row.error.rpartition(chr(10))[2][:120]}", row.errors, "", 0),
    ]
    if row.target == "evaluated" and row.connections > 1:
        found.append(Finding(f"{at}: CPU per call", row.cpu_us, "us", cpu_limit_us(rows, row.connections)))
    return found


def cpu_limit_us(rows: Sequence[Measured], connections: int) -> float:
    """The most CPU that a governed call may cost, on a machine that is as fast as it was for these rows."""
    alone = next((row.cpu_us for row in rows if row.target == "upstream" and row.connections == connections), 0.0)
    return max(GATE_CPU_US, GATE_TIMES_UPSTREAM * alone)


def _as_text(rows: Sequence[Measured], findings: Sequence[Finding]) -> str:
    return "\n".join([as_text(rows), *(str(finding) for finding in findings)])


def _as_json(rows: Sequence[Measured], findings: Sequence[Finding]) -> str:
    found = [{**asdict(finding), "ok": finding.ok} for finding in findings]
    return json.dumps({"comparison": [asdict(row) for row in rows], "limits": found}, indent=2)


if __name__ == "__main__":
    sys.exit(main())
