"""`interlock policy bundle` makes, signs, verifies and shows bundles, and its exit code says what it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK
from tests.pdp.bundles import ALLOW, archive, keys, module

Printed = pytest.CaptureFixture[str]
FAILING = "package tests.shop\n\ntest_it if data.rules.shop.allow\n"


def rules(root: Path, text: str = ALLOW, tests: str = "") -> str:
    folder = root / "rules"
    folder.mkdir(exist_ok=True)
    (folder / "shop.rego").write_text(module(text))
    if tests:
        (folder / "shop_test.rego").write_text(tests)
    return str(folder)


def key(root: Path, kind: str = "ec") -> tuple[str, str]:
    private, public = root / f"{kind}.pem", root / f"{kind}.pub"
    private.write_text(keys(kind)[0])
    public.write_text(keys(kind)[1])
    return str(private), str(public)


def build(root: Path, *words: str) -> tuple[int, str]:
    target = str(root / "bundle.tar.gz")
    return main(["policy", "bundle", "build", "--path", rules(root), "-o", target, *words]), target


def shown(target: str, capsys: Printed) -> dict[str, object]:
    capsys.readouterr()
    assert main(["policy", "bundle", "inspect", target, "--json"]) == OK
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


def test_bundle_is_built_with_the_library_and_without_tests(tmp_path: Path, capsys: Printed) -> None:
    code, target = build(tmp_path, "--revision", "seven")

    report = shown(target, capsys)
    assert code == OK
    assert report["revision"] == "seven"
    assert report["library"] is True
    assert set(report["files"]) == {".manifest", "data.json", "lib/interlock.rego", "rules/shop.rego"}  # type: ignore[call-overload]  # a table
    assert report["roots"] == ["interlock", "rules/shop"]
    assert report["signature"] is None


def test_library_is_left_out_and_tests_are_taken_in_when_asked(tmp_path: Path, capsys: Printed) -> None:
    good = 'package tests.shop\n\ntest_it if data.rules.shop.allow with input as {"resource": {"id": "shop/buy"}}\n'
    rules(tmp_path, tests=good)

    code, target = build(tmp_path, "--no-library", "--tests")

    report = shown(target, capsys)
    assert code == OK
    assert report["library"] is False
    assert set(report["files"]) == {".manifest", "data.json", "rules/shop.rego", "rules/shop_test.rego"}  # type: ignore[call-overload]  # a table


def test_same_rules_give_the_same_file(tmp_path: Path) -> None:
    _, target = build(tmp_path)
    first = Path(target).read_bytes()

    build(tmp_path)

    assert Path(target).read_bytes() == first


@pytest.mark.parametrize(
    ("text", "tests", "what"),
    [
        ("allow if {", "", "rules/shop.rego:8"),
        ("allow if http.send({}).x", "", "http.send is not allowed"),
        (ALLOW, FAILING, "test_it: is undefined"),
    ],
)
def test_policy_that_is_not_good_is_not_built(
    tmp_path: Path, capsys: Printed, text: str, tests: str, what: str
) -> None:
    target = tmp_path / "bundle.tar.gz"

    code = main(["policy", "bundle", "build", "--path", rules(tmp_path, text, tests), "-o", str(target)])

    assert code == NOT_AS_IT_SHOULD_BE
    assert what in capsys.readouterr().out
    assert not target.exists()


def test_roots_that_do_not_hold_the_policy_are_refused(tmp_path: Path, capsys: Printed) -> None:
    code, _ = build(tmp_path, "--root", "rules/bank", "--json")

    report = json.loads(capsys.readouterr().out)
    assert code == NOT_AS_IT_SHOULD_BE
    assert "which no root of the manifest holds" in report["faults"][0]["message"]


@pytest.mark.parametrize(
    ("kind", "algorithm"), [("rsa", "RS256"), ("ec", "ES256"), ("ed", "EdDSA"), ("secret", "HS256")]
)
def test_signed_bundle_verifies_with_its_key_only(tmp_path: Path, capsys: Printed, kind: str, algorithm: str) -> None:
    private, public = key(tmp_path, kind)
    _, other = key(tmp_path, "ec-other")
    _, target = build(tmp_path)

    assert main(["policy", "bundle", "sign", target, "--key", private, "--key-id", "k1"]) == OK
    capsys.readouterr()
    good = main(["policy", "bundle", "verify", target, "--key", public, "--json"])
    told = json.loads(capsys.readouterr().out)
    bad = main(["policy", "bundle", "verify", target, "--key", other])

    assert (good, bad) == (OK, NOT_AS_IT_SHOULD_BE)
    assert (told["algorithm"], told["key_id"], told["signs"]) == (algorithm, "k1", 4)
    assert "not made with this key" in capsys.readouterr().out


def test_bundle_is_built_and_signed_at_once_and_signed_anew_elsewhere(tmp_path: Path, capsys: Printed) -> None:
    private, public = key(tmp_path)
    secret, _ = key(tmp_path, "secret")
    again = str(tmp_path / "again.tar.gz")
    _, target = build(tmp_path, "--key", private, "--scope", "staging")

    signed = main(["policy", "bundle", "sign", target, "--key", secret, "--alg", "HS512", "-o", again])

    assert signed == OK
    assert main(["policy", "bundle", "verify", target, "--key", public, "--scope", "staging"]) == OK
    assert main(["policy", "bundle", "verify", target, "--key", public]) == NOT_AS_IT_SHOULD_BE
    assert main(["policy", "bundle", "verify", again, "--key", secret]) == OK
    assert "HS512" in capsys.readouterr().out


def test_bundle_is_shown_as_people_read_it(tmp_path: Path, capsys: Printed) -> None:
    private, _ = key(tmp_path)
    _, target = build(tmp_path, "--key", private)
    capsys.readouterr()

    main(["policy", "bundle", "inspect", target])

    page = capsys.readouterr().out
    assert "library    in it" in page
    assert "not verified here" in page
    assert "rules/shop.rego" in page


def test_what_a_bundle_says_of_itself_cannot_draw_on_the_screen(tmp_path: Path, capsys: Printed) -> None:
    target = tmp_path / "bundle.tar.gz"
    target.write_bytes(archive(revision="7\nsignature  EdDSA, key of ours\n\x1b[2K"))

    main(["policy", "bundle", "inspect", str(target)])

    page = capsys.readouterr().out
    assert [line for line in page.splitlines() if line.startswith("signature")] == ["signature  (none)"]
    assert "\x1b" not in page


@pytest.mark.parametrize("path", [".", "..", "inner/.."])
def test_policy_that_is_named_by_where_one_stands_is_signed_as_any_other(
    tmp_path: Path, capsys: Printed, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (private, public), folder, target = key(tmp_path), Path(rules(tmp_path)), str(tmp_path / "bundle.tar.gz")
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder / "inner" if path == ".." else folder)

    built = main(["policy", "bundle", "build", "--path", path, "--key", private, "-o", target])
    verified = main(["policy", "bundle", "verify", target, "--key", public])

    assert (built, verified) == (OK, OK)
    assert "rules/shop.rego" in str(shown(target, capsys)["files"])


def test_names_that_no_bundle_can_have_are_told_before_anything_is_written(tmp_path: Path, capsys: Printed) -> None:
    (Path(rules(tmp_path)) / "a\\b.rego").write_text(module(ALLOW, team="other"))

    code, target = build(tmp_path)

    assert code == NOT_AS_IT_SHOULD_BE
    assert "is not a name that a file of a bundle can have" in capsys.readouterr().out
    assert not Path(target).exists()


@pytest.mark.parametrize("words", [["inspect"], ["verify", "--key", "KEY"], ["sign", "--key", "PRIVATE"]])
def test_what_is_no_bundle_is_told(tmp_path: Path, capsys: Printed, words: list[str]) -> None:
    private, public = key(tmp_path)
    target = tmp_path / "bundle.tar.gz"
    target.write_bytes(archive()[:-9])
    given = [{"KEY": public, "PRIVATE": private}.get(word, word) for word in words]

    code = main(["policy", "bundle", given[0], str(target), *given[1:]])

    assert code == NOT_AS_IT_SHOULD_BE
    assert "is cut off" in capsys.readouterr().out


def test_missing_files_are_told(tmp_path: Path, capsys: Printed) -> None:
    private, _ = key(tmp_path)
    _, target = build(tmp_path)

    missing = main(["policy", "bundle", "inspect", str(tmp_path / "nothing")])
    keyless = main(["policy", "bundle", "sign", target, "--key", str(tmp_path / "nothing")])
    wrong = main(["policy", "bundle", "sign", target, "--key", private, "--alg", "RS256"])

    assert (missing, keyless, wrong) == (CANNOT, CANNOT, NOT_AS_IT_SHOULD_BE)
    assert "RS256 is not for this key; use ES256" in capsys.readouterr().out
