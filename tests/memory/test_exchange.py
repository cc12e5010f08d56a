"""What is exported comes back exactly, and whatever was changed on the way is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.memory.sqlite import open_memory
from gateway.errors import InvalidCall
from gateway.memory.arguments import KEY, NAMESPACE
from gateway.memory.exchange import from_line, manifest_of, read_export, read_manifest, split_lines, to_line
from gateway.memory.markdown import file_name, from_markdown, to_markdown
from gateway.memory.records import Kind, Scope, Status, Version
from gateway.memory.wording import FIRST_MS, LAST_MS
from tests.memory.drafts import ALL, REVIEWER, TOOL, USER, Clock, draft, view_of

TEXTS = st.text()
VERSIONS = st.builds(
    Version,
    id=st.just("mem-1@1"),
    record=st.just("mem-1"),
    number=st.just(1),
    tenant=TEXTS,
    namespace=st.from_regex(NAMESPACE, fullmatch=True),
    key=st.from_regex(KEY, fullmatch=True),
    text=TEXTS,
    content_hash=TEXTS,
    scope=st.sampled_from(Scope),
    owner=TEXTS,
    kind=st.sampled_from([Kind.EPISODIC, Kind.SEMANTIC, Kind.PROCEDURAL]),
    labels=st.lists(TEXTS).map(tuple),
    residency=TEXTS,
    source=st.sampled_from([USER, TOOL]),
    changed_by=st.sampled_from([REVIEWER, TOOL]),
    status=st.sampled_from(Status),
    trust=st.floats(0, 1),
    valid_from_ms=st.integers(FIRST_MS, LAST_MS),
    valid_to_ms=st.none() | st.integers(0, LAST_MS),
    recorded_at_ms=st.integers(0, LAST_MS),
    superseded_at_ms=st.none() | st.integers(0, LAST_MS),
    subjects=st.lists(TEXTS).map(tuple),
    note=TEXTS,
)


@settings(deadline=None)
@given(VERSIONS)
def test_version_comes_back_exactly_from_its_line_and_from_its_document(version: Version) -> None:
    assert from_line(to_line(version)) == version
    assert to_line(version).count(b"\n") == 1
    assert from_markdown(to_markdown(version)) == version


@pytest.mark.anyio
async def test_export_of_a_store_makes_the_same_store_again(tmp_path: Path) -> None:
    clock = Clock()
    with anyio.fail_after(30):
        first = await open_memory(tmp_path / "a.db", clock_ms=clock)
        record = (await first.add("acme", draft("a --- b\n---\n", key="k", labels=("x",)))).record
        await first.supersede("acme", record, draft("c", valid_from_ms=5, valid_to_ms=clock.ms + 5))
        await first.set_status("acme", record, Status.QUARANTINED, REVIEWER, note="odd")
        erased = await first.add("acme", draft("gone", subjects=("user:ana",)))
        await first.erase_records("acme", [erased.record], REVIEWER)
        exported = [one async for one in first.everything(await view_of(first, statuses=ALL))]
        second = await open_memory(tmp_path / "b.db", clock_ms=clock)

        manifest = read_manifest(manifest_of("acme", exported, now_ms=1).as_json())
        data = b"".join(map(to_line, exported))
        await second.load("acme", read_export(manifest, split_lines(data)))

        again = [one async for one in second.everything(await view_of(second, statuses=ALL))]
        assert b"".join(map(to_line, again)) == data
        assert manifest_of("acme", again, now_ms=1) == manifest
        await first.aclose()
        await second.aclose()


def some() -> list[Version]:
    one = from_line(to_line(VERSION))
    return [replace(one, id=f"mem-1@{number}", number=number) for number in (1, 2, 3)]


VERSION = Version(
    "mem-1@1", "mem-1", 1, "acme", "facts", "k", "text", "", Scope.ORG, "", Kind.SEMANTIC, (), "", USER, USER,
    Status.ACTIVE, 0.5, 0, None, 0, None,
)  # fmt: skip


def test_line_that_is_missing_moved_changed_or_added_is_noticed() -> None:
    lines = [to_line(version) for version in some()]
    manifest = manifest_of("acme", some(), now_ms=1)
    changed = to_line(replace(some()[0], trust=0.9))
    added = to_line(replace(some()[0], id="mem-2@1", record="mem-2"))

    for wrong in (lines[:2], lines[::-1], [changed, *lines[1:]], [*lines, added], [*lines, lines[0]]):
        with pytest.raises(InvalidCall):
            read_export(manifest, wrong)

    assert read_export(manifest, lines) == some()


@pytest.mark.parametrize("line", [b"", b"[]", b"{", b"{}", b'{"id": 1}', to_line(VERSION)[:-2] + b',"more":1}'])
def test_line_that_is_no_version_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidCall):
        from_line(line)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"record": "../../outside", "id": "../../outside@1"}, "record"),
        ({"id": "mem-2@1"}, "id"),
        ({"number": 2}, "id"),
        ({"namespace": "../up"}, "namespace"),
        ({"key": "a\nb"}, "key"),
        ({"text": "x" * 20_000}, "text"),
        ({"trust": 1.5}, "trust"),
        ({"kind": Kind.SCRATCH}, "kind"),
        ({"valid_from_ms": 10**17}, "valid_from_ms"),
        ({"superseded_at_ms": 2**70}, "superseded_at_ms"),
    ],
)
def test_line_that_would_do_harm_where_it_is_kept_or_written_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidCall, match=f"{named} is not what"):
        from_line(to_line(replace(VERSION, **changes)))


@pytest.mark.parametrize(
    "document", ["", "---\n", "text", "---\nid: 1\n---\n\n", "---\nid\n---\n\nx\n", "---\nid: {\n---\n\nx\n"]
)
def test_document_without_the_front_matter_of_a_version_is_refused(document: str) -> None:
    with pytest.raises(InvalidCall):
        from_markdown(document)


def test_wrong_types_are_refused_and_not_converted() -> None:
    with pytest.raises(InvalidCall, match="trust"):
        from_line(to_line(replace(VERSION, trust="0.5")))  # type: ignore[arg-type]


def test_manifest_of_another_format_is_refused() -> None:
    with pytest.raises(InvalidCall, match="format"):
        read_manifest(b'{"format": "interlock-memory/2"}')


def test_every_version_has_a_file_of_its_own() -> None:
    assert [file_name(version) for version in some()] == [f"mem-1.00000{number}.md" for number in (1, 2, 3)]
