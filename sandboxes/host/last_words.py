"""What a child process wrote to standard error: its end kept, and fit to be shown."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SECRET: Final = re.compile(
    r"(?i)((?:bearer|basic)\s{1,8}"
    r"|(?:token|secret|passw(?:or)?d|credential|api[_-]?key|authorization)\w{0,40}[\"']?\s{0,8}[=:]\s{0,8}[\"']?"
    r"(?:(?:bearer|basic)\s{1,8})?)"
    r"[^\s\"',;]+"
)
"""Bounded everywhere but at its end, where it has matched already: a box writes this text, and would have us search a
quadratic time."""
_SHORTEST_SECRET: Final = 6


class LastWords:
    """A ring of the last `keep_bytes` bytes, however much is written."""

    __slots__ = ("_keep_bytes", "_kept", "_secrets")

    def __init__(self, keep_bytes: int, secrets: Collection[str] = ()) -> None:
        self._keep_bytes = keep_bytes
        self._kept = bytearray()
        self._secrets = sorted((text for text in secrets if len(text) >= _SHORTEST_SECRET), key=len, reverse=True)

    def add(self, data: bytes) -> None:
        """Keep this, and forget as much of the oldest."""
        self._kept += data[-self._keep_bytes :]
        if len(self._kept) > 2 * self._keep_bytes:  # not at every write: that would copy the whole ring each time
            del self._kept[: -self._keep_bytes]

    def text(self) -> str:
        """What was kept, without control characters, and with configured values and likely secrets struck out."""
        text = bytes(self._kept[-self._keep_bytes :]).decode("utf-8", "replace")
        text = _CONTROL.sub("", text.replace("\r\n", "\n"))
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _SECRET.sub(r"\1***", text)

    def tail(self, *, lines: int = 3, max_chars: int = 300) -> str:
        """The last lines on one line, for an error message."""
        kept = [line.strip() for line in self.text().splitlines() if line.strip()]
        joined = " | ".join(kept[-lines:])
        return joined if len(joined) <= max_chars else "…" + joined[-max_chars:]
