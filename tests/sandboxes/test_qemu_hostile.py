"""What hostile directories, programs and guests get out of the virtual machine driver: nothing of the host's."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from gateway.errors import SandboxFailure
from sandboxes.host.plan import STAGE
from sandboxes.qemu import elf
from sandboxes.qemu.closure import libraries
from sandboxes.qemu.driver import Qemu
from sandboxes.qemu.frames import OPEN, BadFrame, packed
from sandboxes.qemu.images import CONTENT, Images, Item, _copied, items_below
from sandboxes.qemu.switchboard import Switchboard
from sandboxes.qemu.trees import Trees

MOST = 64 * 1024


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir(mode=0o700)
    (tmp_path / "secret" / "key").write_text("the key")
    (tmp_path / "secret" / "key").chmod(0o644)
    return tmp_path / "secret"


def test_a_directory_that_becomes_a_link_while_it_is_copied_is_not_followed(secret: Path, tmp_path: Path) -> None:
    bound = tmp_path / "bound"
    (bound / "sub").mkdir(parents=True)
    walk = items_below(str(bound))
    seen = [next(walk).place, next(walk).place]
    (bound / "sub").rmdir()
    (bound / "sub").symlink_to(secret)

    with pytest.raises(OSError, match="a symbolic link is on the way"):
        list(walk)

    assert seen == ["", "/sub"]


def test_a_bind_that_has_become_a_link_is_not_copied(secret: Path, tmp_path: Path) -> None:
    (tmp_path / "bound").symlink_to(secret)
    images = Images(tmp_path / "cache")

    with pytest.raises(SandboxFailure, match="a symbolic link is on the way"):
        Trees(images).of(tmp_path / "bound" / "key")

    tree = Trees(images).of(tmp_path / "bound")
    listed = subprocess.run(
        ["debugfs", "-R", f"ls -p /{CONTENT}", str(tree.image)], capture_output=True, text=True, check=False
    )
    assert "key" not in listed.stdout


@pytest.mark.parametrize("way", ["linked", "replaced", "a pipe"])
def test_a_file_that_becomes_something_else_while_it_is_copied_is_not_read(
    way: str, secret: Path, tmp_path: Path
) -> None:
    bound = tmp_path / "file"
    bound.write_text("harmless")
    item = Item(str(bound), "", bound.lstat())
    os.rename(bound, tmp_path / "kept")  # so that its number is not given to another
    match way:
        case "linked":
            bound.symlink_to(secret / "key")
        case "replaced":
            bound.hardlink_to(secret / "key")
        case _:
            os.mkfifo(bound)

    with pytest.raises(OSError, match=r"a symbolic link is on the way|it was replaced meanwhile"):
        _copied(item, tmp_path / "copy", {})

    assert not (tmp_path / "copy").exists()


def test_what_a_box_could_not_read_in_a_bind_the_guest_cannot_either(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only a gateway that is root gives each box a user of its own")
    bound = tmp_path / "bound"
    (bound / "closed").mkdir(parents=True)
    (bound / "closed").chmod(0o700)
    (bound / "private").write_text("x")
    (bound / "private").chmod(0o600)
    (bound / "public").write_text("x")

    image = Images(tmp_path / "cache").of(items_below(str(bound)), "a test")

    told = subprocess.run(
        ["debugfs", "-R", f"ls -p /{CONTENT}", str(image)], capture_output=True, text=True, check=True
    ).stdout
    modes = {line.split("/")[5]: line.split("/")[2] for line in told.splitlines() if line.count("/") > 5}
    assert (modes["closed"], modes["private"], modes["public"]) == ("040700", "100400", "100644")


@pytest.mark.parametrize("trap", ["everybody's", "somebody else's", "a link", "a file"])
def test_images_are_not_kept_where_others_may_write(trap: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    match trap:
        case "everybody's":
            cache.chmod(0o777)
        case "somebody else's":
            if os.geteuid() != 0:
                pytest.skip("needs root to give a directory away")
            os.chown(cache, 12345, 12345)
        case "a link":
            cache.rename(tmp_path / "elsewhere")
            cache.symlink_to(tmp_path / "elsewhere")
        case _:
            cache.rmdir()
            cache.write_text("")

    with pytest.raises(SandboxFailure, match=r"only this user may write to|cannot be kept in"):
        Images(cache).keep(b"x", "kernel")
    with pytest.raises(SandboxFailure, match=r"only this user may write to|cannot be kept in"):
        Images(cache).of([], "a test")


def program(tmp_path: Path, loader: bytes) -> Path:
    """A program whose loader is of its own choosing."""
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 3, 4, 120, 120, 120, len(loader) + 1, len(loader) + 1, 1)
    path = tmp_path / "program"
    path.write_bytes(head + segment + loader + b"\0")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("loader", [b"/proc/kmsg", b"/usr/../proc/kmsg", b"/sys/kernel/notes", b"/dev/null"])
async def test_a_program_does_not_make_us_read_what_is_no_file(loader: bytes, tmp_path: Path) -> None:
    with anyio.fail_after(5):
        found = await to_thread.run_sync(libraries, [program(tmp_path, loader)], abandon_on_cancel=True)

    assert found == ()


async def test_a_program_that_became_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with anyio.fail_after(5):
        assert not await to_thread.run_sync(elf.is_elf, tmp_path / "pipe", abandon_on_cancel=True)
        assert await to_thread.run_sync(elf.needs_of, tmp_path / "pipe", abandon_on_cancel=True) == elf.Needs()


def test_a_program_cannot_ask_for_libraries_without_end(tmp_path: Path) -> None:
    strings = b"\0" + b":".join(b"/d%d" % number for number in range(500)) + b"\0"
    entries = [(5, 0), (29, 1), (29, 1), (29, 1), *[(1, 1)] * 4000, (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    start = 64 + 2 * 56
    entries[0] = (5, start + len(dynamic))
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    size = start + len(dynamic) + len(strings)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    segments = struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, size, size, 1)
    segments += struct.pack("<IIQQQQQQ", 2, 4, start, start, start, len(dynamic), len(dynamic), 1)
    (tmp_path / "greedy").write_bytes(head + segments + dynamic + strings)

    needs = elf.needs_of(tmp_path / "greedy")

    assert (len(needs.libraries), len(needs.directories)) == (512, 64)


def test_a_guest_that_opens_without_end_and_reads_no_answer_is_hung_up_on() -> None:
    guest, ours = socket.socketpair()
    board = Switchboard(ours.fileno(), most_bytes=MOST)
    board.on_open = board.drop
    guest.setblocking(False)

    def talk() -> None:
        for number in range(1 << 20):
            try:
                guest.send(packed(OPEN, 16 + number) * 1000)
            except BlockingIOError:
                board.turn(0)

    with guest, ours, pytest.raises(BadFrame, match="does not read"):
        talk()


@pytest.fixture
def below_the_stage() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=STAGE) as directory:
        program = Path(directory, "qemu")
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        yield program


async def test_programs_below_the_stage_are_refused_in_words(below_the_stage: Path, tmp_path: Path) -> None:
    probe = await Qemu("tcg", tmp_path / "cache", Path("/"), str(below_the_stage)).probe()

    assert not probe.ok
    assert "is below /tmp, which boxes have of their own" in probe.reason
