"""Spoiled bundles in great number: each is refused or holds what was signed, and nothing else ever comes out."""

from __future__ import annotations

import gzip
import random
import tarfile
from typing import Final

import pytest

from adapters.pdp.bundle import PolicyRefused
from adapters.pdp.bundle_signature import SIGNATURES, inspect, verify
from adapters.pdp.opa_bundle import read_bundle
from adapters.pdp.opa_bundle_archive import packed, unpacked
from adapters.pdp.opa_bundle_digest import digest_of
from adapters.pdp.opa_bundle_keys import private_key, public_key
from tests.pdp.bundles import files_of, keys, signed

ROUNDS: Final = 3_000
NASTY: Final = (
    b"\0", b"\xff", b"..", b"/", b"\\", b"{", b"}", b"[" * 400, b'"', b"null", b"-1", b"1e999", b"none", b"HS256",
    b"\xed\xa0\x80", b"0" * 40, b"7777777777", b"L", b"x", b"g", b"S", b"K", b"ustar", b"GNU.sparse.map=1,2\n",
    b"&a [*a,*a]", b"package", b"package interlock\n", b".signatures.json", b"data.yaml", b"\n" * 50,
)  # fmt: skip


def spoiled(content: bytes, chance: random.Random) -> bytes:
    """The same with some bytes turned, cut, doubled, moved or put in."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5, 20))):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.choice((1, 1, 8, 100, 512)))
        match chance.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at:at] = chance.choice(NASTY)
            case 2:
                del changed[at:end]
            case 3:
                changed[at:at] = changed[at:end]
            case _:
                piece = chance.choice(NASTY)
                changed[at : at + len(piece)] = piece
    return bytes(changed)


def corrected(raw: bytes) -> bytes:
    """With right checksums, so that what stands in the headers is believed."""
    fixed = bytearray(raw)
    for at in range(0, len(fixed) - 511, 512):
        header = fixed[at : at + 512]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            fixed[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(fixed)


@pytest.mark.parametrize("seed", range(4))
def test_spoiled_archives_hold_what_was_signed_or_are_refused(seed: int) -> None:
    chance = random.Random(seed)
    key, good = public_key(keys("ec")[1]), signed(files_of())
    raw = gzip.decompress(packed(good))
    through = 0

    for _ in range(ROUNDS // 4):
        archive = (
            gzip.compress(corrected(spoiled(raw, chance)), 1)
            if chance.random() < 0.8
            else spoiled(packed(good), chance)
        )
        try:
            files = unpacked(archive)
            verify(files, key)
        except PolicyRefused:
            continue
        through += 1
        assert {name: files[name] for name in files if name != SIGNATURES} == files_of()

    assert through < ROUNDS / 4


def test_spoiled_signatures_never_hold() -> None:
    chance = random.Random(1)
    key, good = public_key(keys("ec")[1]), signed(files_of())

    for _ in range(ROUNDS):
        files = {**good, SIGNATURES: spoiled(good[SIGNATURES], chance)}
        try:
            inspect(files)
            found = verify(files, key)
        except PolicyRefused:
            continue
        assert found == verify(good, key)


def test_spoiled_documents_have_a_digest_or_are_refused() -> None:
    chance = random.Random(2)
    documents = {
        "data.json": b'{"a": [1, 2.5, {"b": null}], "text": "\\u00e9\\n"}',
        "data.yaml": b"a: &x [1, 2.5]\nb: *x\nc: {d: text}\n",
        ".manifest": b'{"revision": "r", "roots": ["a", "b"], "rego_version": 1}',
    }

    for _ in range(ROUNDS):
        name = chance.choice(sorted(documents))
        content = spoiled(documents[name], chance)
        try:
            digest = digest_of(name, content, "SHA-256")
        except PolicyRefused:
            continue
        assert len(digest) == 64


def test_spoiled_contents_are_read_or_refused() -> None:
    """Without modules: each one costs a process, and their parser is not ours."""
    chance = random.Random(3)
    whole = {"data.json": b'{"a": {"b": 1}}', "c/data.yaml": b"d: [1]\n", "x/cases/a.json": b"[]"}
    manifest = b'{"revision": "r", "roots": ["a", "c"], "rego_version": 1, "file_rego_versions": {}}'

    for _ in range(ROUNDS):
        files = {**whole, ".manifest": manifest}
        name = chance.choice(sorted(files))
        files[name] = spoiled(files[name], chance)
        try:
            opened = read_bundle(files)
        except PolicyRefused:
            continue
        assert opened.bundle.files == ()


def test_spoiled_keys_are_keys_or_refused() -> None:
    chance = random.Random(4)

    for _ in range(300):
        kind = chance.choice(("ec", "ed", "rsa"))
        for text, read in zip(keys(kind), (private_key, public_key), strict=True):
            try:
                read(spoiled(text.encode(), chance).decode(errors="replace"))
            except PolicyRefused:
                continue


def test_chained_headers_end(tmp_path: object) -> None:
    """Each says that the name of the next follows: as deep as the archive is long."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1
    link = info.tobuf(tarfile.GNU_FORMAT) + b"x" + b"\0" * 511

    with pytest.raises(PolicyRefused):
        unpacked(gzip.compress(link * 20_000))
