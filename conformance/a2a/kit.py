"""The official A2A test kit in a checkout of its own, run against one URL, its findings read back as rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias
from xml.etree import ElementTree as ET

Version: TypeAlias = Literal["1.0", "0.3"]
Outcome: TypeAlias = Literal["passed", "failed", "skipped"]

KIT_VARIABLE: Final = "INTERLOCK_A2A_TCK"
LEGACY_KIT_VARIABLE: Final = "INTERLOCK_A2A_TCK_03"
"""Where the tests look for the kit of 0.3 beside that of 1.0."""
PYTHON_VARIABLE: Final = "INTERLOCK_A2A_TCK_PYTHON"
PINNED: Final[Mapping[Version, str]] = {
    "1.0": "branch 1.0-dev at 357c4a87",
    "0.3": "tag 0.3.0.beta4",
}
IN_CLASS: Final = "::"
"""Stands in the name of every test, and of no requirement."""
RUN_S: Final = 900
_SAID: Final = 160
PLUGINS: Final = Path(__file__).resolve().parent / "plugins"
STREAMING_S: Final = "2.0"
"""How long the kit waits for a stream; the agent's long task takes twice that."""

_SUITES: Final[Mapping[Version, tuple[tuple[str, str], ...]]] = {
    "1.0": (("tests/compatibility/", ""),),
    "0.3": (
        ("tests/mandatory/", "mandatory_jsonrpc or mandatory_protocol"),
        ("tests/optional/capabilities/", ""),
        ("tests/optional/quality/", ""),
        ("tests/optional/features/", ""),
    ),
}
"""Folder and markers of what is run, as the kit's own command does it."""


class KitMissing(Exception):
    """There is no checkout of the kit to run, or nothing that could run it. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """The kit against one target: every test, and every requirement that fails though none of its tests does."""

    target: str
    version: Version
    rows: Mapping[str, Outcome]
    said: Mapping[str, str]
    """Why a row failed, as the kit puts it."""

    def count(self, outcome: Outcome, *, tests: bool = True) -> int:
        """How many of the tests, or of the requirements, came out so."""
        return sum(found == outcome and (IN_CLASS in row) is tests for row, found in self.rows.items())

    @property
    def passed(self) -> int:
        return self.count("passed") + self.count("passed", tests=False)


@dataclass(frozen=True, slots=True)
class Kit:
    """A checkout of the kit, and the interpreter that has what it needs."""

    place: Path
    version: Version
    python: str

    def run(self, url: str, target: str, out: Path, only: Sequence[str] = ()) -> Run:
        """Run it against the agent whose card's base is `url`. `only` is handed to its test runner as it is."""
        out.mkdir(parents=True, exist_ok=True)
        rows: dict[str, Outcome] = {}
        said: dict[str, str] = {}
        for number, (folder, markers) in enumerate(_SUITES[self.version]):
            report = out.resolve() / f"{number}.xml"
            self._test(url, folder, markers, out.resolve(), report, only)
            read_tests(report, rows, said)
        requirements = out / "compatibility.json"
        if self.version == "1.0":
            read_requirements(requirements, rows, said)
        return Run(target, self.version, rows, said)

    def _test(self, url: str, folder: str, markers: str, out: Path, report: Path, only: Sequence[str]) -> None:
        option = "--sut-host" if self.version == "1.0" else "--sut-url"
        command = [self.python, "-m", "pytest", folder, f"{option}={url}", "-q", "--tb=short", "-p", "no:cacheprovider"]
        command += ["-p", "loopback_names", f"--junitxml={report}", *(["-m", markers] if markers else []), *only]
        if self.version == "1.0":
            command.append(f"--compatibility-report={out / 'compatibility'}")
        else:
            command += ["--test-scope=all", "--transports=jsonrpc"]
        env = {**os.environ, "TCK_STREAMING_TIMEOUT": STREAMING_S, "PYTHONDONTWRITEBYTECODE": "1"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PLUGINS), env.get("PYTHONPATH", ""))))
        with (out / f"{report.stem}.log").open("wb") as log:
            subprocess.run(  # noqa: S603  # the command is ours, the checkout the caller's
                command, cwd=self.place, env=env, stdout=log, stderr=subprocess.STDOUT, timeout=RUN_S, check=False
            )


def find_kit(place: str = "", python: str = "") -> Kit:
    """The checkout that is named, or that the environment names. Raises `KitMissing`, saying what to clone."""
    named = place or os.environ.get(KIT_VARIABLE, "")
    if not named:
        raise KitMissing(f"name a checkout of the test kit with --tck or ${KIT_VARIABLE}: {_advice()}")
    folder = Path(named).expanduser()
    if not (folder / "run_tck.py").is_file():
        raise KitMissing(f"{folder} is no checkout of the test kit: {_advice()}")
    version: Version = "1.0" if (folder / "tests" / "compatibility").is_dir() else "0.3"
    return Kit(folder, version, python or os.environ.get(PYTHON_VARIABLE, "") or _interpreter(folder))


def _advice() -> str:
    pins = ", or ".join(f"{pin} for A2A {version}" for version, pin in PINNED.items())
    return f"clone the repository a2aproject/a2a-tck, check out {pins}, and make its .venv hold its dependencies"


def _interpreter(folder: Path) -> str:
    own = folder / ".venv" / "bin" / "python"
    return str(own) if own.is_file() else sys.executable


def read_tests(report: Path, rows: dict[str, Outcome], said: dict[str, str]) -> None:
    """Add the tests of a JUnit report. Raises `KitMissing` where there is none: silence is not success."""
    if not report.is_file():
        words = f"the kit left no results; see {report.with_suffix('.log')} (is its pyproject.toml installed?)"
        raise KitMissing(words)
    found = ET.parse(report).getroot().iter("testcase")  # noqa: S314  # written by the test runner a moment ago
    for case in found:
        row = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}"
        fault = case.find("failure") if case.find("failure") is not None else case.find("error")
        if fault is not None:
            rows[row], said[row] = "failed", _shortened(fault.get("message", ""))
        elif row not in rows:  # a fault of its teardown does not make a failure a success
            rows[row] = "skipped" if case.find("skipped") is not None else "passed"


def _shortened(message: str) -> str:
    return message.partition("\n")[0][:_SAID]


def read_requirements(report: Path, rows: dict[str, Outcome], said: dict[str, str]) -> None:
    """Add the requirements that no failed test stands for. The kit skips the tests of a SHOULD that does not hold."""
    if not report.is_file():
        raise KitMissing(f"the kit left no {report.name}; see the log beside where it should be")
    for name, found in json.loads(report.read_text())["per_requirement"].items():
        tests = {"::".join(test.split("::")[-2:]) for test in found["test_ids"]}
        if found["status"] == "FAIL" and not any(rows.get(test) == "failed" for test in tests):
            rows[name], said[name] = "failed", _shortened("; ".join(found["errors"]))
        elif found["status"] == "PASS":
            rows[name] = "passed"
