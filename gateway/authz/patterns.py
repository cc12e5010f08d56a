"""What may be redacted by its looks: mail addresses, card numbers, secrets.

Every pattern is bounded, so the time to search a text grows with its length and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final, TypeAlias

Span: TypeAlias = tuple[int, int]

REDACTED: Final = "[redacted]"

EMAIL: Final = re.compile(r"[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9\-]{1,63}(?:\.[A-Za-z0-9\-]{1,63}){1,8}")
_NUMBERS: Final = re.compile(r"[0-9]+(?:[ \-][0-9]+)*")
_CARD_GROUPS: Final = 6
_DOUBLED: Final = bytes.maketrans(b"0123456789", bytes([0, 2, 4, 6, 8, 1, 3, 5, 7, 9]))
_SINGLE: Final = bytes.maketrans(b"0123456789", bytes(range(10)))
SECRET: Final = re.compile(
    r"""(?P<private_key>-----BEGIN[ ][A-Z0-9 ]{0,32}PRIVATE[ ]KEY-----  # PEM, to its end or as far as it goes
        (?:[A-Za-z0-9+/=\s\\:,]|-(?!----END))*(?:-----END[ ][A-Z0-9 ]{0,32}PRIVATE[ ]KEY-----)?)
      | (?P<aws_access_key>\b(?:AKIA|ASIA)[A-Z0-9]{16}\b)
      | (?P<github_token>\bgh[opsur]_[A-Za-z0-9]{36,255} | \bgithub_pat_[A-Za-z0-9_]{22,255})
      | (?P<gitlab_token>\bglpat-[A-Za-z0-9_\-]{20,255})
      | (?P<slack_token>\bxox[abeoprs]-[A-Za-z0-9\-]{10,255} | \bxapp-[0-9]-[A-Za-z0-9\-]{20,255})
      | (?P<model_key>\bsk-[A-Za-z0-9_\-]{20,255})  # OpenAI, Anthropic
      | (?P<stripe_key>\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,255})
      | (?P<google_api_key>\bAIza[A-Za-z0-9_\-]{35})
      | (?P<jwt>(?<![A-Za-z0-9_\-])eyJ[A-Za-z0-9_\-]{8,4096}\.eyJ[A-Za-z0-9_\-]{8,4096}\.[A-Za-z0-9_\-]{0,4096})
      | (?P<package_token>\bnpm_[A-Za-z0-9]{36}\b | \bpypi-[A-Za-z0-9_\-]{32,4096})
    """,
    re.VERBOSE,
)
"""Texts whose very form says that they are secrets; the group that matched is the name of the form."""
SECRET_STARTS: Final = (
    *("-----BEGIN ", "AKIA", "ASIA", "ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "xox", "xapp-"),
    *("sk-", "sk_live_", "sk_test_", "rk_live_", "rk_test_", "AIza", "eyJ", "npm_", "pypi-"),
)
"""What each of them begins with: to look for these first is fifty times as fast."""


def _without_email(text: str) -> str:
    return EMAIL.sub(REDACTED, text) if "@" in text else text


def _without_secret(text: str) -> str:
    return without(text, [match.span() for match in matches(SECRET, text, starts(text, SECRET_STARTS))], REDACTED)


def starts(text: str, literals: Iterable[str]) -> list[int]:
    """Where any of some literals is in a text, in order."""
    found: set[int] = set()
    for literal in literals:
        at = text.find(literal)
        while at >= 0:
            found.add(at)
            at = text.find(literal, at + 1)
    return sorted(found)


def matches(pattern: re.Pattern[str], text: str, positions: Iterable[int]) -> Iterator[re.Match[str]]:
    """What `finditer` finds of a pattern that can match at these positions only."""
    end = 0
    for at in positions:
        match = pattern.match(text, at) if at >= end else None
        if match is not None:
            end = match.end()
            yield match


def _without_card(text: str) -> str:
    return without(text, card_spans(text), REDACTED)


def without(text: str, spans: Iterable[Span], instead: str) -> str:
    """The text with `instead` in place of each span; spans come in order and do not overlap."""
    kept: list[str] = []
    at = 0
    for start, end in spans:
        kept += [text[at:start], instead]
        at = end
    return "".join([*kept, text[at:]])


def card_spans(text: str) -> list[Span]:
    """Where card numbers stand. Most numbers are none: only groups that stand together and pass the check digit are."""
    return merged(card_candidates(text))


def card_candidates(text: str) -> Iterator[Span]:
    """Every such group, also where several overlap."""
    for run in _NUMBERS.finditer(text):
        if run.end() - run.start() >= 13:
            yield from ((run.start() + start, run.start() + end) for start, end in _cards_in_run(run[0]))


def merged(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that overlap as one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _cards_in_run(run: str) -> Iterator[Span]:
    parts = re.split("([ -])", run)  # groups and separators take turns
    starts = [0, *accumulate(len(part) for part in parts)]
    for first in range(0, len(parts), 2):
        for last in _ends_of_cards(parts, first):
            yield starts[first], starts[last]


def _ends_of_cards(parts: list[str], start: int) -> Iterator[int]:
    digits = b""
    for at in range(start, min(start + 2 * _CARD_GROUPS, len(parts)), 2):
        digits += parts[at].encode()
        if len(digits) > 19:
            return
        if len(digits) >= 13 and _checks(digits):
            yield at + 1


def _checks(digits: bytes) -> bool:
    """The check digit of ISO/IEC 7812-1 (annex B)."""
    return (sum(digits[-1::-2].translate(_SINGLE)) + sum(digits[-2::-2].translate(_DOUBLED))) % 10 == 0


PATTERNS: Final[Mapping[str, Callable[[str], str]]] = {
    "credit_card": _without_card,
    "email": _without_email,
    "secret": _without_secret,
}
"""Name of a kind -> what takes it out of a text."""
