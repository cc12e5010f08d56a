"""The driver `gvisor`: what a box is from inside and from the host."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from gateway.boxes import Level
from gateway.errors import SandboxFailure
from sandboxes import inside
from sandboxes.driver import Place
from sandboxes.gvisor import Gvisor, bundle, room, runsc
from sandboxes.host.plan import Jail, Mount
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.spec import MIB, Bind, Limits
from tests.sandboxes.gvisor_boxes import (
    BOMB,
    FORKS,
    GATEWAY,
    ROOT,
    SERVER,
    asked,
    gateway_of,
    greeter,
    host_user,
    is_sentry,
    processes_of,
    python,
    shell,
    stand_in,
    working_gvisor,
)
from tests.sandboxes.places import a_place, output_of
from tests.wire.processes import all_ended, watched


@pytest.fixture(scope="module")
async def driver() -> Gvisor:
    return await working_gvisor()


async def test_the_streams_and_the_status_of_the_program_are_those_of_the_box(driver: Gvisor, tmp_path: Path) -> None:
    spec = shell("cat; echo aside >&2; exit 7")

    async with a_place(tmp_path) as place, await driver.start(spec, place) as program:
        await program.send(b"hello\n", deadline_s=5)
        with anyio.fail_after(20):
            heard = await program.receive()
        status = await program.stop()

        assert (heard, program.stderr, status) == (b"hello\n", "aside\n", 7)
        assert (program.facts.driver, program.facts.level, program.facts.id) == ("gvisor", Level.GVISOR, place.id)
        assert program.facts.version


async def test_the_program_is_nobody_who_can_do_anything(driver: Gvisor, tmp_path: Path) -> None:
    script = (
        "id -u; grep -E '^(Cap|NoNewPrivs)' /proc/self/status; ls /sys/class/net; cat /proc/1/environ | tr '\\0' '\\n'"
    )
    spec = shell(script, env={"COLOUR": "blue"}, secrets={"TOKEN": "hush"})

    async with a_place(tmp_path) as place:
        status, output, stderr = await output_of(driver, spec, place)

    said = output.decode().splitlines()
    assert (status, said[0]) == (0, str(inside.UID)), stderr
    assert [line for line in said if line.startswith("Cap") and not line.endswith("\t" + "0" * 16)] == []
    assert "lo" in said or not [line for line in said if line.startswith("eth")]
    assert {line for line in said if "=" in line} == {
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "HOME=/workspace",
        "TMPDIR=/tmp",
        "LANG=C.UTF-8",
        "COLOUR=blue",
        "TOKEN=hush",
    }


async def test_nothing_of_the_base_can_be_written_and_nothing_of_the_scratch_executed(
    driver: Gvisor, tmp_path: Path
) -> None:
    script = """
    for place in / /usr /etc /run /dev /sys /run/interlock; do (: > $place/new) 2>/dev/null && echo wrote $place; done
    for place in /workspace /tmp /dev/shm; do
        cp /bin/true $place/copy && echo $place && $place/copy 2>/dev/null && echo ran $place
    done
    pwd
    """

    async with a_place(tmp_path) as place:
        _, output, _ = await output_of(driver, shell(script), place)

    assert output.decode().splitlines() == ["/workspace", "/tmp", "/dev/shm", "/workspace"]


async def test_the_sizes_of_the_scratch_and_the_limits_of_the_program_hold(driver: Gvisor, tmp_path: Path) -> None:
    limits = Limits(file_bytes=2 * MIB, tmp_bytes=3 * MIB, work_bytes=6 * MIB, open_files=32)
    script = """
    ulimit -n
    for place in /workspace /tmp; do
        for file in 1 2 3 4; do dd if=/dev/zero of=$place/$file bs=1M count=4 2>/dev/null; done
        cat $place/? | wc -c
    done
    """

    async with a_place(tmp_path, limits=limits) as place:
        _, output, _ = await output_of(driver, shell(script, limits=limits), place)

    assert output.decode().split() == ["32", str(6 * MIB), str(3 * MIB)]


@pytest.mark.parametrize("cgroups", [True, False])
async def test_a_fork_bomb_is_refused_more_processes_and_the_box_lives(
    driver: Gvisor, tmp_path: Path, cgroups: bool
) -> None:
    limits = Limits(processes=40)

    async with a_place(tmp_path, limits=limits, cgroups=cgroups) as place:
        _, output, stderr = await output_of(driver, python(FORKS, limits=limits), place)

    assert output == b"39 11\n", stderr


@pytest.mark.parametrize("cgroups", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_a_memory_bomb_ends_its_own_box(driver: Gvisor, tmp_path: Path, cgroups: bool) -> None:
    limits = Limits(memory_bytes=64 * MIB, tmp_bytes=MIB, work_bytes=MIB, processes=8)

    async with a_place(tmp_path, limits=limits, cgroups=cgroups) as place:
        status, output, _ = await output_of(driver, python(BOMB, limits=limits), place)
        most = int(output.split()[-1])

        assert status != 0
        assert most < (256 if place.cgroup_procs else 1024)
        assert not place.directory.exists()


async def test_a_command_that_is_not_in_the_box_is_named(driver: Gvisor, tmp_path: Path) -> None:
    spec = replace(shell(""), command=("no-such-program",))

    async with a_place(tmp_path) as place:
        status, output, stderr = await output_of(driver, spec, place)

    assert (status, output) == (128, b"")
    assert "no-such-program" in runsc.reason_in(stderr)


async def test_binds_come_from_where_the_user_of_the_box_cannot_go_and_stay_read_only(
    driver: Gvisor, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    (closed / "library").mkdir(parents=True)
    (closed / "library" / "data").write_text("read me")
    (closed / "single").write_text("and me")
    closed.chmod(0o700)
    binds = (Bind(closed / "library", "/opt/library"), Bind(closed / "single", "/usr/bin/true"))
    files = {"/workspace/given": b"given", "/etc/deep/er": b"deeper"}
    script = """
    cat /opt/library/data /usr/bin/true /workspace/given /etc/deep/er
    (: > /opt/library/x) || (: > /workspace/given)
    """

    async with a_place(tmp_path) as place:
        status, output, _ = await output_of(driver, shell(script, binds=binds, files=files), place)

    assert output == b"read meand megivendeeper"
    assert status != 0
    assert os.listdir(closed / "library") == ["data"]


async def test_what_is_written_to_a_writable_bind_is_on_the_host_and_cannot_be_executed(
    driver: Gvisor, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    spec = shell(
        "cp /bin/true /data/copy && echo written > /data/file; /data/copy; echo $?; grep CapEff /proc/self/status",
        binds=(Bind(shared, "/data", writable=True),),
    )

    async with a_place(tmp_path) as place:
        _, output, stderr = await output_of(driver, spec, place)

    assert output.split() == [b"126", b"CapEff:", b"0" * 16], stderr
    assert (shared / "file").read_text() == "written\n"
    assert (shared / "file").stat().st_uid == shared.stat().st_uid


async def test_a_base_of_its_own_is_all_that_is_in_the_box(driver: Gvisor, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs a static busybox: apt-get install busybox-static")
    base = tmp_path / "base"
    for name in ("bin", "etc", "usr", "tmp", "proc"):
        (base / name).mkdir(parents=True)
    shutil.copy(busybox, base / "bin" / "busybox")
    (base / "bin" / "sh").symlink_to("busybox")
    (base / "etc" / "motd").write_text("of the base\n")
    (base / "sbin").symlink_to("bin")
    spec = replace(shell("cd / && echo * && busybox cat /etc/motd && busybox ls /usr /sbin/"), base=base)

    async with a_place(tmp_path) as place:
        _, output, stderr = await output_of(driver, spec, place)

    assert output.decode().split() == [
        *["bin", "dev", "etc", "proc", "run", "sbin", "sys", "tmp", "usr", "workspace"],
        *["of", "the", "base"],
        *["/sbin/:", "busybox", "sh", "/usr:"],
    ], stderr


async def test_the_host_sees_a_user_of_its_own_without_network_and_nothing_when_it_is_over(
    driver: Gvisor, tmp_path: Path
) -> None:
    own_network = os.stat("/proc/self/ns/net").st_ino

    async with (
        a_place(tmp_path) as place,
        await driver.start(shell("(setsid sleep 600 &) ; echo; cat"), place) as program,
    ):
        with anyio.fail_after(20):
            await program.receive()
        alive = processes_of(host_user(place))
        networks = {os.stat(f"/proc/{pid}/ns/net").st_ino for pid in alive if is_sentry(pid)}
        with watched(alive) as ends:
            await program.stop()
            with anyio.fail_after(10):
                await all_ended(ends)

    assert networks
    assert own_network not in networks
    assert processes_of(host_user(place)) == []
    assert not place.directory.exists()


async def test_nobody_of_the_box_is_left_when_its_reaper_is_killed(driver: Gvisor, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place, await driver.start(shell("sleep 600 & echo; cat"), place) as program:
        with anyio.fail_after(20):
            await program.receive()
        reaper = int((place.directory / "lock").read_text())
        with watched(processes_of(host_user(place))) as ends:
            os.kill(reaper, signal.SIGKILL)
            with anyio.fail_after(10):
                await all_ended(ends)


@pytest.mark.parametrize("how", ["started", "thawed"])
async def test_nobody_of_the_box_is_left_when_gateway_and_reaper_are_killed(
    driver: Gvisor, tmp_path: Path, how: str
) -> None:
    async with a_place(tmp_path) as place:
        gateway = await ChildProcess.start(gateway_of(place.uid, tmp_path, how), deadline_s=20)
        async with gateway:
            with anyio.fail_after(30):
                heard = json.loads(await gateway.receive())
            pids = processes_of(heard["uid"]) if place.uid is not None else [heard["reaper"]]
            with watched(pids) as ends:
                os.kill(heard["gateway"], signal.SIGSTOP)  # it must not do the reaper's work
                os.kill(heard["reaper"], signal.SIGKILL)
                os.kill(heard["gateway"], signal.SIGKILL)
                with anyio.fail_after(20):
                    await all_ended(ends)

    assert len(pids) > 3 or place.uid is None


async def test_the_relay_passes_the_box_s_bytes_to_its_egress_socket(driver: Gvisor, tmp_path: Path) -> None:
    async with greeter(tmp_path / "1.sock", "hello") as egress, a_place(tmp_path, egress) as place:
        program = await driver.start(python(SERVER, egress=True), place)
        async with program:
            answer = await asked(program, 1, "fetch")

    assert answer["fetched"] == "hello"


async def test_a_box_that_may_not_go_out_has_no_relay_though_there_is_a_socket(driver: Gvisor, tmp_path: Path) -> None:
    async with greeter(tmp_path / "1.sock", "hello") as egress, a_place(tmp_path, egress) as place:
        program = await driver.start(python(SERVER), place)
        async with program:
            answer = await asked(program, 1, "fetch")

    assert "refused" in str(answer["fetched"])


async def test_a_gateway_that_is_not_root_has_the_same_boxes(driver: Gvisor, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests show it: they are not root")
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, 65533, 65533)
    libraries = [Path(path) for path in sys.path if path.endswith("-packages")]
    mounts = [
        Mount("python", "bind", sys.base_prefix, read_only=True),
        Mount("project", "bind", str(ROOT), read_only=True),
        Mount("shared", "bind", str(shared)),
        *(Mount(f"library{number}", "bind", str(path), read_only=True) for number, path in enumerate(libraries)),
    ]
    python_path = os.pathsep.join(mount.path for mount in mounts[1:] if mount.name != "shared")
    interpreter = f"{mounts[0].path}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    spec = ProcessSpec(
        (interpreter, "-c", GATEWAY, f"{mounts[2].path}", "", "thawed"),
        env={"PYTHONPATH": python_path, "LD_LIBRARY_PATH": f"{mounts[0].path}/lib", "PATH": "/usr/bin:/bin"},
        jail=Jail(65533, tuple(mounts)),
    )

    async with await ChildProcess.start(spec, deadline_s=20) as gateway:
        with anyio.fail_after(40):
            heard = await gateway.receive()
        status = await gateway.stop()

    assert heard, gateway.stderr
    assert (json.loads(heard)["user"], status) == (f"{inside.UID}\n", 0)
    assert os.listdir(shared) == ["frozen"]


async def test_a_place_that_nothing_can_be_mounted_at_is_refused(driver: Gvisor, tmp_path: Path) -> None:
    bad = ("relative", "/", "/workspace/../etc", "//double", "/usr/share/no/such/place")

    for place_in_box in bad:
        async with a_place(tmp_path) as place:
            with pytest.raises(SandboxFailure, match=r"can be (mounted|put) at|no absolute path"):
                await driver.start(shell("true", binds=(Bind(tmp_path, place_in_box),)), place)


async def test_a_bind_that_is_not_there_is_named(driver: Gvisor, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match="missing"):
            await driver.start(shell("true", binds=(Bind(tmp_path / "missing", "/opt/x"),)), place)


async def test_the_version_is_in_the_record_though_nobody_probed(driver: Gvisor, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place, await Gvisor().start(shell("true"), place) as program:
        assert program.facts.version == (await driver.probe()).version


async def test_a_program_that_tells_no_version_starts_no_box(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match="does not tell its version"):
            await Gvisor(stand_in(tmp_path, "exit 3")).start(shell("true"), place)


async def test_a_program_that_vanished_is_named(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match="/no/such/runsc is not there"):
            await Gvisor("/no/such/runsc").start(shell("true"), place)


async def test_a_box_that_cannot_be_built_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    program = stand_in(
        tmp_path,
        "case $* in *version) echo none; exit;; esac; echo creating container: no room >&2; exit 128",
    )

    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match="creating container: no room"):
            await Gvisor(program).start(shell("true"), place)

        assert not place.directory.exists()


async def test_a_box_that_is_not_built_in_time_is_given_up(tmp_path: Path) -> None:
    program = stand_in(tmp_path, "case $* in *version) echo none; exit;; esac; exec sleep 60")

    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match=r"no box for 'a test' in 0\.2 s"):
            await Gvisor(program, start_s=0.2).start(shell("true"), place)


async def test_a_runsc_that_cannot_be_executed_is_named(tmp_path: Path) -> None:
    program = stand_in(tmp_path, "true", "/no/such/interpreter")

    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match=r"runsc does not tell its version: .*No such file"):
            await Gvisor(program).start(shell("true"), place)


async def test_a_runsc_that_the_user_of_the_box_may_not_execute_is_named(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the user of the box is our own")
    program = stand_in(tmp_path, "echo none")
    os.chmod(program, 0o700)

    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match=r"gVisor cannot run: .*permission denied"):
            await Gvisor(program).start(shell("true"), place)


async def test_a_place_is_for_one_box(driver: Gvisor, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place, await driver.start(shell("cat"), place):
        with pytest.raises(SandboxFailure, match="cannot be written"):
            await driver.start(shell("cat"), place)


def test_the_configuration_gives_no_rights_and_no_user_namespace() -> None:
    config = json.loads(json.dumps(bundle.Bundle(shell("true"), None).config()))

    process = config["process"]
    assert process["noNewPrivileges"] is True
    assert set(map(tuple, process["capabilities"].values())) == {()}
    assert "user" not in [namespace["type"] for namespace in config["linux"]["namespaces"]]
    assert {
        mount["destination"]: "noexec" in mount["options"] for mount in config["mounts"] if mount["type"] == "tmpfs"
    } == {
        "/dev": True,
        "/workspace": True,
        "/tmp": True,
        "/dev/shm": True,
    }


def test_every_bind_is_without_devices_and_set_user_ids_and_read_only_unless_writable() -> None:
    binds = (Bind(Path("/opt")), Bind(Path("/srv"), "/data", writable=True))
    config = json.loads(json.dumps(bundle.Bundle(shell("true", binds=binds), None).config()))

    options = {mount["destination"]: set(mount["options"]) for mount in config["mounts"] if mount["type"] == "bind"}
    assert all({"rbind", "nosuid", "nodev"} <= found for found in options.values())
    assert [place for place, found in options.items() if "rw" in found] == ["/data"]
    assert "noexec" in options["/data"]
    assert config["process"]["user"] == {"uid": 0, "gid": 0}


def test_only_the_gateway_reads_the_configuration_where_the_box_has_no_user_of_its_own(tmp_path: Path) -> None:
    binds = (Bind(Path("/bin/sh"), "/bin/sh"), Bind(tmp_path, "/opt/deep/place"))

    bundle.Bundle(shell("true", binds=binds), None).write(tmp_path, None)

    assert (tmp_path / "bundle" / "config.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "bundle" / "rootfs" / "opt" / "deep" / "place").stat().st_mode & 0o777 == 0o755


def test_room_for_gvisor_is_made_where_there_are_cgroups(tmp_path: Path) -> None:
    for name in ("pids.max", "memory.max"):
        (tmp_path / name).write_text("1")
    place = Place("x", tmp_path, None, cgroup_directories=(str(tmp_path), str(tmp_path / "gone")))

    room.make_room(Limits(processes=10, memory_bytes=MIB), place)

    assert int((tmp_path / "pids.max").read_text()) > 10
    assert int((tmp_path / "memory.max").read_text()) > MIB
    assert not (tmp_path / "memory.limit_in_bytes").exists()


def test_room_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "pids.max").mkdir()

    room.make_room(Limits(), Place("x", tmp_path, None, cgroup_directories=(str(tmp_path),)))

    assert (tmp_path / "pids.max").is_dir()
