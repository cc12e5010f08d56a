"""OPA's bundles become policies, and policies become bundles, without loss; what could be read two ways is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.pdp.bundle import Bundle, PolicyRefused, bundle_of, load_bundle
from adapters.pdp.checks import check_bundle
from adapters.pdp.opa_bundle import composed, read_bundle, write_bundle
from adapters.pdp.opa_bundle_archive import packed, unpacked
from tests.pdp.bundles import ALLOW, files_of, module

POLICIES = Path(__file__).parents[2] / "policies"


def shipped() -> Bundle:
    return load_bundle([POLICIES / "lib", POLICIES / "starter"])


def test_policy_comes_back_as_it_was() -> None:
    bundle = shipped()

    opened = read_bundle(unpacked(packed(write_bundle(bundle, with_tests=True))))

    assert opened.bundle == bundle
    assert opened.has_library
    assert opened.manifest.revision == bundle.revision


def test_same_policy_gives_the_same_bytes() -> None:
    first, second = (packed(write_bundle(shipped(), with_tests=True)) for _ in range(2))

    assert first == second


def test_tests_and_cases_stay_out_unless_asked_for() -> None:
    names = write_bundle(shipped()).keys()

    assert not [name for name in names if "test" in name or "cases" in name]


def test_roots_are_as_narrow_as_the_policy_is() -> None:
    bundle = bundle_of({"a.rego": module(ALLOW), "b.rego": module(ALLOW, "bank")}, {"grants": {"x": 1}, "rules": {}})

    alone = read_bundle(write_bundle(bundle_of({"a.rego": module(ALLOW)}, {"grants": {"x": 1}})))
    below = read_bundle(write_bundle(bundle))

    assert alone.manifest.roots == ("grants", "rules/shop")
    assert below.manifest.roots == ("grants", "rules")


def test_data_that_no_path_can_name_owns_everything() -> None:
    opened = read_bundle(write_bundle(bundle_of({"a.rego": module(ALLOW)}, {"a/b": 1})))

    assert opened.manifest.roots == ("",)


def test_rules_without_a_library_are_put_under_the_gateway_s() -> None:
    library = load_bundle([POLICIES / "lib"])
    opened = read_bundle(files_of())

    bundle = composed(library, opened.bundle)

    assert not opened.has_library
    assert check_bundle(bundle) == []
    assert {file.path for file in bundle.files} == {"lib/interlock.rego", "shop.rego"}


def test_rules_cannot_take_the_place_of_the_library_or_its_data() -> None:
    library = bundle_of({"lib/interlock.rego": "package interlock\n"}, {"known": {"a": 1}})

    with pytest.raises(PolicyRefused, match="name of a file of the library"):
        composed(library, bundle_of({"lib/interlock.rego": module(ALLOW)}))
    with pytest.raises(PolicyRefused, match=r"sets data\.known\.a"):
        composed(library, bundle_of({}, {"known": {"a": 2}}))


def test_data_stands_where_its_file_does() -> None:
    files = {
        "data.json": b'{"top": 1, "a": {"x": 1}}',
        "a/data.yaml": b"y: [1, two]\n",
        "a/b/data.json": b"3",
        "data/data.yml": b"z: 1\n",
        "a/other.json": b'{"ignored": true}',
    }

    opened = read_bundle(files)

    assert opened.bundle == bundle_of({}, {"top": 1, "a": {"x": 1, "y": [1, "two"], "b": 3}, "data": {"z": 1}})


def test_cases_are_tests_and_no_data() -> None:
    opened = read_bundle({"shop/cases/a.json": b"[]", "shop/cases/b.yaml": b"[]", "x_test.rego": b"package tests.x\n"})

    assert [case.path for case in opened.bundle.cases] == ["shop/cases/a.json", "shop/cases/b.yaml"]
    assert [test.path for test in opened.bundle.tests] == ["x_test.rego"]


def manifest(text: str) -> dict[str, bytes]:
    return {"shop.rego": module(ALLOW).encode(), ".manifest": text.encode()}


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (manifest("[]"), "must be an object"),
        (manifest("{"), "is not JSON"),
        (manifest('{"rego_version": 0}'), "rego_version"),
        (manifest('{"rego_version": true}'), "rego_version"),
        (manifest('{"file_rego_versions": {"/shop.rego": 0}}'), "rego_version"),
        (manifest('{"file_rego_versions": [1]}'), "rego_version"),
        (manifest('{"wasm": [{"entrypoint": "x"}]}'), "compiled policy"),
        (manifest('{"revision": 7}'), "a text as revision"),
        (manifest('{"roots": "rules"}'), "a list of texts as roots"),
        (manifest('{"roots": [1]}'), "a list of texts as roots"),
        (manifest('{"roots": ["rules", "/rules/shop/"]}'), "of which one holds the other"),
        (manifest('{"roots": ["", "x"]}'), "of which one holds the other"),
        (manifest('{"roots": ["rules/bank"]}'), "is in the package rules.shop"),
        (manifest(f'{{"roots": {json.dumps([str(number) for number in range(1_001)])}}}'), "more than 1000 roots"),
        (manifest('{"roots": []}'), "is in the package rules.shop"),
        ({**manifest('{"roots": ["rules/shop", "a/b"]}'), "data.json": b'{"a": {"c": 1}}'}, "has data at /a/c"),
        ({**manifest('{"roots": ["rules/shop"]}'), "x/data.json": b"{}"}, "has data at /x"),
        ({**manifest('{"roots": ["rules"]}'), "bad.rego": b"package rules.bad\n\nallow if {"}, "bad.rego:3"),
        ({**manifest('{"roots": ["x"]}'), "x.rego": b"package x\n\ny := 1" + b" + 1" * 900}, "too many terms"),
        ({"a/.manifest": b"{}"}, "belongs at the top"),
        ({"x.manifest": b"{}"}, "belongs at the top"),
        ({"a/.signatures.json": b"{}"}, "belongs at the top"),
        ({".manifest.pb": b""}, "not JSON"),
        ({"policy.wasm": b""}, "compiled policy"),
        ({"plan.json": b""}, "compiled policy"),
        ({"patch.json": b"{}"}, "delta bundle"),
        ({"data.json": b"[]"}, "must be an object"),
        ({"data.json": b"{"}, "is not JSON"),
        ({"a/data.yaml": b"a: [1"}, "is not YAML"),
        ({"data.json": b"\xff"}, "is not JSON"),
        ({"a/data.yaml": b"\xff"}, "is not UTF-8"),
        ({"a.rego": b"\xff"}, "is not UTF-8"),
        ({"data.json": b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}"}, "nested more than 200 deep"),
        ({"data.json": b"[" * 100_000}, "is not JSON"),
        ({"data.json": b'{"a": {"b": 1}}', "a/data.json": b'{"b": 2}'}, "sets data.a.b"),
        ({"data.json": b'{"a": 1}', "a/data.json": b'{"b": 2}'}, "sets data.a"),
    ],
)
def test_what_opa_would_not_load_or_we_not_follow_is_refused(files: dict[str, bytes], what: str) -> None:
    with pytest.raises(PolicyRefused, match=what.replace(".", r"\.")):
        read_bundle(files)


def test_policy_outside_the_roots_that_were_asked_for_is_not_written() -> None:
    with pytest.raises(PolicyRefused, match=r"is in the package rules\.shop"):
        write_bundle(bundle_of({"a.rego": module(ALLOW)}), roots=["rules/bank"])


def test_manifest_says_more_than_we_need() -> None:
    opened = read_bundle({".manifest": b'{"revision": "a", "metadata": {"who": "me"}, "unknown": 1}'})

    assert (opened.manifest.revision, opened.manifest.metadata) == ("a", {"who": "me"})
