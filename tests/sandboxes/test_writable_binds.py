"""What a box may write on the host: as its owner, nothing of anybody else's, and never a set-user-id program."""

from __future__ import annotations

import errno
import json
import os
import platform
import stat
import struct
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SandboxFailure
from sandboxes.driver import Driver
from sandboxes.host import setid
from sandboxes.host.direct import opened
from sandboxes.host.jail import enter
from sandboxes.host.plan import Jail, Mount, Plan
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.spec import Bind, BoxSpec
from tests.sandboxes.drivers import DRIVERS
from tests.sandboxes.places import a_place, all_of, as_root_only, new_uid, output_of
from tests.sandboxes.test_seccomp import ALLOW, ERRNO, KILL, X32, answer

SOMEBODY = 12345


async def said_in(mounts: tuple[Mount, ...], script: str, uid: int | None) -> str:
    spec = ProcessSpec(("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin"}, jail=Jail(uid, mounts))
    with anyio.fail_after(20):
        async with await ChildProcess.start(spec) as child:
            return (await all_of(child)).decode() + child.stderr


def writable(path: Path) -> tuple[Mount, ...]:
    return (Mount("data", "bind", str(path), no_exec=True, owned=True, direct=True),)


async def test_what_a_box_writes_into_a_closed_directory_of_roots_belongs_to_root(tmp_path: Path) -> None:
    uid = as_root_only()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "old").write_text("old\n")
    (closed / "old").chmod(0o600)

    said = await said_in(
        writable(closed), "cd /tmp/data && cat old && echo new > old && mkdir d && stat -c %u d old", uid
    )

    assert said.split() == ["old", str(uid), str(uid)]
    assert [(closed / name).stat().st_uid for name in ("old", "d")] == [os.geteuid()] * 2
    assert (closed / "old").read_text() == "new\n"


async def test_files_of_somebody_else_in_a_writable_bind_cannot_be_written_or_changed(tmp_path: Path) -> None:
    uid = as_root_only()
    (tmp_path / "theirs").write_text("theirs\n")
    (tmp_path / "theirs").chmod(0o666)
    os.chown(tmp_path / "theirs", SOMEBODY, SOMEBODY)
    (tmp_path / "sealed").write_text("sealed\n")
    (tmp_path / "sealed").chmod(0o600)
    os.chown(tmp_path / "sealed", SOMEBODY, SOMEBODY)
    script = """
    cd /tmp/data; cat theirs
    (: >> theirs) 2>&- || echo not written; cat sealed 2>&- || echo not read; chmod 777 sealed 2>&- || echo not changed
    """

    said = await said_in(writable(tmp_path), script, uid)

    assert said.splitlines() == ["theirs", "not written", "not read", "not changed"]
    assert (tmp_path / "theirs").read_text() == "theirs\n"


async def test_a_single_file_can_be_bound_writable(tmp_path: Path) -> None:
    uid = as_root_only()
    (tmp_path / "log").write_text("one\n")
    (tmp_path / "log").chmod(0o600)

    await said_in(writable(tmp_path / "log"), "echo two >> /tmp/data", uid)

    assert (tmp_path / "log").read_text() == "one\ntwo\n"


async def test_the_owner_of_a_writable_bind_need_not_be_the_gateway(tmp_path: Path) -> None:
    uid = as_root_only()
    (tmp_path / "data").mkdir(mode=0o700)
    os.chown(tmp_path / "data", SOMEBODY, SOMEBODY + 1)

    await said_in(writable(tmp_path / "data"), "echo x > /tmp/data/f", uid)

    status = (tmp_path / "data" / "f").stat()
    assert (status.st_uid, status.st_gid) == (SOMEBODY, SOMEBODY + 1)


async def test_a_file_system_that_cannot_map_owners_is_named_with_what_to_do(tmp_path: Path) -> None:
    uid = as_root_only()

    with pytest.raises(SandboxFailure, match=r"cannot be shown as the box's own .*bind it read-only"):
        await said_in(writable(Path("/sys/kernel")), "true", uid)


def entered(jail: Jail, then: str = "") -> str:
    """What `enter` raises, or what `then` says, in a forked child of this very process, so that coverage sees it."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            enter(json.loads(json.dumps(Plan((), jail=jail).as_json()["jail"])))
            exec(then)
        except OSError as exc:
            os.write(tell, f"{exc.errno} {exc.strerror}".encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.waitpid(pid, 0)
    with open(told, "rb") as said:
        return said.read().decode()


SET_ID = """
import os
os.chmod("/tmp/data/f", 0o755)
for attempt in (lambda: os.chmod("/tmp/data/f", 0o4755), lambda: os.chmod("/tmp/data/f", 0o2755),
                lambda: os.open("/tmp/data/g", os.O_CREAT | os.O_WRONLY, 0o4755),
                lambda: os.open("/tmp/data", os.O_TMPFILE | os.O_WRONLY, 0o4755),
                lambda: os.mknod("/tmp/data/h", 0o104755)):
    try:
        attempt()
    except PermissionError:
        continue
    raise OSError(0, "made")
os.close(os.open("/tmp/data/f", os.O_RDONLY, 0o7777))
"""


@pytest.mark.parametrize("own", [True, False])
def test_nobody_behind_a_writable_bind_makes_a_set_user_id_file(own: bool, tmp_path: Path) -> None:
    uid = new_uid() if own else None
    (tmp_path / "f").write_text("x")

    assert entered(Jail(uid, writable(tmp_path)), SET_ID) == ""
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o755}


@pytest.mark.parametrize("name", ["bubblewrap", "gvisor"])
async def test_no_box_leaves_a_set_user_id_program_on_the_host(name: str, tmp_path: Path) -> None:
    driver: Driver = DRIVERS[name].make()
    if not (await driver.probe()).ok:
        pytest.skip(f"{name} does not work here")
    (tmp_path / "data").mkdir()
    script = """
    cp /bin/true /data/t; chmod 4755 /data/t; chmod 2755 /data/t; chmod 755 /data/t; install -m 6755 /bin/true /data/u
    """
    bind = Bind(tmp_path / "data", "/data", writable=True)

    async with a_place(tmp_path / "boxes") as place:
        await output_of(driver, BoxSpec("x", ("/bin/sh", "-c", script), binds=(bind,), egress=False), place)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
    assert modes["t"] == 0o755
    assert not any(mode & 0o6000 for mode in modes.values())


async def test_a_link_that_was_put_in_the_way_since_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("key")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "part").symlink_to(tmp_path / "secret")

    for source in ("shared/part", "shared/part/key"):
        with pytest.raises(SandboxFailure, match="a symbolic link is on the way"):
            await said_in(writable(tmp_path / source), "true", new_uid())
        with pytest.raises(OSError, match="a symbolic link is on the way"):
            opened(str(tmp_path / source), os.O_PATH)


@pytest.mark.parametrize("name", ["bubblewrap", "gvisor"])
async def test_a_bind_whose_source_became_a_link_is_no_way_to_what_it_leads_to(name: str, tmp_path: Path) -> None:
    driver: Driver = DRIVERS[name].make()
    if not (await driver.probe()).ok:
        pytest.skip(f"{name} does not work here")
    (tmp_path / "part").symlink_to("/etc")
    spec = BoxSpec("x", ("/bin/true",), binds=(Bind(tmp_path / "part", "/data", writable=True),), egress=False)

    async with a_place(tmp_path / "boxes") as place:
        with pytest.raises(SandboxFailure, match="a symbolic link is on the way"):
            await driver.start(spec, place)


def test_what_is_opened_directly_is_not_inherited_and_missing_files_are_said_to_be() -> None:
    file = opened("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(file, os.get_inheritable(file))

    assert not os.get_inheritable(file)
    os.close(file)
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        opened("/no/such/file", os.O_RDONLY)


# --- The filter itself

AUDIT = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
CALLS = [
    ("x86_64", 90, 1, None), ("x86_64", 91, 1, None), ("x86_64", 268, 2, None), ("x86_64", 452, 2, None),
    ("x86_64", 85, 1, None), ("x86_64", 133, 1, None), ("x86_64", 259, 2, None), ("x86_64", 2, 2, 1),
    ("x86_64", 257, 3, 2), ("aarch64", 52, 1, None), ("aarch64", 53, 2, None), ("aarch64", 452, 2, None),
    ("aarch64", 33, 2, None), ("aarch64", 56, 3, 2),
]  # fmt: skip
"""Machine, number, which argument is the mode, and which the flags that say whether it counts."""


@pytest.mark.parametrize(("machine", "number", "mode", "flags"), CALLS)
@given(bits=st.integers(0, 0o7777), above=st.integers(0, (1 << 32) - 1), other=st.integers(0, (1 << 64) - 1))
def test_a_mode_with_either_bit_is_refused_and_no_other(
    machine: str, number: int, mode: int, flags: int | None, bits: int, above: int, other: int
) -> None:
    arguments = [other] * 6
    arguments[mode] = above << 32 | bits
    if flags is not None:
        arguments[flags] = 0o100 if bits & 1 else 0o20200000

    verdict = answer(setid.program(machine), AUDIT[machine], number, *arguments)

    assert verdict == (ERRNO | errno.EPERM if bits & 0o6000 else ALLOW)


@given(number=st.integers(0, 500), arguments=st.lists(st.integers(0, (1 << 64) - 1), min_size=6, max_size=6))
def test_every_other_call_is_let_through(number: int, arguments: list[int]) -> None:
    for machine, audit in AUDIT.items():
        known = {call for name, call, *_ in CALLS if name == machine}
        wanted = ERRNO | errno.ENOSYS if number in (425, 437) else ALLOW

        assert number in known or answer(setid.program(machine), audit, number, *arguments) == wanted


def test_opening_without_making_takes_any_mode() -> None:
    assert answer(setid.program("x86_64"), AUDIT["x86_64"], 257, 0, 0, os.O_RDWR, 0o7777) == ALLOW


def test_another_table_of_calls_kills_and_an_unknown_machine_has_no_writable_binds() -> None:
    assert answer(setid.program("x86_64"), AUDIT["aarch64"], 90) == KILL
    assert answer(setid.program("x86_64"), AUDIT["x86_64"], X32 | 90) == KILL
    with pytest.raises(OSError, match="not possible on 'riscv64'; bind it read-only"):
        setid.program("riscv64")


def test_the_filter_is_for_this_machine_too() -> None:
    steps = list(struct.iter_unpack("=HBBI", setid.program(platform.machine())))

    assert steps[1][3] == AUDIT[platform.machine()]
