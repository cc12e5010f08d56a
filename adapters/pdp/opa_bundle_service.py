"""What a server of bundles can answer, for those who ask one without knowing how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

TIMEOUT_S: Final = 15.0


class BundleUnavailable(Exception):
    """There is no bundle at the moment: no answer, or another one than a bundle. The text says which."""


@dataclass(frozen=True, slots=True)
class Download:
    """A bundle, unread. `waits` says whether the server can be asked to wait for the next one."""

    archive: bytes
    etag: str
    waits: bool


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The bundle with the ETag that was asked with is still the newest."""


class BundleService(Protocol):
    """Gives the newest bundle."""

    async def fetch(self, etag: str = "", *, wait_s: int = 0) -> Download | Unchanged:
        """The newest bundle, unless it has this `etag`; then wait up to `wait_s` seconds for the next one.

        Raises `BundleUnavailable`.
        """
        ...
