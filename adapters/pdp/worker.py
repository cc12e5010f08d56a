"""The process in which policies are evaluated when they cannot be trusted to end.

It answers one request after another over a socket: one byte that says what, four bytes of length, the payload.
It opens nothing else, holds no secret and is killed by whoever asks when it takes too long.
"""

from __future__ import annotations

import resource
import socket
import struct
import sys
from typing import Final

import orjson

from adapters.pdp.engine import EngineFailure, RegoEngine

HEADER: Final = struct.Struct(">cI")
LOAD: Final = b"L"
EVALUATE: Final = b"E"
QUERY: Final = b"Q"
TREE: Final = b"T"
COVERAGE: Final = b"C"
PRINTS: Final = b"O"

VALUE: Final = b"V"
UNDEFINED: Final = b"U"
FAILED: Final = b"F"
PANIC: Final = b"P"


def frame(kind: bytes, payload: bytes) -> bytes:
    """One message, either way."""
    return HEADER.pack(kind, len(payload)) + payload


def load_payload(files: tuple[tuple[str, str], ...], data: bytes, *, coverage: bool = False) -> bytes:
    """The payload of `LOAD`."""
    return orjson.dumps({"files": files, "data": data.decode(), "coverage": coverage})


def failure_in(kind: bytes, payload: bytes) -> EngineFailure | None:
    """What a reply reports as gone wrong, if anything."""
    if kind == VALUE:
        return None
    if kind == UNDEFINED:
        return EngineFailure("undefined")
    if kind == FAILED:
        report = orjson.loads(payload)
        return EngineFailure("failed", report["text"], (report["file"], report["line"], report["col"]))
    return EngineFailure("panic")


class Worker:
    """Answers requests with the engine that the last `LOAD` made."""

    def __init__(self) -> None:
        self._engine = RegoEngine([])

    def answer(self, kind: bytes, payload: bytes) -> bytes:
        """The reply to one request, as a frame."""
        try:
            return frame(VALUE, self._value(kind, payload))
        except EngineFailure as failure:
            return _report(failure)

    def _value(self, kind: bytes, payload: bytes) -> bytes:
        if kind == EVALUATE:
            rule, _, question = payload.partition(b"\0")
            return self._engine.evaluate(rule.decode(), question)
        if kind == QUERY:
            query, _, question = payload.partition(b"\0")
            return self._engine.query(query.decode(), question)
        if kind == LOAD:
            what = orjson.loads(payload)
            self._engine = RegoEngine(what["files"], what["data"].encode(), coverage=what["coverage"])
            return b"{}"
        if kind == PRINTS:
            return orjson.dumps(self._engine.prints())
        return self._engine.tree() if kind == TREE else self._engine.coverage()


def _report(failure: EngineFailure) -> bytes:
    if failure.kind == "failed":
        report = {"text": failure.text, "file": failure.file, "line": failure.line, "col": failure.col}
        return frame(FAILED, orjson.dumps(report))
    return frame(UNDEFINED if failure.kind == "undefined" else PANIC, b"")


def receive_exactly(peer: socket.socket, size: int) -> bytes:
    """The next `size` bytes. Raises `EOFError` when the other side is gone."""
    parts = bytearray()
    while len(parts) < size:
        part = peer.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def main() -> None:
    """Serve the socket whose number is the first argument, with at most as many bytes of memory as the second says."""
    memory_bytes = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    worker = Worker()
    with socket.socket(fileno=int(sys.argv[1])) as peer:
        while True:
            try:
                kind, size = HEADER.unpack(receive_exactly(peer, HEADER.size))
                peer.sendall(worker.answer(kind, receive_exactly(peer, size)))
            except (EOFError, OSError):  # whoever asked is gone
                return
