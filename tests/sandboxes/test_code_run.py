"""Running code as a client sees it, in boxes on the host and in bubblewrap."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import anyio
import pytest

from gateway.types import Era
from sandboxes.spec import WORK
from tests.fakes import FakeRelay
from tests.sandboxes.code_world import PLAIN, HostBoxes, Kind, a_world, boxes_of, skip_without_bubblewrap

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(params=["host", "bubblewrap"])
async def boxes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HostBoxes]:
    kind = cast("Kind", request.param)
    if kind == "bubblewrap":
        await skip_without_bubblewrap()
    async with boxes_of(kind, tmp_path) as found:
        yield found


async def test_output_status_and_files_of_a_run_are_told(boxes: HostBoxes) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); open('f', 'w').write('abc')"

    async with a_world(boxes) as world:
        answer = await world.run(code)

    assert (answer.structured["exit_status"], answer.failed) == (0, False)
    assert (answer.stdout, answer.structured["stderr"]) == ("out\n", "err\n")
    assert answer.structured["files"] == [{"path": "f", "size": 3, "change": "new"}]
    assert answer.texts[1:] == ["stdout:\nout\n", "stderr:\nerr\n"]


async def test_a_session_keeps_its_files_and_tells_what_a_run_changed(boxes: HostBoxes) -> None:
    async with a_world(boxes) as world:
        first = await world.run("open('kept', 'w').write('a'); open('same', 'w').close()")
        second = await world.run("open('kept', 'a').write('b')\nprint(open('kept').read())", session=first.session)

    assert (first.structured["new_session"], second.structured["new_session"]) == (True, False)
    assert second.stdout == "ab\n"
    assert second.structured["files"] == [{"path": "kept", "size": 2, "change": "changed"}]


async def test_python_imports_modules_that_were_written_to_the_workspace(boxes: HostBoxes) -> None:
    async with a_world(boxes) as world:
        written = await world.call("write_file", path="pack/tool.py", content="ANSWER = 42\n")
        answer = await world.run("from pack import tool; print(tool.ANSWER)", session=written.session)

    assert answer.stdout == "42\n"


@pytest.mark.parametrize(
    "code",
    [
        "const fs = require('fs'); fs.writeFileSync('a.js', '1'); console.log(fs.readFileSync('a.js', 'utf8'))",
        "import fs from 'fs'\nfs.writeFileSync('a.js', '1')\nconsole.log(await fs.promises.readFile('a.js', 'utf8'))",
    ],
)
async def test_javascript_runs_as_a_script_or_as_a_module(boxes: HostBoxes, code: str) -> None:
    async with a_world(boxes) as world:
        answer = await world.run(code, "javascript")

    if "has no node" in answer.texts[0]:
        pytest.skip("node: apt-get install nodejs")
    assert answer.stdout == "1\n", answer.payload


async def test_shell_fails_as_a_tool_error_with_its_exit_status(boxes: HostBoxes) -> None:
    async with a_world(boxes) as world:
        answer = await world.run("echo begun; exit 7", "shell")

    assert (answer.failed, answer.structured["exit_status"], answer.stdout) == (True, 7, "begun\n")
    assert answer.result.outcome == "tool_error"


async def test_a_run_is_killed_at_its_time_limit_with_all_that_it_started(boxes: HostBoxes) -> None:
    code = "setsid sh -c 'while :; do echo alive >> beat; sleep 0.02; done' & echo up; wait"

    async with a_world(boxes) as world:
        answer = await world.run(code, "shell", timeout_s=1.5)
        before = await world.call("read_file", path="beat", session=answer.session)
        await world.run("sleep 0.2", "shell", session=answer.session)
        after = await world.call("read_file", path="beat", session=answer.session)

    assert (answer.structured["timed_out"], answer.failed, answer.stdout) == (True, True, "up\n")
    assert before.structured["size"] == after.structured["size"] > 0


async def test_nothing_that_a_run_starts_outlives_it(boxes: HostBoxes) -> None:
    code = "(setsid setsid sh -c 'while :; do echo alive >> beat; sleep 0.02; done' > /dev/null 2>&1 &)"

    async with a_world(boxes) as world:
        answer = await world.run(code + "; while [ ! -s beat ]; do sleep 0.01; done", "shell")
        before = await world.call("read_file", path="beat", session=answer.session)
        await world.run("sleep 0.2", "shell", session=answer.session)
        after = await world.call("read_file", path="beat", session=answer.session)

    assert before.structured["size"] == after.structured["size"] > 0


async def test_the_middle_of_a_long_output_is_left_out_and_counted(boxes: HostBoxes) -> None:
    async with a_world(boxes) as world:
        answer = await world.run("print('first'); print('x' * 3_000_000); print('last')")

    assert answer.stdout.startswith("first\nx")
    assert answer.stdout.endswith("x\nlast\n")
    assert answer.structured["stdout_cut_bytes"] == 3_000_012 - 128 * 1024
    assert f"[... {answer.structured['stdout_cut_bytes']} bytes left out ...]" in answer.stdout


async def test_images_that_code_makes_come_as_images_and_false_ones_do_not(boxes: HostBoxes) -> None:
    code = f"png = {PNG!r}\nopen('plot.PNG', 'wb').write(png)\nopen('fake.png', 'w').write('<svg onload=x>')"

    async with a_world(boxes) as world:
        answer = await world.run(code)
        again = await world.call("read_file", path="plot.PNG", session=answer.session)

    image = {"type": "image", "data": base64.b64encode(PNG).decode(), "mimeType": "image/png"}
    assert answer.blocks("image") == [image] == again.blocks("image")
    assert {file["path"] for file in answer.structured["files"]} == {"plot.PNG", "fake.png"}


async def test_a_client_that_leaves_kills_the_run_and_keeps_the_session(boxes: HostBoxes) -> None:
    async with a_world(boxes) as world:
        session = (await world.run("open('begun', 'w').close()")).session
        with anyio.move_on_after(0.5) as scope:
            await world.run("import time; open('more', 'w').close(); time.sleep(60)", session=session)
        after = await world.run("import os; print(sorted(os.listdir()))", session=session)

    assert scope.cancelled_caught
    assert after.stdout == "['begun', 'more']\n"


async def test_sessions_in_parallel_do_not_see_each_others_files(boxes: HostBoxes) -> None:
    seen: dict[str, str] = {}

    async def use(owner: str) -> None:
        answer = await world.run(f"open('{owner}', 'w').close()", owner=owner)
        more = await world.run("import os; print(os.listdir())", owner=owner, session=answer.session)
        seen[owner] = more.stdout

    async with a_world(boxes) as world, anyio.create_task_group() as group:
        for owner in ("ana", "bo"):
            group.start_soon(use, owner)

    assert seen == {"ana": "['ana']\n", "bo": "['bo']\n"}


async def test_secrets_reach_the_code_and_are_struck_out_of_what_comes_back(boxes: HostBoxes) -> None:
    environment = replace(PLAIN, secrets={"API_KEY": "s3cret-value"})
    code = "import os; key = os.environ['API_KEY']; print(len(key), key); open('k', 'w').write(key)"

    async with a_world(boxes, environment) as world:
        answer = await world.run(code)
        file = await world.call("read_file", path="k", session=answer.session)

    assert answer.stdout == "12 ***\n"
    assert "s3cret-value" not in str((answer.payload, file.payload, environment))


async def test_text_binary_and_part_of_a_file_are_read_as_what_they_are(boxes: HostBoxes) -> None:
    async with a_world(boxes) as world:
        session = (await world.call("write_file", path="d/text.md", content="häppy")).session
        blob = base64.b64encode(b"\x00\x01\xff").decode()
        await world.call("write_file", path="b.bin", content=blob, encoding="base64", session=session)
        await world.call("write_file", path="b.bin", content=blob, encoding="base64", append=True, session=session)
        text = await world.call("read_file", path=f"{WORK}/d/text.md", session=session)
        part = await world.call("read_file", path="d/text.md", session=session, offset=2, limit=2)
        binary = await world.call("read_file", path="b.bin", session=session)

    assert (text.texts[1], text.structured["mime_type"], text.structured["next_offset"]) == (
        "häppy",
        "text/markdown",
        None,
    )
    assert (part.texts[1], part.structured["next_offset"]) == ("p", 4)
    resource = {
        "uri": f"sandbox://{session}/b.bin",
        "mimeType": "application/octet-stream",
        "blob": blob.rstrip("=") * 2,
    }
    assert binary.blocks("resource") == [{"type": "resource", "resource": resource}]


async def test_no_link_leads_out_of_the_workspace(boxes: HostBoxes) -> None:
    code = "import os; os.symlink('/etc/passwd', 'l'); os.symlink('/etc', 'd'); os.mkfifo('p'); os.mkdir('sub')"

    async with a_world(boxes) as world:
        session = (await world.run(code)).session
        answers = [
            await world.call("read_file", path=path, session=session)
            for path in ("l", "d/passwd", "../etc/passwd", "/etc/passwd", "p", "sub", "none", "/workspace")
        ]
        written = [
            await world.call("write_file", path=path, content="x", session=session)
            for path in ("l", "d/x", "../x", "/etc/x", "sub", "p", "none/../x")
        ]
        listed = await world.call("list_files", session=session)

    assert all(answer.failed and "structuredContent" not in answer.payload for answer in (*answers, *written))
    assert "links are not followed" in answers[0].texts[0]
    kinds = {entry["path"]: entry["type"] for entry in listed.structured["entries"]}
    assert kinds == {"l": "link", "d": "link", "p": "other", "sub": "directory"}


async def test_progress_is_told_to_a_client_that_wants_it(boxes: HostBoxes) -> None:
    relay = FakeRelay("ana", era=Era.LEGACY, wants_progress=True)

    async with a_world(boxes, progress_s=0.05) as world:
        answer = await world.run("import time; time.sleep(0.5)", relay=relay)

    assert not answer.failed
    assert relay.notified[0][0] == "notifications/progress"
    assert [told[1]["progress"] for told in relay.notified] == sorted(told[1]["progress"] for told in relay.notified)  # type: ignore[type-var]  # numbers


async def test_the_box_stands_in_the_record_of_both_calls(boxes: HostBoxes) -> None:
    async with a_world(boxes, replace(PLAIN, digest="sha256:d")) as world:
        answer = await world.run("pass")

    box = answer.relay.notes["sandbox"]
    assert isinstance(box, dict)
    assert (box["driver"], box["level"]) == (world.boxes.started[0].facts.driver, "process")


async def test_random_numbers_of_a_box_are_seeded_at_hand_out(boxes: HostBoxes) -> None:
    async with a_world(boxes) as world:
        first = await world.run("import os; print(os.urandom(8).hex())")
        second = await world.run("import os; print(os.urandom(8).hex())")

    assert first.stdout != second.stdout
