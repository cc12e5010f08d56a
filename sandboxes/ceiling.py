"""The most that boxes of an environment may ever reach, whatever policy says: `host[:port]`, `*.example.org:443`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from sandboxes.egress.hosts import BadRequest, host_and_port

DEFAULT_PORT: Final = 443


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Destinations as (host, port); a host that begins with a dot stands for every name below it. None: no way out."""

    destinations: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def of(cls, patterns: Sequence[str]) -> Self:
        """The ceiling that these patterns mean. Raises `ValueError` for what is none."""
        return cls(frozenset(_destination(pattern) for pattern in patterns))

    @property
    def texts(self) -> tuple[str, ...]:
        """The patterns in their one form."""
        return tuple(sorted(f"{'*' if host.startswith('.') else ''}{host}:{port}" for host, port in self.destinations))

    def allows(self, host: str, port: int) -> bool:
        """Whether policy is to be asked at all about this destination, its host in canonical form."""
        if (host, port) in self.destinations:
            return True
        labels = host.split(".")
        return any((f".{'.'.join(labels[at:])}", port) in self.destinations for at in range(1, len(labels)))


def _destination(pattern: str) -> tuple[str, int]:
    below = pattern.startswith("*.")
    try:
        host, port = host_and_port(pattern.removeprefix("*."), DEFAULT_PORT)
    except BadRequest as exc:
        raise ValueError(f"{pattern!r}: {exc}; write example.org, example.org:8443 or *.example.org:443") from exc
    if below and (":" in host or host.replace(".", "").isdigit() or "." not in host):
        raise ValueError(f"{pattern!r}: *. stands before a name with a dot in it, such as *.example.org")
    return (f".{host}" if below else host), port
