"""Secrets in a text: tokens that are known by their form, and what is assigned to the name of a secret.

A false alarm makes people switch the rule off, so that a value counts only if it looks made up by a machine or a
careful person: not `password: required`, not `token=<your token>`, not `api_key = os.environ[...]`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from gateway.authz.patterns import SECRET, SECRET_STARTS, matches, starts
from gateway.ports import Detector, Spotted

MAX_VALUE: Final = 4_096
LEAST_PASSWORD: Final = 8
LEAST_KEY: Final = 16
LEAST_ENTROPY: Final = 3.0
"""Bits per character. Words and numbers of humans stay below, random letters and digits are above."""

_PREFIXED: Final = re.compile(
    r"""(?P<hugging_face_token>\bhf_[A-Za-z]{34}\b)
      | (?P<sendgrid_key>\bSG\.[A-Za-z0-9_\-]{22}\.[A-Za-z0-9_\-]{43}\b)
      | (?P<digitalocean_token>\bdo[oprt]_v1_[a-f0-9]{64}\b)
      | (?P<shopify_token>\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}\b)
      | (?P<telegram_token>(?<=[0-9]{8}):AA[A-Za-z0-9_\-]{33}(?![A-Za-z0-9_\-]))
    """,
    re.VERBOSE,
)
_PREFIXES: Final = ("hf_", "SG.", *(f"do{kind}_v1_" for kind in "oprt"), "shpat_", "shpca_", "shppa_", "shpss_", ":AA")
_NAME: Final = (
    r"pass(?:word|wd|phrase)|pwd|secret(?:[_-]?(?:access[_-]?)?key)?|(?:api|access|account|private|shared)[_-]?key"
    r"|(?:auth|access|refresh|api|bearer|secret)[_-]?token"
)
_ASSIGNED: Final = re.compile(
    rf"""(?P<name>{_NAME})["'\\]{{0,3}}[ \t]{{0,4}}(?:=>|:=|=|(?P<colon>:))(?P<gap>[ \t]{{0,4}})
        (?:\\?"(?P<double>[^"\\\r\n]{{8,256}})|'(?P<single>[^'\r\n]{{8,256}})'|(?P<bare>[^\s"'`<>{{}}\[\],;&|\\]{{8,256}}))
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NAMES_START: Final = (
    "pass",
    "pwd",
    "secret",
    "api",
    "access",
    "account",
    "private",
    "shared",
    "auth",
    "refresh",
    "bearer",
)
_IN_URL: Final = re.compile(r"\b[A-Za-z][A-Za-z0-9+.\-]{1,15}://[^\s/:@\"'<>]{0,64}:(?P<value>[^\s/@\"'<>]{3,256})@")
_BEARER: Final = re.compile(r"\b(?:bearer|basic)[ ]{1,2}(?P<value>[A-Za-z0-9_\-.=+/~]{16,4096})", re.IGNORECASE)
_SOLE_NAME: Final = re.compile(rf"(?:^|[_\-.]|(?<=[a-z])(?=[A-Z]))(?:{_NAME}|token)$", re.IGNORECASE)
_NO_SECRET_NAME: Final = re.compile(r"(?:page|progress|next|continuation|sync|csrf|cancel)[_\-]?token$", re.IGNORECASE)
_CODE: Final = re.compile(r"[A-Za-z_]\w*(?:(?:\.|::|->)[A-Za-z_]\w*)+(?:[(\[].*)?|[A-Za-z_]\w*\(.*")
_PLACEHOLDER: Final = re.compile(
    r"redacted|changeme|change[_-]me|example|placeholder|dummy|sample|your[_\-]?|todo|xxx|\*\*\*|\.\.\.|1234567|abcdef"
    r"|^(?:null|none|true|false|undefined|string|required|optional|hidden|masked|secret)$|^[%<{\[(]|^\$(?:[{(]|[A-Z_]+$)",
    re.IGNORECASE,
)


class Secrets:
    """Finds tokens, keys and passwords."""

    @property
    def kind(self) -> str:
        return "secret"

    def find(self, text: str, name: str = "") -> Sequence[Spotted]:
        """As the port says."""
        found = [*_by_form(text), *_assigned(text), *_carried(text)]
        if name and _names_a_secret(name) and _is_made_up(text, name):
            found.append(Spotted(0, len(text), "password" if _is_password(name) else "key"))
        return found


def _by_form(text: str) -> Iterator[Spotted]:
    for pattern, literals in ((SECRET, SECRET_STARTS), (_PREFIXED, _PREFIXES)):
        for match in matches(pattern, text, starts(text, literals)):
            form = match.lastgroup or ""
            if form != "model_key" or _is_random(match[0][3:]):  # the prefix `sk-` alone is also in words
                yield Spotted(match.start(), match.end(), form)


def _assigned(text: str) -> Iterator[Spotted]:
    for match in matches(_ASSIGNED, text, starts(_lower(text), _NAMES_START)):
        group = next(name for name in ("double", "single", "bare") if match[name])
        prose = group == "bare" and match["colon"] and match["gap"]  # `password: at-least-8`
        if _is_made_up(match[group], match["name"]) and (not prose or _classes(match[group]) >= 3):
            yield Spotted(*match.span(group), "password" if _is_password(match["name"]) else "key")


def _lower(text: str) -> str:
    """The text in lower case, each character where it was."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(char.lower() if char.isascii() else char for char in text)


def _carried(text: str) -> Iterator[Spotted]:
    """What goes with a request: in the address or in `Authorization`."""
    if "://" in text:
        for match in _IN_URL.finditer(text):
            if not _PLACEHOLDER.search(match["value"]) and match["value"].lower() not in _WORDS_IN_URLS:
                yield Spotted(*match.span("value"), "url_password")
    for match in _BEARER.finditer(text):
        if _is_random(match["value"]):
            yield Spotted(*match.span("value"), "authorization")


_WORDS_IN_URLS: Final = frozenset({"pass", "password", "pwd", "secret", "token"})


def _names_a_secret(name: str) -> bool:
    return len(name) <= 64 and bool(_SOLE_NAME.search(name)) and not _NO_SECRET_NAME.search(name)


def _is_password(name: str) -> bool:
    return name.lower().replace("_", "").replace("-", "").endswith(("password", "passwd", "passphrase", "pwd"))


def _is_made_up(value: str, name: str) -> bool:
    """Whether this is what a person or a machine would choose for a secret of that name."""
    if len(value) > MAX_VALUE or _PLACEHOLDER.search(value) or _CODE.fullmatch(value):
        return False
    if not _is_password(name):
        return len(value) >= LEAST_KEY and _is_random(value)
    if len(value) < LEAST_PASSWORD or re.search(r"\s", value):
        return False
    return _classes(value) >= 2 and not value.isalpha()


def _is_random(value: str) -> bool:
    return any(char.isdigit() for char in value) and _classes(value) >= 2 and _entropy(value) >= LEAST_ENTROPY


_JOINING: Final = frozenset("-_./:")
"""What words are joined with, too."""


def _classes(value: str) -> int:
    """How many of lower case, upper case, digits and others there are."""
    kinds = {"a" if char.islower() else "A" if char.isupper() else "0" if char.isdigit() else char for char in value}
    return len(kinds & {"a", "A", "0"}) + bool(kinds - {"a", "A", "0", *_JOINING})


def _entropy(value: str) -> float:
    """Shannon entropy of its characters, in bits per character."""
    shares = [count / len(value) for count in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares)


_: type[Detector] = Secrets
