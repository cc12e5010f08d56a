"""An OTLP collector for tests: a real HTTP server that decodes what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Sink:
    """What arrived, decoded. While `hold` is not set, answers wait; `status` is what they say."""

    def __init__(self) -> None:
        self.traces: Queue[ExportTraceServiceRequest] = Queue()
        self.metrics: Queue[ExportMetricsServiceRequest] = Queue()
        self.headers: list[dict[str, str]] = []
        self.asked = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.status = 200
        self.url = ""


@contextmanager
def otlp_sink() -> Iterator[Sink]:
    """A collector on a free port of loopback."""
    sink = Sink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            sink.headers.append({key.lower(): value for key, value in self.headers.items()})
            sink.asked.set()
            sink.go.wait(10)
            status = sink.status  # before the test sees the request and may change it
            if self.path == "/v1/traces":
                sink.traces.put(ExportTraceServiceRequest.FromString(body))
            else:
                sink.metrics.put(ExportMetricsServiceRequest.FromString(body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield sink
    finally:
        sink.go.set()
        server.shutdown()
        server.server_close()
        thread.join()
