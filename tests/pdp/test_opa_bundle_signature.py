"""A signature holds for exactly the files that were signed, with the key that was meant, and for nothing else."""

from __future__ import annotations

import base64
import hmac
import json

import pytest
from joserfc.jwk import OctKey
from joserfc.jws import serialize_compact

from adapters.pdp.bundle import PolicyRefused
from adapters.pdp.bundle_signature import SIGNATURES, inspect, sign, verify
from adapters.pdp.opa_bundle_digest import digest_of
from adapters.pdp.opa_bundle_keys import private_key, public_key
from tests.pdp.bundles import SECRET, files_of, keys, signed

KINDS = {"rsa": ["RS256", "RS512", "PS256"], "ec": ["ES256"], "ed": ["EdDSA"], "secret": ["HS256", "HS512"]}


@pytest.mark.parametrize(("kind", "algorithm"), [(kind, name) for kind, names in KINDS.items() for name in names])
def test_signature_holds_with_its_own_key_and_no_other(kind: str, algorithm: str) -> None:
    files = signed(files_of(), kind, algorithm)

    found = verify(files, public_key(keys(kind)[1]))

    assert (found.algorithm, found.key_id) == (algorithm, "default")
    assert inspect(files) == found
    for other in KINDS.keys() - {kind}:
        with pytest.raises(PolicyRefused, match="not made with this key"):
            verify(files, public_key(keys(other)[1]))


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed"])
def test_another_key_of_the_same_kind_does_not_verify(kind: str) -> None:
    with pytest.raises(PolicyRefused, match="not made with this key"):
        verify(signed(files_of(), kind), public_key(keys(f"{kind}-other")[1]))


def changed(files: dict[str, bytes], **changes: bytes | None) -> dict[str, bytes]:
    merged = {**files, **{name.replace("__", "."): content for name, content in changes.items()}}
    return {name: content for name, content in merged.items() if content is not None}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"shop__rego": b"package rules.shop\n\nallow := true\n"}, "shop.rego:0:0: is not what was signed"),
        ({"more__rego": b"package rules.more\n"}, "more.rego:0:0: is not covered"),
        ({"shop__rego": None}, "shop.rego:0:0: is signed, but is not in the bundle"),
        ({"data__json": b'{"a": 1}'}, "data.json:0:0: is not what was signed"),
        ({"__manifest": b"{}"}, "is not what was signed"),
    ],
)
def test_every_file_counts(changes: dict[str, bytes | None], what: str) -> None:
    files = changed(signed(files_of()), **changes)

    with pytest.raises(PolicyRefused, match=what.replace(".", r"\.")):
        verify(files, public_key(keys("ec")[1]))


def test_of_a_document_the_values_count_and_not_how_they_are_written() -> None:
    files = {**files_of(), "data.json": b'{"b": [1, 2.50, "\xc3\xa9<"], "a": null}'}
    written = {**signed(files), "data.json": b'{ "a":null,\n "b":[1,2.50,"\\u00e9\\u003c"]}\n'}

    assert verify(written, public_key(keys("ec")[1]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a": 1}', b'{"a": 1.0}'),
        (b'{"a": 1e2}', b'{"a": 100}'),
        (b'{"a": "1"}', b'{"a": 1}'),
        (b'{"a": [[], 1]}', b'{"a": [[1]]}'),
        (b'{"a": 9007199254740993}', b'{"a": 9007199254740992}'),
    ],
)
def test_different_documents_have_different_digests(one: bytes, other: bytes) -> None:
    assert digest_of("data.json", one, "SHA-256") != digest_of("data.json", other, "SHA-256")


@pytest.mark.parametrize("content", [b'{"a": 1, "a": 2}', b'{"a": NaN}', b"{", b'{"a": "\\ud800"}', b"[" * 90_000])
def test_documents_that_two_readers_could_read_differently_have_no_digest(content: bytes) -> None:
    with pytest.raises(PolicyRefused):
        digest_of("data.json", content, "SHA-256")


def token(header: dict[str, object], payload: object, signature: bytes = b"") -> bytes:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    text = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    return json.dumps({"signatures": [text]}).encode()


def payload_of(files: dict[str, bytes]) -> object:
    return {
        "files": [
            {"name": name, "hash": digest_of(name, content, "SHA-256"), "algorithm": "SHA-256"}
            for name, content in files.items()
        ]
    }


@pytest.mark.parametrize("algorithm", ["none", "None", "", "HS256", "RS1", "dir", None])
def test_algorithm_of_the_token_is_not_believed(algorithm: str | None) -> None:
    files = files_of()
    forged = {**files, SIGNATURES: token({"alg": algorithm, "kid": "default"}, payload_of(files))}

    with pytest.raises(PolicyRefused, match="not made with this key"):
        verify(forged, public_key(keys("rsa")[1]))


def test_public_key_is_no_shared_secret() -> None:
    files, public = files_of(), keys("rsa")[1]
    unsigned = json.loads(token({"alg": "HS256"}, payload_of(files)))["signatures"][0].rstrip(".")
    made = hmac.digest(public.encode(), unsigned.encode(), "sha256")
    forged = {**files, SIGNATURES: token({"alg": "HS256"}, payload_of(files), made)}

    with pytest.raises(PolicyRefused, match="not made with this key"):
        verify(forged, public_key(public))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is not JSON"),
        (b"[" + b"[]," * 2_000_000 + b"1]", "is larger than 4194304 bytes"),
        (b"[]", "exactly one signature"),
        (b'{"signatures": []}', "exactly one signature"),
        (b'{"signatures": ["a", "b"]}', "exactly one signature"),
        (b'{"signatures": [1]}', "as a text"),
        (b'{"signatures": ["a"], "plugin": "mine"}', "plug-in"),
        (b'{"signatures": ["a.b.c"]}', "not made with this key"),
        (b'{"signatures": ["\\u00e9.\\u00e9.\\u00e9"]}', "not made with this key"),
    ],
)
def test_signatures_that_are_none_are_refused(content: bytes, what: str) -> None:
    with pytest.raises(PolicyRefused, match=what):
        verify({**files_of(), SIGNATURES: content}, public_key(keys("ec")[1]))


def test_token_that_is_nested_too_deeply_is_refused_like_any_other() -> None:
    header = base64.urlsafe_b64encode(b'{"alg":"ES256","x":' + b"[" * 1_500 + b"]" * 1_500 + b"}").decode()
    files = {**files_of(), SIGNATURES: json.dumps({"signatures": [f"{header}.e30.AA"]}).encode()}

    with pytest.raises(PolicyRefused, match="not made with this key"):
        verify(files, public_key(keys("ec")[1]))
    with pytest.raises(PolicyRefused, match="no token that can be read"):
        inspect(files)


def test_unsigned_bundle_is_refused_where_a_key_is() -> None:
    with pytest.raises(PolicyRefused, match="is not signed"):
        verify(files_of(), public_key(keys("ec")[1]))
    assert inspect(files_of()) is None


def by_the_owner(payload: object) -> dict[str, bytes]:
    """Rightly signed, and wrong all the same."""
    made = serialize_compact({"alg": "HS256"}, json.dumps(payload).encode(), OctKey.import_key(SECRET))
    return {"a.rego": b"package a\n", SIGNATURES: json.dumps({"signatures": [made]}).encode()}


ENTRY = {"name": "a.rego", "hash": digest_of("a.rego", b"package a\n", "SHA-256"), "algorithm": "SHA-256"}


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        ([], "no object"),
        ({}, "names no files"),
        ({"files": [{}]}, "without name, hash or algorithm"),
        ({"files": [{**ENTRY, "hash": 1}]}, "without name, hash or algorithm"),
        ({"files": [ENTRY, ENTRY]}, "twice"),
        ({"files": [{**ENTRY, "algorithm": "MD5"}]}, "digest of the kind 'MD5'"),
        ({"files": [{**ENTRY, "algorithm": "SHA-1"}]}, "digest of the kind 'SHA-1'"),
        ({"files": [{**ENTRY, "algorithm": ""}]}, "digest of the kind ''"),
        ({"files": [{**ENTRY, "hash": ""}]}, "is not what was signed"),
        ({"files": [ENTRY], "scope": "write"}, "is for the scope 'write'"),
    ],
)
def test_payloads_that_say_too_little_are_refused(payload: object, what: str) -> None:
    with pytest.raises(PolicyRefused, match=what):
        verify(by_the_owner(payload), public_key(SECRET))


@pytest.mark.parametrize("algorithm", ["SHA-256", "SHA-384", "SHA-512", "SHA-512-256"])
def test_stronger_digests_are_taken(algorithm: str) -> None:
    entry = {**ENTRY, "hash": digest_of("a.rego", b"package a\n", algorithm).upper(), "algorithm": algorithm}

    assert verify(by_the_owner({"files": [entry]}), public_key(SECRET)).algorithm == "HS256"


def test_scope_has_to_be_the_one_that_is_asked_for() -> None:
    files = files_of()
    files[SIGNATURES] = sign(files, private_key(SECRET), scope="staging", key_id="k1")

    assert verify(files, public_key(SECRET), scope="staging").key_id == "k1"
    with pytest.raises(PolicyRefused, match="scope"):
        verify(files, public_key(SECRET))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("short", "less than 32 bytes"),
        ("", "less than 32 bytes"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0 someone", "another form than PEM"),
        ('{"kty": "OKP", "crv": "Ed25519", "x": "AAAAAAAAAAAAAAAA"}', "another form than PEM"),
        ("-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n", "no PEM public key"),
        ("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", "no PEM public key"),
        (keys("ec")[0], "is a private key"),
        (keys("rsa-short")[1], "1024 bits"),
        (keys("ec-strange")[1], "signs no bundles"),
    ],
)
def test_keys_that_verify_nothing_are_refused(text: str, what: str) -> None:
    with pytest.raises(PolicyRefused, match=what):
        public_key(text)


def test_keys_that_sign_nothing_are_refused() -> None:
    with pytest.raises(PolicyRefused, match="is a public key"):
        private_key(keys("ec")[1])
    with pytest.raises(PolicyRefused, match="no PEM private key"):
        private_key("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
    with pytest.raises(PolicyRefused, match="ES512 is not for this key; use ES256"):
        sign(files_of(), private_key(keys("ec")[0]), "ES512")
