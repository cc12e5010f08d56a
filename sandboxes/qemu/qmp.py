"""Speaks QEMU's monitor protocol, as much of it as stopping, saving and continuing a machine needs.

Runs beside QEMU with the standard library alone. What QEMU answers is not believed beyond its shape.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Final

_LONGEST_ANSWER: Final = 1 << 20
_MOST_EVENTS: Final = 1000


class MonitorFailure(Exception):
    """QEMU did not do what it was told."""


class Monitor:
    """One conversation with the monitor."""

    def __init__(self, line: socket.socket, *, timeout_s: float) -> None:
        self._line = line
        self._held = b""
        self._timeout_s = timeout_s
        self._greeted = False

    def do(self, command: str, *fds: int, **arguments: Any) -> Any:
        """Run a command and return its answer. Raises `MonitorFailure`."""
        if not self._greeted:
            self._greeted = True
            self._answer()
            self.do("qmp_capabilities")
        data = json.dumps({"execute": command, "arguments": arguments}).encode()
        try:
            socket.send_fds(self._line, [data], fds)
        except OSError as exc:
            raise MonitorFailure(f"{command}: {exc}") from exc
        for _ in range(_MOST_EVENTS):
            answer = self._answer()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise MonitorFailure(f"{command}: {str(answer['error'])[:300]}")
        raise MonitorFailure(f"{command}: no answer among {_MOST_EVENTS} events")

    def save(self, fd: int, *, deadline_s: float) -> None:
        """Stop the machine and write it to a file. Raises `MonitorFailure`."""
        self.do("stop")
        self.do("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.do("getfd", fd, fdname="state")
        self.do("migrate", uri="fd:state")
        self._until(lambda: _saved(self.do("query-migrate")), deadline_s, "saving")

    def resume(self, *, deadline_s: float) -> None:
        """Let a machine go on that was loaded from a file. Raises `MonitorFailure`."""
        self._until(lambda: _loaded(self.do("query-status")), deadline_s, "loading")
        self.do("cont")

    def _until(self, happened: Any, deadline_s: float, what: str) -> None:
        until = time.monotonic() + deadline_s
        while not happened():
            if time.monotonic() > until:
                raise MonitorFailure(f"{what} takes more than {deadline_s:g} s")
            time.sleep(0.005)

    def _answer(self) -> dict[str, Any]:
        self._line.settimeout(self._timeout_s)
        try:
            while b"\n" not in self._held:
                data = self._line.recv(65536)
                if not data or len(self._held) > _LONGEST_ANSWER:
                    raise MonitorFailure("the monitor hung up")
                self._held += data
            line, _, self._held = self._held.partition(b"\n")
            answer = json.loads(line)
        except (OSError, ValueError, RecursionError) as exc:
            raise MonitorFailure(f"no answer: {exc}") from exc
        if not isinstance(answer, dict):
            raise MonitorFailure("an answer that is not an object")
        return answer


def _saved(answer: Any) -> bool:
    status = answer.get("status") if isinstance(answer, dict) else None
    if status in ("failed", "cancelled"):
        raise MonitorFailure(f"saving {status}")
    return bool(status == "completed")


def _loaded(answer: Any) -> bool:
    status = answer.get("status") if isinstance(answer, dict) else None
    return status in ("paused", "postmigrate", "prelaunch", "running")
