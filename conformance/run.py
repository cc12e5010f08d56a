"""Runs the official MCP conformance suite against the everything-server, directly and through the gateway.

    python -m conformance.run                   both requirement sets, directly and through the gateway
    python -m conformance.run --direct          only the everything-server itself
    python -m conformance.run --era modern --only caching --only tools-list
    python -m conformance.run --target bridge-to-legacy
    python -m conformance.run a2a --tck DIR     the official A2A kit instead (conformance.a2a.run)

The last line is `N passed, N failed` (checks); the status is 0 when nothing failed unexpectedly.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import anyio

from conformance.a2a.run import main as measure_a2a
from conformance.gateway import ROOT, Plan, Table, started
from conformance.node import ToolchainMissing, cache_dir, find_node, install_suite, say
from conformance.processes import NotStarted, end_when_told, free_port, running
from conformance.report import as_json, as_text
from conformance.suite import SETS, RequirementSet, Run, Suite
from conformance.verdict import DIRECT, judge, read_expected
from gateway.app.boxes import isolation_fault
from gateway.config import Settings
from gateway.config.fields import DriverName
from gateway.config.tree import Sandbox, State

Transport: TypeAlias = Literal["http", "stdio"]
EVERYTHING: Final = (sys.executable, "-m", "conformance.everything")
ERAS: Final[dict[str, RequirementSet]] = {"legacy": "2025-11-25", "modern": "2026-07-28"}


@dataclass(frozen=True, slots=True)
class Target:
    """One way to put the gateway in front of the everything-server. `era` is the one it must speak upstream.

    `driver` is the sandbox driver that the server runs in; with none, a process of it runs on the host.
    """

    name: str
    transport: Transport
    era: Literal["auto", "legacy", "modern"]
    sets: tuple[RequirementSet, ...]
    driver: DriverName | None = None


TARGETS: Final = (
    Target("gateway", "http", "auto", SETS),
    Target("gateway-stdio", "stdio", "auto", SETS),
    Target("gateway-bubblewrap", "stdio", "auto", SETS, "bubblewrap"),
    Target("gateway-gvisor", "stdio", "auto", SETS, "gvisor"),
    Target("bridge-to-legacy", "http", "legacy", ("2026-07-28",)),
    Target("bridge-to-modern", "http", "modern", ("2025-11-25",)),
)
USUAL: Final = ("gateway", "gateway-bubblewrap", "gateway-gvisor")
"""What is run when nothing is named. A sandbox that does not work here is left out, and said so."""


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="python -m conformance.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--direct", action="store_true", help="leave the gateway out")
    parser.add_argument("--era", choices=[*ERAS, *SETS], help="only one requirement set")
    parser.add_argument("--only", action="append", default=[], metavar="SCENARIO", help="only this one (repeatable)")
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS], help="(repeatable)")
    parser.add_argument("--gateway", default="", metavar="COMMAND", help="how to start it; {config} is its file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--out", type=Path, help="keep the suite's own files and the logs here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0 when all is as it should be, 1 when not, 2 when it could not be run."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["a2a"]:
        return measure_a2a(given[1:])
    options = options_of(given)
    end_when_told()
    try:
        with tempfile.TemporaryDirectory(prefix="interlock-conformance-") as scratch:
            return _measure(options, options.out or Path(scratch))
    except (ToolchainMissing, NotStarted) as fault:
        say(f"error: {fault}")
        return 2


def _measure(options: argparse.Namespace, out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    cache = cache_dir()
    node = find_node(cache)
    suite = Suite(node, install_suite(node, cache))
    runs = list(_runs(options, suite, out))
    expected = read_expected()
    verdict = judge(runs, expected)
    print(json.dumps(as_json(runs, verdict), indent=2) if options.json else as_text(runs, expected, verdict))
    return 0 if verdict.ok else 1


def _runs(options: argparse.Namespace, suite: Suite, out: Path) -> Iterable[Run]:
    sets = [ERAS.get(options.era, options.era)] if options.era else list(SETS)
    port = free_port()
    with running([*EVERYTHING, "http", "--port", str(port)], port=port, log=out / "everything.log", cwd=ROOT):
        url = f"http://localhost:{port}/mcp"
        for requirements in sets:
            yield _run(suite, url, DIRECT, requirements, out, options.only)
        for target in [] if options.direct else _targets(options):
            wanted = [requirements for requirements in sets if requirements in target.sets]
            if wanted:
                yield from _through_gateway(options, suite, target, wanted, url, out)


def _targets(options: argparse.Namespace) -> list[Target]:
    if options.target:
        return [target for target in TARGETS if target.name in options.target]
    return [target for target in TARGETS if target.name in USUAL and _can_run(target)]


def _can_run(target: Target) -> bool:
    if target.driver is None:
        return True
    settings = Settings(sandbox=Sandbox(drivers=(target.driver,)), state=State(dir=Path(tempfile.gettempdir())))
    fault = anyio.run(isolation_fault, settings)
    if fault:
        say(f"NOT RUN: {target.name}: {fault}")
    return not fault


def _through_gateway(
    options: argparse.Namespace, suite: Suite, target: Target, sets: Sequence[RequirementSet], url: str, out: Path
) -> Iterable[Run]:
    tables: dict[str, Table] = {"policy": {"path": str(ROOT / "conformance" / "policy")}}
    if target.driver is not None:
        tables["sandbox"] = {"drivers": [target.driver]}
    plan = Plan({"everything": _upstream(target, url)}, tables, command=options.gateway)
    place = out / target.name
    place.mkdir(exist_ok=True)
    with started(plan, place) as gateway:
        for requirements in sets:
            yield _run(suite, gateway.endpoint("everything"), target.name, requirements, out, options.only)


def _upstream(target: Target, url: str) -> Table:
    if target.transport == "http":
        return {"url": url, "era": target.era}
    command: Table = {"command": [*EVERYTHING, "stdio"], "cwd": str(ROOT), "era": target.era}
    if target.driver is None:
        return {**command, "sandbox": "none"}
    return {**command, "binds": [str(ROOT / "conformance")]}


def _run(suite: Suite, url: str, target: str, requirements: RequirementSet, out: Path, only: Sequence[str]) -> Run:
    say(f"running {requirements} against {target}")
    return suite.run(url, target, requirements, out / f"{target}-{requirements}", only)


if __name__ == "__main__":
    sys.exit(main())
