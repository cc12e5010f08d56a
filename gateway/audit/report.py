"""What a verification found: every fault with the segment and the sequence numbers it concerns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from gateway.audit.checkpoint import BadNote, Checkpoint, VerifierKey
from gateway.audit.keys import load_verifier
from gateway.audit.merkle import Frontier


class Unverifiable(Exception):
    """Nothing can be said about the log: it, its key or the range asked about is not there."""


class Fault(StrEnum):
    """What is wrong with a stretch of the log."""

    CHANGED = "changed"
    """Records are not those that were signed, or not those that were hashed."""
    REMOVED = "removed"
    """Records are missing between others."""
    REORDERED = "reordered"
    """A record stands where another one was."""
    TRUNCATED = "truncated"
    """The newest records are missing."""
    CHECKPOINT = "checkpoint"
    """A signature does not hold, or a checkpoint contradicts itself."""
    CHAIN = "chain"
    """A segment does not go on where the one before it ended."""
    UNREADABLE = "unreadable"
    """A file cannot be read as what it should be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. `segment` is 0 in an exported tile directory; the range is inclusive."""

    fault: Fault
    segment: int
    first_seq: int
    last_seq: int
    message: str

    def __str__(self) -> str:
        stretch = f"{self.first_seq}" if self.first_seq == self.last_seq else f"{self.first_seq} to {self.last_seq}"
        place = f"segment {self.segment}, sequence {stretch}" if self.segment else f"sequence {stretch}"
        return f"{self.fault}: {place}: {self.message}"


@dataclass(slots=True)
class Report:
    """The outcome of a verification, filled in as it goes on."""

    origin: str
    first: int = 0
    """The oldest sequence number that is still there."""
    size: int = 0
    """One more than the newest."""
    segments: int = 0
    checkpoints: int = 0
    signed_size: int = 0
    """The entries before this are covered by a checkpoint that holds."""
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unanswered: str = ""
    """A question that could not be answered; empty when all were."""

    @property
    def ok(self) -> bool:
        """Whether everything that was asked could be shown to be right."""
        return not self.findings and not self.unanswered

    def find(self, fault: Fault, segment: int, seqs: tuple[int, int], message: str) -> None:
        """Add a fault; `seqs` are the first and the last sequence number."""
        self.findings.append(Finding(fault, segment, *seqs, message))

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {"ok": self.ok, **asdict(self)}


def key_for(directory: Path, key: VerifierKey | None, remarks: list[str]) -> VerifierKey:
    """The key to check with: the given one, else the one that lies in the directory, which is remarked upon."""
    if key is not None:
        return key
    try:
        found = load_verifier(directory)
    except (BadNote, OSError) as exc:
        raise Unverifiable(f"{directory}: no usable verifier.key there ({exc}); pass the log's key with --key") from exc
    remarks.append("the key lies in the same directory: who can replace both is found only with --key, kept elsewhere")
    return found


@dataclass(slots=True)
class Kept:
    """A checkpoint that somebody kept elsewhere, to be compared with the log as it is now."""

    checkpoint: Checkpoint
    root: bytes = b""
    """The root of today's log at that size, once seen."""

    def see(self, tree: Frontier) -> None:
        """Note the root of the log when it has the size in question."""
        if tree.size == self.checkpoint.size:
            self.root = tree.root()

    def judge(self, report: Report) -> None:
        """Add a finding when today's log does not begin with the one that was signed then."""
        size = self.checkpoint.size
        if size > report.size:
            missing = f"the kept checkpoint has {size} records, the log only {report.size}"
            report.find(Fault.TRUNCATED, 0, (report.size, size - 1), missing)
        elif size < report.first:
            report.unanswered = (
                f"the kept checkpoint is of size {size}, but the records before {report.first} are gone by retention"
            )
        elif self.root != self.checkpoint.root:
            message = "the log does not begin with what the kept checkpoint signed"
            report.find(Fault.CHANGED, 0, (0, max(0, size - 1)), message)


def kept_checkpoint(note: bytes | None, key: VerifierKey, report: Report) -> Kept | None:
    """Read a kept checkpoint. One that this log's key has not signed is a finding."""
    if note is None:
        return None
    try:
        return Kept(key.open(note))
    except BadNote as exc:
        report.find(Fault.CHECKPOINT, 0, (0, 0), f"the kept checkpoint is not one of this log: {exc}")
        return None
