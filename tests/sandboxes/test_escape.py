"""The escape suite runs in every driver's boxes, and is shown to find what there is to find."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pytest

from sandboxes.escape.bundle import PLACE, bundle
from sandboxes.escape.expected import EMULATED
from sandboxes.escape.inside import CHECKS
from tests.sandboxes.drivers import DRIVERS
from tests.sandboxes.host_view import mounts, settings
from tests.sandboxes.scene import PYTHON, Scene, a_scene, told

ROOT: Final = Path(__file__).resolve().parents[2]
NOBODY: Final = 65534
NAMED: Final = frozenset(os.environ.get("INTERLOCK_REQUIRE_DRIVERS", "").split())
"""Drivers that must not be missing."""
REACHES_HOST: Final = (
    "files.canary", "files.gateway", "files.shm", "files.watch", "process.host", "process.files", "network.gateway",
    "network.abstract", "network.visible", "network.other-boxes", "ipc.shared-memory", "ipc.queues", "limit.files",
)  # fmt: skip
"""Checks that find something where there is no box at all, and touch nothing but what the test has laid out."""


@dataclass(frozen=True)
class Outcome:
    outcome: str
    detail: str


@dataclass(frozen=True)
class Run:
    """What the suite said in one driver's box."""

    missing: str
    version: str
    outcomes: Mapping[str, Outcome]
    changed: tuple[str, ...] = ()
    """Settings and files of the host that are not what they were."""


RUNS: Final[dict[tuple[str, int | None], Run]] = {}


def run_of(gateway: tuple[str, int | None]) -> Run:
    """What the suite says in a box of this driver under this gateway. It is run once."""
    if gateway not in RUNS:
        RUNS[gateway] = made(*gateway)
    return RUNS[gateway]


def made(driver: str, uid: int | None) -> Run:
    """Run the suite for a driver, in the box of a gateway of its own."""
    words = [sys.executable, "-m", "tests.sandboxes.escape_gateway", driver, *([] if uid is None else [str(uid)])]
    with a_scene() as scene:
        line = json.dumps(asdict(scene.target)) + f"\n{scene.egress}\n"
        before = state(scene)
        ended = subprocess.run(words, input=line, capture_output=True, text=True, timeout=240, cwd=ROOT, check=False)
        after = state(scene)
    if ended.returncode != 0:
        return Run(ended.stderr[-2000:], "", {})
    *lines, facts = [json.loads(line) for line in ended.stdout.splitlines()]
    if facts["reason"]:
        return Run(facts["reason"], facts["version"], {})
    outcomes = {str(line["id"]): Outcome(line["outcome"], line["detail"]) for line in lines}
    return Run("", facts["version"], outcomes, tuple(name for name in before if before[name] != after[name]))


def state(scene: Scene) -> Mapping[str, object]:
    """What of the host a box must not have changed."""
    paths = [scene.target.canary_file, scene.target.shm_file, *scene.target.gateway_paths[1:]]
    return {**settings(), **{path: Path(path).read_text() for path in paths}, "mounts": mounts()}


def gateways() -> list[tuple[str, int | None]]:
    """Every driver under a gateway as we are, and, where we are root, also under one that is nobody."""
    unprivileged = [(name, NOBODY) for name, made in DRIVERS.items() if made.unprivileged and os.geteuid() == 0]
    return [*((name, None) for name in DRIVERS), *unprivileged]


def marked(gateways: list[tuple[str, int | None]]) -> list[object]:
    """Those that take more than a few seconds are marked as such."""
    return [pytest.param(each, marks=[pytest.mark.slow] if DRIVERS[each[0]].slow else []) for each in gateways]


def named(gateway: object) -> str:
    driver, uid = gateway if isinstance(gateway, tuple) else ("", None)
    return driver if uid is None else f"{driver}-unprivileged"


@pytest.mark.parametrize("gateway", marked(gateways()), ids=named)
def test_nothing_in_a_box_gets_out(gateway: tuple[str, int | None], subtests: pytest.Subtests) -> None:
    driver, _ = gateway

    run = run_of(gateway)

    if run.missing and driver not in NAMED:
        pytest.skip(f"{named(gateway)} cannot be used here: {run.missing}")
    assert not run.missing, f"{named(gateway)} is required and cannot be used: {run.missing}"
    assert not run.changed
    for check in CHECKS:
        with subtests.test(check.id):
            found = run.outcomes[check.id]
            allowed = "emulated" if check.id in EMULATED[driver] else "blocked"
            assert found.outcome in {"blocked", allowed}, f"{check.title} ({check.how}): {found.detail}"


@pytest.mark.parametrize("gateway", marked([(name, None) for name in DRIVERS]), ids=named)
def test_what_is_expected_to_be_emulated_is(gateway: tuple[str, int | None]) -> None:
    driver, run = gateway[0], run_of(gateway)
    if run.missing:
        pytest.skip(f"{driver} cannot be used here: {run.missing}")

    found = {name for name, outcome in run.outcomes.items() if outcome.outcome == "emulated"}

    assert found == set(EMULATED[driver])


def test_the_drivers_that_were_not_run_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for driver in NAMED:
        run_of((driver, None))
    runs = {named(gateway): run for gateway, run in RUNS.items()}

    ran = [f"{name} {run.version}" for name, run in runs.items() if not run.missing]
    missing = [f"{name} ({run.missing.strip().splitlines()[-1]})" for name, run in runs.items() if run.missing]
    missing += [f"{name} (not asked for)" for name in map(named, gateways()) if name not in runs]
    with capsys.disabled():
        sys.stdout.write(f"\nescape suite, {len(CHECKS)} checks: {', '.join(ran)}; without: {', '.join(missing)}\n")

    assert set(DRIVERS) >= NAMED
    assert not [name for name, run in runs.items() if run.missing and name in NAMED]


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not here: apt-get install bubblewrap")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a gateway that is root: that is what makes the box careless")
def test_a_careless_box_is_found_out() -> None:
    with a_scene() as scene:
        outcomes = careless(scene)

    found = {name for name, outcome in outcomes.items() if outcome == "ESCAPED"}
    assert set(outcomes) == {check.id for check in CHECKS}
    assert len(found) >= 60, sorted(found)
    assert found >= {
        "setting.helpers",
        "process.environment",
        "process.files",
        "process.list",
        "exec.write",
        "mount.new",
    }
    assert Counter(outcomes.values())["unclear"] == 0


def test_without_a_box_the_host_is_reached(tmp_path: Path) -> None:
    program = tmp_path / "escape.pyz"
    program.write_bytes(bundle())

    with a_scene() as scene, open(scene.target.canary_file, "rb") as file:
        os.set_inheritable(file.fileno(), True)
        words = [sys.executable, "-I", "-S", str(program), *REACHES_HOST]
        outcomes = said_by(words, scene, pass_fds=(file.fileno(),))

    assert {name for name, outcome in outcomes.items() if outcome != "ESCAPED"} == set()


def test_the_suite_has_more_checks_than_the_research_and_each_is_named_once() -> None:
    ids = [check.id for check in CHECKS]

    assert len(ids) == len(set(ids)) > 48
    assert all(check.title and check.how for check in CHECKS)


def test_only_what_a_kernel_of_its_own_grants_may_be_expected() -> None:
    reach = {check.id: check.reach for check in CHECKS}

    assert set(EMULATED) >= set(DRIVERS)
    for driver, reasons in EMULATED.items():
        assert {reach.get(name) for name in reasons} <= {"kernel"}
        assert not reasons or DRIVERS[driver].own_kernel


def test_the_readme_names_each_check_and_no_other() -> None:
    text = (ROOT / "sandboxes" / "README.md").read_text("utf-8")
    families = {check.id.partition(".")[0] for check in CHECKS}

    ids = re.findall(rf"`((?:{'|'.join(families)})\.[a-z0-9-]+)`", text)
    tests = re.findall(r"`(test_[a-z_]+\.py)::(test_[a-z_0-9]+)`", text)

    assert set(ids) == {check.id for check in CHECKS}
    assert tests
    for name, function in tests:
        assert f"def {function}(" in (Path(__file__).parent / name).read_text("utf-8"), f"{name}::{function}"


def careless(scene: Scene) -> Mapping[str, str]:
    """The suite in a box as a root gateway builds it that has not read the manual."""
    program = Path(scene.target.canary_file).with_name("escape.pyz")
    program.write_bytes(bundle())
    words = [
        *("bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"),
        *("--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/workspace", "--chdir", "/workspace"),
        *("--ro-bind", str(program), PLACE, "--setenv", "GATEWAY_SECRET", scene.target.canary, PYTHON, "-IS", PLACE),
    ]
    with open(scene.target.canary_file, "rb") as file:
        os.set_inheritable(file.fileno(), True)
        return said_by(words, scene, pass_fds=(file.fileno(),))


def said_by(words: list[str], scene: Scene, *, pass_fds: tuple[int, ...]) -> Mapping[str, str]:
    ended = subprocess.run(
        words, input=told(scene.target), capture_output=True, timeout=60, pass_fds=pass_fds, check=False
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return {line["id"]: line["outcome"] for line in map(json.loads, ended.stdout.splitlines())}
