"""A server of bundles that answers as a test says, on a real socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LONG_POLL = "application/vnd.openpolicyagent.bundles"


@dataclass(frozen=True, slots=True)
class Says:
    """One answer. Of a body that is `cut`, only half arrives; a `slow` one comes when the test is over."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    slow: bool = False


class BundleHost:
    """What the server says from now on, and what it was asked."""

    def __init__(self) -> None:
        self.says = Says(404)
        self.asked: list[Message] = []
        self.port = 0
        self.patient = False
        """Whether it waits, as it was asked to, until there is something else to give."""
        self.over = threading.Event()

    @property
    def url(self) -> str:
        """Where the bundle is."""
        return f"http://127.0.0.1:{self.port}/bundles/gateway?secret=x"

    def serve(self, body: bytes, etag: str = "", **headers: str) -> None:
        """Give this bundle from now on."""
        self.says = Says(200, body, {**({"ETag": etag} if etag else {}), **headers})

    def answer(self, asked: Message) -> Says:
        """What a request gets: 304 for the ETag that it has."""
        self.asked.append(asked)
        if self.patient and ";wait=" in asked.get("Prefer", ""):
            self._wait(asked)
        etag = self.says.headers.get("ETag")
        return Says(304, headers={"ETag": etag}) if self._has_it(asked) and etag else self.says

    def _has_it(self, asked: Message) -> bool:
        etag = self.says.headers.get("ETag")
        return bool(etag) and asked.get("If-None-Match") == etag

    def _wait(self, asked: Message) -> None:
        deadline = time.monotonic() + 30
        while self._has_it(asked) and time.monotonic() < deadline and not self.over.wait(0.02):
            pass


@contextmanager
def bundle_host(port: int = 0) -> Iterator[BundleHost]:
    """A server that is there until the end of the block."""
    host = BundleHost()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            said = host.answer(self.headers)
            if said.slow:
                host.over.wait(30)
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            self.wfile.write(said.body[: len(said.body) // 2] if said.cut else said.body)
            self.close_connection = self.close_connection or said.cut

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    host.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield host
    finally:
        host.over.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
