"""`interlock doctor`: what is missing on this machine, what that costs, and what to do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import anyio

from gateway.cli import cards, host, selftest
from gateway.cli.check import unresolved
from gateway.cli.drivers import isolation
from gateway.cli.findings import Finding, State, good, optional, wrong
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, Commands
from gateway.cli.options import add_config, config_path
from gateway.config import Settings, load, resolve_secret
from gateway.errors import ConfigError

MARKS = {State.GOOD: "ok     ", State.OPTIONAL: "without", State.WRONG: "WRONG  "}


def add_parser(commands: Commands) -> None:
    """Mount the command."""
    parser = commands.add_parser("doctor", help="say what is missing on this machine and what to do")
    add_config(parser)
    parser.add_argument(
        "--key",
        metavar="REFERENCE",
        default="",
        help="an administrator's API key as env:NAME or file:PATH, to ask the running gateway about its upstreams",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(func=doctor)


def doctor(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the gateway can do its work here, else 1; what is merely optional counts for nothing."""
    key = resolve_secret(arguments.key) if arguments.key else ""
    found: list[Finding] = []
    for finding in examine(config_path(arguments), key):
        found.append(finding)
        if not arguments.json:
            _show(finding)
    ok = all(finding.state is not State.WRONG for finding in found)
    if arguments.json:
        print(json.dumps({"ok": ok, "findings": [asdict(finding) for finding in found]}))
    else:
        print("everything that is needed is here" if ok else "see the lines marked WRONG")
    return OK if ok else NOT_AS_IT_SHOULD_BE


def examine(path: Path, key: str) -> Iterator[Finding]:
    """Everything that can be found out, one after the other."""
    yield from host.python_and_packages()
    yield from host.programs()
    settings = Settings()
    if path.exists():
        try:
            settings = load(path)
            yield _secrets(path, settings)
        except ConfigError as error:
            yield wrong("configuration", f"{path}: {len(error.faults)} faults", "interlock check")
            return
    else:
        yield optional("configuration", f"{path} does not exist; looking at the defaults", "interlock up writes one")
        settings = _defaults_beside(path)
    yield host.port(settings)
    yield host.data_directory(settings)
    yield from isolation(settings)
    yield selftest.policy(settings)
    yield selftest.audit_log(settings)
    yield from selftest.upstreams(settings, key)
    yield from anyio.run(cards.findings, settings)


def _defaults_beside(path: Path) -> Settings:
    defaults = Settings()
    return defaults.model_copy(
        update={"state": defaults.state.model_copy(update={"dir": path.parent / defaults.state.dir})}
    )


def _secrets(path: Path, settings: Settings) -> Finding:
    missing = unresolved(settings)
    if missing:
        return wrong("configuration", f"{path}: {missing[0][0]}: {missing[0][1]}", "interlock check --secrets")
    return good("configuration", f"{path} is good, its secrets are there")


def _show(finding: Finding) -> None:
    print(f"{MARKS[finding.state]} {finding.subject}: {finding.what}", flush=True)
    if finding.remedy:
        print(f"          -> {finding.remedy}")
    for line in finding.lines:
        print(f"          | {line}")
