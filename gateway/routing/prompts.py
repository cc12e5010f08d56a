"""What a predictor sees of a prompt: a few measures of the text, and its vector. The text itself is not kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log1p
from typing import Final

FEATURES_VERSION: Final = 1
FEATURES: Final = (
    "characters",
    "words",
    "digits",
    "lines",
    "symbols",
    "word_length",
    "capitals",
    "numbers",
    "sentences",
    "negated",
    "code",
)
"""Their names, in the order of `Sample.features`. A change of meaning is a new version."""

MAX_CHARS: Final = 16_384
"""What is looked at of a very long prompt."""
PIECES: Final = 30
"""How many tokens of a condensed prompt an embedder is to read for routing: 11 ms of CPU with MiniLM."""
LONG_CHARS: Final = 160
"""From here on a text is condensed before it is embedded: an embedding costs by the piece."""

_SYMBOL: Final = re.compile(r"[+*/=^<>\\{}]")
_NUMBER: Final = re.compile(r"\d+")
_SENTENCE: Final = re.compile(r"[.?!;](?:\s|$)")
_NEGATION: Final = re.compile(r"\b(?:not|except|never|neither|nor|least)\b", re.IGNORECASE)
_PIECE: Final = re.compile(r"[^\W_]+(?:'[a-z]+)?|[+*/=^<>\\%$-]")
_STOP_WORDS: Final = """
    a an the of to in on at by for with from as and or but if then than that this these those is are was were be
    been being it its he she his her they their them you your i our we whom whose there has have had do does did
    will would can could may might shall such into over about between after before during under any each other some
    more one answer
"""
_STOP: Final = frozenset(_STOP_WORDS.split())


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt as a predictor sees it: a vector (little-endian float32) and the values of `FEATURES`."""

    vector: bytes
    features: tuple[float, ...]


def features_of(text: str) -> tuple[float, ...]:
    """The measures of a prompt, in the order of `FEATURES`; about 50 us."""
    text = text[:MAX_CHARS]
    characters, words = len(text), len(text.split())
    per_char = 1 / max(characters, 1)
    return (
        log1p(characters),
        log1p(words),
        sum(map(str.isdigit, text)) * per_char,
        text.count("\n") * per_char * 10,
        len(_SYMBOL.findall(text)) * per_char * 10,
        characters / max(words, 1),
        sum(map(str.isupper, text)) * per_char,
        log1p(len(_NUMBER.findall(text))),
        log1p(len(_SENTENCE.findall(text))),
        float(_NEGATION.search(text) is not None),
        float("```" in text),
    )


def named(features: Sequence[float]) -> Mapping[str, float]:
    """The measures by their names, for explanations."""
    return {name: round(value, 4) for name, value in zip(FEATURES, features, strict=True)}


def condensed(text: str) -> str:
    """What is embedded of a prompt: of a longer one the words that carry meaning, so that more of it is read."""
    if len(text) < LONG_CHARS:
        return text
    return " ".join(word for word in _PIECE.findall(text[:MAX_CHARS]) if word.casefold() not in _STOP) or text
