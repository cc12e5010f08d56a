"""Lines are cut where they end, however they arrive, and none is longer than allowed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lines import LineSplitter, LineTooLong


@given(
    st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line), max_size=20), st.lists(st.integers(0, 400))
)
def test_lines_are_the_same_however_the_stream_is_cut(lines: list[bytes], places: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    edges = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    splitter = LineSplitter(100)

    got = [line for start, end in itertools.pairwise(edges) for line in splitter.feed(stream[start:end])]

    assert got == lines


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 30))
def test_no_line_is_longer_than_allowed(pieces: list[bytes], limit: int) -> None:
    whole = b"".join(pieces)
    splitter = LineSplitter(limit)
    lines: list[bytes] = []
    try:
        for piece in pieces:
            lines += splitter.feed(piece)
    except LineTooLong:
        assert max(map(len, whole.split(b"\n"))) > limit
        return

    assert lines == whole.split(b"\n")[:-1]
    assert all(len(line) <= limit for line in lines)


def test_after_a_line_that_is_too_long_nothing_of_it_is_left() -> None:
    splitter = LineSplitter(4)
    with pytest.raises(LineTooLong, match="limit of 4 bytes"):
        splitter.feed(b"12345")

    assert splitter.feed(b"ab\n") == [b"ab"]
