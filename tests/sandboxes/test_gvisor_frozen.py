"""The driver `gvisor`: what becomes of a frozen box, and of its clones."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from gateway.errors import SandboxFailure
from sandboxes.gvisor import Gvisor, frozen, runsc
from tests.sandboxes.gvisor_boxes import (
    SERVER,
    asked,
    frozen_server,
    greeter,
    python,
    shell,
    working_gvisor,
)
from tests.sandboxes.places import a_place


@pytest.fixture(scope="module")
async def driver() -> Gvisor:
    return await working_gvisor()


async def test_clones_of_a_frozen_server_go_on_side_by_side_each_with_its_own_streams(
    driver: Gvisor, tmp_path: Path
) -> None:
    spec, answers = python(SERVER), dict[int, dict[str, object]]()
    directory = await frozen_server(driver, tmp_path, spec)

    async def ask_a_clone(number: int) -> None:
        async with a_place(tmp_path) as place, await driver.thaw(spec, place, directory) as clone:
            answers[number] = await asked(clone, number)
            assert (await asked(clone, number + 10))["id"] == number + 10
            assert clone.facts.id == place.id

    async with anyio.create_task_group() as tasks:
        for number in (2, 3, 4):
            tasks.start_soon(ask_a_clone, number)

    assert {number: (answer["id"], answer["initialized"]) for number, answer in answers.items()} == {
        2: (2, 1),
        3: (3, 1),
        4: (4, 1),
    }
    assert len({str(answer["urandom"]) for answer in answers.values()}) == 3
    # What a program keeps to itself is the same in all clones, as the driver says:
    assert len({str(answer["random"]) for answer in answers.values()}) == 1


async def test_the_files_of_a_frozen_box_are_the_gateway_s_and_nobody_else_gets_at_them(
    driver: Gvisor, tmp_path: Path
) -> None:
    directory = await frozen_server(driver, tmp_path, python(SERVER))

    found = [path.stat() for path in directory.rglob("*") if path.is_file()]

    assert {(file.st_uid, file.st_mode & 0o777) for file in found} == {(os.geteuid(), 0o444)}
    assert directory.stat().st_mode & 0o777 == 0o700


async def test_the_relay_of_a_clone_leads_to_the_clone_s_own_egress_socket(driver: Gvisor, tmp_path: Path) -> None:
    spec = python(SERVER, egress=True)

    async with greeter(tmp_path / "1.sock", "first") as first, greeter(tmp_path / "2.sock", "second") as second:
        directory = await frozen_server(driver, tmp_path, spec, first)
        async with a_place(tmp_path, second) as place, await driver.thaw(spec, place, directory) as clone:
            answer = await asked(clone, 2, "fetch")

    assert answer["fetched"] == "second"


async def test_a_clone_whose_egress_socket_is_gone_gets_nowhere(driver: Gvisor, tmp_path: Path) -> None:
    spec = python(SERVER, egress=True)

    async with greeter(tmp_path / "1.sock", "first") as first, greeter(tmp_path / "2.sock", "second") as second:
        directory = await frozen_server(driver, tmp_path, spec, first)
        async with a_place(tmp_path, second) as place, await driver.thaw(spec, place, directory) as clone:
            second.unlink()
            answer = await asked(clone, 2, "fetch")

    assert answer["fetched"] != "first"


async def test_a_box_with_an_open_connection_cannot_be_frozen_and_ends(driver: Gvisor, tmp_path: Path) -> None:
    spec = python(SERVER, egress=True)

    async with greeter(tmp_path / "1.sock", "hello") as egress, a_place(tmp_path, egress) as place:
        program = await driver.start(spec, place)
        await asked(program, 1, "hold")
        with pytest.raises(SandboxFailure, match="cannot be frozen: checkpoint failed") as refused:
            await driver.freeze(spec, place, program, tmp_path / "frozen")

        assert program.exit_status is not None
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "frozen" / runsc.IMAGE).exists()


async def test_what_has_secrets_is_neither_frozen_nor_thawed(driver: Gvisor, tmp_path: Path) -> None:
    spec = shell("cat", secrets={"TOKEN": "hush"})

    async with a_place(tmp_path) as place:
        program = await driver.start(spec, place)
        with pytest.raises(SandboxFailure, match="has secrets"):
            await driver.freeze(spec, place, program, tmp_path / "frozen")
        with pytest.raises(SandboxFailure, match="has secrets"):
            await driver.thaw(spec, place, tmp_path / "frozen")

        assert program.exit_status is not None


async def test_there_is_no_clone_of_what_was_never_frozen(driver: Gvisor, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match="no frozen box"):
            await driver.thaw(shell("cat"), place, tmp_path / "nowhere")


async def test_a_frozen_box_that_is_broken_ends_and_says_why(driver: Gvisor, tmp_path: Path) -> None:
    spec = python(SERVER)
    directory = await frozen_server(driver, tmp_path, spec)
    image = directory / runsc.IMAGE / "checkpoint.img"
    image.chmod(0o644)
    os.truncate(image, 100)

    async with a_place(tmp_path) as place, await driver.thaw(spec, place, directory) as clone:
        with anyio.fail_after(20):
            status = await clone.wait()

    assert status != 0
    assert "restoring container" in runsc.reason_in(clone.stderr)


async def test_a_box_that_does_not_run_any_more_cannot_be_frozen(driver: Gvisor, tmp_path: Path) -> None:
    spec = shell("exit 0")

    async with a_place(tmp_path) as place:
        program = await driver.start(spec, place)
        with anyio.fail_after(20):
            await program.wait()
        with pytest.raises(SandboxFailure):
            await driver.freeze(spec, place, program, tmp_path / "frozen")


async def test_a_box_that_takes_too_long_to_freeze_ends_and_leaves_no_image(driver: Gvisor, tmp_path: Path) -> None:
    impatient = Gvisor(freeze_s=0)

    async with a_place(tmp_path) as place:
        program = await driver.start(shell("cat"), place)
        with pytest.raises(SandboxFailure, match="took over 0 s"):
            await impatient.freeze(shell("cat"), place, program, tmp_path / "frozen")

        assert program.exit_status is not None
    assert os.listdir(tmp_path / "frozen") == []


async def test_a_frozen_box_is_never_written_over(driver: Gvisor, tmp_path: Path) -> None:
    spec = python(SERVER)
    directory = await frozen_server(driver, tmp_path, spec)
    before = {path: path.stat().st_ino for path in directory.rglob("*")}

    with pytest.raises(SandboxFailure, match="cannot be frozen"):
        await frozen_server(driver, tmp_path, spec)

    assert {path: path.stat().st_ino for path in directory.rglob("*")} == before


@pytest.mark.parametrize("kind", ["link", "hard link", "directory", "fifo", "nothing"])
def test_a_frozen_box_with_anything_but_plain_files_is_not_taken_over(tmp_path: Path, kind: str) -> None:
    image, outside = tmp_path / "frozen" / "image", tmp_path / "outside"
    outside.write_text("ours")
    outside.chmod(0o600)
    frozen.prepare(image, None)
    match kind:
        case "link":
            (image / "pages.img").symlink_to(outside)
        case "hard link":
            (image / "pages.img").hardlink_to(outside)
        case "directory":
            (image / "pages.img").mkdir()
        case "fifo":
            os.mkfifo(image / "pages.img")

    with pytest.raises(SandboxFailure):
        frozen.take_over(image)

    assert outside.stat().st_mode & 0o777 == 0o600
