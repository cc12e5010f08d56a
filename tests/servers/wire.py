"""JSON-RPC messages, server-sent events and standard streams, as plain as they come."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

Message: TypeAlias = dict[str, object]
Emit: TypeAlias = Callable[[Message], None]

INVALID_PARAMS: Final = -32602
METHOD_NOT_FOUND: Final = -32601
LINE_LIMIT: Final = 256 * 1024 * 1024


class Refused(Exception):
    """The request is answered with a JSON-RPC error. `status` is the HTTP status that goes with it, if any."""

    def __init__(self, code: int, message: str, *, data: object = None, status: int = 200) -> None:
        super().__init__(message)
        self.code, self.data, self.status = code, data, status


def encode(message: Mapping[str, object]) -> bytes:
    """One message as compact JSON."""
    return json.dumps(message, separators=(",", ":")).encode()


def decode(data: bytes) -> Message:
    """One message; anything but a JSON object becomes an empty one. Raises `ValueError` when it is not JSON."""
    message = json.loads(data)
    return message if isinstance(message, dict) else {}


def answer(request_id: object, result: Mapping[str, object]) -> Message:
    """A success."""
    return {"jsonrpc": "2.0", "id": request_id, "result": dict(result)}


def refusal(request_id: object, fault: Refused) -> Message:
    """A failure."""
    error: Message = {"code": fault.code, "message": str(fault)}
    if fault.data is not None:
        error["data"] = fault.data
    return {"jsonrpc": "2.0", "id": request_id, "error": error}


def notice(method: str, params: Mapping[str, object]) -> Message:
    """A notification."""
    return {"jsonrpc": "2.0", "method": method, "params": dict(params)}


def event(message: Mapping[str, object]) -> bytes:
    """A message as one server-sent event."""
    return b"event: message\ndata: " + encode(message) + b"\n\n"


def mapping(value: object) -> Mapping[str, object]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: str) -> Message:
    """A tool's result of one text block."""
    return {"content": [{"type": "text", "text": value}], "isError": False}


def tool(name: str, description: str, properties: Mapping[str, object] | None = None, **more: object) -> Message:
    """The definition of a tool with the given arguments, none of them required."""
    schema: Message = {"type": "object", "properties": dict(properties or {})}
    return {"name": name, "description": description, "inputSchema": schema, **more}


@dataclass(frozen=True, slots=True)
class Journal:
    """What a server saw, one JSON object a line, for a test to read. Without a path nothing is kept."""

    path: Path | None = None

    def note(self, what: str, **fields: object) -> None:
        """Append one entry; several processes may share the file."""
        if self.path is None:
            return
        line = json.dumps({"event": what, "pid": os.getpid(), **fields}) + "\n"
        with self.path.open("a") as file:
            file.write(line)


def read_journal(path: Path) -> list[Message]:
    """All entries so far; empty when there is no file yet."""
    return [decode(line.encode()) for line in path.read_text().splitlines()] if path.exists() else []


async def lines_in() -> AsyncIterator[bytes]:
    """The lines of standard input until it ends."""
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line


def line_out(message: Message) -> None:
    """Write one message to standard output. A reader that is gone is no fault of this server."""
    raw_out(encode(message) + b"\n")


def raw_out(data: bytes) -> None:
    """Write bytes to standard output as they are."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os._exit(0)
