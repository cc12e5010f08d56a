"""Reads the head of a proxy request: exactly one meaning, or a refusal.

Two forms are taken (RFC 9112 section 3.2): `CONNECT host:port`, and `GET http://host/path`. The latter is written anew
from what was understood, so that the origin cannot read it differently, and carries one request per connection.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Final, TypeAlias

from sandboxes.egress.body import Body, Chunked, Exact
from sandboxes.egress.gate import Destination
from sandboxes.egress.hosts import BadRequest, host_and_port
from sandboxes.egress.sockets import receive

Headers: TypeAlias = list[tuple[bytes, bytes]]

MAX_HEADERS: Final = 100

_REQUEST_LINE: Final = re.compile(rb"([A-Z][A-Z_-]{0,30}) ([\x21-\x7e]+) (HTTP/1\.[01])")
_HEADER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t ]*([\t\x20-\x7e\x80-\xff]*)")
_ABSOLUTE: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#\\@]*)((?:[/?][^#]*)?)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_OF_THE_CONNECTION: Final = frozenset(
    b"connection host keep-alive te trailer transfer-encoding content-length upgrade http2-settings".split()
)
"""Not passed on: they speak about the connection to us (RFC 9110 section 7.6.1), or are written anew."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for. `head` is what the origin is sent, empty for a tunnel; `body` finds the request's end."""

    destination: Destination
    head: bytes = b""
    body: Body | None = None


async def read_head(client: socket.socket, most: int) -> tuple[bytes, bytes]:
    """The head up to and without its empty line, and what came behind it. Raises `BadRequest` and `OSError`."""
    held = bytearray()
    end = -1
    while end < 0:
        if len(held) >= most:
            raise BadRequest(f"the head of the request is larger than {most} bytes", 431)
        data = await receive(client, most - len(held))
        if not data:
            raise ConnectionResetError
        searched = max(0, len(held) - 3)
        held += data
        end = held.find(b"\r\n\r\n", searched)
    return bytes(held[:end]), bytes(held[end + 4 :])


def read_request(head: bytes) -> Request:
    """Understand a head, up to and without its empty line. Raises `BadRequest`."""
    first, *lines = head.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadRequest("the first line is not METHOD target HTTP/1.1")
    if len(lines) > MAX_HEADERS:
        raise BadRequest(f"there are more than {MAX_HEADERS} headers", 431)
    method, target, version = line.groups()
    headers = [_header(text) for text in lines]
    if method == b"CONNECT":
        return _tunnel(target.decode("ascii"), headers)
    return _plain(method.decode("ascii"), target.decode("ascii"), version, headers)


def _header(line: bytes) -> tuple[bytes, bytes]:
    found = _HEADER.fullmatch(line)  # no line break alone, no control byte, no folded line, no space before the colon
    if found is None:
        raise BadRequest("a header is malformed: Name: value, one line each, without control characters")
    return found[1].lower(), found[2].rstrip(b" \t")


def _tunnel(target: str, headers: Headers) -> Request:
    host, port = host_and_port(target)
    if _values(headers, b"transfer-encoding") or _values(headers, b"content-length") not in ([], [b"0"]):
        raise BadRequest("CONNECT has no body")
    return Request(Destination(host, port, "tunnel", "CONNECT"))


def _plain(method: str, target: str, version: bytes, headers: Headers) -> Request:
    parts = _ABSOLUTE.fullmatch(target)
    if parts is None:
        raise BadRequest("this is a proxy: the target is http://host/path without user and fragment, or use CONNECT")
    if parts[1].lower() != "http":
        raise BadRequest(f"{parts[1][:10].lower()}:// is not carried in the open: use CONNECT host:port")
    if len(_values(headers, b"host")) > 1:
        raise BadRequest("there are two Host headers")
    host, port = host_and_port(parts[2], 80)
    destination = Destination(host, port, "http", method)
    body = _body(version, headers)
    asterisk = method == "OPTIONS" and not parts[3]  # RFC 9112 section 3.2.4
    path = "*" if asterisk else parts[3] if parts[3].startswith("/") else f"/{parts[3]}"
    return Request(destination, _head(destination, path, version, headers, body), body)


def _body(version: bytes, headers: Headers) -> Body:
    """How the end of the body is told. What two parsers may read differently is refused: that is how to smuggle."""
    encodings, lengths = _values(headers, b"transfer-encoding"), _values(headers, b"content-length")
    if encodings and lengths:
        raise BadRequest("Transfer-Encoding and Content-Length exclude each other")
    if encodings:
        if encodings[0].lower() != b"chunked" or len(encodings) > 1 or version == b"HTTP/1.0":
            raise BadRequest("the only Transfer-Encoding is chunked, once, in HTTP/1.1")
        return Chunked()
    length = b",".join(lengths) if lengths else b"0"
    if not _LENGTH.fullmatch(length):
        raise BadRequest("Content-Length is one decimal number")
    return Exact(int(length))


def _head(destination: Destination, path: str, version: bytes, headers: Headers, body: Body) -> bytes:
    named = b",".join(_values(headers, b"connection")).lower().split(b",")
    dropped = _OF_THE_CONNECTION.union(name.strip(b" \t") for name in named)
    kept = [pair for pair in headers if pair[0] not in dropped and not pair[0].startswith(b"proxy-")]
    host = destination.authority.removesuffix(":80")
    lines = [
        b"%b %b %b" % (destination.method.encode("ascii"), path.encode("ascii"), version),
        b"host: " + host.encode("ascii"),
        *(b"%b: %b" % pair for pair in kept),
        *_framing(body, _values(headers, b"content-length")),
        b"connection: close",
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _framing(body: Body, lengths: list[bytes]) -> list[bytes]:
    if isinstance(body, Chunked):
        return [b"transfer-encoding: chunked"]
    return [b"content-length: %d" % int(length) for length in lengths]


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]
