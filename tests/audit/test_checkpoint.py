"""Notes and checkpoints are those of C2SP, and nothing that is not one gets through."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.checkpoint import MAX_NOTE_BYTES, BadNote, Checkpoint, Signer, VerifierKey
from gateway.audit.merkle import EMPTY_ROOT

# From the documentation of golang.org/x/mod/sumdb/note.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = (
    GO_TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
SIGNER = Signer("log.example/audit", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
KEY = SIGNER.verifier
NOTE = SIGNER.sign(7, EMPTY_ROOT)


def test_note_of_the_reference_implementation_is_accepted() -> None:
    assert VerifierKey.parse(GO_KEY).read(GO_NOTE.encode()) == GO_TEXT


def test_keys_of_the_reference_implementation_are_read_and_written() -> None:
    signer = Signer.parse(GO_SIGNER)

    assert str(signer.verifier) == str(VerifierKey.parse(GO_KEY)) == GO_KEY
    assert signer.export() == GO_SIGNER


def test_signed_checkpoint_is_read_back() -> None:
    assert KEY.open(NOTE.encode()) == Checkpoint("log.example/audit", 7, EMPTY_ROOT)


@given(st.integers(0, 2**63), st.binary(min_size=32, max_size=32))
def test_every_checkpoint_survives_the_round_trip(size: int, root: bytes) -> None:
    assert KEY.open(SIGNER.sign(size, root).encode()) == Checkpoint(SIGNER.name, size, root)


@given(st.integers(0, len(NOTE.encode()) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(position: int, change: int) -> None:
    blob = bytearray(NOTE.encode())
    blob[position] ^= change

    with pytest.raises(BadNote):
        KEY.open(bytes(blob))


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))))
def test_garbage_is_refused_and_never_crashes_the_parser(blob: bytes) -> None:
    with pytest.raises(BadNote):
        KEY.open(blob)


@given(st.text(alphabet="—\n +=abcAB01 \u00a0\x00", max_size=80))
def test_notes_that_are_nearly_right_never_crash_the_parser(text: str) -> None:
    with pytest.raises(BadNote):
        KEY.read((NOTE[:-1] + text + "!").encode())


@given(st.text(max_size=120))
def test_garbage_keys_are_refused(text: str) -> None:
    for parse in (VerifierKey.parse, Signer.parse):
        with pytest.raises(BadNote):
            parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "log\n7\n",
        "log\n7\nAAAA",
        "log\n\nAAAA\n",
        "log\n07\n" + base64.b64encode(EMPTY_ROOT).decode() + "\n",
        "log\n٧\n" + base64.b64encode(EMPTY_ROOT).decode() + "\n",
        "log\n-7\n" + base64.b64encode(EMPTY_ROOT).decode() + "\n",
        "log\n7\nAAAA\n",
        "log\n7\nnot base64!\n",
        "log\n7\nÄÄÄÄ\n",
        "log\n7\n" + base64.b64encode(EMPTY_ROOT).decode()[:-2] + "V=\n",
    ],
)
def test_malformed_checkpoint_text_is_refused(text: str) -> None:
    with pytest.raises(BadNote):
        Checkpoint.parse(text)


def test_extension_lines_are_allowed() -> None:
    text = Checkpoint("log", 7, EMPTY_ROOT).text + "more\n"

    assert Checkpoint.parse(text).size == 7


@pytest.mark.parametrize(
    ("blob", "what"),
    [
        (b"x" * (MAX_NOTE_BYTES + 1), "larger"),
        (b"\xff\n\n", "UTF-8"),
        (NOTE.replace("7\n", "7\t\n").encode(), "control"),
        (NOTE.split("\n\n", maxsplit=1)[0].encode(), "no signatures"),
        (NOTE[:-1].encode(), "no signatures"),
        ((NOTE + "— other.example AAAAAAAA\n" * 64).encode(), "more than 64"),
        ((NOTE + "- other.example AAAAAAAA\n").encode(), "malformed"),
        ((NOTE + "— other.example AAAA\n").encode(), "malformed"),
        ((NOTE + "— oth+er.example AAAAAAAA\n").encode(), "key name"),
        ((NOTE + "—  AAAAAAAA\n").encode(), "key name"),
    ],
)
def test_malformed_note_is_refused(blob: bytes, what: str) -> None:
    with pytest.raises(BadNote, match=what):
        KEY.open(blob)


def test_signatures_of_others_are_ignored() -> None:
    witness = "— witness.example/w1 AAAAAAAAAAAA\n"

    assert KEY.open((NOTE + witness).encode()).size == 7


def test_second_signature_by_the_same_key_must_hold_too() -> None:
    forged = base64.b64encode(KEY.id + bytes(64)).decode()

    with pytest.raises(BadNote, match="does not hold"):
        KEY.open(f"{NOTE}— {KEY.name} {forged}\n".encode())


def test_note_of_another_key_with_the_same_name_is_refused() -> None:
    other = Signer(SIGNER.name, Ed25519PrivateKey.generate())

    with pytest.raises(BadNote, match="no signature by"):
        KEY.open(other.sign(7, EMPTY_ROOT).encode())


def test_checkpoint_of_another_log_is_refused() -> None:
    text = Checkpoint("other.example/log", 7, EMPTY_ROOT).text
    blob = base64.b64encode(KEY.id + SIGNER.key.sign(text.encode())).decode()

    with pytest.raises(BadNote, match=r"of log 'other\.example/log'"):
        KEY.open(f"{text}\n— {KEY.name} {blob}\n".encode())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (GO_KEY.replace("+ARpc", "+Axpc"), "not an Ed25519 key"),
        (GO_KEY.replace("c74f", "c74e"), "id does not belong"),
        (GO_KEY.replace("PeterNeumann", "Peter Neumann"), "key name"),
    ],
)
def test_verifier_key_that_contradicts_itself_is_refused(text: str, what: str) -> None:
    with pytest.raises(BadNote, match=what):
        VerifierKey.parse(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (GO_KEY, "not a signing key"),
        (GO_SIGNER.replace("+AYEK", "+AgEK"), "not an Ed25519 key"),
        (GO_SIGNER.replace("c74f", "c74e"), "id does not belong"),
    ],
)
def test_signing_key_that_contradicts_itself_is_refused_without_showing_it(text: str, what: str) -> None:
    with pytest.raises(BadNote, match=what) as caught:
        Signer.parse(text)

    assert "FALVFGyN" not in str(caught.value)


def test_signing_key_is_not_shown_by_its_repr() -> None:
    assert Signer.parse(GO_SIGNER).export()[-20:] not in repr(Signer.parse(GO_SIGNER))
