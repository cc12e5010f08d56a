"""Runs the official A2A test kit against the agent under test, directly and through the gateway.

    python -m conformance.a2a.run --tck DIR            directly, then through a gateway in front of the same agent
    python -m conformance.a2a.run --tck DIR --direct   only the agent itself
    python -m conformance.a2a.run --tck DIR -- -k push

The kit is not part of this repository: DIR is a checkout of it, of A2A 1.0 or 0.3. The last line is
`N passed, N failed`; the status is 0 when nothing failed unexpectedly, and all that passes directly passes through the
gateway.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from conformance.a2a.kit import Kit, KitMissing, Run, Version, find_kit
from conformance.a2a.verdict import DIRECT, Verdict, judge, read_expected
from conformance.gateway import LABELS, ROOT, Plan, Table, started
from conformance.node import say
from conformance.processes import NotStarted, end_when_told, free_port, running

SUT: Final = "sut"
GATEWAY: Final = "gateway"


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="python -m conformance.a2a.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tck", default="", metavar="DIR", help="a checkout of the kit")
    parser.add_argument("--tck-python", default="", metavar="FILE", help="the interpreter that has what the kit needs")
    parser.add_argument("--direct", action="store_true", help="leave the gateway out")
    parser.add_argument("--through", action="store_true", help="leave the direct run out")
    parser.add_argument("--gateway", default="", metavar="COMMAND", help="how to start it; {config} is its file")
    parser.add_argument("--out", type=Path, help="keep the kit's own files and the logs here")
    parser.add_argument("only", nargs="*", metavar="-- ARGUMENT", help="handed to the kit's test runner")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0 when all is as it should be, 1 when not, 2 when it could not be run."""
    options = options_of(arguments)
    end_when_told()
    try:
        kit = find_kit(options.tck, options.tck_python)
        with tempfile.TemporaryDirectory(prefix="interlock-a2a-") as scratch:
            measured = list(runs(options, kit, options.out or Path(scratch)))
    except (KitMissing, NotStarted) as fault:
        say(f"error: {fault}")
        return 2
    verdict = judge(measured, read_expected())
    print(as_text(measured, verdict))
    return 0 if verdict.ok else 1


def as_text(measured: Sequence[Run], verdict: Verdict) -> str:
    """A line per run, then what is not as it should be, then `N passed, N failed`."""
    lines = [_line(run) for run in measured]
    lines += [f"FAILED    {line}" for line in verdict.failed]
    lines += [f"LOST      {line}" for line in verdict.lost]
    lines += [f"FAULT     expected-failures.yml: {line}" for line in verdict.faults]
    lines += [f"gained    {line}" for line in verdict.gained]
    lines += [f"expected  {line}" for line in verdict.expected]
    bad = len(verdict.failed) + len(verdict.lost) + len(verdict.faults)
    return "\n".join([*lines, f"{sum(run.passed for run in measured)} passed, {bad} failed"])


def _line(run: Run) -> str:
    tests = ", ".join(f"{run.count(outcome)} {outcome}" for outcome in ("passed", "failed", "skipped"))
    kept = f"; requirements: {run.count('passed', tests=False)} passed, {run.count('failed', tests=False)} failed"
    return f"{run.target:<10}A2A {run.version} tests: {tests}{kept if run.version == '1.0' else ''}"


def runs(options: argparse.Namespace, kit: Kit, out: Path) -> Iterable[Run]:
    """The runs that were asked for, one after the other; what is started ends with the last of them."""
    out.mkdir(parents=True, exist_ok=True)
    port, grpc_port = free_port(), free_port()
    command = [sys.executable, "-m", "conformance.a2a.agent", "--port", str(port), "--grpc-port", str(grpc_port)]
    command += ["--v03"] if kit.version == "0.3" else []
    with running(command, port=port, log=out / "agent.log", cwd=ROOT):
        base = f"http://localhost:{port}"
        if not options.through:
            say(f"running the kit of A2A {kit.version} against the agent itself")
            yield kit.run(base, DIRECT, out / DIRECT, options.only)
        if not options.direct:
            yield _through_gateway(options, kit, base, out)


def _through_gateway(options: argparse.Namespace, kit: Kit, base: str, out: Path) -> Run:
    place = out / GATEWAY
    place.mkdir(exist_ok=True)
    with started(plan_for(base, free_port(), options.gateway), place) as gateway:
        say(f"running the kit of A2A {kit.version} through the gateway")
        return kit.run(address_at(gateway.url, kit.version), GATEWAY, place, options.only)


def address_at(gateway: str, version: Version) -> str:
    """Where the kit finds the agent: that of 0.3 looks for the card at the root of a host, so it gets one."""
    if version == "1.0":
        return f"{gateway}/agents/{SUT}"
    parts = urlsplit(gateway)
    return f"{parts.scheme}://{SUT}.localhost:{parts.port}"


def plan_for(base: str, grpc_port: int, command: str = "") -> Plan:
    """A gateway in front of the agent whose card stands at that address, open to everybody on this machine."""
    tables: dict[str, Table] = {
        "listen": {"grpc_port": grpc_port},
        "policy": {"path": str(ROOT / "conformance" / "a2a" / "policy")},
        f"agents.{SUT}": {"card_url": f"{base}/.well-known/agent-card.json", "labels": LABELS},
    }
    return Plan({}, tables, command=command)


if __name__ == "__main__":
    sys.exit(main())
