"""The jail between fork and exec, the reaper's care for what is left, and what they say when they cannot."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gateway.errors import SandboxFailure, UpstreamUnavailable
from sandboxes.cgroups import Cgroups, home_of
from sandboxes.host.jail import enter
from sandboxes.host.plan import Jail, Leftovers, Mount, Plan
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.spec import Limits
from tests.sandboxes.places import ROOT, a_place, all_of, as_nobody, as_root_only, new_uid
from tests.wire.processes import all_ended, watched

STAY = 'echo $$; trap "" TERM; while :; do sleep 60; done'


def sh(script: str, jail: Jail, **options: Any) -> ProcessSpec:
    return ProcessSpec(("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin"}, jail=jail, **options)


def still_there(*paths: str | Path) -> list[str]:
    return [str(path) for path in paths if os.path.lexists(path)]


async def said_by(spec: ProcessSpec) -> str:
    with anyio.fail_after(20):
        async with await ChildProcess.start(spec) as child:
            return (await all_of(child)).decode() + child.stderr


def test_plan_is_json_with_all_that_the_reaper_reads() -> None:
    jail = Jail(uid=7, mounts=(Mount("m", "tmpfs", options="size=1m"),), files={10: "/x"}, rlimits={"core": 0})

    plan = json.loads(json.dumps(Plan(("a", "b"), {"K": "v"}, "/c", jail, Leftovers("l", ("g",), "d")).as_json()))

    assert plan["command"] == ["a", "b"]
    assert plan["jail"]["mounts"][0]["options"] == "size=1m"
    assert plan["jail"]["files"] == {"10": "/x"}
    assert plan["leftovers"] == {"lock": "l", "cgroups": ["g"], "directory": "d"}
    assert Mount("m", "tmpfs").path == "/tmp/m"
    assert "s3cret" not in repr(Plan(("a",), {"K": "s3cret"}))


async def test_jailed_process_is_another_user_without_groups_or_capabilities() -> None:
    uid = as_root_only()

    said = await said_by(sh("grep -E '^(Uid|Gid|Groups|Cap(Eff|Prm|Amb)|NoNew)' /proc/self/status", Jail(uid=uid)))

    lines = {line.split(":")[0]: line.split()[1:] for line in said.splitlines()}
    assert lines["Uid"] == lines["Gid"] == [str(uid)] * 4
    assert lines["Groups"] == []
    assert lines["CapEff"] == lines["CapPrm"] == lines["CapAmb"] == ["0000000000000000"]
    assert lines["NoNewPrivs"] == ["1"]


async def test_jailed_process_gets_exactly_its_environment_and_it_is_in_no_argument() -> None:
    spec = ProcessSpec(("/bin/sh", "-c", "tr '\\0' '\\n' < /proc/$$/environ; tr '\\0' ' ' < /proc/$$/cmdline"))

    said = await said_by(replace(spec, env={"TOKEN": "s3cret"}, jail=Jail(uid=new_uid())))

    variables, _, arguments = said.rpartition("\n")
    assert {line.split("=")[0] for line in variables.splitlines()} == {"TOKEN", "INTERLOCK_PROCESS"}
    assert "TOKEN=s3cret" in variables
    assert "s3cret" not in arguments


async def test_sources_that_only_the_gateway_may_enter_are_in_the_stage(tmp_path: Path) -> None:
    uid = as_root_only()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "tree").mkdir(mode=0o755)
    (closed / "tree" / "file").write_text("of the tree\n")
    (closed / "single").write_text("single\n")
    mounts = (
        Mount("tree", "bind", str(closed / "tree"), read_only=True),
        Mount("single", "bind", str(closed / "single")),
        Mount("memory", "tmpfs", options=f"size=64k,mode=700,uid={uid}"),
    )
    script = f"""
    cat /tmp/tree/file /tmp/single; ls {closed} 2>&1 || echo closed
    echo x > /tmp/tree/file || echo read-only
    cp /bin/true /tmp/memory/true && /tmp/memory/true || echo no-exec
    head -c 200000 /dev/zero > /tmp/memory/big || echo full
    """

    said = await said_by(sh(script, Jail(uid=uid, mounts=mounts)))

    assert "of the tree\nsingle\n" in said
    for wall in ("closed", "read-only", "no-exec", "full"):
        assert wall in said.splitlines()


async def test_mounts_of_a_jail_are_not_seen_by_the_host(tmp_path: Path) -> None:
    uid = as_root_only()

    before = await anyio.Path("/proc/self/mountinfo").read_text()
    with anyio.fail_after(10):
        async with await ChildProcess.start(sh("echo up; cat", Jail(uid=uid, mounts=(Mount("m", "tmpfs"),)))) as child:
            await child.receive()
            during = await anyio.Path("/proc/self/mountinfo").read_text()

    assert before == during


def test_what_is_mounted_below_a_source_is_narrowed_with_it(tmp_path: Path) -> None:
    uid = as_root_only()
    (tmp_path / "tree" / "below").mkdir(parents=True)
    script = f"""
    mount -t tmpfs -o mode=777 inner {tmp_path}/tree/below && cp /bin/true {tmp_path}/tree/below/true
    exec {sys.executable} -ISc "$1" "$2"
    """
    inner = f"""
import sys, json; sys.path.insert(0, {str(ROOT)!r})
import os
from sandboxes.host.jail import enter
enter(json.loads(sys.argv[1]))
os.execv("/bin/sh", ["sh", "-c", "echo x > /tmp/t/below/f || echo ro; /tmp/t/below/true || echo noexec"])
"""
    mounts = (Mount("t", "bind", str(tmp_path / "tree"), read_only=True, no_exec=True),)
    jail = json.dumps(Plan((), jail=Jail(uid=uid, mounts=mounts)).as_json()["jail"])

    command = ["unshare", "-m", "sh", "-c", script, "sh", inner, jail]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    assert ran.stdout.split() == ["ro", "noexec"], ran.stderr


async def test_owned_bind_can_be_written_by_the_box_and_stays_its_owners(tmp_path: Path) -> None:
    uid = as_root_only()
    (tmp_path / "data").mkdir(mode=0o700)
    mount = Mount("data", "bind", str(tmp_path / "data"), no_exec=True, owned=True)

    said = await said_by(sh("echo hello > /tmp/data/f && stat -c %u /tmp/data/f", Jail(uid=uid, mounts=(mount,))))

    assert said == f"{uid}\n"
    assert (tmp_path / "data" / "f").stat().st_uid == os.getuid()


async def test_rlimits_hold_and_are_never_above_ours() -> None:
    jail = Jail(uid=new_uid(), rlimits={"nofile": 50, "core": 0, "fsize": 4096, "stack": 1 << 60})

    said = await said_by(sh("ulimit -n; ulimit -c; ulimit -f; head -c 9000 /dev/zero > /dev/shm/x; echo $?", jail))

    lines = said.split()
    assert lines[:3] == ["50", "0", "8"]


async def test_files_of_the_plan_are_open_at_their_number_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "filter").write_text("content\n")
    jail = Jail(uid=new_uid(), files={10: str(tmp_path / "filter")})

    said = await said_by(sh("cat /proc/self/fd/10; ls /proc/$$/fd | tr '\\n' ' '", jail))

    assert said.splitlines()[0] == "content"
    assert [number for number in said.splitlines()[1].split() if int(number) > 2] == ["10"]


@pytest.mark.parametrize(
    ("jail", "why"),
    [
        (Jail(mounts=(Mount("m", "bind", "/no/such/source"),)), "'/no/such/source': no such file or directory"),
        (Jail(mounts=(Mount("m", "tmpfs", options="size=wrong"),)), "mounting /tmp/m: invalid argument"),
        (Jail(mounts=(Mount("no/place", "tmpfs"),)), "'/tmp/no/place': no such file"),
        (Jail(files={10: "/no/such/file"}), "'/no/such/file': no such file"),
        (Jail(files={3: "/etc/passwd"}), "descriptor 3 is not one that a plan may choose"),
        (Jail(cgroups=("/no/such/cgroup.procs",)), "'/no/such/cgroup.procs': no such file"),
        (Jail(rlimits={"nonsense": 1}), "AttributeError"),
    ],
)
async def test_jail_that_cannot_be_built_is_refused_by_name_and_nothing_runs(
    jail: Jail, why: str, tmp_path: Path
) -> None:
    (tmp_path / "box").mkdir()
    leftovers = Leftovers(str(tmp_path / "box" / "lock"), (), str(tmp_path / "box"))
    spec = sh(f"touch {tmp_path}/ran", replace(jail, uid=new_uid()), label="files", leftovers=leftovers)

    with anyio.fail_after(10), pytest.raises(SandboxFailure, match=why):
        await ChildProcess.start(spec)

    assert not still_there(tmp_path / "ran", tmp_path / "box")


async def test_command_that_is_missing_in_a_jail_is_unavailable_rather_than_a_sandbox_failure() -> None:
    spec = ProcessSpec(("/no/such/launcher",), jail=Jail(uid=new_uid()))

    with anyio.fail_after(10), pytest.raises(UpstreamUnavailable, match="no such file"):
        await ChildProcess.start(spec)


async def test_directory_that_the_command_is_to_run_in_is_named_when_it_is_missing() -> None:
    with anyio.fail_after(10), pytest.raises(SandboxFailure, match="its directory '/no/such/place'"):
        await ChildProcess.start(sh("true", Jail(uid=new_uid()), cwd="/no/such/place"))


async def test_what_is_done_meanwhile_is_done_before_the_command_and_its_failure_is_passed_on(tmp_path: Path) -> None:
    made = anyio.Path(tmp_path / "made")
    spec = sh(f"cat {made}", Jail(uid=os.getuid()))

    with anyio.fail_after(20):
        async with await ChildProcess.start(spec, meanwhile=lambda: made.write_text("in time")) as child:
            said = await all_of(child)
        with pytest.raises(FileNotFoundError):
            await ChildProcess.start(spec, meanwhile=(anyio.Path(tmp_path) / "absent").read_bytes)

    assert said == b"in time"


async def test_lock_is_held_with_the_reapers_pid_while_the_box_lives_and_everything_goes_with_it(
    tmp_path: Path,
) -> None:
    async with a_place(tmp_path) as place:
        (place.directory / "view" / "deep").mkdir(parents=True)
        (place.directory / "view" / "deep" / "file").write_text("x")
        (place.directory / "link").symlink_to(tmp_path)
        spec = sh(STAY, Jail(uid=place.uid, cgroups=place.cgroup_procs), leftovers=place.leftovers)
        with anyio.fail_after(20):
            async with await ChildProcess.start(spec) as child:
                pid = int(await child.receive())
                lock = os.open(place.directory / "lock", os.O_RDWR)
                with pytest.raises(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                holder = int(os.pread(lock, 20, 0))
                os.close(lock)
                with watched([pid, holder]) as ending:
                    os.kill(holder, signal.SIGUSR1)  # as one that has no lifeline
                    await all_ended(ending)
                await child.wait()

        assert still_there(place.directory, *place.cgroup_directories, tmp_path) == [str(tmp_path)]


async def groups_of(pid: int) -> str:
    return await anyio.Path(f"/proc/{pid}/cgroup").read_text()


async def test_reaper_that_was_put_into_the_groups_leaves_its_child_there(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        home = home_of(place.cgroup_procs)
        if not home:
            pytest.skip("no control group can be made here")
        jail = Jail(uid=place.uid, cgroups=place.cgroup_procs, home=home)
        with anyio.fail_after(20):
            async with await ChildProcess.start(sh(STAY, jail, leftovers=place.leftovers)) as child:
                pid = int(await child.receive())
                reaper = int(await anyio.Path(place.directory / "lock").read_text())
                while place.id in await groups_of(reaper):
                    await anyio.lowlevel.checkpoint()
                inside = await groups_of(pid)
                child.kill()
                await child.wait()

    assert inside.count(f"interlock-{place.id}") == len(home)
    assert not still_there(place.directory, *place.cgroup_directories)


async def test_child_joins_by_itself_and_its_reaper_does_not(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        if not place.cgroup_procs:
            pytest.skip("no control group can be made here")
        jail = Jail(uid=place.uid, cgroups=place.cgroup_procs)
        with anyio.fail_after(20):
            async with await ChildProcess.start(sh(STAY, jail, leftovers=place.leftovers)) as child:
                pid = int(await child.receive())
                reaper = int(await anyio.Path(place.directory / "lock").read_text())
                inside, beside = await groups_of(pid), await groups_of(reaper)
                child.kill()
                await child.wait()

    assert inside.count(f"interlock-{place.id}") == len(place.cgroup_procs)
    assert place.id not in beside
    assert not still_there(place.directory, *place.cgroup_directories)


async def test_child_joins_as_a_process_where_threads_cannot(tmp_path: Path) -> None:
    group = tmp_path / "group"
    group.mkdir()
    (group / "cgroup.procs").touch()

    with anyio.fail_after(10):
        async with await ChildProcess.start(
            sh("echo up", Jail(uid=new_uid(), cgroups=(f"{group}/cgroup.procs",)))
        ) as child:
            await child.receive()

    assert (group / "cgroup.procs").read_text() == "0"


async def test_group_that_the_reaper_cannot_be_put_into_is_refused_by_name(tmp_path: Path) -> None:
    jail = Jail(uid=new_uid(), cgroups=("/no/such/cgroup.procs",), home=("/no/such/cgroup.procs",))

    with anyio.fail_after(10), pytest.raises(SandboxFailure, match=r"'/no/such/cgroup\.procs': no such file"):
        await ChildProcess.start(sh(f"touch {tmp_path}/ran", jail))

    assert not still_there(tmp_path / "ran")


GATEWAY = """
import anyio, json, sys
from sandboxes.host.plan import Jail, Leftovers
from sandboxes.host.process import ChildProcess, ProcessSpec

async def main():
    told = json.loads(sys.argv[1])
    jail = Jail(uid=told["uid"], cgroups=tuple(told["procs"]))
    leftovers = Leftovers(told["directory"] + "/lock", tuple(told["directories"]), told["directory"])
    spec = ProcessSpec(("/bin/sh", "-c", told["script"]), {"PATH": "/usr/bin:/bin"}, jail=jail, leftovers=leftovers)
    async with await ChildProcess.start(spec) as child:
        print((await child.receive()).decode(), flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.parametrize("victim", ["gateway", "reaper"])
async def test_box_goes_with_its_gateway_and_with_its_reaper(victim: str, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        told = {
            "uid": place.uid,
            "procs": place.cgroup_procs,
            "directories": place.cgroup_directories,
            "directory": str(place.directory),
            "script": 'trap "" TERM; setsid sh -c "sleep 600; sleep 600" & echo $! $$; sleep 600; sleep 600',
        }
        command = [sys.executable, "-c", GATEWAY, json.dumps(told)]
        with anyio.fail_after(30):
            async with await anyio.open_process(command, cwd=ROOT, stderr=None) as gateway:
                assert gateway.stdout is not None
                pids = [int(word) for word in (await gateway.stdout.receive()).split()]
                reaper = int((place.directory / "lock").read_text())
                with watched([*pids, reaper]) as ending:
                    os.kill(gateway.pid if victim == "gateway" else reaper, signal.SIGKILL)
                    await all_ended(ending)
                if victim == "reaper":
                    gateway.kill()

        if victim == "gateway":
            assert not still_there(place.directory, *place.cgroup_directories)


async def test_stray_that_a_killed_reaper_left_in_a_group_is_swept(tmp_path: Path) -> None:
    groups = Cgroups.found()
    if not groups.parents:
        pytest.skip("no control group can be made here")
    joined = groups.make("test-stray", Limits())
    program = (
        f"open({joined.procs[0]!r}, 'w').write('0')\nimport os, signal\nprint(os.getpid(), flush=True)\nsignal.pause()"
    )

    with anyio.fail_after(10):
        async with await anyio.open_process([sys.executable, "-ISc", program]) as stray:
            assert stray.stdout is not None
            await stray.stdout.receive()
            swept = groups.sweep("test-stray")
            status = await stray.wait()

    assert status == -signal.SIGKILL
    assert swept == len(groups.parents)
    assert groups.sweep("test-stray") == 0


UNPRIVILEGED = """
import anyio, os, sys
from sandboxes.host.plan import Jail, Mount, Leftovers
from sandboxes.host.process import ChildProcess, ProcessSpec
from tests.sandboxes.places import all_of

own = os.environ["OWN"]
os.mkdir(own + "/box"); open(own + "/file", "w").write("mine\\n")
mounts = (Mount("own", "bind", own, read_only=True), Mount("memory", "tmpfs", options="size=64k,mode=700"))
script = '''
id -u; cat /tmp/own/file; echo x > /tmp/own/file || echo read-only
cp /bin/true /tmp/memory/true && /tmp/memory/true || echo no-exec
mount -o remount,bind,exec /tmp/memory || echo locked
'''

async def main():
    leftovers = Leftovers(own + "/box/lock", (), own + "/box")
    jail = Jail(uid=None, mounts=mounts, rlimits={"nproc": 20})
    spec = ProcessSpec(("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin"}, jail=jail, leftovers=leftovers)
    async with await ChildProcess.start(spec) as child:
        sys.stdout.buffer.write(await all_of(child))
    print(os.path.exists(own + "/box"))

anyio.run(main)
"""


async def test_gateway_that_is_not_root_builds_the_same_jail_in_a_user_namespace(tmp_path: Path) -> None:
    status, output, complaints = await as_nobody(UNPRIVILEGED, tmp_path)

    assert status == 0, complaints
    assert output.decode().split() == ["65534", "mine", "read-only", "no-exec", "locked", "False"]


def entered(jail: Jail) -> str:
    """What `enter` raises in a forked child of this very process, so that coverage sees it too."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            enter(json.loads(json.dumps(Plan((), jail=jail).as_json()["jail"])))
        except OSError as exc:
            os.write(tell, str(exc.strerror).encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.waitpid(pid, 0)
    with open(told, "rb") as answer:
        return answer.read().decode()


def test_jail_can_be_entered_by_any_process_and_says_what_it_cannot(tmp_path: Path) -> None:
    mounts = (Mount("d", "bind", str(tmp_path)), Mount("m", "tmpfs"))

    assert entered(Jail(uid=new_uid(), mounts=mounts, rlimits={"core": 0})) == ""
