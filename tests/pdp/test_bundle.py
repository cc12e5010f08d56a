"""A policy directory is read as one value whose revision changes with whatever is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.pdp.bundle import PolicyRefused, bundle_of, load_bundle


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_rules_tests_cases_and_data_are_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    put(root / "a.rego", "package a")
    put(root / "a_test.rego", "package a_test")
    put(root / "cases" / "one.json", "[]")
    put(root / "grants" / "data.json", '{"r": 1}')
    put(root / "data" / "limits.yaml", "max: 3")
    put(root / "data.json", '{"top": true}')
    put(root / "schemas" / "input.json", "{}")
    put(root / ".hidden" / "b.rego", "package b")
    put(root / "README.md", "text")

    bundle = load_bundle([root])

    assert [file.path for file in bundle.files] == ["mine/a.rego"]
    assert [file.path for file in bundle.tests] == ["mine/a_test.rego"]
    assert [file.path for file in bundle.cases] == ["mine/cases/one.json"]
    assert json.loads(bundle.data) == {"grants": {"r": 1}, "limits": {"max": 3}, "top": True}


def test_a_later_directory_lies_on_top(tmp_path: Path) -> None:
    lib, mine = tmp_path / "lib", tmp_path / "mine"
    put(lib / "l.rego", "package l")
    put(lib / "data.json", '{"settings": {"a": 1, "b": 1}}')
    put(mine / "m.rego", "package m")
    put(mine / "data.json", '{"settings": {"b": 2}}')

    bundle = load_bundle([lib, mine])

    assert [file.path for file in bundle.files] == ["lib/l.rego", "mine/m.rego"]
    assert json.loads(bundle.data) == {"settings": {"a": 1, "b": 2}}


def test_the_revision_is_that_of_the_content() -> None:
    one = bundle_of({"a.rego": "package a"}, {"k": 1, "l": 2})

    assert one.revision.startswith("sha256:")
    assert one == bundle_of({"a.rego": "package a"}, {"l": 2, "k": 1})
    assert one.revision != bundle_of({"a.rego": "package a "}, {"k": 1, "l": 2}).revision
    assert one.revision != bundle_of({"b.rego": "package a"}, {"k": 1, "l": 2}).revision
    assert one.revision != bundle_of({"a.rego": "package a"}, {"k": 1}).revision


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("data.json", "{", "JSON"),
        ("data.json", "[1]", "must be an object"),
        ("data.yaml", "a: [", "YAML"),
        ("data/data.json", '{"a": 1}', "also set"),
    ],
)
def test_data_that_cannot_be_used_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    put(tmp_path / "x" / "data.yml", "a: 2")
    put(tmp_path / "x" / name, text)

    with pytest.raises(PolicyRefused, match=words):
        load_bundle([tmp_path / "x"])


def test_what_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.rego").write_bytes(b"\xff\xfe")

    with pytest.raises(PolicyRefused, match="not UTF-8"):
        load_bundle([tmp_path])
    with pytest.raises(PolicyRefused, match="not a directory"):
        load_bundle([tmp_path / "nowhere"])


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "1" / "p" / "a.rego", "package a")
    put(tmp_path / "2" / "p" / "a.rego", "package a")

    with pytest.raises(PolicyRefused, match="two of the directories"):
        load_bundle([tmp_path / "1" / "p", tmp_path / "2" / "p"])
