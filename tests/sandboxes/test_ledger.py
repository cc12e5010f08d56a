"""What is on disk about boxes says who is alive, lets them be ended, and is cleared away once they are dead."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.boxes import Level
from gateway.errors import SandboxFailure
from sandboxes.cgroups import Cgroups
from sandboxes.host.plan import Leftovers
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.ledger import Entry, Ledger, Phase
from sandboxes.spec import Limits

NONE = Cgroups()


def made(ledger: Ledger, box_id: str) -> Path:
    return ledger.make(
        box_id,
        driver="bubblewrap",
        version="0.8.0",
        level=Level.PROCESS,
        environment="sha256:x",
        purpose="upstream files",
    )


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command) as process:
        yield process
        process.kill()


def ended() -> int:
    """The pid of a process that is no more."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait(10)
    return gone.pid


@asynccontextmanager
async def reaped(directory: Path, *command: str, cgroups: tuple[str, ...] = ()) -> AsyncIterator[ChildProcess]:
    """A command under a reaper that holds the lock of that box, until it is ready."""
    words = command or ("sh", "-c", "echo ready; exec sleep 60")
    spec = ProcessSpec(words, leftovers=Leftovers(str(directory / "lock"), cgroups, str(directory)))
    with anyio.fail_after(30):
        async with await ChildProcess.start(spec) as process:
            await process.receive()
            try:
                yield process
            finally:
                process.kill()


def test_new_box_is_starting_and_says_what_it_is(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "boxes")

    directory = made(ledger, "abc")

    (entry,) = Ledger(tmp_path / "boxes").entries()
    assert entry == Entry(
        "abc", Phase.STARTING, "bubblewrap", "0.8.0", "process", "sha256:x", "upstream files", entry.started_s
    )
    assert entry.started_s > 0
    assert directory.stat().st_mode & 0o777 == 0o700
    assert directory.parent.stat().st_mode & 0o777 == 0o700


async def test_box_runs_while_its_reaper_does(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "boxes")

    async with reaped(made(ledger, "abc")):
        (entry,) = ledger.entries()

    assert entry.phase is Phase.RUNNING
    assert entry.pid > 1
    assert ledger.entries() == ()


async def test_box_is_ended_by_somebody_who_did_not_start_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "boxes")
    async with reaped(made(ledger, "abc")) as process:
        await Ledger(tmp_path / "boxes").kill("abc")

        assert await process.wait() == 128 + signal.SIGKILL
    assert ledger.entries() == ()
    assert not (tmp_path / "boxes/abc").exists()


async def test_what_cannot_be_killed_is_said_within_the_deadline(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "boxes")
    directory = made(ledger, "abc")
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        with anyio.fail_after(10), pytest.raises(SandboxFailure, match=r"has not within 0\.1 s"):
            await ledger.kill("abc", within_s=0.1)


async def test_pid_in_a_free_lock_is_never_signalled(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "boxes")
    with running("sleep", "60") as innocent:
        (made(ledger, "abc") / "lock").write_text(str(innocent.pid))

        with anyio.fail_after(10):
            await ledger.kill("abc")

        assert innocent.poll() is None


async def test_pid_of_nobody_is_not_signalled(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "boxes")
    lock = made(ledger, "abc") / "lock"
    lock.write_text(str(ended()))
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with anyio.fail_after(10), pytest.raises(SandboxFailure, match="has not within"):
            await ledger.kill("abc", within_s=0.1)


@pytest.mark.parametrize("text", ["-1", "1", "0", "x", ""])
async def test_senseless_pid_is_not_signalled(text: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "boxes")
    lock = made(ledger, "abc") / "lock"
    lock.write_text(text)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with anyio.fail_after(10), pytest.raises(SandboxFailure, match="has not within"):
            await ledger.kill("abc", within_s=0.05)
        (entry,) = ledger.entries()

    assert (entry.phase, entry.pid) == (Phase.RUNNING, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
async def test_box_of_another_user_is_not_ours_to_end(tmp_path: Path) -> None:
    script = """
import sys, anyio
import anyio._backends._asyncio
from pathlib import Path
from sandboxes.ledger import Ledger
from gateway.errors import SandboxFailure
import os
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
try:
    anyio.run(Ledger(Path(sys.argv[1])).kill, "abc")
except (SandboxFailure, PermissionError) as error:
    print(type(error).__name__, error)
"""
    ledger = Ledger(tmp_path / "boxes")
    directory = made(ledger, "abc")
    async with reaped(directory):
        for path in (directory, *directory.parents):
            if path.is_relative_to(tmp_path.parent.parent):
                path.chmod(0o755)
        (directory / "lock").chmod(0o644)

        done = await anyio.run_process([sys.executable, "-c", script, str(tmp_path / "boxes")])

        (entry,) = ledger.entries()
    assert b"is not yours to end" in done.stdout
    assert entry.phase is Phase.RUNNING


@pytest.mark.parametrize("box_id", ["none", "../etc", "", "A"])
async def test_unknown_box_is_said(box_id: str, tmp_path: Path) -> None:
    with anyio.fail_after(10), pytest.raises(SandboxFailure, match="interlock sandbox list"):
        await Ledger(tmp_path).kill(box_id)


@pytest.mark.parametrize("box_id", ["", "../x", "A", "a/b", "x" * 33, "-a"])
def test_id_that_is_no_name_makes_nothing(box_id: str, tmp_path: Path) -> None:
    with pytest.raises(SandboxFailure, match="is no id"):
        made(Ledger(tmp_path / "boxes"), box_id)

    assert not (tmp_path / "boxes").exists()


async def test_next_start_clears_away_the_dead_and_leaves_the_living(tmp_path: Path) -> None:
    killed, living = Ledger(tmp_path / "boxes"), Ledger(tmp_path / "boxes")
    made(killed, "dead")
    made(living, "starting")
    (tmp_path / "boxes/.nothing-of-ours").mkdir()
    async with reaped(made(killed, "running")):
        killed.close()

        swept = Ledger(tmp_path / "boxes").sweep(NONE)

        assert swept == ("dead",)
        assert {entry.id: entry.phase for entry in living.entries()} == {
            "starting": Phase.STARTING,
            "running": Phase.RUNNING,
        }
    living.close()
    living.close()
    assert Ledger(tmp_path / "boxes").sweep(NONE) == ("starting",)


def test_owner_killed_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from gateway.boxes import Level
from sandboxes.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.make("abc", driver="d", version="1", level=Level.VM, environment="", purpose="")
owner = next(path.name for path in ledger.root.iterdir() if path.name.startswith("owner-"))
(ledger.root / f".{owner}.half").mkdir()
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = tmp_path / "boxes"
    subprocess.run([sys.executable, "-c", script, str(root)], timeout=60, check=False)
    before = len(list(root.iterdir()))

    swept = Ledger(root).sweep(NONE)

    assert before == 3
    assert swept == ("abc",)
    assert not root.exists()


def test_sweep_kills_who_is_left_in_the_groups_of_a_dead_box(tmp_path: Path) -> None:
    cgroups = Cgroups.found()
    joined = cgroups.make("ledgertest", Limits())
    if not joined.procs:
        pytest.skip("control groups cannot be had: run as root, or with delegation")
    ledger = Ledger(tmp_path / "boxes")
    made(ledger, "ledgertest")
    ledger.close()
    with running("sleep", "60") as left:
        Path(joined.procs[0]).write_text(str(left.pid))

        ledger.sweep(cgroups)

        assert left.wait(10) == -signal.SIGKILL
    assert not any(Path(directory).exists() for directory in joined.directories)


def test_box_that_never_started_is_forgotten(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "boxes")
    made(ledger, "abc")

    ledger.forget("abc")
    ledger.forget("../..")

    assert ledger.entries() == ()


async def test_box_that_runs_is_not_forgotten(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "boxes")
    async with reaped(made(ledger, "abc")):
        ledger.forget("abc")

        assert len(ledger.entries()) == 1


def test_ledger_is_beside_the_state_where_sockets_fit(tmp_path: Path) -> None:
    short = tmp_path / "x"

    near = Ledger.of(Path("/var/lib/interlock"))
    far = Ledger.of(short / ("y" * 80), Path("/tmp"))
    other = Ledger.of(short / ("z" * 80), Path("/tmp"))

    assert near.root == Path("/var/lib/interlock/boxes")
    assert far.root.parent == Path("/tmp")
    assert far.root == Ledger.of(short / ("y" * 80), Path("/tmp")).root != other.root
    assert len(str(far.root)) < 60


def test_no_place_for_sockets_is_said() -> None:
    with pytest.raises(SandboxFailure, match=r"set state\.dir or TMPDIR"):
        Ledger.of(Path("/" + "y" * 80), Path("/" + "z" * 80))


def test_directory_that_others_may_enter_is_a_trap(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "trap").symlink_to(tmp_path)

    for root in (tmp_path, tmp_path / "trap"):
        with pytest.raises(SandboxFailure, match="only this user may enter"):
            made(Ledger(root), "abc")
        with pytest.raises(SandboxFailure, match="only this user may enter"):
            Ledger(root).sweep(NONE)


def test_ledger_that_was_never_used_is_empty(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "none")

    assert ledger.entries() == ()
    assert ledger.sweep(NONE) == ()


@given(st.one_of(st.binary(max_size=60), st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode)))
@settings(max_examples=50)
def test_senseless_facts_are_no_facts(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    root = tmp_path_factory.mktemp("ledger")
    (root / "abc").mkdir()
    (root / "abc/box.json").write_bytes(content)

    (entry,) = Ledger(root).entries()

    assert (entry.id, entry.phase) == ("abc", Phase.DEAD)


def test_facts_are_shown_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "abc").mkdir()
    facts = {"purpose": "a\x1b[2Jb", "driver": 3, "started_s": True, "owner": "../../etc"}
    (tmp_path / "abc/box.json").write_text(json.dumps(facts))

    (entry,) = Ledger(tmp_path).entries()

    assert (entry.purpose, entry.driver, entry.started_s) == ("a[2Jb", "", 0)


async def test_box_that_cannot_be_written_down_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "boxes")

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        ledger.make("b1", driver="d", version="1", level=Level.PROCESS, environment="", purpose="")
    left = [path.name for path in ledger.root.iterdir() if not path.name.startswith("owner-")]
    ledger.close()

    assert left == []
