"""HTTP answers mean the same however the network cuts them, and no bytes at all break the parser."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams.wire.answer import Answer
from adapters.upstreams.wire.origin import Origin, split_url
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable


def new_answer() -> Answer:
    return Answer("'x'", max_head_bytes=2_000, max_bytes=5_000)


def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    """All that a caller can see of these pieces followed by the end of the connection."""
    answer = new_answer()
    try:
        for piece in pieces:
            answer.feed(piece)
        answer.end()
    except (UpstreamProtocolError, UpstreamUnavailable) as exc:
        return type(exc), str(exc)
    return answer.status, answer.headers, answer.take()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


bodies = st.binary(max_size=3_000)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    body = draw(bodies)
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    head = interim + b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX: %b\r\n" % draw(
        st.sampled_from([b"", b"a b"])
    )
    match draw(st.sampled_from(["length", "chunked", "end"])):
        case "length":
            return head + b"content-length: %d\r\n\r\n" % len(body) + body
        case "chunked":
            sizes = draw(st.lists(st.integers(1, 500), max_size=10))
            pieces, at = [], 0
            for size in sizes:
                pieces.append(body[at : at + size])
                at += size
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
            return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        case _:
            return head + b"\r\n" + body


@given(answers(), st.lists(st.integers(0, 10_000), max_size=30))
def test_answer_means_the_same_however_it_is_cut(data: bytes, places: list[int]) -> None:
    whole = outcome([data])

    pieces = outcome(cut(data, places))

    assert pieces == whole
    assert whole[0] == 200


@given(answers(), st.integers(0, 10_000), st.binary(max_size=8))
def test_damaged_answer_ends_in_a_named_error_or_an_answer(data: bytes, place: int, noise: bytes) -> None:
    at = place % (len(data) + 1)
    answer = new_answer()

    with contextlib.suppress(UpstreamProtocolError, UpstreamUnavailable):
        answer.feed(data[:at] + noise + data[at + len(noise) :])
        answer.end()

    assert answer.buffered <= 5_000


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_bytes_end_in_a_named_error_or_an_answer(pieces: list[bytes]) -> None:
    kind = outcome(pieces)[0]

    assert kind in (UpstreamProtocolError, UpstreamUnavailable) or isinstance(kind, int)


@pytest.mark.parametrize(
    ("url", "origin", "target", "authority"),
    [
        ("http://h/mcp", Origin("http", "h", 80), "/mcp", "h"),
        ("https://h:8443?a=1", Origin("https", "h", 8443), "/?a=1", "h:8443"),
        ("http://[::1]:80/", Origin("http", "::1", 80), "/", "[::1]"),
        ("https://bücher.example/x#f", Origin("https", "xn--bcher-kva.example", 443), "/x", "xn--bcher-kva.example"),
    ],
)
def test_url_is_split_into_origin_and_target(url: str, origin: Origin, target: str, authority: str) -> None:
    split = split_url(url)

    assert split == (origin, target)
    assert split[0].authority == authority


@pytest.mark.parametrize(
    "url", ["ftp://h/", "h/mcp", "http:///x", "http://u:s3cret@h/", "http://h:99999/", "http://a b/", "http://h\0/"]
)
def test_url_that_names_no_usable_origin_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        Origin.parse(url)

    assert "s3cret" not in str(caught.value)
