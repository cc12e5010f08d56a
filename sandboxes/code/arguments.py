"""The arguments of the tools: what may be in them, and what a caller is told who gives something else."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, ValidationError

from gateway.errors import InvalidCall

MAX_CODE: Final = 512 * 1024
MAX_CONTENT: Final = 4 * 1024 * 1024
MAX_READ_BYTES: Final = 2 * 1024 * 1024
MAX_LISTED: Final = 1_000

Name = Annotated[str, Field(max_length=80)]
FilePath = Annotated[str, Field(min_length=1, max_length=4_096)]


class Arguments(BaseModel):
    """What every tool takes. An empty `environment` is the session's, or `default`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    session: Name = ""
    environment: Name = ""


class RunCode(Arguments):
    """Arguments of `run_code`."""

    code: Annotated[str, Field(min_length=1, max_length=MAX_CODE)]
    language: Literal["python", "javascript", "shell"]
    timeout_s: Annotated[StrictFloat | StrictInt, Field(gt=0)] | None = None


class ReadFile(Arguments):
    """Arguments of `read_file`."""

    path: FilePath
    offset: Annotated[StrictInt, Field(ge=0, le=1 << 50)] = 0
    limit: Annotated[StrictInt, Field(ge=1, le=MAX_READ_BYTES)] = MAX_READ_BYTES


class WriteFile(Arguments):
    """Arguments of `write_file`."""

    path: FilePath
    content: Annotated[str, Field(max_length=MAX_CONTENT)]
    encoding: Literal["utf-8", "base64"] = "utf-8"
    append: StrictBool = False

    def data(self) -> bytes:
        """The content as bytes. Raises `InvalidCall`."""
        content = self.content.encode()
        if self.encoding == "utf-8":
            return content
        try:
            return base64.b64decode(content, validate=True)
        except binascii.Error as exc:
            raise InvalidCall("write_file: content is not base64") from exc


class ListFiles(Arguments):
    """Arguments of `list_files`."""

    path: Annotated[str, Field(max_length=4_096)] = ""


class EndSession(Arguments):
    """Arguments of `end_session`."""


Given: TypeAlias = RunCode | ReadFile | WriteFile | ListFiles | EndSession

KINDS: Final[Mapping[str, type[Given]]] = {
    "run_code": RunCode,
    "read_file": ReadFile,
    "write_file": WriteFile,
    "list_files": ListFiles,
    "end_session": EndSession,
}


def read(tool: str, given: Mapping[str, object]) -> Given:
    """The arguments of a tool. Raises `InvalidCall`, which names what to change and quotes no value."""
    kind = KINDS.get(tool)
    if kind is None:
        raise InvalidCall(f"the sandbox has no tool {tool[:80]!r}; it has: {', '.join(KINDS)}")
    try:
        return kind.model_validate(dict(given))
    except ValidationError as exc:
        faults = exc.errors(include_url=False, include_input=False, include_context=False)
    words = sorted({_what(str(fault["loc"][0]), fault["type"], fault["msg"], kind) for fault in faults})
    raise InvalidCall(f"{tool}: {'; '.join(words)}")


def _what(name: str, fault: str, message: str, kind: type[Given]) -> str:
    if fault == "extra_forbidden":
        return f"{name[:40]!r} is not an argument; there are: {', '.join(kind.model_fields)}"
    if fault == "missing":
        return f"{name} is missing"
    return f"{name}: {message[:1].lower()}{message[1:]}"
