"""Gateways whose upstreams run in boxes: how they are configured, what their records say, and which boxes there are."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from conformance.gateway import ROOT, Plan, Table
from gateway.audit.reader import Filter, Tail
from sandboxes.driver import Probe
from sandboxes.ledger import Entry, Ledger
from tests.e2e.place import Place, prepare, rules
from tests.sandboxes.drivers import DRIVERS

SERVER: Final = ROOT / "tests" / "servers" / "boxed.py"
BOTH: Final = ("bubblewrap", pytest.param("gvisor", marks=pytest.mark.slow))
"""The drivers that a behaviour is tried with."""

_probes: dict[str, Probe] = {}


async def works(driver: str) -> str:
    """The driver, if it can be used here; else the test is skipped, and says what is missing."""
    if driver not in _probes:
        _probes[driver] = await DRIVERS[driver].make().probe()
    probe = _probes[driver]
    if not probe.ok:
        pytest.skip(f"{driver} cannot be used here: {probe.reason}; {probe.remedy}")
    return driver


def boxed(**more: object) -> Table:
    """`tests/servers/boxed.py` as an upstream: in a box, since nothing else is said."""
    return {"command": [sys.executable, str(SERVER)], "era": "legacy", **more}


def planned(
    directory: Path, upstreams: Mapping[str, Table], policy: str, driver: str = "bubblewrap", **more: Table
) -> Plan:
    """What a gateway is to be started with that may use this one driver."""
    sandbox: Table = {"drivers": [driver]}
    return Plan(upstreams, {"policy": rules(directory, all=policy), "sandbox": sandbox, **more})


def prepared(
    directory: Path, upstreams: Mapping[str, Table], policy: str, driver: str = "bubblewrap", **more: Table
) -> Place:
    """A gateway that is not running yet and may use this one driver."""
    return prepare(directory, planned(directory, upstreams, policy, driver, **more))


def environment(place: Path, name: str, text: str) -> None:
    """Write an environment beside a configuration."""
    (place / "environments").mkdir(exist_ok=True)
    (place / "environments" / f"{name}.toml").write_text(text)


def records(place: Place, action: str = "") -> list[dict[str, Any]]:
    """What is on record of calls, oldest first. All of it once the gateway has ended."""
    entries = map(json.loads, Tail(place.state / "audit", Filter(action=action)).last(100_000))
    return [entry for entry in entries if entry["kind"] == "call"]


def notes(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record notes beside the call."""
    found: dict[str, Any] = json.loads(record.get("notes", "{}"))
    return found


def boxes(place: Place) -> tuple[Entry, ...]:
    """The boxes that a gateway has now, or left behind."""
    return Ledger.of(place.state).entries()


def command_lines() -> bytes:
    """The arguments of every process of this machine."""
    found = b""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += (process / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
    return found


def relatives(mark: str) -> list[int]:
    """Processes that name this word in their arguments or have it in their environment, this one left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in seen and state != "Z" and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found
