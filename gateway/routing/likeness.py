"""Whether two questions may have one answer. Vectors alone take "buy 3" and "do not buy 30" for nearly the same."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from operator import mul
from sys import byteorder
from typing import Final

_NEGATION: Final = {"no", "not", "never", "none", "without", "except", "neither", "nor", "cannot", "unless", "least"}
_DECISIVE_WORDS: Final = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion half
    quarter third once twice double first second last next previous more less most fewer maximum minimum max min
    highest lowest on off in out up down before after above below over under left right open close opens closes start
    stop begin end enable disable enabled disabled allow deny allowed denied increase decrease add remove create delete
    buy sell true false yes with against today tomorrow yesterday monday tuesday wednesday thursday friday saturday
    sunday male female
"""
_DECISIVE: Final = frozenset(_DECISIVE_WORDS.split())
"""Words of which another one makes another question, which their vectors hardly show."""
_FILLING: Final = {"a", "an", "the", "please"}
_PARTICULAR: Final = re.compile(
    r"\d[\w.,:/-]*|\b[A-Z][\w'-]*|\"[^\"]*\"|`[^`]*`|(?:(?<![^\W_])[^\W_]++)?+[_@#/\\][\w@#/\\.-]*"
    r"|[-+*/=<>%^&|~$(){}\[\]]|[!?.:;](?!\s*$)"
)
_UNSEEN: Final = re.compile(r"[^\x00-\x7f]+|\n[^\S\n]*+|\w{50,}", re.ASCII)
"""What embedders are blind to: a sign or script that they have no piece for, how lines are set, a word without end."""
_WORD: Final = re.compile(r"[^\W\d_]+(?:n't)?")


def alike(one: str, other: str) -> bool:
    """Whether all that vectors hardly show is the same in both, as numbers, names and signs are, and in its place."""
    return _particulars(one) == _particulars(other) and _in_the_same_order(_words(one), _words(other))


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _particulars(text: str) -> tuple[list[str], list[str], Counter[str]]:
    words = _words(text)
    denied = ["not" for word in words if word in _NEGATION or word.endswith("n't")]
    start = text if text[1:2].isupper() else text[:1].lower() + text[1:]  # the first word of a sentence is no name
    named = [found.casefold().rstrip(".,:") or found for found in _PARTICULAR.findall(start)]
    unseen = [found.casefold() for found in _UNSEEN.findall(text.rstrip())]
    return named, unseen, Counter([*denied, *[word for word in words if word in _DECISIVE]])


def _in_the_same_order(one: list[str], other: list[str]) -> bool:
    """Of the words that both have: who pays whom is told by nothing else."""
    shared = set(one).intersection(other) - _FILLING
    return [word for word in one if word in shared] == [word for word in other if word in shared]


def cosine(one: bytes, other: bytes) -> float:
    """Of two vectors of length 1; 0 where they are not comparable."""
    if len(one) != len(other) or not one:
        return 0.0
    return float(sum(map(mul, _floats(one), _floats(other))))


def _floats(vector: bytes) -> array[float]:
    numbers = array("f", vector)
    if byteorder == "big":
        numbers.byteswap()
    return numbers
