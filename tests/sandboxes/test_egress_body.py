"""The end of a request's body is found, and nothing behind it goes on."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxes.egress.body import Body, Chunked, CutOff, Exact

PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
CUTS = st.lists(st.integers(0, 300), max_size=10)


def fed(body: Body, data: bytes, cuts: list[int]) -> bytes:
    """All that comes out when the bytes arrive in pieces."""
    edges = [0, *sorted(cuts), len(data)]
    return b"".join(body.feed(data[start:end]) for start, end in pairwise(edges))


@given(st.binary(max_size=100), st.binary(max_size=100), CUTS)
def test_exactly_the_announced_bytes_go_on(content: bytes, behind: bytes, cuts: list[int]) -> None:
    body = Exact(len(content))

    out = fed(body, content + behind, cuts)

    assert out == content
    assert body.complete


@given(PIECES, st.binary(max_size=100), CUTS, st.booleans())
def test_chunks_are_written_anew_and_nothing_behind_them(
    pieces: list[bytes], behind: bytes, cuts: list[int], odd: bool
) -> None:
    form = b"%04X\r\n%b\r\n" if odd else b"%x\r\n%b\r\n"
    sent = b"".join(form % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    body = Chunked()

    out = fed(body, sent + behind, cuts)

    assert body.complete
    assert out == b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0x1\r\na\r\n",
        b"1;a=b\r\na\r\n",
        b"1 \r\na\r\n",
        b" 1\r\na\r\n",
        b"1\na\n0\n\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"0\r\nTrailer: x\r\n\r\n",
        b"0000000000000",
        b"0000000000001\r\n",
        b"11111111111111",
    ],
)
def test_chunks_that_could_be_read_differently_end_the_connection(sent: bytes) -> None:
    body = Chunked()

    with pytest.raises(CutOff):
        fed(body, sent + b"...............", [])


@given(st.binary(max_size=200), CUTS)
def test_any_bytes_as_chunks_end_in_one_of_three_ways(data: bytes, cuts: list[int]) -> None:
    def outcome(cuts: list[int]) -> tuple[bytes, bool] | None:
        body = Chunked()
        try:
            return fed(body, data, cuts), body.complete
        except CutOff:
            return None

    assert outcome(cuts) == outcome([])
