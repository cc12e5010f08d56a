"""The driver `microsandbox`: what it would make a machine of, how its relay passes things on, and an honest probe.

The relay's streams and options are tested against the package itself where it is installed. Machines need KVM.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.boxes import Level
from gateway.errors import SandboxFailure
from sandboxes import inside, microsandbox, microsandbox_plan
from sandboxes.driver import Place
from sandboxes.microsandbox import Microsandbox
from sandboxes.spec import MIB, Bind, BoxSpec, Limits
from tests.sandboxes.places import a_place

if find_spec("microsandbox") is None:
    pytest.skip("microsandbox is not installed: pip install 'interlock-gateway[microsandbox]'", allow_module_level=True)

import microsandbox as sdk  # type: ignore[import-not-found,unused-ignore]  # an optional extra

from sandboxes import microsandbox_run as relay

DOCTOR = """
  • Version             v0.7.11
  ✗ CPU virt            not found
error: CPU virtualization is not available
  → no vmx (Intel) or svm (AMD) flag in /proc/cpuinfo
  → enable virtualization in your BIOS
"""


def spec(**options: Any) -> BoxSpec:
    return BoxSpec("a test", ("/bin/echo", "hi"), **{"egress": False, **options})


async def test_the_probe_boots_a_guest_or_says_why_not_in_time() -> None:
    with anyio.fail_after(30):
        found = await Microsandbox().probe()

    assert found.version
    assert found.ok or (found.reason and found.remedy)


async def test_a_host_on_which_no_guest_boots_ends_the_box_with_a_reason(tmp_path: Path) -> None:
    driver = Microsandbox()
    if (await driver.probe()).ok:
        pytest.skip("guests boot here")

    async with a_place(tmp_path, limits=Limits(memory_bytes=2048 * MIB)) as place:
        with anyio.fail_after(10):
            program = await driver.start(spec(), place)
        program.kill()
        with anyio.fail_after(10):
            await program.wait()

        assert (program.facts.level, program.facts.driver) == (Level.VM, "microsandbox")
        assert not place.directory.exists()


@pytest.mark.slow
async def test_a_guest_that_never_comes_up_is_given_up(tmp_path: Path) -> None:
    driver = Microsandbox()
    if (await driver.probe()).ok:
        pytest.skip("guests boot here")

    with anyio.fail_after(40):
        async with (
            a_place(tmp_path, limits=Limits(memory_bytes=2048 * MIB)) as place,
            await driver.start(spec(), place) as program,
        ):
            assert await program.receive() == b""
            status = await program.wait()

    assert status == 127
    assert "microsandbox: " in program.stderr


def test_what_the_doctor_says_is_the_reason_and_the_remedy() -> None:
    found = microsandbox.refusal_in("0.7.11", DOCTOR)

    assert (found.ok, found.reason) == (False, "CPU virtualization is not available")
    assert found.remedy == "no vmx (Intel) or svm (AMD) flag in /proc/cpuinfo; enable virtualization in your BIOS"


def test_a_doctor_without_words_still_is_a_refusal() -> None:
    found = microsandbox.refusal_in("0.7.11", "")

    assert not found.ok
    assert found.reason
    assert found.remedy == microsandbox.INSTALL


def test_the_fingerprint_changes_with_the_package() -> None:
    assert Microsandbox().fingerprint.startswith("0.")


def test_a_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "base" / "usr").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "base" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "box").mkdir()
    made = spec(base=tmp_path / "base", files={"/link/file": b"x"})

    with pytest.raises(SandboxFailure, match="'/link/file' lies behind a link"):
        microsandbox_plan.write_machine(made, Place("x", tmp_path / "box", None), tmp_path)

    assert list((tmp_path / "outside").iterdir()) == []


def test_the_plan_keeps_the_conventions_of_a_box(tmp_path: Path) -> None:
    shared = Bind(tmp_path, "/data", writable=True)
    limits = Limits(cpus=1.5, memory_bytes=300 * MIB, work_bytes=MIB // 2, processes=9)
    plan: Any = microsandbox_plan.plan_of(spec(binds=(shared,), limits=limits), "box", False)

    assert (plan["cpus"], plan["memory_mib"], plan["rlimits"]["nproc"]) == (2, 300, 9)
    assert plan["volumes"]["/workspace"] == {"source": None, "size_mib": 1}
    assert plan["volumes"]["/usr"]["writable"] is False
    assert plan["volumes"]["/data"]["writable"] is True
    assert (plan["user"], plan["cwd"], plan["command"]) == ("1000:1000", "/workspace", ["/bin/echo", "hi"])
    assert plan["egress"] is None
    assert "HTTP_PROXY" not in plan["env"]


def test_the_machine_has_no_network_card_and_no_rights_to_give() -> None:
    plan = json.loads(json.dumps(microsandbox_plan.plan_of(spec(), "box", False)))

    options = relay.machine(plan)

    assert options["network"] == sdk.Network.none()
    assert options["security"] is sdk.SecurityProfile.RESTRICTED
    assert options["vsock"] is None
    assert options["ephemeral"] is True
    assert {place: volume.noexec for place, volume in options["volumes"].items() if place in inside.SCRATCH} == {
        "/workspace": True,
        "/tmp": True,
    }
    assert all(volume.nosuid and volume.nodev for volume in options["volumes"].values())


def test_the_only_way_out_is_a_port_to_the_egress_socket(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "usr" / "bin").mkdir(parents=True)
    (base / "usr" / "bin" / "socat").touch()

    plan: Any = microsandbox_plan.plan_of(spec(base=base, egress=True), "box", True)

    assert relay.machine(plan)["vsock"] == [sdk.VsockRoute.stream("/tmp/egress", 3128)]
    assert plan["command"][-2:] == ["/bin/echo", "hi"]
    assert plan["env"]["HTTP_PROXY"] == "http://127.0.0.1:3128"


def test_a_way_out_without_a_relay_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxFailure, match="no /usr/bin/socat in the box"):
        microsandbox_plan.plan_of(spec(base=tmp_path, egress=True), "box", True)


def test_the_program_gets_its_secrets_when_it_is_started_and_the_machine_never() -> None:
    plan: Any = microsandbox_plan.plan_of(spec(secrets={"TOKEN": "hush"}), "box", False)

    assert relay.program(plan)["env"]["TOKEN"] == "hush"
    assert "hush" not in repr(relay.machine(plan))


def test_the_files_of_a_box_are_its_user_s_alone_to_read(tmp_path: Path) -> None:
    place = Place("box", tmp_path, None)

    mounts = microsandbox_plan.write_machine(spec(files={"/opt/given": b"given"}), place, tmp_path)

    assert (tmp_path / "root" / "opt" / "given").read_bytes() == b"given"
    assert stat.S_IMODE((tmp_path / "plan").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert [mount.name for mount in mounts if not mount.read_only] == ["root", "home"]


@pytest.mark.parametrize("path", ["/workspace/given", "/usr/bin/true"])
def test_a_file_that_a_mount_would_hide_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(SandboxFailure, match="lies on a mount"):
        microsandbox_plan.write_machine(spec(files={path: b"given"}), Place("box", tmp_path, None), tmp_path)


async def test_a_box_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxFailure, match="cannot be written"):
        await Microsandbox().start(spec(), Place("box", tmp_path / "missing", None))


@dataclass
class Event:
    event_type: str
    data: bytes | None = None
    code: int | None = None


@dataclass
class Sink:
    """Remembers what was written to it."""

    heard: bytes = b""
    closed: bool = False

    async def write(self, data: bytes) -> None:
        self.heard += data

    async def close(self) -> None:
        self.closed = True


@dataclass
class Events:
    """What a program did, one after the other."""

    events: list[Event] = field(default_factory=list)

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self.events:
            yield event


async def test_output_goes_where_the_program_wrote_it_and_its_status_is_ours() -> None:
    kinds = sdk.ExecEventType
    events = Events(
        [
            Event(kinds.STARTED),
            Event(kinds.STDOUT, b"out"),
            Event(kinds.STDERR, b"err"),
            Event(kinds.STDOUT, b"more"),
            Event(kinds.EXITED, code=3),
            Event(kinds.STDOUT, b"never"),
        ]
    )
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()

    status = await relay.passed_on(events.__aiter__(), out_end, err_end)

    assert (status, os.read(out, 100), os.read(err, 100)) == (3, b"outmore", b"err")
    for fd in (out, out_end, err, err_end):
        os.close(fd)


@pytest.mark.parametrize("events", [[], [Event("failed")], [Event("exited")]])
async def test_a_program_that_does_not_start_has_status_127(events: list[Event]) -> None:
    assert await relay.passed_on(Events(events).__aiter__(), 1, 2) == 127


async def test_input_is_passed_on_with_its_end() -> None:
    sink = Sink()
    source, end = os.pipe()
    os.write(end, b"hello")
    os.close(end)

    await relay.pour(source, sink)

    assert (sink.heard, sink.closed) == (b"hello", True)
    os.close(source)
