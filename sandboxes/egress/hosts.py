"""The one form of a host and port: policy is asked about it, and it is what is dialled."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final

_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""With a last label like this, resolvers read the whole name as an IPv4 address: 127.1, 0x7f000001 and so on."""


class BadRequest(ValueError):
    """The client's request cannot be understood, or only in more than one way. The message is for the client."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def host_and_port(authority: str, default_port: int | None = None) -> tuple[str, int]:
    """Split `host[:port]`, both in their one form. Raises `BadRequest`."""
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        host, port = authority, ""
        if default_port is None or authority.endswith(":"):
            raise BadRequest("the destination has no port: write host:port")
        return canonical_host(host), default_port
    return canonical_host(host), _port(port)


def canonical_host(text: str) -> str:
    """The host in its one form (`Destination.host`). Raises `BadRequest` for what could be read in several ways."""
    if not text.isascii():
        raise BadRequest("the host is not ASCII: write an international name in its xn-- form")
    host = text.removesuffix(".").lower()
    if host.startswith("["):
        return _v6(host)
    if ":" in host:
        raise BadRequest("the host is not a name: an IPv6 address stands in brackets")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _v4(host)
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadRequest("the host is not a name that DNS can hold")
    return host


def _v6(host: str) -> str:
    try:
        address = IPv6Address(host[1:-1] if host.endswith("]") else "")
    except ValueError as exc:
        raise BadRequest("what stands in brackets is not an IPv6 address") from exc
    if address.scope_id is not None:
        raise BadRequest("an address with a zone is of this machine only and cannot be reached")
    return str(address.ipv4_mapped or address)


def _v4(host: str) -> str:
    try:
        return str(IPv4Address(host))
    except ValueError as exc:
        raise BadRequest("an IPv4 address is written as four decimal numbers without leading zeros") from exc


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise BadRequest("the port is not a number from 1 to 65535")
    return int(text)
