"""One HTTP/1.1 response as it arrives: bytes in, status, headers and body out, with every size bounded."""

from __future__ import annotations

from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.errors import UpstreamProtocolError, UpstreamUnavailable

_VERSIONS: Final = ("1.1", "1.0")


class Answer:
    """Collects one response. Pure: it neither reads nor writes a socket.

    After each `feed`, `head_done` and `complete` say how far it is. The `on_*` methods are `httptools`' callbacks;
    they note a fault instead of raising, since an exception would lose its type on the way through the parser.
    """

    __slots__ = (
        "_body",
        "_fault",
        "_head_bytes",
        "_label",
        "_max_head_bytes",
        "_parser",
        "_silent_bytes",
        "_unframed",
        "body_bytes",
        "complete",
        "content_length",
        "head_done",
        "headers",
        "keep_alive",
        "max_bytes",
        "started",
        "status",
    )

    def __init__(self, label: str, *, max_head_bytes: int, max_bytes: int | None) -> None:
        self._label = label
        self._max_head_bytes = max_head_bytes
        self._head_bytes = 0
        self._silent_bytes = 0
        self._body: bytes | bytearray = b""
        self._fault = ""
        self._unframed = False
        self.max_bytes = max_bytes
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.content_length = -1
        self.body_bytes = 0
        self.started = False
        self.head_done = False
        self.complete = False
        self.keep_alive = False
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    @property
    def buffered(self) -> int:
        """Body bytes that have arrived and were not taken."""
        return len(self._body)

    def take(self) -> bytes:
        """Hand over the body bytes that have arrived."""
        body, self._body = self._body, b""
        return bytes(body)

    def limit(self, max_bytes: int) -> None:
        """Refuse a body larger than this from now on. Raises `UpstreamProtocolError` when it already is."""
        self.max_bytes = max_bytes
        if max(self.body_bytes, self.content_length) > max_bytes:
            raise self._error(self._too_large())

    def feed(self, data: bytes) -> None:
        """Take in bytes from the peer. Raises `UpstreamProtocolError` for what is not HTTP/1.x or too large."""
        parser = self._parser
        if parser is None:  # more than the one response that was asked for
            self.keep_alive = False
            return
        self.started = True
        before = self.body_bytes
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as exc:
            self._parse_failed(exc)
        if self.body_bytes == before:
            self._count_silence(len(data))
        if self._fault:
            self._parser = None
            raise self._error(self._fault)
        if self.complete:
            self._parser = None  # it refers back to this object: nothing is left for the cycle collector

    def end(self) -> None:
        """The peer sent its last byte, which may be what ends the body (RFC 9112 section 6.3).

        Raises `UpstreamUnavailable` when the response is cut off.
        """
        self._parser = None
        self.keep_alive = False
        if self.complete:
            return
        if not (self.head_done and self._unframed):
            raise UpstreamUnavailable(f"upstream {self._label} closed the connection before its answer was complete")
        self.complete = True

    def abandon(self) -> None:
        """Nobody reads on: let go of the parser and what it has collected."""
        self._parser = None

    def on_message_begin(self) -> None:
        """The start of a response. After a complete one it is one nobody asked for: the connection is out of step."""
        if self.complete:
            self.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line; or a trailer line, which nothing here needs."""
        if self.head_done:
            return
        self._head_bytes += len(name) + len(value) + 4
        key = name.lower()
        known = self.headers.get(key)
        self.headers[key] = value if known is None else b"%b, %b" % (known, value)

    def on_headers_complete(self) -> None:
        """The end of a head; that of an interim response (RFC 9110 section 15.2) is skipped."""
        parser = self._parser
        if parser is None or self.complete:
            return
        status = parser.get_status_code()
        if status < 200:
            self.headers.clear()
            self._fault = self._fault or ("it switched protocols unasked" if status == 101 else "")
            return
        self.status = status
        self.head_done = True
        self._fault = self._fault or self._head_fault(parser.get_http_version())

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if self.complete:
            return
        self.body_bytes += len(data)
        if self.max_bytes is not None and self.body_bytes > self.max_bytes:
            self._fault = self._too_large()
            self._body = b""
        elif not self._body:
            self._body = data
        else:
            if type(self._body) is bytes:
                self._body = bytearray(self._body)
            self._body += data

    def on_message_complete(self) -> None:
        """The end of a response; the end of an interim one means nothing."""
        if not self.head_done:
            return
        parser = self._parser
        self.keep_alive = not self.complete and parser is not None and parser.should_keep_alive()
        self.complete = True

    def _head_fault(self, version: str) -> str:
        headers = self.headers
        framing = headers.get(b"transfer-encoding")
        length = headers.get(b"content-length")
        if self._head_bytes > self._max_head_bytes:
            return self._head_too_large()
        if version not in _VERSIONS:
            return f"it answered in HTTP/{version}"
        if framing is not None and framing.lower() != b"chunked":
            return "it used a transfer coding that was not asked for"
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return "it compressed its answer, which was not asked for"
        self._unframed = framing is None and length is None
        self.content_length = int(length) if length is not None else -1
        too_large = self.max_bytes is not None and self.content_length > self.max_bytes
        return self._too_large() if too_large else ""

    def _parse_failed(self, exc: Exception) -> None:
        if self.complete:  # the answer itself was whole; what follows it is not ours
            self.keep_alive = False
            return
        self._parser = None
        raise self._error(self._fault or "it is not HTTP/1.1") from exc

    def _count_silence(self, count: int) -> None:
        """Bytes that brought no body: endless headers, interim responses, trailers and chunk extensions end here."""
        self._silent_bytes = self._silent_bytes + count
        if self._silent_bytes > self._max_head_bytes and not self.complete:
            self._fault = self._fault or self._head_too_large()

    def _too_large(self) -> str:
        return f"it exceeds the limit of {self.max_bytes} bytes"

    def _head_too_large(self) -> str:
        return f"its headers exceed the limit of {self._max_head_bytes} bytes"

    def _error(self, what: str) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"the answer of upstream {self._label} cannot be used: {what}")
