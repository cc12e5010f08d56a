"""Whether a URI could be an expansion of a URI template (RFC 6570), decided in linear time.

Matching is conservative: a template must begin with a literal scheme, and where RFC 6570 leaves room (several values
in one expression, explode, prefix) only the shape of the text is checked. What a match says is which upstream may be
asked; whether the resource exists is the upstream's answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_URI: Final = 8_192

_EXPRESSION: Final = re.compile(r"\{([+#./;?&]?)([A-Za-z0-9_%][A-Za-z0-9_.%]*(?::[0-9]{1,4}|\*)?(?:,[^{}]*)?)\}")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


@dataclass(frozen=True, slots=True)
class _Part:
    """A literal, or a run of characters outside `stop`; both may be optional."""

    literal: str = ""
    stop: str = ""
    is_run: bool = False
    optional: bool = False


_VALUE: Final = _Part(is_run=True, stop="/?#")
_RESERVED: Final = _Part(is_run=True)
_OPERATORS: Final[dict[str, tuple[_Part, ...]]] = {
    "": (_VALUE,),
    "+": (_RESERVED,),
    "#": (_Part(literal="#"), _RESERVED),
    ".": (_Part(literal="."), _VALUE),
    "/": (_Part(literal="/"), _VALUE),
    "/*": (_Part(literal="/"), _Part(is_run=True, stop="?#")),
    ";": (_Part(literal=";"), _VALUE),
    "?": (_Part(is_run=True, stop="#", optional=True),),
    "&": (_Part(is_run=True, stop="#", optional=True),),
}


def scheme_of(uri: str) -> str:
    """The scheme in lower case (RFC 3986 section 3.1), or empty."""
    found = _SCHEME.match(uri)
    return found.group(1).lower() if found else ""


@dataclass(frozen=True, slots=True)
class UriTemplate:
    """A parsed template."""

    text: str
    parts: tuple[_Part, ...]

    @classmethod
    def parse(cls, text: str) -> UriTemplate | None:
        """The template, or `None` when it is malformed or its scheme is not literal: such a one matches nothing."""
        parts: list[_Part] = []
        at = 0
        for found in _EXPRESSION.finditer(text):
            parts.append(_Part(literal=text[at : found.start()]))
            parts.extend(_OPERATORS[_operator(found)])
            at = found.end()
        parts.append(_Part(literal=text[at:]))
        literals = [part.literal for part in parts]
        if any("{" in literal or "}" in literal for literal in literals) or not scheme_of(literals[0]):
            return None
        return cls(text, tuple(part for part in parts if part.is_run or part.literal))

    def matches(self, uri: str) -> bool:
        """Whether some expansion with non-empty values gives this URI."""
        if len(uri) > MAX_URI:
            return False
        reached = {0}
        for part in self.parts:
            reached = _run(part, uri, reached) if part.is_run else _literal(part, uri, reached)
            if not reached:
                return False
        return len(uri) in reached


def _operator(found: re.Match[str]) -> str:
    operator, variables = found.group(1), found.group(2)
    return "/*" if operator == "/" and ("*" in variables or "," in variables) else operator


def _literal(part: _Part, uri: str, reached: set[int]) -> set[int]:
    return {at + len(part.literal) for at in reached if uri.startswith(part.literal, at)}


def _run(part: _Part, uri: str, reached: set[int]) -> set[int]:
    ends = set(reached) if part.optional else set()
    inside = False
    for at, char in enumerate(uri):
        inside = (inside or at in reached) and char not in part.stop
        if inside:
            ends.add(at + 1)
    return ends
