"""What we write, a real OPA loads, verifies and decides by; what it writes, we do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from adapters.pdp.bundle import PolicyRefused, bundle_of, load_bundle
from adapters.pdp.bundle_signature import SIGNATURES, sign, verify
from adapters.pdp.checks import check_bundle
from adapters.pdp.opa_bundle import read_bundle, write_bundle
from adapters.pdp.opa_bundle_archive import packed, unpacked
from adapters.pdp.opa_bundle_keys import private_key, public_key
from adapters.pdp.policytests import run_tests
from tests.pdp.bundles import ALLOW, QUESTION, SECRET, keys, module
from tests.pdp.opaserver import HOW_TO, opa_program, running_opa

pytestmark = pytest.mark.skipif(not opa_program(), reason=HOW_TO)

POLICIES = Path(__file__).parents[2] / "policies"
AWKWARD = {
    "text": 'é \u2028 < & > \x7f \x01 \b \t "\\ 🙂',
    "numbers": [0, -1, 1.5, 1e21, 1e-7, 9007199254740993, 100.0],
    "nested": {"b": [{}, [], [[None, True]]], "a": {"": 1}},
    "é": 1,
    "🙂": 2,
    "\uffff": 3,
}
KINDS = [("rsa", "RS256"), ("rsa", "PS384"), ("ec", "ES256"), ("ed", "EdDSA"), ("secret", "HS256")]


def opa(*words: str, cwd: Path, good: bool = True) -> str:
    done = subprocess.run([opa_program(), *words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode == 0) is good, done.stdout + done.stderr
    return done.stdout + done.stderr


def key_files(directory: Path, kind: str) -> tuple[str, str]:
    private, public = directory / f"{kind}.pem", directory / f"{kind}.pub"
    private.write_text(keys(kind)[0])
    public.write_text(keys(kind)[1])
    return (SECRET, SECRET) if kind == "secret" else (str(private), str(public))


@pytest.mark.parametrize(("kind", "algorithm"), KINDS)
def test_what_we_sign_opa_verifies_and_what_was_changed_it_refuses(tmp_path: Path, kind: str, algorithm: str) -> None:
    files = write_bundle(bundle_of({"shop.rego": module(ALLOW)}, {"awkward": AWKWARD}), with_tests=True)
    files[SIGNATURES] = sign(files, private_key(keys(kind)[0]), algorithm)
    (tmp_path / "good.tar.gz").write_bytes(packed(files))
    (tmp_path / "bad.tar.gz").write_bytes(packed({**files, "shop.rego": module("allow := true").encode()}))
    key = ["--verification-key", key_files(tmp_path, kind)[1], "--signing-alg", algorithm, "-o", "out.tar.gz"]

    opa("build", "-b", "good.tar.gz", *key, cwd=tmp_path)
    told = opa("build", "-b", "bad.tar.gz", *key, cwd=tmp_path, good=False)

    assert "digest mismatch" in told


@pytest.mark.parametrize(("kind", "algorithm"), KINDS)
def test_what_opa_builds_and_signs_we_verify_and_load(tmp_path: Path, kind: str, algorithm: str) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "shop.rego").write_text(module(ALLOW))
    (rules / "data.json").write_text(json.dumps({"awkward": AWKWARD}, ensure_ascii=False))
    key = ["--signing-key", key_files(tmp_path, kind)[0], "--signing-alg", algorithm]
    (rules / "interlock.rego").write_bytes((POLICIES / "lib" / "interlock.rego").read_bytes())
    opa("build", "-b", "rules", "-r", "seven", *key, "-o", "opa.tar.gz", cwd=tmp_path)

    files = unpacked((tmp_path / "opa.tar.gz").read_bytes())
    signed = verify(files, public_key(keys(kind)[1]))
    opened = read_bundle(files)

    assert signed.algorithm == algorithm
    assert (opened.manifest.revision, opened.has_library) == ("seven", True)
    assert check_bundle(opened.bundle) == []
    assert json.loads(opened.bundle.data)["awkward"]["text"] == AWKWARD["text"]
    with pytest.raises(PolicyRefused, match="is not what was signed"):
        verify({**files, "data.json": b"{}"}, public_key(keys(kind)[1]))


def test_signature_that_opa_makes_for_a_directory_holds_for_its_yaml_and_other_files(tmp_path: Path) -> None:
    files = {
        "a/data.yaml": b"b: [1, 2.5, true, null, text]\na: {c: 0}\n",
        "shop.rego": module(ALLOW).encode(),
        "data.json": b'{ "n": 1.50, "m": 1e3 }',
        ".manifest": b'{ "roots": [""],  "revision": "r" }',
    }
    for name, content in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    key = key_files(tmp_path, "rsa")[0]
    opa("sign", "--signing-key", key, "--bundle", ".", "-o", str(tmp_path), cwd=tmp_path / "in")
    signatures = (tmp_path / SIGNATURES).read_bytes()

    signed = verify({**files, SIGNATURES: signatures}, public_key(keys("rsa")[1]))

    assert signed.files.keys() == files.keys()


def test_opa_answers_by_our_bundle_as_the_embedded_engine_does(tmp_path: Path) -> None:
    bundle = load_bundle([POLICIES / "lib", POLICIES / "starter"])
    files = write_bundle(bundle, with_tests=True)
    files[SIGNATURES] = sign(files, private_key(keys("ec")[0]))
    (tmp_path / "bundle.tar.gz").write_bytes(packed(files))
    (tmp_path / "input.json").write_text(json.dumps(QUESTION))

    told = opa("eval", "-b", "bundle.tar.gz", "-i", "input.json", "-f", "raw", "data.interlock.decision", cwd=tmp_path)
    tested = opa("test", "-b", "bundle.tar.gz", cwd=tmp_path)

    assert json.loads(told)["decision"] is False
    assert "PASS" in tested
    assert run_tests(read_bundle(files).bundle).faults == []


def test_server_loads_our_signed_bundle_and_not_one_of_another_key(tmp_path: Path) -> None:
    library = load_bundle([POLICIES / "lib"])
    modules = {file.path: file.text for file in library.files}
    files = write_bundle(bundle_of({**modules, "shop.rego": module(ALLOW)}))
    files[SIGNATURES] = sign(files, private_key(keys("rsa")[0]))
    place = tmp_path / "bundle.tar.gz"
    place.write_bytes(packed(files))

    with running_opa("-b", str(place), "--verification-key", key_files(tmp_path, "rsa")[1]) as url:
        assert url
    with (
        pytest.raises(RuntimeError, match="opa ended"),
        running_opa("-b", str(place), "--verification-key", key_files(tmp_path, "rsa-other")[1]),
    ):
        pass
