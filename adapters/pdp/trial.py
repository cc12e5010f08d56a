"""An engine in a process of its own, with a deadline: where a policy is tried before it is let near the gateway.

The embedded engine can be brought to overflow its stack or to parse for hours by what a file says. Here that
costs one short-lived process.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from adapters.pdp import worker
from adapters.pdp.bundle import Bundle
from adapters.pdp.engine import EngineFailure
from adapters.pdp.syntax import true_column

_BOOT: Final = "import sys; sys.path.insert(0, sys.argv.pop(1)); from adapters.pdp.worker import main; main()"
_ROOT: Final = str(Path(__file__).resolve().parents[2])
MEMORY_BYTES: Final = 2 << 30
"""Address space, not memory in use: the engine's allocator reserves 1 GiB of it before it does anything."""
DEADLINE_S: Final = 20.0


def spawn_worker(memory_bytes: int = MEMORY_BYTES) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a worker with an empty environment; the process and our end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-c", _BOOT, _ROOT, str(theirs.fileno()), str(memory_bytes)]
        process = subprocess.Popen(  # noqa: S603  # our own interpreter, our own code
            command,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return process, ours


class TrialEngine:
    """`RegoEngine` at arm's length, for checks and tests; close it, or use it as a context manager.

    Raises `EngineFailure` also when the process dies or is not done in time. Then it is over: a late reply would be
    taken for the answer to the next question.
    """

    def __init__(self, bundle: Bundle, *, coverage: bool = False, deadline_s: float = DEADLINE_S) -> None:
        self._process, self._peer = spawn_worker()
        self._peer.settimeout(deadline_s)
        self._deadline_s = deadline_s
        modules = (*bundle.modules, *((test.path, test.text) for test in bundle.tests))
        self._texts = dict(modules)
        self._ended = ""
        try:
            self._ask(worker.LOAD, worker.load_payload(modules, bundle.data, coverage=coverage))
        except EngineFailure:
            self.close()
            raise

    def evaluate(self, rule: str, question: bytes) -> bytes:
        """As `RegoEngine.evaluate`."""
        return self._ask(worker.EVALUATE, rule.encode() + b"\0" + question)

    def query(self, query: str, question: bytes = b"{}") -> bytes:
        """As `RegoEngine.query`."""
        return self._ask(worker.QUERY, query.encode() + b"\0" + question)

    def tree(self) -> bytes:
        """As `RegoEngine.tree`."""
        return self._ask(worker.TREE, b"")

    def coverage(self) -> bytes:
        """As `RegoEngine.coverage`."""
        return self._ask(worker.COVERAGE, b"")

    def prints(self) -> bytes:
        """As `RegoEngine.prints`, as a JSON array."""
        return self._ask(worker.PRINTS, b"")

    @property
    def is_over(self) -> bool:
        """Whether it failed in a way after which it answers nothing."""
        return bool(self._ended)

    def close(self) -> None:
        """End the process."""
        self._peer.close()
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, kind: bytes, payload: bytes) -> bytes:
        if self._ended:
            raise EngineFailure("failed", f"not asked any more: {self._ended}")
        try:
            self._peer.sendall(worker.frame(kind, payload))
            status, size = worker.HEADER.unpack(worker.receive_exactly(self._peer, worker.HEADER.size))
            reply = worker.receive_exactly(self._peer, size)
        except TimeoutError as exc:
            raise self._over(f"not done within {self._deadline_s:g} s") from exc
        except (EOFError, OSError) as exc:
            raise self._over(f"the engine died ({self._obituary()})") from exc
        failure = worker.failure_in(status, reply)
        if failure is not None:
            raise self._in_place(failure)
        return reply

    def _over(self, why: str) -> EngineFailure:
        self._ended = why
        self.close()
        return EngineFailure("failed", why)

    def _in_place(self, failure: EngineFailure) -> EngineFailure:
        lines = self._texts.get(failure.file, "").split("\n")
        if 0 < failure.line <= len(lines):
            failure.col = true_column(lines[failure.line - 1], failure.col)
        return failure

    def _obituary(self) -> str:
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "without an exit code"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
