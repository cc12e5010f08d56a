"""The key that signs the log: made at first use, readable by its owner only."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.checkpoint import BadNote, Signer, VerifierKey
from gateway.errors import AuditUnavailable

SIGNING_KEY = "signing.key"
VERIFIER_KEY = "verifier.key"


def load_signer(directory: Path, *, create: bool) -> Signer:
    """The signing key of the log in `directory`; with `create`, made when there is none.

    Raises `AuditUnavailable` when it is malformed or others may read it; `OSError` when it cannot be read or made.
    """
    path = directory / SIGNING_KEY
    if not path.exists():
        if not create:
            raise AuditUnavailable(f"{path} is missing, but the log has entries; restore it, or move the log aside")
        _create(path, _new_signer().export())
    _refuse_open_mode(path)
    try:
        signer = Signer.parse(path.read_text())
    except (BadNote, UnicodeDecodeError) as exc:
        raise AuditUnavailable(f"{path}: {exc}; restore it from a backup, or move the log aside") from exc
    public = directory / VERIFIER_KEY
    if not public.exists():
        _create(public, f"{signer.verifier}\n", mode=0o644)
    return signer


def load_verifier(directory: Path) -> VerifierKey:
    """The public key that lies beside the log. Raises `BadNote` or `OSError`."""
    return VerifierKey.parse((directory / VERIFIER_KEY).read_text(errors="replace"))


def _new_signer() -> Signer:
    key = Ed25519PrivateKey.generate()
    return Signer(f"interlock.local/audit/{os.urandom(8).hex()}", key)


def _refuse_open_mode(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise AuditUnavailable(f"{path}: others may read this key (mode {mode:o}); run: chmod 600 {path}")


def _create(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a small file so that it is there whole, or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make created, renamed and deleted names in `directory` outlast a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
