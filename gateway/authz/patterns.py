"""What may be redacted by its looks: mail addresses, card numbers, secrets.

Every pattern is bounded, so the time to search a text grows with its length and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

REDACTED: Final = "[redacted]"

_EMAIL: Final = re.compile(r"[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9\-]{1,63}(?:\.[A-Za-z0-9\-]{1,63}){1,8}")
_NUMBERS: Final = re.compile(r"[0-9]+(?:[ \-][0-9]+)*")
_CARD_GROUPS: Final = 6
_DOUBLED: Final = bytes.maketrans(b"0123456789", bytes([0, 2, 4, 6, 8, 1, 3, 5, 7, 9]))
_SINGLE: Final = bytes.maketrans(b"0123456789", bytes(range(10)))
_SECRET: Final = re.compile(
    r"""-----BEGIN[ ][A-Z0-9 ]{0,32}PRIVATE[ ]KEY-----                         # PEM, to its end or as far as it goes
        (?:[A-Za-z0-9+/=\s\\:,]|-(?!----END))*(?:-----END[ ][A-Z0-9 ]{0,32}PRIVATE[ ]KEY-----)?
      | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                                          # AWS access key id
      | \bgh[opsur]_[A-Za-z0-9]{36,255}                                        # GitHub
      | \bgithub_pat_[A-Za-z0-9_]{22,255}
      | \bglpat-[A-Za-z0-9_\-]{20,255}                                         # GitLab
      | \bxox[abeoprs]-[A-Za-z0-9\-]{10,255}                                   # Slack
      | \bsk-[A-Za-z0-9_\-]{20,255}                                            # OpenAI, Anthropic
      | \b[rs]k_(?:live|test)_[A-Za-z0-9]{16,255}                              # Stripe
      | \bAIza[A-Za-z0-9_\-]{35}                                               # Google
      | (?<![A-Za-z0-9_\-])eyJ[A-Za-z0-9_\-]{8,4096}\.eyJ[A-Za-z0-9_\-]{8,4096}\.[A-Za-z0-9_\-]{0,4096}  # JWT
      | \bnpm_[A-Za-z0-9]{36}\b
      | \bpypi-[A-Za-z0-9_\-]{32,4096}
    """,
    re.VERBOSE,
)


def _without_email(text: str) -> str:
    return _EMAIL.sub(REDACTED, text) if "@" in text else text


def _without_secret(text: str) -> str:
    return _SECRET.sub(REDACTED, text)


def _without_card(text: str) -> str:
    return _NUMBERS.sub(_without_card_in_run, text)


def _without_card_in_run(found: re.Match[str]) -> str:
    """Most numbers are no card: only groups that stand together and pass the check digit are taken out."""
    run = found[0]
    if len(run) < 13:
        return run
    parts = re.split("([ -])", run)  # groups and separators take turns
    taken: set[int] = set()
    for start in range(0, len(parts), 2):
        for end in _ends_of_cards(parts, start):
            taken.update(range(start, end))
    shown = [REDACTED if at in taken else part for at, part in enumerate(parts) if not {at - 1, at} <= taken]
    return "".join(shown)


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
