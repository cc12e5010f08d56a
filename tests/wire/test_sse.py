"""Server-Sent Events, as WHATWG HTML section 9.2.6 has them."""

from __future__ import annotations

import collections
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams.wire.sse import Event, SseParser, events
from gateway.errors import UpstreamProtocolError


def parse(*chunks: bytes) -> list[Event]:
    parser = SseParser(max_event_bytes=10_000)
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event(b"a")]),
        (b"data:a\r\n\r\n", [Event(b"a")]),
        (b"data:  a\r\r", [Event(b" a")]),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event(b"YHOO\n+2\n10")]),
        (
            b": comment\n\ndata: a\nid: 1\n\ndata:b\nid\n\ndata:  c\n\n",
            [Event(b"a", id="1"), Event(b"b"), Event(b" c")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [Event(b""), Event(b"\n")]),
        (b"\xef\xbb\xbfdata: bom\n\n", [Event(b"bom")]),
        (b"event: endpoint\ndata: /m\n\ndata: x\n\n", [Event(b"/m", "endpoint"), Event(b"x")]),
        (b"event: lost\n\ndata: x\n\n", [Event(b"x")]),
        (b"id: 7\n\ndata: x\n\n", [Event(b"x", id="7")]),
        (b"id: 7\nid: a\0b\ndata: x\n\n", [Event(b"x", id="7")]),
        (b"id: 1\ndata:\n\n", [Event(b"", id="1")]),
        (b"unknown: y\nData: no\ndata: x\n\n", [Event(b"x")]),
        (b"data: a:b: c\n\n", [Event(b"a:b: c")]),
    ],
)
def test_stream_gives_the_events_of_the_specification(stream: bytes, expected: list[Event]) -> None:
    assert parse(stream) == expected


def test_retry_and_last_id_are_kept_for_resuming() -> None:
    parser = SseParser(max_event_bytes=100)

    parser.feed(b"retry: 1500\nretry: 1x\nretry: 99999999999999\nid: abc\n\n")

    assert (parser.retry_ms, parser.last_id) == (1500, "abc")


def test_text_that_is_not_utf8_is_replaced() -> None:
    assert parse(b"data: \xff\n\n")[0].text == "�"


lines = st.sampled_from(
    [b"data: x", b"data", b"id: 1", b"event: e", b": c", b"", b"data: \xc3\xa4", b"retry: 5", b"\xef\xbb\xbf"]
)
ends = st.sampled_from([b"\n", b"\r", b"\r\n"])
streams = st.lists(st.tuples(lines, ends), max_size=30).map(lambda pairs: b"".join(line + end for line, end in pairs))


@given(streams, st.lists(st.integers(0, 1_000), max_size=20))
def test_events_are_the_same_however_the_stream_is_cut(stream: bytes, places: list[int]) -> None:
    edges = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]

    assert parse(*pieces) == parse(stream)


@given(streams)
def test_events_are_the_same_byte_by_byte(stream: bytes) -> None:
    assert parse(*[bytes([byte]) for byte in stream]) == parse(stream)


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_any_bytes_are_parsed_or_too_large(chunks: list[bytes]) -> None:
    assert all(isinstance(event.data, bytes) for event in parse(*chunks))


@pytest.mark.parametrize(
    "piece", [b"x" * 1000, b"data: xxxxxxxxxx\n", b"data\n", b": " + b"c" * 1000, b"data: " + b"x" * 1000]
)
def test_event_without_end_is_refused_at_the_limit(piece: bytes) -> None:
    parser = SseParser(max_event_bytes=10_000)

    with pytest.raises(UpstreamProtocolError, match="limit of 10000 bytes"):
        collections.deque(map(parser.feed, itertools.repeat(piece, 20_000)), maxlen=0)


async def test_stream_that_is_cut_off_gives_the_whole_events_only() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: a\n\nda"
        yield b"ta: b\n\ndata: c\n"

    got = [event.data async for event in events(chunks(), max_event_bytes=100)]

    assert got == [b"a", b"b"]
