"""A request has one meaning, for the proxy and for the origin behind it, or it is refused."""

from __future__ import annotations

import re

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxes.egress.body import Chunked
from sandboxes.egress.gate import Destination
from sandboxes.egress.hosts import BadRequest
from sandboxes.egress.request import MAX_HEADERS, Request, read_request

NAMES = ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Proxy-Authorization", "X-A", "Te", "Upgrade"]
VALUES = ["", "0", "5", "chunked", "close, x-a", "a.test", "b.test:81", "x\ty", "identity", "5, 5", "+5"]
HEADER = st.one_of(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)).map(lambda pair: f"{pair[0]}: {pair[1]}".encode()),
    st.binary(max_size=30),
)
TARGET = st.one_of(
    st.sampled_from(
        ["http://a.test/", "http://a.test", "HTTP://A.TEST.:8080?q", "a.test:443", "/", "*", "http://[::1]/"]
    ),
    st.text(alphabet="htp:/.@?#[]%\\a1x-", max_size=25),
).map(str.encode)
HEADS = st.builds(
    lambda method, target, headers: b"\r\n".join([method + b" " + target + b" HTTP/1.1", *headers]),
    st.sampled_from([b"GET", b"POST", b"OPTIONS", b"CONNECT"]),
    TARGET,
    st.lists(HEADER, max_size=5),
)


def plain(*headers: str, method: str = "GET", target: str = "http://a.test/", version: str = "HTTP/1.1") -> Request:
    return read_request("\r\n".join([f"{method} {target} {version}", *headers]).encode("latin-1"))


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [("a.test:443", "a.test", 443), ("A.TEST.:22", "a.test", 22), ("[::1]:80", "::1", 80), ("1.2.3.4:1", "1.2.3.4", 1)],
)
def test_tunnel_is_asked_for_by_host_and_port(target: str, host: str, port: int) -> None:
    request = plain("Host: whatever.test", "Content-Length: 0", method="CONNECT", target=target)

    assert request == Request(Destination(host, port, "tunnel", "CONNECT"))


@pytest.mark.parametrize(
    ("target", "method", "line", "host"),
    [
        ("http://a.test/p?q=1", "GET", "GET /p?q=1", "a.test"),
        ("http://a.test", "GET", "GET /", "a.test"),
        ("http://a.test?q", "GET", "GET /?q", "a.test"),
        ("HTTP://A.Test.:80/", "GET", "GET /", "a.test"),
        ("http://a.test:8080//b@c/", "M-SEARCH", "M-SEARCH //b@c/", "a.test:8080"),
        ("http://[::1]/x", "GET", "GET /x", "[::1]"),
        ("http://[::1]:81", "GET", "GET /", "[::1]:81"),
        ("http://a.test", "OPTIONS", "OPTIONS *", "a.test"),
        ("http://a.test/", "OPTIONS", "OPTIONS /", "a.test"),
        ("http://a.test:180/", "GET", "GET /", "a.test:180"),
    ],
)
def test_request_is_written_from_its_target(target: str, method: str, line: str, host: str) -> None:
    request = plain("HOST: other.test", method=method, target=target)

    assert request.head.decode().split("\r\n")[:2] == [f"{line} HTTP/1.1", f"host: {host}"]
    assert request.destination.method == method


def test_headers_of_the_connection_stay_behind() -> None:
    request = plain(
        "Accept: */*",
        "Connection: keep-alive , X-Private,Accept-Language",
        "Keep-Alive: 5",
        "X-Private: 1",
        "Accept-Language: de",
        "Proxy-Authorization: Basic x",
        "Proxy-Anything: 1",
        "TE: trailers",
        "Trailer: X",
        "Upgrade: h2c",
        "HTTP2-Settings: x",
        "X-Latin: \xe4\t ",
    )

    assert request.head == (
        b"GET / HTTP/1.1\r\nhost: a.test\r\naccept: */*\r\nx-latin: \xe4\r\nconnection: close\r\n\r\n"
    )


def test_length_and_version_are_passed_on() -> None:
    request = plain("Content-Length: 007", method="POST", version="HTTP/1.0")

    assert request.head == b"POST / HTTP/1.0\r\nhost: a.test\r\ncontent-length: 7\r\nconnection: close\r\n\r\n"
    assert request.body is not None
    assert not request.body.complete


def test_chunked_body_stays_chunked() -> None:
    request = plain("Transfer-Encoding: Chunked", method="POST")

    assert isinstance(request.body, Chunked)
    assert b"\r\ntransfer-encoding: chunked\r\n" in request.head


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET",
        b"GET http://a.test/",
        b"GET http://a.test/ HTTP/2.0",
        b"GET http://a.test/ HTTP/1.2",
        b"GET  http://a.test/ HTTP/1.1",
        b"GET http://a.test/ HTTP/1.1 ",
        b"GET\thttp://a.test/\tHTTP/1.1",
        b"get http://a.test/ HTTP/1.1",
        b"GET http://a.test/\x7f HTTP/1.1",
        b"GET http://a.test/\xc3\xbc HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: a.test",
        b"GET a.test:80 HTTP/1.1",
        b"GET //a.test/ HTTP/1.1",
        b"GET http:/a.test/ HTTP/1.1",
        b"GET http:// HTTP/1.1",
        b"GET http:///x HTTP/1.1",
        b"GET http://a.test:/ HTTP/1.1",
        b"GET http://user@a.test/ HTTP/1.1",
        b"GET http://user:pw@a.test/ HTTP/1.1",
        b"GET http://a.test\\@b.test/ HTTP/1.1",
        b"GET http://a.test/#x HTTP/1.1",
        b"GET http://a.test#@b.test/ HTTP/1.1",
        b"GET https://a.test/ HTTP/1.1",
        b"GET ftp://a.test/ HTTP/1.1",
        b"GET file:///etc/passwd HTTP/1.1",
        b"GET http://127.1/ HTTP/1.1",
        b"GET http://0x7f000001/ HTTP/1.1",
        b"GET http://2130706433/ HTTP/1.1",
        b"GET http://[fe80::1%25eth0]/ HTTP/1.1",
        b"CONNECT a.test HTTP/1.1",
        b"CONNECT http://a.test/ HTTP/1.1",
        b"CONNECT a.test:443/ HTTP/1.1",
        b"CONNECT user@a.test:443 HTTP/1.1",
        b"CONNECT a.test:443 HTTP/1.1\r\nContent-Length: 1",
        b"CONNECT a.test:443 HTTP/1.1\r\nTransfer-Encoding: chunked",
        b"GET http://a.test/ HTTP/1.1\r\n X: folded",
        b"GET http://a.test/ HTTP/1.1\r\nX: a\r\n folded",
        b"GET http://a.test/ HTTP/1.1\r\nX : a",
        b"GET http://a.test/ HTTP/1.1\r\n: a",
        b"GET http://a.test/ HTTP/1.1\r\nX",
        b"GET http://a.test/ HTTP/1.1\r\nX: a\nY: b",
        b"GET http://a.test/ HTTP/1.1\r\nX: a\rY: b",
        b"GET http://a.test/ HTTP/1.1\nX: a",
        b"GET http://a.test/ HTTP/1.1\r\nX: a\x00",
        b"GET http://a.test/ HTTP/1.1\r\nX: a\x0b",
        b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nHost: a.test",
        b"GET http://a.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1",
        b"GET http://a.test/ HTTP/1.1\r\nContent-Length: 1, 1",
        b"GET http://a.test/ HTTP/1.1\r\nContent-Length: +1",
        b"GET http://a.test/ HTTP/1.1\r\nContent-Length:",
        b"GET http://a.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length:",
        b"GET http://a.test/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"GET http://a.test/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
        b"GET http://a.test/ HTTP/1.1\r\nTransfer-Encoding: xchunked",
        b"GET http://a.test/ HTTP/1.1\r\nTransfer-Encoding: identity",
        b"GET http://a.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"GET http://a.test/ HTTP/1.0\r\nTransfer-Encoding: chunked",
    ],
)
def test_request_with_no_or_several_meanings_is_refused(head: bytes) -> None:
    with pytest.raises(BadRequest):
        read_request(head)


def test_headers_are_counted() -> None:
    plain(*["X: y"] * MAX_HEADERS)

    with pytest.raises(BadRequest) as refused:
        plain(*["X: y"] * (MAX_HEADERS + 1))
    assert refused.value.status == 431


@given(st.one_of(HEADS, st.binary(max_size=200)))
def test_what_is_dialled_is_what_the_origin_is_told(head: bytes) -> None:
    try:
        request = read_request(head)
    except BadRequest:
        return
    if request.body is None:
        assert request.head == b""
        return

    origin = Origin()
    httptools.HttpRequestParser(origin).feed_data(request.head)

    authority = request.destination.authority.encode()
    assert origin.heads == 1
    assert [value for name, value in origin.headers if name.lower() == b"host"] == [authority.removesuffix(b":80")]
    assert re.fullmatch(rb"[/*][\x21-\x7e]*", origin.url)
    framed = [(name, value) for name, value in origin.headers if name in (b"content-length", b"transfer-encoding")]
    assert len(framed) <= 1
    assert request.body.complete == (framed in ([], [(b"content-length", b"0")]))


class Origin:
    """What an independent parser makes of the head."""

    def __init__(self) -> None:
        self.heads = 0
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.heads += 1
