"""A pytest plugin for the kit: names below `localhost` lead to this machine (RFC 6761), whatever its resolver knows.

The kit runs in an environment of its own, so this module stands alone. It is on the path only where an agent has a host
of its own: `NAME.localhost`.
"""

from __future__ import annotations

import socket
from typing import Any

_resolve = socket.getaddrinfo


def _loopback_first(host: Any, *rest: Any, **named: Any) -> Any:
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    below = isinstance(text, str) and text.lower().rstrip(".").endswith(".localhost")
    return _resolve("127.0.0.1" if below else host, *rest, **named)


def pytest_configure() -> None:
    """Before anything is connected to."""
    socket.getaddrinfo = _loopback_first
