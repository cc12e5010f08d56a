"""What a hostile program can do to its supervisor and to us: what it writes, what it leaves, whose numbers it gets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from gateway.errors import UpstreamUnavailable
from sandboxes.host.last_words import LastWords
from sandboxes.host.plan import Jail, Leftovers
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.host.reaper import _remove
from sandboxes.host.strays import kill_strays
from tests.sandboxes.places import new_uid

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("text", [b"token" * 13_000, b"secret_" * 9_000, b"bearer" + b" " * 60_000, b"api-key " * 8000])
def test_no_last_words_take_long_to_be_told(text: bytes) -> None:
    words = LastWords(64 * 1024)
    words.add(text)

    began = time.process_time()
    words.tail()

    assert time.process_time() - began < 1.0


async def test_a_flood_on_standard_error_takes_little_of_our_time_and_its_end_is_kept() -> None:
    spec = ProcessSpec(("/bin/sh", "-c", "yes | head -c 400000000 >&2 & cat; kill $!; echo the end >&2"))

    with anyio.fail_after(20):
        async with await ChildProcess.start(spec) as child:
            began, until = time.process_time(), anyio.current_time() + 1.0
            while anyio.current_time() < until:
                await child.send(b"still served\n", deadline_s=2)
                assert await child.receive()
                await anyio.sleep(0.02)
            taken = time.process_time() - began
            child.end_input()
            assert await child.wait() == 0

    assert taken < 0.5


async def test_a_flood_ends_with_the_program_that_makes_it() -> None:
    async with await ChildProcess.start(ProcessSpec(("/bin/sh", "-c", "yes >&2"))) as child:
        with anyio.fail_after(10):
            status = await child.stop(stdin_wait_s=0, term_wait_s=2)

    assert status == 128 + 15


def test_directories_too_deep_for_paths_and_recursion_are_removed(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    here = os.open(box, os.O_RDONLY)
    for number in range(1500):
        os.mkdir("d" * 200, dir_fd=here)
        os.close(os.open(f"file{number}", os.O_CREAT, dir_fd=here))
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    _remove(str(box))

    assert not box.exists()


def test_links_are_removed_and_what_they_lead_to_is_not(tmp_path: Path) -> None:
    box, outside = tmp_path / "box", tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    (box / "sub").mkdir(parents=True)
    (box / "sub" / "link").symlink_to(outside)
    (box / "dangling").symlink_to("nowhere")
    (tmp_path / "way").symlink_to(outside)

    _remove(str(box))
    _remove(str(tmp_path / "way"))
    _remove(str(tmp_path / "never"))

    assert not box.exists()
    assert (outside / "kept").is_dir()


def test_what_cannot_be_removed_is_left_and_ends_the_attempt(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make something that cannot be removed")
    (tmp_path / "box" / "mounted").mkdir(parents=True)
    script = f"""
    mount -t tmpfs x {tmp_path}/box/mounted && cd {ROOT}
    {sys.executable} -c "from sandboxes.host.reaper import _remove; _remove('{tmp_path}/box')"
    """

    ended = subprocess.run(["unshare", "-m", "sh", "-c", script], timeout=20, check=False)

    assert ended.returncode == 0
    assert (tmp_path / "box" / "mounted").exists()


async def test_what_a_box_leaves_in_its_directory_goes_with_it_however_deep(tmp_path: Path) -> None:
    own = tmp_path / "box"
    (own / "run").mkdir(parents=True)
    script = f"cd {own}/run; for n in $(seq 80); do mkdir d; cd d; done; chmod 500 ."
    jail = Jail(uid=os.geteuid() if new_uid() is None else 0)
    spec = ProcessSpec(("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin"}, jail=jail,
                       leftovers=Leftovers(str(own / "lock"), (), str(own)))  # fmt: skip

    with anyio.fail_after(20):
        async with await ChildProcess.start(spec) as child:
            assert await child.wait() == 0

    assert not own.exists()


def test_a_session_whose_number_is_somebody_elses_by_now_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        killed = kill_strays(other.pid, "MARK=of nobody")

        assert killed == 0
        assert other.poll() is None
        other.kill()


def test_strays_are_found_by_their_mark() -> None:
    with subprocess.Popen(["sleep", "60"], env={"MARK": "unheard of"}) as stray:
        killed = kill_strays(-1, "MARK=unheard of")

        assert (killed, stray.wait()) == (1, -9)


@pytest.mark.parametrize("group", [54321])
async def test_a_jailed_process_is_in_the_groups_of_the_plan_alone(group: int) -> None:
    uid = new_uid()
    if uid is None:
        pytest.skip("only root chooses groups")
    spec = ProcessSpec(("/usr/bin/id", "-G"), {"PATH": "/usr/bin"}, jail=Jail(uid=uid, groups=(group,)))

    async with await ChildProcess.start(spec) as child:
        with anyio.fail_after(10):
            said = await child.receive()

    assert said.decode().split() == [str(uid), str(group)]


@pytest.mark.parametrize(
    ("path", "name", "status"),
    [("/no/such:/usr/bin", "id", 0), ("/usr/bin/id:/usr/bin", "id", 0), ("/usr/bin", "no-such", None)],
)
async def test_a_command_is_looked_for_on_its_own_path_behind_the_walls(
    path: str, name: str, status: int | None, tmp_path: Path
) -> None:
    spec = ProcessSpec((name, "-u"), {"PATH": path}, jail=Jail(uid=new_uid() or os.getuid()))

    with anyio.fail_after(10):
        if status is None:
            with pytest.raises(UpstreamUnavailable, match="no such file or directory"):
                await ChildProcess.start(spec)
            return
        async with await ChildProcess.start(spec) as child:
            assert await child.wait() == status


async def test_a_command_that_may_not_be_executed_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o644)

    with anyio.fail_after(10), pytest.raises(UpstreamUnavailable, match="permission denied"):
        await ChildProcess.start(ProcessSpec(("tool",), {"PATH": f"{tmp_path}:/usr/bin"}, jail=Jail(uid=os.getuid())))


def test_the_supervisor_finds_pythons_own_modules_before_anything_beside_ours(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken over')")
    program = f"import sys; sys.path.append({str(tmp_path)!r}); import json; print(json.__name__)"

    said = subprocess.run([sys.executable, "-ISEc", program], capture_output=True, text=True, check=False)

    assert said.stdout == "json\n"
