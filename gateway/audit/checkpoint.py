"""C2SP checkpoints: the root of the log at one size, as a note that anybody can check with one public key.

Formats: c2sp.org/signed-note@v1.0.0 and c2sp.org/tlog-checkpoint@v1.0.0, Ed25519 (type 0x01).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.audit.merkle import HASH_BYTES

MAX_NOTE_BYTES: Final = 64 * 1024
MAX_SIGNATURES: Final = 64
_ED25519: Final = b"\x01"
_KEY_ID_BYTES: Final = 4
_DASH: Final = "\u2014 "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


class BadNote(ValueError):
    """A note, checkpoint or key that is malformed, or whose signature does not hold."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: its name, how many entries it has, and the root over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The part of the note that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the signed text (tlog-checkpoint, "Note text"); extension lines are allowed. Raises `BadNote`."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise BadNote("a checkpoint has at least three non-empty lines: origin, size, root")
        if not _SIZE.fullmatch(lines[1]):
            raise BadNote("the tree size is not a decimal number")
        root = _unbase64(lines[2], "root hash")
        if len(root) != HASH_BYTES:
            raise BadNote(f"the root hash has {len(root)} bytes, not {HASH_BYTES}")
        return cls(lines[0], int(lines[1]), root)


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """Checks the notes of one log. Written as `name+keyid+key`, the form that C2SP tools read."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        """The four bytes that mark this key's signatures (signed-note, "Ed25519 signatures")."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read the text form. Raises `BadNote` when it is not one, or its key id is not its key's."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        blob = _unbase64(encoded, "verifier key")
        if blob[:1] != _ED25519 or len(blob) != 1 + HASH_BYTES:
            raise BadNote("the verifier key is not an Ed25519 key")
        key = cls(_checked_name(name), blob[1:])
        if key.id.hex() != key_id:
            raise BadNote("the verifier key's id does not belong to its name and key")
        return key

    def read(self, note: bytes) -> str:
        """The text of a note that this key has signed. Raises `BadNote`."""
        text, signatures = _split_note(note)
        mine = [blob for name, key_id, blob in signatures if name == self.name and key_id == self.id]
        if not mine:
            raise BadNote(f"no signature by {self.name}+{self.id.hex()}")
        public = Ed25519PublicKey.from_public_bytes(self.public)
        for blob in mine:
            try:
                public.verify(blob, text.encode())
            except InvalidSignature as exc:
                raise BadNote(f"the signature by {self.name} does not hold") from exc
        return text

    def open(self, note: bytes) -> Checkpoint:
        """The checkpoint in a note signed by this key, of the log that has its name. Raises `BadNote`."""
        checkpoint = Checkpoint.parse(self.read(note))
        if checkpoint.origin != self.name:
            raise BadNote(f"the checkpoint is of log {checkpoint.origin!r}, the key of {self.name!r}")
        return checkpoint


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """Signs the checkpoints of one log."""

    name: str
    key: Ed25519PrivateKey

    @property
    def verifier(self) -> VerifierKey:
        """The public half, to be kept by whoever wants to check the log."""
        return VerifierKey(self.name, self.key.public_key().public_bytes_raw())

    def sign(self, size: int, root: bytes) -> str:
        """A signed note for the log at this size."""
        text = Checkpoint(self.name, size, root).text
        blob = base64.b64encode(self.verifier.id + self.key.sign(text.encode())).decode()
        return f"{text}\n{_DASH}{self.name} {blob}\n"

    def export(self) -> str:
        """The private key in the text form that Go's `note` package reads."""
        seed = base64.b64encode(_ED25519 + self.key.private_bytes_raw()).decode()
        return f"PRIVATE+KEY+{self.name}+{self.verifier.id.hex()}+{seed}"

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Read what `export` wrote. Raises `BadNote`; the message holds nothing of the key."""
        parts = text.strip().split("+", 4)
        if len(parts) != 5 or parts[:2] != ["PRIVATE", "KEY"]:
            raise BadNote("not a signing key in the form PRIVATE+KEY+name+id+key")
        blob = _unbase64(parts[4], "signing key")
        if blob[:1] != _ED25519 or len(blob) != 1 + HASH_BYTES:
            raise BadNote("the signing key is not an Ed25519 key")
        signer = cls(_checked_name(parts[2]), Ed25519PrivateKey.from_private_bytes(blob[1:]))
        if signer.verifier.id.hex() != parts[3]:
            raise BadNote("the signing key's id does not belong to its name and key")
        return signer


def _split_note(note: bytes) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """Signed text, and its signatures as (name, key id, signature) (signed-note, "Format")."""
    if len(note) > MAX_NOTE_BYTES:
        raise BadNote(f"the note is larger than {MAX_NOTE_BYTES} bytes")
    try:
        whole = note.decode()
    except UnicodeDecodeError as exc:
        raise BadNote("the note is not UTF-8") from exc
    if _CONTROL.search(whole):
        raise BadNote("the note holds a control character")
    text, gap, block = whole.rpartition("\n\n")
    if not gap or not block.endswith("\n"):
        raise BadNote("the note has no signatures")
    lines = block[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise BadNote(f"the note has more than {MAX_SIGNATURES} signatures")
    return text + "\n", [_signature(line) for line in lines]


def _signature(line: str) -> tuple[str, bytes, bytes]:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH):
        raise BadNote("a signature line is malformed")
    blob = _unbase64(encoded, "signature")
    if len(blob) <= _KEY_ID_BYTES:
        raise BadNote("a signature line is malformed: no signature")
    return _checked_name(name), blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:]


def _checked_name(name: str) -> str:
    if not name or "+" in name or any(character.isspace() for character in name):
        raise BadNote("a key name is not empty and holds neither spaces nor '+'")
    return name


def _unbase64(text: str, what: str) -> bytes:
    try:
        blob = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as exc:
        raise BadNote(f"the {what} is not base64") from exc
    if base64.b64encode(blob).decode() != text:
        raise BadNote(f"the {what} is not canonical base64")
    return blob
