"""What the tools are, take and give, as clients see it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import codec
from gateway.errors import InvalidCall, UnknownResource, UpstreamProtocolError
from gateway.registry import build_catalog
from gateway.types import Authorized, Call, Resource, Result
from sandboxes.code.arguments import KINDS, read
from sandboxes.code.content import session_in, tool_result
from sandboxes.code.environment import agent_digest
from sandboxes.code.files import image_type, mime_type, text_in
from sandboxes.code.tools import listing
from tests.fakes import ANA, FakeRelay
from tests.sandboxes.code_world import PLAIN, HostBoxes, a_world, plain_permit

DATA = replace(PLAIN, name="data", description="pandas and friends")
SECRET = replace(PLAIN, name="hush", visible_to=frozenset({"admin"}))


def test_the_tools_pass_the_checks_that_every_upstream_has_to_pass() -> None:
    catalog = build_catalog("sandbox", listing([PLAIN, DATA, SECRET]), header_check=lambda _: None)

    assert [item.name for item in catalog.items["tool"]] == list(KINDS)
    assert catalog.rejected == ()
    for item in catalog.items["tool"]:
        definition = cast("dict[str, Any]", codec.loads(item.wire))
        jsonschema.Draft202012Validator.check_schema(definition["inputSchema"])
        jsonschema.Draft202012Validator.check_schema(definition["outputSchema"])


def test_the_description_names_the_environments_that_are_for_everybody() -> None:
    text = codec.dumps(listing([PLAIN, DATA, SECRET]).tools).decode()

    assert "There are: data (pandas and friends); default." in text
    assert "hush" not in text
    assert "There are" not in codec.dumps(listing([SECRET]).tools).decode()


@pytest.mark.parametrize("tool", KINDS)
def test_schema_and_validation_know_the_same_arguments(tool: str) -> None:
    definition = next(item for item in listing([PLAIN]).tools if item["name"] == tool)
    schema = cast("dict[str, Any]", definition["inputSchema"])
    fields = KINDS[tool].model_fields

    assert set(schema["properties"]) == set(fields)
    assert set(schema["required"]) == {name for name, field in fields.items() if field.is_required()}


async def test_results_are_what_the_output_schemas_say(tmp_path: Path) -> None:
    schemas = {str(item["name"]): cast("dict[str, Any]", item["outputSchema"]) for item in listing([PLAIN]).tools}

    async with a_world(HostBoxes(tmp_path)) as world:
        answers = {"run_code": await world.run("print(1); open('f', 'w').close(); exit(3)")}
        session = answers["run_code"].session
        answers["write_file"] = await world.call("write_file", path="g", content="ab", session=session)
        answers["read_file"] = await world.call("read_file", path="g", session=session, limit=1)
        answers["list_files"] = await world.call("list_files", session=session)
        answers["end_session"] = await world.call("end_session", session=session)

    for tool, answer in answers.items():
        jsonschema.validate(answer.structured, schemas[tool])
        assert answer.payload["resultType"] == "complete"
    assert "g: bytes 0 to 1 of 2, text/plain; go on with offset 1" in answers["read_file"].texts[0]
    assert answers["write_file"].texts[0].startswith("wrote g (2 bytes now)")
    assert answers["list_files"].texts[0].startswith("file f (0 bytes)\nfile g (2 bytes)")
    assert answers["end_session"].texts == [f"session {session} has ended; its files are gone"]


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("run_code", {"language": "python"}, "run_code: code is missing"),
        ("run_code", {"code": "", "language": "python"}, "code: string should have at least 1 character"),
        ("run_code", {"code": "x", "language": "perl"}, "language: input should be 'python', 'javascript' or 'shell'"),
        ("run_code", {"code": "x", "language": "shell", "timeout_s": 0}, "timeout_s: input should be greater than 0"),
        ("run_code", {"code": "x", "language": "shell", "cwd": "/"}, "'cwd' is not an argument; there are: session, "),
        ("run_code", {"code": 5, "language": "shell"}, "code: input should be a valid string"),
        ("run_code", {"code": "x" * 600_000, "language": "shell"}, "code: string should have at most 524288"),
        ("read_file", {"path": "f", "offset": -1}, "offset: input should be greater than or equal to 0"),
        ("read_file", {"path": "f", "limit": 1 << 30}, "limit: input should be less than or equal to"),
        ("write_file", {"path": "f", "content": "?", "encoding": "base64"}, "write_file: content is not base64"),
        ("end_session", {"session": "x" * 81}, "session: string should have at most 80 characters"),
        ("format_disk", {}, "the sandbox has no tool 'format_disk'; it has: run_code, "),
    ],
)
async def test_wrong_arguments_are_told_what_to_change(
    tmp_path: Path, tool: str, arguments: dict[str, Any], words: str
) -> None:
    boxes = HostBoxes(tmp_path)

    async with a_world(boxes) as world:
        with pytest.raises(InvalidCall) as caught:
            await world.call(tool, **arguments)

    assert words in str(caught.value)
    assert boxes.asked == []


@settings(max_examples=60)
@given(st.sampled_from(sorted(KINDS)), st.dictionaries(st.text(max_size=8), st.text() | st.integers() | st.none()))
def test_any_arguments_are_read_or_refused(tool: str, arguments: dict[str, object]) -> None:
    try:
        found = read(tool, arguments)
    except InvalidCall:
        return

    assert type(found) is KINDS[tool]


async def test_what_is_no_tool_call_is_refused(tmp_path: Path) -> None:
    call = Call("c", "mcp.completion.complete", "completion/complete", Resource("prompt", "sandbox/x"))

    async with a_world(HostBoxes(tmp_path)) as world:
        world.upstream.unwatched("x:y")
        with pytest.raises(InvalidCall, match="has tools and nothing else"):
            await world.upstream.execute(Authorized(call, ANA, plain_permit(call)), FakeRelay())


async def test_policy_may_change_what_is_run(tmp_path: Path) -> None:
    """What comes back from policy is read anew, so a narrowed argument counts and an impossible one does not."""
    async with a_world(HostBoxes(tmp_path)) as world:
        session = (await world.run("pass")).session
        inner = world.calls[-1]
        call = inner.with_arguments({**inner.arguments, "code": "print('narrowed')", "session": session})
        wrong = inner.with_arguments({**inner.arguments, "operation": "format_disk"})
        content = {"operation": "write_file", "path": "f", "content": "?", "encoding": "base64", "session": session}
        broken = inner.with_arguments(content)
        relay = FakeRelay("ana")
        result = await world.upstream.execute(Authorized(call, ANA, plain_permit(call)), relay)
        for impossible in (wrong, broken):
            with pytest.raises(InvalidCall):
                await world.upstream.execute(Authorized(impossible, ANA, plain_permit(impossible)), relay)
        await world.run("pass", session=session)

    assert cast("dict[str, Any]", codec.loads(result.payload))["stdout"] == "narrowed\n"


async def test_an_operation_in_another_environment_than_policy_was_asked_about_is_not_done(tmp_path: Path) -> None:
    async with a_world(HostBoxes(tmp_path), PLAIN, DATA) as world:
        session = (await world.run("pass")).session
        inner = world.calls[-1]
        resource = replace(inner.resource, id="data", name="data")
        call = replace(inner, resource=resource).with_arguments({**inner.arguments, "session": session})
        with pytest.raises(UnknownResource, match="does not run in environment 'data'"):
            await world.upstream.execute(Authorized(call, ANA, plain_permit(call)), FakeRelay("ana"))


async def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    boxes = HostBoxes(tmp_path, path="/nowhere")

    async with a_world(boxes) as world:
        answers = [await world.run("1", language) for language in ("javascript", "shell")]
        python = await world.run("print(1)")

    assert "environment 'default' has no node, so it cannot run javascript" in answers[0].texts[0]
    assert "has no sh" in answers[1].texts[0]
    assert all(answer.failed for answer in answers)
    assert python.stdout == "1\n"  # the agent's own


async def test_what_policy_redacted_stays_redacted_and_is_still_an_answer(tmp_path: Path) -> None:
    async with a_world(HostBoxes(tmp_path)) as world:
        session = (
            await world.run("open('i.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n'); open('b', 'wb').write(b'\\0')")
        ).session
        world.inner = _redacting(b'"stdout":"a@b.c\\n"', b'"stdout":"[REDACTED]"')
        run = await world.run("print('a@b.c')", session=session)
        world.inner = _redacting(b'"data":"iVBORw0KGgo="', b'"data":"[REDACTED]"')
        image = await world.run(
            "open('i.png', 'ab').close(); open('j.png', 'wb').write(open('i.png', 'rb').read())", session=session
        )
        world.inner = _redacting(b'"data":"AA=="', b'"data":"[REDACTED]"')
        blob = await world.call("read_file", path="b", session=session)
        world.inner = lambda result: replace(result, payload=b'"[REDACTED]"')
        with pytest.raises(UpstreamProtocolError, match="no answer any more"):
            await world.run("pass", session=session)

    assert (run.stdout, run.texts[1]) == ("[REDACTED]", "stdout:\n[REDACTED]")
    assert image.blocks("image") == []
    assert blob.blocks("resource") == []


def _redacting(found: bytes, instead: bytes) -> Any:
    def redact(result: Result) -> Result:
        assert found in result.payload
        return replace(result, payload=result.payload.replace(found, instead), labels=("pii",))

    return redact


async def test_labels_of_policy_go_on_with_the_result(tmp_path: Path) -> None:
    async with a_world(HostBoxes(tmp_path)) as world:
        world.inner = lambda result: replace(result, labels=("pii",))
        answer = await world.run("pass")

    assert answer.result.labels == ("pii",)


def test_an_answer_that_is_no_json_is_refused() -> None:
    with pytest.raises(UpstreamProtocolError):
        tool_result(Result(b"{"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
OPERATIONS = st.sampled_from([*KINDS, "other"])
MEMBERS = st.sampled_from(
    ["images", "files", "more_files", "stdout", "data", "text", "path", "mime_type", "entries", "complete", "problem",
     "session", "new_session", "size", "offset", "bytes", "next_offset", "timed_out", "exit_status"]
)  # fmt: skip


@settings(max_examples=60)
@given(OPERATIONS, st.dictionaries(MEMBERS, JSON))
def test_whatever_policy_leaves_of_an_answer_is_shown(operation: str, members: dict[str, object]) -> None:
    result = Result(codec.dumps({**members, "operation": operation}))

    payload = cast("dict[str, Any]", codec.loads(tool_result(result).payload))

    assert {block["type"] for block in payload["content"]} <= {"text", "image", "resource"}
    assert isinstance(session_in(result), str)


async def test_more_files_than_fit_are_counted(tmp_path: Path) -> None:
    async with a_world(HostBoxes(tmp_path)) as world:
        answer = await world.run("for number in range(260): open(f'f{number:03}', 'w').close()")

    assert (len(answer.structured["files"]), answer.structured["more_files"]) == (200, 60)
    assert "and 210 more files" in answer.texts[0]


async def test_a_listing_says_when_it_is_not_all(tmp_path: Path) -> None:
    async with a_world(HostBoxes(tmp_path)) as world:
        session = (await world.run("for number in range(1001): open(f'f{number}', 'w').close()")).session
        whole = await world.call("list_files", session=session)
        empty = await world.call("list_files", session=(await world.run("pass")).session)

    assert (len(whole.structured["entries"]), whole.structured["complete"]) == (1000, False)
    assert "and more; list a directory below" in whole.texts[0]
    assert empty.texts[0].startswith("there are no files")


async def test_only_as_many_and_as_large_images_as_an_answer_may_carry_come_along(tmp_path: Path) -> None:
    code = """
png = b'\\x89PNG\\r\\n\\x1a\\n'
open('a.png', 'wb').write(png + bytes(3_000_000))
open('b.png', 'wb').write(png + bytes(1_900_000))
open('c.png', 'wb').write(png + bytes(1_900_000))
open('d.png', 'wb').write(png + bytes(1_900_000))
for number in range(4):
    open(f'e{number}.png', 'wb').write(png)
"""

    async with a_world(HostBoxes(tmp_path)) as world:
        answer = await world.run(code)

    assert len(answer.blocks("image")) == 4
    assert [len(block["data"]) > 1_000_000 for block in answer.blocks("image")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBP", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", ""),
        (b"<svg", ""),
        (b"", ""),
    ],
)
def test_an_image_is_known_by_its_first_bytes(data: bytes, kind: str) -> None:
    assert image_type(data) == kind


@given(st.text(), st.integers(0, 30), st.integers(0, 30))
def test_a_part_of_a_text_is_text_without_the_characters_that_are_cut(text: str, start: int, length: int) -> None:
    data = text.replace("\0", "").encode()
    part = data[start : start + length]

    found = text_in(part, begins=start == 0, ends=start + length >= len(data))

    assert found is not None
    assert found in text.replace("\0", "")


@pytest.mark.parametrize(
    ("data", "begins", "ends"), [(b"\xff", True, True), (b"a\0", True, True), (b"\xc3", True, True)]
)
def test_what_is_not_utf_8_is_no_text(data: bytes, begins: bool, ends: bool) -> None:
    assert text_in(data, begins=begins, ends=ends) is None


@pytest.mark.parametrize(
    ("path", "is_text", "kind"),
    [
        ("a.csv", True, "text/csv"),
        ("a.json", True, "application/json"),
        ("a.png", True, "text/plain"),
        ("a", True, "text/plain"),
        ("a.zip", False, "application/zip"),
        ("a.html", False, "application/octet-stream"),
        ("a.png", False, "application/octet-stream"),
        ("a", False, "application/octet-stream"),
    ],
)
def test_a_name_does_not_make_bytes_a_text_or_an_image(path: str, is_text: bool, kind: str) -> None:
    assert mime_type(path, is_text=is_text) == kind


def test_the_box_of_an_environment_is_the_agent_without_secrets() -> None:
    environment = replace(
        PLAIN, secrets={"A": "b"}, spec=replace(PLAIN.spec, secrets={"C": "d"}), interpreter="/opt/py"
    )

    box = environment.box

    assert box.command[0] == "/opt/py"
    assert box.command[-1] == f"--content={agent_digest()}"
    assert (box.secrets, box.label) == ({}, "default")
