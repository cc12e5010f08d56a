"""Events reach a collector as OPA sends them, and what it does not take waits without holding anything up."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import pytest

from adapters.decisions.collector import HttpCollector
from gateway import codec
from gateway.decisions.upload import NotTaken, UploadBuffer, Uploader, UploadLimits
from tests.decisions.traffic import until

SOON = UploadLimits(every_s=0.01, first_pause_s=0.01, longest_pause_s=0.02)


@dataclass
class Received:
    """What a collector got, and the statuses that it gives first."""

    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    taken: list[list[object]] = field(default_factory=list)
    largest: int = 1 << 30

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> int:
        self.requests.append((path, headers, body))
        status = 413 if len(body) > self.largest else self.statuses.pop(0) if self.statuses else 204
        if status == 204:
            events = codec.loads(gzip.decompress(body))
            assert isinstance(events, list)
            self.taken.append(list(events))
        return status

    @property
    def events(self) -> list[object]:
        return [event for chunk in self.taken for event in chunk]


@contextmanager
def collector(received: Received) -> Iterator[str]:
    """A collector on loopback; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the library's name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = received.answer(self.path, dict(self.headers), body)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere/logs")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/opa/"
        finally:
            server.shutdown()
            thread.join()


def numbered(count: int, filler: int = 0) -> list[bytes]:
    """Events that do not compress when there is filler in them."""
    return [codec.dumps({"n": number, "filler": os.urandom(filler).hex()}) for number in range(count)]


async def sent(url: str, events: list[bytes], received: Received, limits: UploadLimits = SOON) -> Uploader:
    """Upload until the collector has as many, or shutdown has drained."""
    buffer = UploadBuffer(limits)
    async with HttpCollector(url, token="t0ken") as http:
        uploader = Uploader(buffer, http, limits)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                await group.start(uploader.run)
                buffer.put(events)
                await until(lambda: uploader.sent + uploader.refused == len(events))
                group.cancel_scope.cancel()
    return uploader


async def test_events_arrive_once_in_chunks_of_the_size_that_opa_sends() -> None:
    received = Received()
    with collector(received) as url:
        await sent(url, numbered(2_000, filler=100), received)

    assert [codec.loads(codec.dumps(event))["n"] for event in received.events] == list(range(2_000))  # type: ignore[index, call-overload]  # JSON
    assert max(len(body) for _, _, body in received.requests) <= 32 << 10
    assert len(received.requests) < 40
    path, headers, _ = received.requests[0]
    assert path == "/opa/logs"
    assert (headers["Content-Type"], headers["Content-Encoding"]) == ("application/json", "gzip")
    assert headers["Authorization"] == "Bearer t0ken"


async def test_failing_collector_is_asked_again_until_it_takes_them(caplog: pytest.LogCaptureFixture) -> None:
    received = Received(statuses=[503, 429, 500, 302, 401])
    with collector(received) as url:
        uploader = await sent(url, numbered(10), received)

    assert len(received.events) == 10
    assert uploader.failed == 5
    assert {path for path, _, _ in received.requests} == {"/opa/logs"}
    assert len(caplog.records) == 2


async def test_chunk_that_is_too_large_is_divided_and_an_event_that_is_goes_nowhere() -> None:
    received = Received(largest=900)
    events = [*numbered(8, filler=200), codec.dumps({"n": 8, "filler": os.urandom(2_000).hex()})]
    with collector(received) as url:
        uploader = await sent(url, events, received)

    assert len(received.events) == 8
    assert uploader.refused == 1


async def test_unreachable_collector_is_no_more_than_not_taken() -> None:
    with collector(Received()) as url:
        pass

    async with HttpCollector(url, timeout_s=2) as http:
        with pytest.raises(NotTaken, match="cannot be reached"), anyio.fail_after(10):
            await http.post(b"x")


def test_full_buffer_gives_up_the_oldest_and_counts_them() -> None:
    buffer = UploadBuffer(UploadLimits(buffer_bytes=100))

    buffer.put([b"%019d" % number for number in range(10)])

    chunk = buffer.take()
    assert chunk is not None
    assert [int(event) for event in chunk.events] == [5, 6, 7, 8, 9]
    assert buffer.dropped == 5
    assert buffer.take() is None


async def test_what_is_left_is_sent_at_the_end() -> None:
    received = Received()
    limits = UploadLimits(every_s=3600)
    buffer = UploadBuffer(limits)
    with collector(received) as url, anyio.fail_after(30):
        async with HttpCollector(url) as http, anyio.create_task_group() as group:
            await group.start(Uploader(buffer, http, limits).run)
            buffer.put(numbered(3))
            group.cancel_scope.cancel()

    assert len(received.events) == 3
