"""Whether a number in international form is one that can be called.

With the extra `detectors` the numbering plans of `phonenumbers` say so; without, the length and country code alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Final

_CODES: Final = re.compile(
    r"\+(?:1[2-9]|7[3-9]|2(?:0|7|[1-69][0-9])|3(?:[0-469]|[578][0-9])|4(?:[013-9]|2[0-9])|5(?:[1-8]|[09][0-9])"
    r"|6(?:[0-6]|[7-9][0-9])|8(?:[1246]|[058][0-9])|9(?:[0-58]|6[0-8]|7[0-79]|9[2-68]))"
)
"""Country codes that are in use (ITU-T E.164)."""


def is_number(text: str) -> bool:
    """Whether `+`, digits and separators are the number of a telephone."""
    return _plan()(text)


@cache  # nothing is loaded where nobody detects anything
def _plan() -> Callable[[str], bool]:
    """What decides, with the plans of all countries loaded if there are any."""
    return by_plan if find_spec("phonenumbers") is not None else by_form


def by_plan(text: str) -> bool:
    """By the numbering plan of its country."""
    phonenumbers = import_module("phonenumbers")
    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(text)))
    except phonenumbers.NumberParseException:
        return False


def by_form(text: str) -> bool:
    """By what E.164 says of all of them: a country code and 8 to 15 digits, and not one digit again and again."""
    digits = re.sub(r"[^0-9]", "", text)
    return 8 <= len(digits) <= 15 and bool(_CODES.match("+" + digits)) and len(set(digits[3:])) > 1
