"""The head of an HTTP/1.1 request, written so that no value can add a line to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from adapters.upstreams.wire.origin import Origin
from gateway.errors import InvalidCall

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

# RFC 9110 sections 5.1 and 5.5. The look-ahead keeps out what frames the message or belongs to the connection:
# a second `content-length` is how requests are smuggled.
_LINES: Final = re.compile(
    rb"(?:(?!(?i:host|content-length|transfer-encoding|connection|keep-alive|proxy-connection|te|trailer|upgrade"
    rb"|expect|accept-encoding):)[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*\r\n)*"
)
_TARGET: Final = re.compile(r"[/*][\x21-\x7e]*")
_METHOD: Final = re.compile(r"[A-Z]{1,20}")


class RequestHead:
    """Writes the heads of all requests to one origin."""

    __slots__ = ("_fixed",)

    def __init__(self, origin: Origin) -> None:
        self._fixed = f" HTTP/1.1\r\nhost: {origin.authority}\r\naccept-encoding: identity\r\n".encode("ascii")

    def write(self, method: str, target: str, headers: Headers, body_bytes: int | None) -> bytes:
        """The head, with `content-length` unless `body_bytes` is `None`.

        Raises `InvalidCall` for a target, name or value that HTTP does not allow, and for headers that are the
        connection's own business.
        """
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        # A line break inside a value would pass the pattern as a line of its own; counting finds it.
        if lines.count(b"\n") != len(headers) or not _LINES.fullmatch(lines):
            raise InvalidCall(
                f"header {_first_bad(headers)!r} cannot be sent: not allowed in HTTP, or the gateway's own"
            )
        if not _TARGET.fullmatch(target) or not _METHOD.fullmatch(method):
            raise InvalidCall("the request target holds a character that HTTP does not allow; percent-encode it")
        length = b"\r\n" if body_bytes is None else b"content-length: %d\r\n\r\n" % body_bytes
        return b"".join((method.encode(), b" ", target.encode(), self._fixed, lines, length))


def _first_bad(headers: Headers) -> str:
    for name, value in headers:
        line = b"%b: %b\r\n" % (name, value)
        if line.count(b"\n") != 1 or not _LINES.fullmatch(line):
            return name[:40].decode("ascii", "backslashreplace")
    return ""
