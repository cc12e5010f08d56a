"""Classes of tasks, for reports: read off the form of a request, so that they cost nothing and never change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from gateway.models import Talk, facts_of
from gateway.routing.fitting import wants_form

Task: TypeAlias = Literal["tools", "form", "code", "math", "text", "long", "chat"]

LONG_CHARS: Final = 4_000
SHORT_CHARS: Final = 280
_LOOKED_AT: Final = 16_384
_CODE: Final = re.compile(
    r"```|^[ \t]*+(?:def |class |import |from \w+ import |#include|func |fn |SELECT |public )|[;{}][ \t\r]*+$|\)\s*=>",
    re.MULTILINE,
)
"""White space ends with its line: that of a thousand empty lines would be tried again from each of them."""
_MATH: Final = re.compile(r"\d\s*[-+*/^=<>%]\s*\d|\\frac|\\sum|√|∫|\bsolve\b|\bhow (?:many|much)\b", re.IGNORECASE)


def task_of(api: Talk, params: Mapping[str, object], prompt: str) -> Task:
    """The class of a request."""
    if facts_of(api, params)["tools_count"]:
        return "tools"
    if wants_form(api, params):
        return "form"
    return task_of_text(prompt)


def task_of_text(prompt: str) -> Task:
    """The class of a prompt alone."""
    looked = prompt[:_LOOKED_AT]
    if _CODE.search(looked):
        return "code"
    if _MATH.search(looked):
        return "math"
    if len(prompt) > LONG_CHARS:
        return "long"
    return "chat" if len(prompt) < SHORT_CHARS else "text"
