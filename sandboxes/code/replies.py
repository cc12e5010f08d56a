"""What a box's agent says, read as the words of an enemy: code in the box may have taken the agent over."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, ValidationError

MAX_LINE_BYTES: Final = 12 * 1024 * 1024
MAX_PATH: Final = 8_192
MAX_FILES: Final = 200
MAX_ENTRIES: Final = 2_000


class Garbage(Exception):
    """What came is not what was asked for. The text quotes none of it."""


def _decoded(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("not base64")  # noqa: TRY004  # pydantic takes `ValueError` for a fault of the input
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise ValueError("not base64") from exc


Blob = Annotated[bytes, BeforeValidator(_decoded)]
Count = Annotated[StrictInt, Field(ge=0, le=1 << 53)]
Path = Annotated[str, Field(min_length=1, max_length=MAX_PATH, strict=True)]


class Reply(BaseModel):
    """What all answers have in common: nothing that is not foreseen is let in."""

    model_config = ConfigDict(extra="forbid", frozen=True)


ReplyT = TypeVar("ReplyT", bound=Reply)


class Envelope(BaseModel):
    """One line: the number of a request, and either what came of it or why nothing did."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: StrictInt
    ok: dict[str, object] | None = None
    error: Annotated[str, Field(pattern=r"^[A-Za-z_]{1,40}$")] = ""
    message: Annotated[str, Field(max_length=1_000)] = ""


class Pong(Reply):
    """The agent is up."""

    version: Count
    python: Annotated[str, Field(max_length=64)]


class Seeded(Reply):
    """What came of the fresh entropy."""

    urandom: StrictBool
    reseeded: StrictBool


class Written(Reply):
    """How large the file is now."""

    size: Count


class Content(Reply):
    """A part of a file, and how large the whole of it is."""

    data: Blob
    size: Count


class Entry(Reply):
    """One thing in the workspace."""

    path: Path
    type: Literal["file", "directory", "link", "other"]
    size: Count


class Entries(Reply):
    """What is in a directory, and below."""

    entries: Annotated[tuple[Entry, ...], Field(max_length=MAX_ENTRIES)]
    complete: StrictBool


class Output(Reply):
    """Beginning and end of what was written, and how many bytes between them were let go."""

    head: Blob
    tail: Blob
    cut: Count


class Changed(Reply):
    """A file that a run made or changed."""

    path: Path
    size: Count
    change: Literal["new", "changed"]


class Ran(Reply):
    """How a run went. `survivors` is how many of its processes could not be killed."""

    status: Annotated[StrictInt, Field(ge=0, le=255)]
    timed_out: StrictBool
    cancelled: StrictBool
    took_s: Annotated[StrictFloat, Field(ge=0, le=1e7, allow_inf_nan=False)]
    stdout: Output
    stderr: Output
    files: Annotated[tuple[Changed, ...], Field(max_length=MAX_FILES)]
    more_files: Count
    all_seen: StrictBool
    survivors: Count


def envelope_in(line: bytes) -> Envelope:
    """The answer in a line. Raises `Garbage`."""
    try:
        found = Envelope.model_validate_json(line)
    except ValidationError as exc:
        raise Garbage("a line that is no answer") from exc
    if (found.ok is None) == (not found.error):
        raise Garbage("an answer that says both yes and no, or neither")
    return found


def reply_in(ok: dict[str, object], kind: type[ReplyT]) -> ReplyT:
    """The answer as the type that the request calls for. Raises `Garbage`."""
    try:
        return kind.model_validate(ok)
    except ValidationError as exc:
        raise Garbage(f"an answer that is not of the kind {kind.__name__}") from exc


def shown(text: str, limit: int = 200) -> str:
    """A text from the box that is fit for one line of ours."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return cut if cut.isprintable() else ascii(cut)
