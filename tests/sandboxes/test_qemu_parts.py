"""The parts of the driver `qemu` that need no machine: its wire, its images, its first file system, its monitor."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SandboxFailure
from sandboxes.qemu import closure, elf, frozen, images, initramfs, kernel
from sandboxes.qemu.frames import DATA, GRANT, OPEN, TELL, BadFrame, Unpacker, packed
from sandboxes.qemu.machine import OVERHEAD_BYTES, Machine, qemu, ram_for, walls
from sandboxes.qemu.qmp import Monitor, MonitorFailure
from sandboxes.qemu.switchboard import WINDOW, Switchboard
from sandboxes.qemu.trees import Trees
from sandboxes.spec import MIB, Limits


@given(
    st.lists(st.tuples(st.integers(TELL, GRANT), st.integers(0, 2**32 - 1), st.binary(max_size=300))),
    st.integers(1, 7),
)
def test_frames_come_out_as_they_went_in_however_they_are_cut(sent: list[tuple[int, int, bytes]], cut: int) -> None:
    data = b"".join(packed(*frame) for frame in sent)
    unpacker = Unpacker(300)

    heard = [frame for at in range(0, len(data), cut) for frame in unpacker.feed(data[at : at + cut])]

    assert [tuple(frame) for frame in heard] == sent


@given(st.binary(max_size=400))
def test_whatever_a_guest_sends_is_frames_or_refused(data: bytes) -> None:
    with a_switchboard() as (board, _), suppress(BadFrame):
        for frame in Unpacker(200).feed(data):
            board._heard(frame)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (packed(9), "kind 9"),
        (packed(DATA, 1, bytes(300)), "300 bytes"),
        (packed(OPEN, 77), "stream 77 was not asked for"),
        (packed(TELL, 0, b"["), "not JSON"),
        (packed(TELL, 0, b"[]"), "not an object"),
        (packed(TELL, 0, b"[" * 200), "not JSON"),
        (packed(GRANT, 1, b"x"), "without a count"),
    ],
)
def test_a_guest_that_does_not_keep_to_the_protocol_is_heard_no_more(data: bytes, why: str) -> None:
    with a_switchboard(most_bytes=256) as (board, other):
        board.connect(1, sink=os.open(os.devnull, os.O_WRONLY))
        other.sendall(data)

        with pytest.raises(BadFrame, match=why):
            board.turn(1000)


def test_a_stream_that_ignores_its_window_is_refused() -> None:
    reading, writing = os.pipe()
    with a_switchboard() as (board, other):
        board.connect(1, sink=writing)
        other.setblocking(False)

        with pytest.raises(BadFrame, match="window"):
            flood(board, other)
    os.close(reading)


def flood(board: Switchboard, other: socket.socket) -> None:
    unsent = packed(DATA, 1, bytes(32000)) * 40
    for _ in range(1000):
        if unsent:
            unsent = unsent[other.send(unsent[:60000]) :]
        board.turn(0)


def test_bytes_go_from_end_to_end_and_so_do_ends() -> None:
    near, far = switchboards()
    (source, out), (result, sink) = os.pipe(), os.pipe()
    near.connect(1, source=source)
    far.connect(1, sink=sink)
    data = os.urandom(3 * WINDOW)
    writer = threading.Thread(target=written, args=(out, data))
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(read_all(result)))
    writer.start()
    reader.start()

    together(near, far, lambda: not near.streams and not far.streams)

    writer.join(5)
    reader.join(5)
    assert b"".join(got) == data


def test_a_reader_who_is_gone_ends_the_stream_at_its_source() -> None:
    near, far = switchboards()
    (source, out), (result, sink) = os.pipe(), os.pipe()
    near.connect(1, source=source)
    far.connect(1, sink=sink)
    os.close(result)
    os.write(out, b"x")

    together(near, far, lambda: not near.streams and not far.streams)

    with pytest.raises(BrokenPipeError):
        os.write(out, b"y")
    os.close(out)


def test_what_nobody_reads_stops_at_the_window_and_holds_up_no_other_stream() -> None:
    near, far = switchboards()
    (source, out), (result, sink), (other_source, other_out), (other_result, other_sink) = (os.pipe() for _ in range(4))
    near.connect(1, source=source)
    far.connect(1, sink=sink)
    near.connect(2, source=other_source)
    far.connect(2, sink=other_sink)
    writer = threading.Thread(target=written, args=(out, bytes(3 * WINDOW)))
    writer.start()
    together(near, far, lambda: near.streams[1].credit == 0)
    os.write(other_out, b"past it")

    together(near, far, lambda: not far.streams[2].held and near.streams[2].credit < WINDOW)

    assert os.read(other_result, 100) == b"past it"
    assert len(far.streams[1].held) <= WINDOW
    reader = threading.Thread(target=read_all, args=(result,))
    reader.start()
    os.close(other_out)
    together(near, far, lambda: not near.streams and not far.streams)
    writer.join(5)
    reader.join(5)
    os.close(other_result)


def test_a_socket_is_carried_both_ways_and_ends_half_by_half() -> None:
    near, far = switchboards()
    (here, its_end), (there, far_end) = socket.socketpair(), socket.socketpair()
    far.on_open = lambda number: void(far.connect_socket(number, far_end))
    near.announce(16)
    near.connect_socket(16, its_end)
    here.sendall(b"ask")
    here.shutdown(socket.SHUT_WR)
    together(near, far, lambda: bool(far.streams) and far.streams[16].sink < 0)

    asked = read_socket(there)
    there.sendall(b"answer")
    there.close()
    together(near, far, lambda: not near.streams and not far.streams)

    assert asked == b"ask"
    assert read_socket(here) == b"answer"
    here.close()


def test_a_dropped_stream_is_over_at_both_ends() -> None:
    near, far = switchboards()
    (here, its_end), (there, far_end) = socket.socketpair(), socket.socketpair()
    near.connect_socket(16, its_end)
    far.connect_socket(16, far_end)

    near.drop(16)
    together(near, far, lambda: not far.streams and near.sent)

    assert read_socket(here) == read_socket(there) == b""
    here.close()
    there.close()


def test_a_paused_switchboard_serves_its_wire_alone() -> None:
    near, far = switchboards()
    source, out = os.pipe()
    heard: list[dict[str, Any]] = []
    near.connect(1, source=source)
    near.on_message = heard.append
    near.paused = True
    os.write(out, b"x")
    far.tell({"do": "it"})

    together(near, far, lambda: bool(heard))

    assert near.streams[1].credit == WINDOW
    near.forget_under_way()
    near.drop(1)
    os.close(out)


def test_the_other_end_going_away_ends_the_run() -> None:
    with a_switchboard() as (board, other):
        other.close()

        board.run()

        assert board.lost


@contextmanager
def a_switchboard(most_bytes: int = 64 * 1024) -> Iterator[tuple[Switchboard, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Switchboard(ours.fileno(), most_bytes=most_bytes), theirs


def switchboards() -> tuple[Switchboard, Switchboard]:
    near, far = socket.socketpair()
    return Switchboard(near.detach(), most_bytes=64 * 1024), Switchboard(far.detach(), most_bytes=64 * 1024)


def together(near: Switchboard, far: Switchboard, done: Callable[[], bool]) -> None:
    for _ in range(20_000):
        near.turn(1)
        far.turn(1)
        if done():
            return
    raise AssertionError("it never comes about")


def written(fd: int, data: bytes) -> None:
    with open(fd, "wb") as file:
        file.write(data)


def read_all(fd: int) -> Iterator[bytes]:
    with open(fd, "rb") as file:
        return iter([file.read()])


def read_socket(line: socket.socket) -> bytes:
    line.settimeout(5)
    data = b""
    while piece := line.recv(1000):
        data += piece
    return data


def void(_: object) -> None:
    return None


@given(st.binary(max_size=200))
def test_a_file_that_is_no_program_needs_nothing(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "not-a-program"
    path.write_bytes(b"\x7fELF\x02\x01" + data)

    needs = elf.needs_of(path)

    assert isinstance(needs, elf.Needs)
    assert elf.loadable(data[:20]) == data[:20]


def test_libraries_are_found_as_the_loader_finds_them() -> None:
    told = subprocess.run(["ldd", "/bin/ls"], capture_output=True, text=True, check=True).stdout
    expected = {word for line in told.splitlines() for word in line.split() if word.startswith("/")}

    found = closure.libraries([Path("/bin/ls")])

    assert {os.path.realpath(path) for path in expected} == {os.path.realpath(path) for path in found}


def test_a_program_runs_without_what_only_debuggers_read(tmp_path: Path) -> None:
    path = tmp_path / "true"
    path.write_bytes(elf.loadable(Path("/bin/true").read_bytes()))
    path.chmod(0o755)

    assert subprocess.run([str(path)], check=False).returncode == 0


def test_a_link_is_followed_step_by_step(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("")
    (tmp_path / "b").symlink_to("c")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "round").symlink_to("round")

    assert [path.name for path in closure.links_to(tmp_path / "a")] == ["a", "b", "c"]
    assert len(list(closure.links_to(tmp_path / "round"))) == 40


def test_an_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    entries = {
        "/deep/er/file": initramfs.Entry(stat.S_IFREG | 0o644, b"content", 1_000_000_000),
        "/link": initramfs.Entry(stat.S_IFLNK | 0o777, b"deep/er/file"),
    }

    data = initramfs.archive(entries)

    assert data == initramfs.archive(dict(reversed(entries.items())))
    names = [line.rpartition(b"\0")[2] for line in data.split(b"070701")]
    assert len(names) == 6
    if busybox := next((path for path in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(path)), None):
        subprocess.run([busybox, "cpio", "-id"], input=data, cwd=tmp_path, check=True, capture_output=True)
        assert (tmp_path / "link").read_bytes() == b"content"


def test_the_newest_whole_kernel_is_taken(tmp_path: Path) -> None:
    for version in ("6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.2.0-1-cloud-amd64", "7.0.0-1-amd64"):
        (tmp_path / "boot").mkdir(exist_ok=True)
        (tmp_path / "boot" / f"vmlinuz-{version}").write_text("")
        modules = tmp_path / "lib" / "modules" / version
        modules.mkdir(parents=True)
        if "6.2" not in version:
            (modules / "modules.builtin").write_text("\n".join(f"kernel/{name}" for name in kernel._MODULES[1:]))
            (modules / "kernel" / kernel._MODULES[0]).parent.mkdir(parents=True)
            (modules / "kernel" / kernel._MODULES[0]).write_text("")

    found = kernel.find_kernel(tmp_path)

    assert found is not None
    assert found.version == "6.1.0-56-cloud-amd64"
    assert [path.name for path in found.modules] == ["virtio_ring.ko"]
    assert kernel.find_kernel(tmp_path / "lib") is None


def test_an_image_is_made_once_and_again_when_something_changed(tmp_path: Path) -> None:
    kept, tree = images.Images(tmp_path / "images"), tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_text("one")
    os.link(tree / "a", tree / "b")
    trees = Trees(kept)

    first, again = trees.of(tree).image, trees.of(tree).image
    (tree / "a").write_text("another")
    changed = trees.of(tree).image

    assert first == again != changed
    assert sorted(path.suffix for path in (tmp_path / "images").iterdir()) == [".ext4", ".ext4"]
    listed = subprocess.run(
        ["debugfs", "-R", "ls -l content", str(changed)], capture_output=True, text=True, check=True
    )
    assert {"a", "b"} < set(listed.stdout.split())
    assert len(images.serial_of(first)) == 20


def test_what_is_too_large_or_not_there_is_refused(tmp_path: Path) -> None:
    kept = images.Images(tmp_path / "images")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(images.MOST_BYTES + 1)

    with pytest.raises(SandboxFailure, match="more than 2048 MiB"):
        kept.of(images.items_below(str(tmp_path / "large")), "a large file")
    with pytest.raises(SandboxFailure, match="No such file"):
        kept.of(images.items_below(str(tmp_path / "missing")), "a file")
    with pytest.raises(SandboxFailure, match="apt-get install e2fsprogs"):
        images.Images(tmp_path / "images", "no-mkfs").of(images.items_below(str(Path(__file__))), "a file")
    assert not list((tmp_path / "images").glob("*.ext4"))


def test_old_images_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_KEEP_BYTES", 0)
    kept = images.Images(tmp_path / "images")
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")

    first = kept.of(images.items_below(str(tmp_path / "a")), "a")
    second = kept.of(images.items_below(str(tmp_path / "b")), "b")

    assert not first.exists()
    assert second.exists()


def test_a_guest_has_room_for_what_its_program_may_have() -> None:
    assert ram_for(Limits(memory_bytes=MIB)) == 192 * MIB
    assert ram_for(Limits(memory_bytes=512 * MIB)) == 608 * MIB
    assert OVERHEAD_BYTES["kvm"] > 96 * MIB


def test_no_command_line_gives_a_machine_a_network_or_something_to_write() -> None:
    for accelerator in ("kvm", "tcg"):
        machine = Machine(accelerator, 192 * MIB, ("a", "b"))
        words = qemu(machine, "qemu", thaw=True)
        around = walls("bwrap", [(Path("/x"), "/x")], 2, kvm=accelerator == "kvm")

        assert not [word for word in words if "netdev" in word or word in {"-nic", "-net"} or "-net-" in word]
        assert all("readonly=on" in word for word in words if word.startswith("file="))
        assert words[-3:] == ["-S", "-incoming", "fd:6"]
        assert ("/dev/kvm" in around) == (accelerator == "kvm")
        assert "--bind" not in around


class Answers:
    """The other end of a monitor, which answers with these lines."""

    def __init__(self, *lines: object) -> None:
        self.line, other = socket.socketpair()
        other.sendall(
            b"".join(said if isinstance(said, bytes) else json.dumps(said).encode() + b"\n" for said in lines)
        )
        other.shutdown(socket.SHUT_WR)
        self._kept = other

    def __enter__(self) -> Monitor:
        return Monitor(self.line, timeout_s=5)

    def __exit__(self, *_: object) -> None:
        self.line.close()
        self._kept.close()


GREETING: tuple[dict[str, Any], ...] = ({"QMP": {}}, {"return": {}})


def test_the_monitor_saves_and_resumes(tmp_path: Path) -> None:
    done = {"return": {"status": "completed"}}
    saving = [*GREETING, {"event": "STOP"}, *[{"return": {}}] * 4, {"return": {"status": "active"}}, done]
    with Answers(*saving) as monitor, open(tmp_path / "state", "wb") as file:
        monitor.save(file.fileno(), deadline_s=5)

    loading = [*GREETING, {"return": {"status": "inmigrate"}}, {"return": {"status": "paused"}}, {"return": {}}]
    with Answers(*loading) as monitor:
        monitor.resume(deadline_s=5)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([{"error": {"desc": "no"}}], "no"),
        ([b"{\n"], "no answer"),
        ([b"[]\n"], "not an object"),
        ([b""], "hung up"),
        ([{"event": "X"}] * 1001, "among 1000 events"),
    ],
)
def test_a_monitor_that_does_not_answer_is_a_failure(said: list[object], why: str) -> None:
    with Answers(*GREETING, *said) as monitor, pytest.raises(MonitorFailure, match=why):
        monitor.do("stop")


def test_a_machine_that_cannot_be_saved_or_loaded_is_a_failure() -> None:
    failed = [*GREETING, *[{"return": {}}] * 4, {"return": {"status": "failed"}}]
    with Answers(*failed) as monitor, open(os.devnull, "wb") as file, pytest.raises(MonitorFailure, match="failed"):
        monitor.save(file.fileno(), deadline_s=5)
    with (
        Answers(*GREETING, {"return": {"status": "inmigrate"}}) as monitor,
        pytest.raises(MonitorFailure, match="more"),
    ):
        monitor.resume(deadline_s=-1)


def test_a_frozen_machine_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    machine = {"machine": {"accelerator": "tcg", "ram_bytes": 1, "serials": ["a"]}, "kernel": "k", "initrd": "i"}
    (tmp_path / "machine.json").write_text(json.dumps({**machine, "disks": ["disk0"], "version": "7"}))

    with pytest.raises(SandboxFailure, match=r"lacks \['kernel', 'initrd', 'disk0', 'state'\]"):
        frozen.load(tmp_path, "7", "tcg")
    with pytest.raises(SandboxFailure, match="is of 7, and this is 8"):
        frozen.load(tmp_path, "8", "tcg")
    (tmp_path / "machine.json").write_text("{}")
    with pytest.raises(SandboxFailure, match="does not describe a machine"):
        frozen.load(tmp_path, "7", "tcg")
    with pytest.raises(SandboxFailure, match="no frozen machine"):
        frozen.load(tmp_path / "none", "7", "tcg")
