"""The source text of an expression, cut out whole.

The engine's places are approximate: an end may miss a closing quote or bracket, a start an opening quote. So the text
is read from its start, token by token, until it is complete.
"""

from __future__ import annotations

from typing import Final

from adapters.pdp.syntax import Node

_OPENING: Final = b"([{"
_CLOSING: Final = b")]}"
_QUOTES: Final = b'"`'
_COMMENT: Final = 0x23
_SEMICOLON: Final = 0x3B
_BACKSLASH: Final = 0x5C


def excerpt(source: bytes, start: int, limit: int) -> str:
    """The code from `start` to `limit`, and as far beyond as a string or bracket that began before reaches."""
    return source[start : _complete(source, start, limit)].decode(errors="replace")


def start_of(source: bytes, node: Node) -> int:
    """Where the text of `node` begins, an opening quote included."""
    lines = source.split(b"\n")[: max(node.line - 1, 0)]
    by_place = sum(len(line) + 1 for line in lines)
    line = source[by_place:].partition(b"\n")[0].decode(errors="replace")
    named = by_place + len(line[: node.col - 1].encode())
    start = min(node.start, named) if node.line else node.start
    return start - 1 if start and source[start - 1] in _QUOTES else start


def texts_of(source: bytes, query: Node) -> list[str]:
    """The statements of a body, each as it is written."""
    statements = query.all("stmts")
    starts = [start_of(source, statement) for statement in statements]
    braced = source[query.start : query.start + 1] in (b"{", b"|")
    end = query.end - 1 if braced else query.end
    return [excerpt(source, start, limit) for start, limit in zip(starts, [*starts[1:], end], strict=True)]


def parenthesised(source: bytes, start: int) -> str:
    """What stands between the first bracket at or after `start` and its partner."""
    opening = source.index(b"(", start)
    return source[opening + 1 : _complete(source, opening, opening + 1) - 1].decode(errors="replace")


def _complete(source: bytes, start: int, limit: int) -> int:
    """The end of the last token that begins before `limit` or inside a bracket that does."""
    at = end = start
    depth = 0
    while at < len(source) and (at < limit or depth > 0):
        letter = source[at]
        if letter == _COMMENT:
            at = _line_end(source, at)
            continue
        at = _string_end(source, at) if letter in _QUOTES else at + 1
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if depth < 0:
            break
        if letter != _SEMICOLON and not source[at - 1 : at].isspace():
            end = at
    return end


def _line_end(source: bytes, at: int) -> int:
    found = source.find(b"\n", at)
    return len(source) if found < 0 else found


def _string_end(source: bytes, at: int) -> int:
    quote = source[at]
    at += 1
    while at < len(source) and source[at] != quote:
        at += 2 if source[at] == _BACKSLASH and quote == _QUOTES[0] else 1
    return at + 1
