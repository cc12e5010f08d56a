"""Whether a port can be listened on, or who answers there: found out by trying."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import SplitResult, urlsplit

from gateway.cli.main import CommandFailed

CONNECT_S: Final = 3.0
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens there. Raises `CommandFailed` where nobody could."""
    try:
        with _bound(host, port):
            return True
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return False
        raise CommandFailed(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc


def free_port(host: str) -> int:
    """A port on which nobody listens."""
    with _bound(host, 0) as free:
        return int(free.getsockname()[1])


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    probe = socket.socket(family, kind, protocol)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        probe.bind(address)
    except BaseException:
        probe.close()
        raise
    return probe


def ask(url: str, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """One GET: status and body; status 0 when there is no answer."""
    parts = urlsplit(url)
    connection = (
        HTTPSConnection(parts.hostname or "", port_of(parts), timeout=CONNECT_S, context=ssl.create_default_context())
        if parts.scheme == "https"
        else HTTPConnection(parts.hostname or "", port_of(parts), timeout=CONNECT_S)
    )
    try:
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_ANSWER_BYTES)
    except (OSError, HTTPException):
        return 0, b""
    finally:
        connection.close()


def port_of(parts: SplitResult) -> int:
    """The port that an address means."""
    return parts.port or (443 if parts.scheme == "https" else 80)
