"""Boxes by bubblewrap: what is in them, what holds, what their relay does, and what they say when they cannot start."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import anyio
import pytest

from gateway.boxes import Level
from gateway.errors import SandboxFailure
from sandboxes.bubblewrap import Bubblewrap
from sandboxes.driver import Place
from sandboxes.inside import entry
from sandboxes.spec import MIB, Bind, BoxSpec, Limits
from tests.sandboxes.bubblewrap_boxes import py, said_by, sh, working_bubblewrap
from tests.sandboxes.places import a_place, all_of, as_nobody, output_of
from tests.wire.processes import all_ended, watched


@pytest.fixture
async def bubblewrap() -> Bubblewrap:
    return await working_bubblewrap()


async def test_machine_whose_calls_are_not_known_gets_no_box(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    driver = Bubblewrap(machine="riscv64")

    probe = await driver.probe()
    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match="no system call filter is known for 'riscv64'"):
            await driver.start(sh("true"), place)

    assert "riscv64" in probe.reason


async def test_facts_of_a_box_are_in_the_program(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place, await bubblewrap.start(sh("exit 3"), place) as program:
        with anyio.fail_after(20):
            status = await program.wait()

    assert status == 3
    assert (program.facts.id, program.facts.driver, program.facts.level) == (place.id, "bubblewrap", Level.PROCESS)
    assert program.facts.version[0].isdigit()


async def test_box_sees_a_small_system_of_its_own(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    script = "id -un; pwd; hostname; ls / | tr '\\n' ' '; echo; ls /dev | tr '\\n' ' '; echo; ls /etc | tr '\\n' ' '"

    lines = (await said_by(bubblewrap, sh(script), tmp_path)).splitlines()

    assert lines[:3] == ["box", "/workspace", "box"]
    assert not {"home", "root", "var", "sys", "srv", "opt", "boot"} & set(lines[3].split())
    assert not {
        name for name in lines[4].split() if name.startswith(("sd", "vd", "nvme", "kvm", "fuse", "mem", "kmsg"))
    }
    assert "shadow" not in lines[5]
    assert "passwd" in lines[5]


async def test_environment_is_exact_and_secrets_are_in_no_argument(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    spec = sh("env; cat; echo", env={"A": "1", "PATH": "/usr/bin"}, secrets={"TOKEN": "s3cret-value"})

    async with a_place(tmp_path) as place, await bubblewrap.start(spec, place) as program:
        with anyio.fail_after(20):
            said = b""
            while b"TOKEN" not in said or b"LANG" not in said:
                said += await program.receive()
            seen = arguments_in(place)

    variables = dict(line.split("=", 1) for line in said.decode().split())
    assert variables == {
        "A": "1", "PATH": "/usr/bin", "HOME": "/workspace", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "PWD": "/workspace",
        "TOKEN": "s3cret-value", "INTERLOCK_PROCESS": variables["INTERLOCK_PROCESS"],
    }  # fmt: skip
    assert not any("s3cret" in line for line in seen)
    assert any("env; cat" in line for line in seen) or not place.cgroup_procs


def pids_of(place: Place) -> list[int]:
    """The processes of the place's box, by their user: the gateway's own where it cannot choose one."""
    user = os.getuid() if place.uid is None else place.uid
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if os.stat(f"/proc/{pid}").st_uid == user and f"interlock-{place.id}" in read(f"/proc/{pid}/cgroup"):
                found.append(pid)
        except OSError:  # gone meanwhile
            continue
    return found


def read(path: str) -> str:
    return Path(path).read_text()


def arguments_in(place: Place) -> list[str]:
    return [read(f"/proc/{pid}/cmdline") for pid in pids_of(place) if os.path.exists(f"/proc/{pid}")]


async def test_loader_variables_reach_the_program_but_not_bubblewrap(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    spec = sh("echo $LD_LIBRARY_PATH", env={"LD_LIBRARY_PATH": "/no/such", "LD_PRELOAD": ""})

    async with a_place(tmp_path) as place, await bubblewrap.start(spec, place) as program:
        with anyio.fail_after(20):
            said = await all_of(program)
            await program.wait()
        told = program.spec.env if hasattr(program, "spec") else {}

    assert said == b"/no/such\n"
    assert "PATH" in told
    assert "LD_LIBRARY_PATH" not in told


async def test_loader_variable_cannot_be_a_secret(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match="LD_PRELOAD cannot be a secret"):
            await bubblewrap.start(sh("true", secrets={"LD_PRELOAD": "x"}), place)


WALLS = r"""
may() { if eval "$2" 2>/dev/null; then echo "BROKEN $1"; else echo "held $1"; fi; }
may core_pattern '( : >> /proc/sys/kernel/core_pattern )'
may usr '( : > /usr/x )'
may root '( : > /x )'
may etc '( : > /etc/x )'
may run '( : > /run/x )'
may dev '( : > /dev/x )'
may guest '( : >> /run/interlock/enter.pl )'
may exec-work 'cp /bin/true /workspace/t && /workspace/t'
may exec-tmp 'cp /bin/true /tmp/t && /tmp/t'
may exec-shm 'cp /bin/true /dev/shm/t && /dev/shm/t'
may loader-work '/lib64/ld-linux-x86-64.so.2 /workspace/t'
may mount 'mount -t tmpfs t /tmp'
may unshare 'unshare -U true'
may fill-tmp 'head -c 9000000 /dev/zero > /tmp/big'
may fill-shm 'head -c 9000000 /dev/zero > /dev/shm/big'
rm -f /workspace/* /tmp/* /dev/shm/*
may fill-work 'head -c 5000000 /dev/zero > /workspace/a && head -c 5000000 /dev/zero > /workspace/b'
rm -f /workspace/*
may file-size 'head -c 7000000 /dev/zero > /workspace/a'
may suid 'find /usr/bin -perm -4000 -exec su -c true \;  | grep .'
echo fine > /workspace/f && echo fine > /tmp/f && cat /workspace/f /tmp/f
"""


async def test_walls_hold_from_inside(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    limits = Limits(tmp_bytes=8 * MIB, work_bytes=8 * MIB, file_bytes=6 * MIB)

    said = await said_by(bubblewrap, sh(WALLS, limits=limits), tmp_path)

    assert "BROKEN" not in said
    assert said.count("held ") == 18
    assert said.splitlines()[-2:] == ["fine", "fine"]


async def test_landlock_is_the_second_wall(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    if "landlock" not in (await bubblewrap.probe()).features:
        pytest.skip("this kernel has no Landlock, or there is no Perl")
    program = """
import os, signal
def held(what, do):
    try: do()
    except PermissionError: print('held', what)
    else: print('BROKEN', what)
held('signal to init', lambda: os.kill(1, 0))
held('environment of init', lambda: open('/proc/1/environ').read())
held('what is in no rule', lambda: open('/proc/1/root/run').read())
print(sorted(os.listdir('/'))[:2])
"""

    said = await said_by(bubblewrap, py(program), tmp_path)

    assert said.splitlines()[:2] == ["held signal to init", "held environment of init"]
    assert "BROKEN" not in said
    assert said.splitlines()[-1] == "['bin', 'dev']"


async def test_binds_are_where_they_are_to_be_and_only_writable_ones_are_written(
    bubblewrap: Bubblewrap, tmp_path: Path
) -> None:
    (tmp_path / "ro").mkdir()
    (tmp_path / "ro" / "tool").write_text("#!/bin/sh\necho tool\n")
    (tmp_path / "ro" / "tool").chmod(0o755)
    (tmp_path / "rw").mkdir(mode=0o700)
    binds = (
        Bind(tmp_path / "rw", "/data", writable=True),
        Bind(tmp_path / "ro", "/srv/tools"),
        Bind(tmp_path / "ro" / "tool", "/workspace/tool"),
    )
    script = """
    /srv/tools/tool; /workspace/tool; touch /srv/tools/x 2>/dev/null || echo read-only
    echo new > /data/file; cp /bin/true /data/true; /data/true 2>/dev/null || echo no-exec; cat /data/file
    """

    said = await said_by(bubblewrap, sh(script, binds=binds), tmp_path / "places")

    assert said.split() == ["tool", "tool", "read-only", "no-exec", "new"]
    assert (tmp_path / "rw" / "file").read_text() == "new\n"
    assert (tmp_path / "rw" / "file").stat().st_uid == os.getuid()


async def test_files_are_at_their_places_and_read_only(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    files = {"/app/run.sh": b"#!/bin/sh\necho ran\n", "/etc/app.conf": b"conf\n", "/workspace/in/put": b"put\n"}
    script = "/app/run.sh; cat /etc/app.conf /workspace/in/put; echo x 2>/dev/null > /app/run.sh || echo read-only"

    said = await said_by(bubblewrap, sh(script, files=files), tmp_path)

    assert said.split() == ["ran", "conf", "put", "read-only"]


async def test_base_of_its_own_is_used_instead_of_the_hosts(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox here: apt-get install busybox-static")
    base = tmp_path / "base"
    (base / "usr" / "bin").mkdir(parents=True)
    (base / "etc").mkdir()
    (base / "etc" / "issue").write_text("of the base\n")
    (base / "bin").symlink_to("usr/bin")
    (base / "tmp").mkdir()
    shutil.copy(busybox, base / "usr" / "bin" / "sh")
    script = """
    cat /etc/issue; echo x > /workspace/f; cat /workspace/f
    [ -e /usr/lib ] || echo small; ( : > /usr/x ) || echo ro
    """

    said = await said_by(bubblewrap, sh(script, base=base, files={"/f": b""}), tmp_path / "places")

    assert said.splitlines()[:3] == ["of the base", "x", "small"]
    assert "ro" in said.splitlines()


def test_what_stands_before_the_command_is_as_little_as_is_needed(tmp_path: Path) -> None:
    bare, base = BoxSpec("x", ("true",)), BoxSpec("x", ("true",), base=tmp_path)

    assert entry(base, landlock=True, egress=False) == ()
    assert entry(bare, landlock=False, egress=False) == ()
    assert entry(bare, landlock=False, egress=True)[2:] == ("relay", "3128", "/run/egress.sock", "--")
    assert entry(bare, landlock=True, egress=False)[2:5] == ("landlock", "list", "/")


async def test_base_without_perl_cannot_have_a_relay(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    async with a_place(tmp_path, tmp_path / "socket") as place:
        with pytest.raises(SandboxFailure, match="has no /usr/bin/perl, which the relay"):
            await bubblewrap.start(sh("true", base=tmp_path / "base"), place)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (BoxSpec("x", ()), "has no command"),
        (sh("", binds=(Bind(Path("/etc"), "/proc/x"),)), "nothing can be put at '/proc/x'"),
        (sh("", binds=(Bind(Path("/etc"), "/"),)), "nothing can be put at '/'"),
        (sh("", files={"/run/interlock/enter.pl": b""}), "nothing can be put at '/run/interlock"),
        (sh("", files={"/a/../proc/x": b""}), "is no absolute path without detours"),
        (sh("", files={"a": b""}), "is no absolute path"),
        (sh("", cwd="//x"), "is no absolute path"),
        (sh("", binds=(Bind(Path("/no/such/source"), "/x"),)), "'/no/such/source': no such file"),
        (sh("", base=Path("/no/such/base")), "the base '/no/such/base' cannot be read"),
        (sh("", files={"/a": b"", "/a/b": b""}), "cannot be laid out"),
    ],
)
async def test_box_that_cannot_be_is_refused_by_name(
    spec: BoxSpec, why: str, bubblewrap: Bubblewrap, tmp_path: Path
) -> None:
    async with a_place(tmp_path) as place:
        with anyio.fail_after(20), pytest.raises(SandboxFailure, match=why):
            await bubblewrap.start(spec, place)


async def test_command_that_is_not_in_the_box_is_said_by_the_box(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place, await bubblewrap.start(BoxSpec("files", ("no-such",)), place) as program:
        with anyio.fail_after(20):
            status = await program.wait()

    assert status == 127
    assert "cannot run 'no-such': No such file or directory" in program.obituary()


async def test_bwrap_without_the_newest_option_is_still_used(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    await bubblewrap.probe()
    bubblewrap._version = "0.6.1"

    said = await said_by(bubblewrap, sh("unshare -U true 2>/dev/null || echo held"), tmp_path)

    assert said == "held\n"


BOMBS = {
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "fork": """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0: time.sleep(60); os._exit(0)
        made += 1
except OSError:
    print('stopped at', made)
""",
    "files": "import os\nwhile True: os.open('/dev/null', os.O_RDONLY)",
}


@pytest.mark.parametrize("bomb", sorted(BOMBS))
@pytest.mark.parametrize("cgroups", [True, False])
async def test_bomb_harms_only_its_own_box(bomb: str, cgroups: bool, bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    limits = Limits(memory_bytes=96 * MIB, processes=40, open_files=64)
    echo = sh("while read line; do echo $line; done", limits=limits)

    with anyio.fail_after(30):
        async with (
            a_place(tmp_path, limits=limits, cgroups=cgroups) as mine,
            a_place(tmp_path, limits=limits, cgroups=cgroups) as theirs,
            await bubblewrap.start(echo, mine) as bystander,
        ):
            status, output, complaints = await output_of(bubblewrap, py(BOMBS[bomb], limits=limits), theirs)
            await bystander.send(b"alive\n", deadline_s=5)
            answer = await bystander.receive()

    assert answer == b"alive\n"
    match bomb:
        case "memory":
            assert status == 137 or "MemoryError" in complaints
        case "fork":
            assert 0 < int(output.split()[-1]) < 40
        case _:
            assert "Too many open files" in complaints


async def test_nobody_is_left_when_a_box_ends_however_they_hid(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    hide = "setsid sh -c 'trap : TERM HUP; sleep 600; sleep 600' </dev/null >/dev/null 2>&1 & echo up; read line"

    async with a_place(tmp_path) as place:
        with anyio.fail_after(20):
            async with await bubblewrap.start(sh(hide), place) as program:
                await program.receive()
                with watched(pids_of(place)) as ending:
                    await program.send(b"\n", deadline_s=5)
                    if place.uid is not None:
                        await all_ended(ending)
                    await program.wait()

        assert not await anyio.Path(place.directory).exists()


UNPRIVILEGED = """
import anyio, json, os, sys
from pathlib import Path
from sandboxes.bubblewrap import Bubblewrap
from sandboxes.driver import Place
from sandboxes.inside import entry
from sandboxes.spec import BoxSpec, Bind, Limits
from tests.sandboxes.places import output_of

own = Path(os.environ["OWN"])
program = '''
id -u; grep CapEff /proc/self/status; echo x > /workspace/f; cp /bin/true /workspace/t; /workspace/t || echo no-exec
echo kept > /data/f; ( : >> /proc/sys/kernel/core_pattern ) || echo held; ls /tmp | wc -l
'''

async def main():
    driver = Bubblewrap()
    probe = await driver.probe()
    print(probe.ok, probe.reason)
    (own / "place").mkdir(mode=0o700); (own / "data").mkdir()
    spec = BoxSpec("x", ("/bin/sh", "-c", program), binds=(Bind(own / "data", "/data", writable=True),),
                   limits=Limits(processes=30))
    status, output, complaints = await output_of(driver, spec, Place("x", own / "place", None))
    print(status, output.decode()); sys.stderr.write(complaints)
    print((own / "data" / "f").read_text(), (own / "place").exists())
    bomb = '''import os, time
made = 0
try:
    while True:
        if os.fork() == 0: time.sleep(60); os._exit(0)
        made += 1
except OSError: print(made)'''
    (own / "place").mkdir(mode=0o700)
    spec = BoxSpec("x", ("/usr/bin/python3", "-ISc", bomb), limits=Limits(processes=30))
    print((await output_of(driver, spec, Place("x", own / "place", None)))[1].decode())

anyio.run(main)
"""


async def test_gateway_that_is_not_root_has_the_same_box(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    status, output, complaints = await as_nobody(UNPRIVILEGED, tmp_path)

    assert status == 0, complaints
    lines = output.decode().split("\n")
    words = output.decode().split()
    assert lines[0] == "True "
    assert words[1:8] == ["0", "1000", "CapEff:", "0000000000000000", "no-exec", "held", "0"], complaints
    assert words[8:10] == ["kept", "False"]
    assert 0 < int(words[10]) < 30


@pytest.mark.parametrize("limits", [Limits(cpus=0.2), Limits(memory_bytes=32 * MIB)])
async def test_small_boxes_are_limited_too(limits: Limits, bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    assert await said_by(bubblewrap, sh("echo up", limits=limits), tmp_path) == "up\n"


async def test_json_lines_go_through_as_they_are(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    program = "import sys\nfor line in sys.stdin:\n    sys.stdout.write(line)\n    sys.stdout.flush()"
    message = json.dumps({"text": "ü" * 1000}).encode() + b"\n"

    with anyio.fail_after(20):
        async with a_place(tmp_path) as place, await bubblewrap.start(py(program), place) as child:
            got = b""
            await child.send(message, deadline_s=5)
            while not got.endswith(b"\n"):
                got += await child.receive()
            stopped = await child.stop()

    assert got == message
    assert stopped == 0
