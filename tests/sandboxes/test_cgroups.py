"""Limits of boxes: control groups of both versions, found, made and swept; rlimits where there are none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxes.cgroups import Cgroups, Joined, Parent, bounds_memory, home_of, joined_at_once, rlimits
from sandboxes.spec import MIB, Limits

LIMITS = Limits(memory_bytes=64 * MIB, cpus=0.5, processes=17)


class Proc:
    """A /proc/self and a tree of groups that are plain files."""

    def __init__(self, directory: Path) -> None:
        self.self = directory / "self"
        self.root = directory / "sys"
        self.self.mkdir()
        self.root.mkdir()

    def tell(self, mounts: list[tuple[str, Path, str, str]], own: str) -> None:
        lines = [f"1 1 0:1 {root} {point} rw - {kind} none rw,{options}" for root, point, kind, options in mounts]
        (self.self / "mountinfo").write_text("\n".join(["garbage", *lines]) + "\n")
        (self.self / "cgroup").write_text(own)

    def group(self, path: str, *members: int, **files: str) -> Path:
        directory = self.root / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in members))
        for name, content in files.items():
            (directory / name.replace("__", ".")).write_text(content)
        return directory


@pytest.fixture
def real() -> Cgroups:
    groups = Cgroups.found()
    if "memory" not in groups.limits or "pids" not in groups.limits:
        pytest.skip("no control group with memory and pids can be made here")
    return groups


def test_version_1_groups_are_made_below_our_own_with_their_limits(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    memory, cpu = proc.group("memory/ours"), proc.group("cpu")
    proc.tell(
        [("/", proc.root / "memory", "cgroup", "memory"), ("/", proc.root / "cpu", "cgroup", "cpu,cpuacct")],
        "4:memory:/ours\n3:cpu,cpuacct:/\n0::/\n",
    )

    groups = Cgroups.found(proc.self)
    joined = groups.make("b1", LIMITS)

    assert groups.parents == (Parent(str(memory), ("memory",), False), Parent(str(cpu), ("cpu",), False))
    assert groups.limits == {"memory", "cpu"}
    assert joined.directories == (f"{memory}/interlock-b1", f"{cpu}/interlock-b1")
    assert joined.procs == tuple(f"{directory}/cgroup.procs" for directory in joined.directories)
    assert (memory / "interlock-b1" / "memory.limit_in_bytes").read_text() == str(64 * MIB)
    assert (cpu / "interlock-b1" / "cpu.cfs_quota_us").read_text() == "50000"


def test_group_that_is_seen_through_a_part_of_the_tree_is_found_there(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    inner = proc.group("memory/inner")
    proc.tell([("/docker/a\\040b", proc.root / "memory", "cgroup", "memory")], "4:memory:/docker/a b/inner\n")

    found = Cgroups.found(proc.self)
    proc.tell([("/docker/x", proc.root / "memory", "cgroup", "memory")], "4:memory:/elsewhere\n")

    assert [parent.directory for parent in found.parents] == [str(inner)]
    assert Cgroups.found(proc.self).parents == ()


def test_version_2_moves_the_gateway_aside_where_it_is_alone(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    own = proc.group("svc", os.getpid(), cgroup__subtree_control="")
    proc.tell([("/", proc.root, "cgroup2", "nsdelegate")], "0::/svc\n")

    groups = Cgroups.found(proc.self)

    assert (own / "interlock-gateway" / "cgroup.procs").read_text() == str(os.getpid())
    assert groups.parents == (Parent(str(own), ("memory", "pids", "cpu"), True),)
    assert groups.make("b1", LIMITS).directories == (f"{own}/interlock-b1",)


def test_version_2_is_not_used_where_nothing_can_be_switched_on_or_moved(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    own = proc.group("svc", os.getpid())
    (own / "cgroup.subtree_control").mkdir()  # as good as forbidden: it cannot be written
    proc.tell([("/", proc.root, "cgroup2", "nsdelegate")], "0::/svc\n")

    unable = Cgroups.found(proc.self)
    (own / "interlock-gateway" / "cgroup.procs").unlink()
    (own / "interlock-gateway" / "cgroup.procs").mkdir()
    stuck = Cgroups.found(proc.self)
    (own / "interlock-gateway" / "cgroup.procs").rmdir()
    (own / "interlock-gateway").rmdir()
    (own / "interlock-gateway").touch()

    assert unable == stuck == Cgroups.found(proc.self) == Cgroups()


@pytest.mark.parametrize("members", [[], [1], [1, 2]])
def test_version_2_is_left_alone_where_others_are_in_our_group(members: list[int], tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    own = proc.group("session", *members, cgroup__subtree_control="")
    proc.tell([("/", proc.root, "cgroup2", "nsdelegate")], "0::/session\n")

    assert Cgroups.found(proc.self) == Cgroups()
    assert not (own / "interlock-gateway").exists()


def test_version_2_uses_the_group_above_when_it_went_aside_before(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    above = proc.group("svc", cgroup__subtree_control="")
    proc.group("svc/interlock-gateway", os.getpid(), 1)
    proc.tell([("/", proc.root, "cgroup2", "nsdelegate")], "0::/svc/interlock-gateway\n")

    assert [parent.directory for parent in Cgroups.found(proc.self).parents] == [str(above)]


def test_delegation_by_systemd_is_believed(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    above = proc.group("svc", cgroup__subtree_control="")
    proc.group("svc/main", os.getpid(), 1)
    proc.tell([("/", proc.root, "cgroup2", "nsdelegate")], "0::/svc/main\n")
    try:
        os.setxattr(above, "user.delegate", b"1")
    except OSError:
        pytest.skip("the test directory's file system keeps no extended attributes")

    assert [parent.directory for parent in Cgroups.found(proc.self).parents] == [str(above)]


def test_version_2_limits_are_set_where_the_controller_is_on(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    groups = Cgroups((Parent(str(proc.group("svc")), ("memory", "pids", "cpu"), True),))

    joined = groups.make("b1", LIMITS)

    (directory,) = map(Path, joined.directories)
    values = {name: (directory / name).read_text() for name in os.listdir(directory)}
    assert values == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "17",
        "cpu.max": "50000 100000",
    }
    assert bounds_memory(joined.procs)


def test_nothing_to_find_is_no_error(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    nowhere = Cgroups.found(tmp_path / "absent")
    proc.tell(
        [("/", tmp_path / "absent", "cgroup2", ""), ("/", tmp_path / "absent", "cgroup", "pids")], "0::/\n1:pids:/\n"
    )

    assert nowhere == Cgroups.found(proc.self) == Cgroups()
    assert Cgroups().make("b1", LIMITS) == Joined()
    assert Cgroups().sweep("b") == 0
    assert Cgroups((Parent("/no/such", ("pids",), False),)).make("b1", LIMITS) == Joined()
    assert Cgroups((Parent("/no/such", ("pids",), False),)).sweep("b") == 0


def test_group_whose_limit_cannot_be_set_is_not_used(real: Cgroups) -> None:
    memory = next(parent for parent in real.parents if "memory" in parent.controllers)
    wrong = Cgroups((Parent(memory.directory, ("pids",), False),))  # pids.max cannot be made in a memory group

    assert wrong.make("test-wrong", LIMITS) == Joined()
    assert real.sweep("test-wrong") == 0


def test_rlimits_bound_memory_only_where_no_group_does(tmp_path: Path) -> None:
    (tmp_path / "memory.max").touch()

    alone, beside = rlimits(LIMITS), rlimits(LIMITS, [f"{tmp_path}/cgroup.procs"])

    assert alone["data"] == 64 * MIB
    assert "data" not in beside
    assert alone["nproc"] == beside["nproc"] == 17
    assert alone["core"] == alone["memlock"] == 0


def test_our_own_group_is_above_that_of_a_box_or_beside_it(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    own, box = proc.group("v1"), proc.group("v1/interlock-b1")
    beside, box_2 = proc.group("svc/interlock-gateway"), proc.group("svc/interlock-b1")
    proc.group("svc", cgroup__subtree_control="")
    proc.tell([], "0::/svc/interlock-gateway\n")

    assert home_of([f"{box}/cgroup.procs"], proc.self) == (f"{own}/cgroup.procs",)
    assert home_of([f"{box_2}/cgroup.procs"], proc.self) == (f"{beside}/cgroup.procs",)
    proc.tell([], "0::/elsewhere/else\n")
    assert home_of([f"{box_2}/cgroup.procs", f"{box}/cgroup.procs"], proc.self) == ()
    assert home_of([]) == ()


def test_groups_of_version_1_are_joined_at_once(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "tasks").touch()

    assert joined_at_once([f"{old}/cgroup.procs"])
    assert joined_at_once([])
    assert not joined_at_once([f"{old}/cgroup.procs", f"{new}/cgroup.procs"])


@given(mounts=st.text(), own=st.from_regex(r"(\d+:[a-z,]*:/[^\n]*\n)*", fullmatch=True))
def test_whatever_proc_says_nothing_is_raised(mounts: str, own: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.getbasetemp()
    (directory / "mountinfo").write_text(mounts, encoding="utf-8", errors="surrogatepass")
    (directory / "cgroup").write_text(own, encoding="utf-8")

    assert Cgroups.found(directory) == Cgroups()


def joined_by(joined: Joined, program: str) -> subprocess.CompletedProcess[str]:
    start = f"for path in {joined.procs!r}: open(path, 'w').write('0')\n"
    command = [sys.executable, "-ISc", start + program]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_memory_beyond_the_group_is_killed_and_the_group_goes(real: Cgroups) -> None:
    joined = real.make("test-memory", Limits(memory_bytes=48 * MIB))
    try:
        within = joined_by(joined, "x = b'a' * (16 << 20); print('fine')")
        beyond = joined_by(joined, "x = b'a' * (96 << 20); print('fine')")
    finally:
        swept = real.sweep("test-memory")

    assert within.stdout == "fine\n"
    assert beyond.returncode == -9
    assert swept == len(real.parents)
    assert not any(os.path.exists(directory) for directory in joined.directories)


def test_processes_beyond_the_group_cannot_be_made(real: Cgroups) -> None:
    joined = real.make("test-pids", Limits(processes=5))
    program = """
import os, sys
made = 0
try:
    while made < 100:
        if os.fork() == 0:
            sys.stdin.read()
            os._exit(0)
        made += 1
except BlockingIOError:
    print(made)
os.kill(0, 9)
"""
    try:
        ran = joined_by(joined, "import os; os.setpgid(0, 0)\n" + program)
    finally:
        real.sweep("test-pids")

    assert ran.stdout in {"", "4\n"}
    assert ran.returncode == -9
