"""What boxes are shown is written whole, readable for all, and once for those that are shown the same."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SandboxFailure
from sandboxes.bubblewrap import Bubblewrap
from sandboxes.spec import BoxSpec
from sandboxes.view import View
from tests.sandboxes.code_world import skip_without_bubblewrap
from tests.sandboxes.places import a_place, output_of

VIEW = View({"etc/hosts": b"here", "filter": b"\0"}, ("etc/ssl/certs",))
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


def _shell(script: str, **files: bytes) -> BoxSpec:
    paths = {f"/etc/{name}": content for name, content in files.items()}
    return BoxSpec("a test", ("/bin/sh", "-c", script), files=paths, egress=False)


def test_it_is_written_for_anybody_to_read_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)

    try:
        VIEW.write(tmp_path / "view")
    finally:
        os.umask(before)

    assert (tmp_path / "view/etc/hosts").read_bytes() == b"here"
    assert list((tmp_path / "view/etc/ssl/certs").iterdir()) == []
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "view").rglob("*")}
    assert modes == {0o755, 0o555}


def test_it_is_never_written_over_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "view").symlink_to("/etc")

    with pytest.raises(FileExistsError):
        VIEW.write(tmp_path / "view")


def test_one_copy_is_kept_for_all_that_are_the_same(tmp_path: Path) -> None:
    first = VIEW.kept(tmp_path / "kept")
    inode = first.stat().st_ino

    again = View(dict(VIEW.files), list(VIEW.directories)).kept(tmp_path / "kept")

    assert (again, again.stat().st_ino) == (first, inode)
    assert os.listdir(tmp_path / "kept") == [first.name]
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700


def test_whoever_makes_the_copy_at_the_same_time_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = View.write
    monkeypatch.setattr(View, "write", lambda view, place: (own(view, place), own(view, tmp_path / VIEW.digest)))

    kept = VIEW.kept(tmp_path)

    assert (kept / "etc/hosts").read_bytes() == b"here"
    assert os.listdir(tmp_path) == [VIEW.digest]


def test_a_copy_that_cannot_be_finished_is_none(tmp_path: Path) -> None:
    broken = replace(VIEW, files={**VIEW.files, "etc/hosts/below": b""})

    with pytest.raises(FileExistsError):
        broken.kept(tmp_path)

    assert os.listdir(tmp_path) == []


def test_a_copy_that_cannot_be_put_in_its_place_is_none(tmp_path: Path) -> None:
    (tmp_path / VIEW.digest).write_bytes(b"")

    with pytest.raises(OSError, match="Not a directory"):
        VIEW.kept(tmp_path)

    assert os.listdir(tmp_path) == [VIEW.digest]


@given(st.dictionaries(NAMES, st.binary(max_size=8)), st.dictionaries(NAMES, st.binary(max_size=8)))
def test_what_differs_is_kept_apart(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (View(one).digest == View(other).digest) == (one == other)
    assert (View(one, tuple(other)).digest == View(one).digest) == (not other)


async def test_boxes_share_what_is_the_same_and_keep_files_of_their_own(tmp_path: Path) -> None:
    await skip_without_bubblewrap()
    driver = Bubblewrap(shared=tmp_path / "shared")
    script = "cat /etc/hostname; cat /etc/own 2>/dev/null; (: > /etc/hostname) 2>/dev/null || echo sealed"

    said = []
    for spec in (_shell(script), _shell(script), _shell(script, own=b"mine\n")):
        async with a_place(tmp_path / "boxes") as place:
            said.append((await output_of(driver, spec, place))[1])

    assert said == [b"box\nsealed\n", b"box\nsealed\n", b"box\nmine\nsealed\n"]
    assert len(os.listdir(tmp_path / "shared")) == 1


async def test_the_shared_copy_outlives_the_boxes_that_saw_it(tmp_path: Path) -> None:
    await skip_without_bubblewrap()
    driver = Bubblewrap(shared=tmp_path / "shared")
    async with a_place(tmp_path / "boxes") as place:
        await output_of(driver, _shell("true"), place)

    (kept,) = (tmp_path / "shared").iterdir()
    found = (kept / "view/etc/hostname").read_bytes()

    assert not place.directory.exists()
    assert found == b"box\n"


async def test_a_box_without_room_for_what_it_is_shown_is_not_built(tmp_path: Path) -> None:
    await skip_without_bubblewrap()
    (tmp_path / "shared").write_bytes(b"")

    async with a_place(tmp_path / "boxes") as place:
        with anyio.fail_after(20), pytest.raises(SandboxFailure, match="'a test': its box cannot be laid out"):
            await Bubblewrap(shared=tmp_path / "shared").start(_shell("true"), place)
