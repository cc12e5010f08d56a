"""How alike two texts are, and whether they say the opposite: by words, without a model, the same every time."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

NEAR: Final = 0.8
"""From here on one text repeats the other."""
TOUCHES: Final = 0.3
"""From here on it is made of the other."""
ALIKE: Final = 0.6
"""From here on two texts are about the same thing: where they differ in a number or a negation, they contradict."""
COMPARED: Final = 400
"""What a text is about stands in so many words of it; more of them would only cost."""
_SHINGLE: Final = 3
_WORD: Final = re.compile(r"\w+(?:[.,:]\d+)*(?:'t)?")
_NUMBER: Final = re.compile(r"\d")
_NEGATIONS: Final = frozenset(
    ("no", "not", "never", "none", "nobody", "nothing", "neither", "nor", "cannot", "without", "disabled", "false")
)
LETTERS_LIKE_LATIN: Final = (
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u04bb\u04cf"  # Cyrillic
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0408\u0405"
    "\u03bf\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"  # Greek
)
_LATIN: Final = str.maketrans(LETTERS_LIKE_LATIN, "aeopcyxijsdhl" + "ABEKMHOPCTYXIJS" + "oABEZHIKMNOPTYX")
_FILLERS: Final = frozenset(
    ("a", "an", "the", "is", "are", "was", "were", "be", "been", "to", "of", "in", "on", "at", "for", "and", "or", "it")
)


@lru_cache(maxsize=512)
def words(text: str) -> tuple[str, ...]:
    """The words of a text, however it is written: without case, marks and width."""
    return tuple(_WORD.findall(unmarked(unicodedata.normalize("NFKC", text)).casefold()))


def unmarked(text: str) -> str:
    """A text without marks and invisible letters, with Latin letters for those that look like them."""
    return "".join(char for char in text if unicodedata.category(char) not in {"Cf", "Mn"}).translate(_LATIN)


def repeats(new: str, old: str) -> float:
    """How much of a new text stands in an old one already, in that order: from 0 to 1."""
    fresh, known = _shingles(new), _shingles(old)
    return len(fresh & known) / len(fresh) if fresh else 0.0


def contradicts(one: str, other: str) -> bool:
    """Whether two texts are about the same thing and differ in a number or a negation."""
    a, b = _claim(one), _claim(other)
    return (a.numbers != b.numbers or a.negated != b.negated) and _overlap(a.topic, b.topic) >= ALIKE


@dataclass(frozen=True, slots=True)
class _Claim:
    """A text as far as it can contradict another."""

    topic: frozenset[str]
    numbers: frozenset[str]
    negated: bool


@lru_cache(maxsize=1_024)
def _claim(text: str) -> _Claim:
    found = words(text)
    return _Claim(_topic(found[:COMPARED]), _numbers(found), _negated(found))


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    """How much two topics have in common: from 0 to 1."""
    return len(a & b) / len(a | b) if a | b else 0.0


@lru_cache(maxsize=64)
def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    found = words(text)
    if len(found) < _SHINGLE:
        return frozenset({tuple(found)}) if found else frozenset()
    return frozenset(tuple(found[start : start + _SHINGLE]) for start in range(len(found) - _SHINGLE + 1))


def _topic(found: Sequence[str]) -> frozenset[str]:
    return frozenset(word for word in found if not _is_number(word) and not _denies(word) and word not in _FILLERS)


def _numbers(found: Sequence[str]) -> frozenset[str]:
    return frozenset(filter(_is_number, found))


def _negated(found: Sequence[str]) -> bool:
    return sum(map(_denies, found)) % 2 == 1


def _denies(word: str) -> bool:
    return word in _NEGATIONS or word.endswith("n't")


def _is_number(word: str) -> bool:
    return _NUMBER.search(word) is not None
