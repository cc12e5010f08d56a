"""HTML made of values: whatever is not an element made here is text, and stays text.

Approvers are shown what others wrote, and decide by it. So a text is not only escaped: characters that cannot be seen,
or that turn the order of what stands around them, are written as what they are, and letters that pass for others stand
out.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True, slots=True)
class Html:
    """Markup. Only `tag` and `document` make it."""

    markup: str


Child: TypeAlias = "Html | str | Iterable[Child] | None"

_VOID: Final = frozenset({"input", "meta", "link", "br"})
_ODD_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Me", "Zl", "Zp"})
_UNSEEN: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\ufffc\U00016fe4\U0001d159"
)
"""Fillers and selectors that Unicode takes for letters, marks and signs, and that show as nothing."""
_PLAIN: Final = re.compile(r"[\n\t -~]*")
_STRING: Final = re.compile(r'("(?:[^"\\]|\\.)*")')
_ESCAPE: Final = re.compile(r"\\(?:u[0-9a-f]{4}|.)")
_MARKS: Final = 4
"""How many marks one letter has in any language; more of them are drawn over the lines around."""
_ALIKE: Final = ("CYRILLIC ", "GREEK ", "ARMENIAN ", "CHEROKEE ", "COPTIC ", "LISU ")
"""Alphabets with letters that look like Latin ones, as names of characters begin."""
_DOUBT: Final = " mix alphabets whose letters look alike: they may not be the words that they seem."
_LONG: Final = 1_500
"""Characters of a block that are in sight at once, about."""


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """One element. `class_` and `for_` lose their underscore, any other becomes a hyphen; no value, no attribute."""
    said = "".join(_attribute(key, value) for key, value in attributes.items())
    inner = "".join(_markup(children))
    return Html(f"<{name}{said}>" if name in _VOID else f"<{name}{said}>{inner}</{name}>")


def document(head: Child, body: Child) -> bytes:
    """A whole page."""
    return ("<!doctype html>\n" + tag("html", tag("head", head), tag("body", body), lang="en").markup + "\n").encode()


def shown(text: str) -> str:
    """The text with a name in the place of each character that cannot be seen."""
    return _spelt(text, lambda char: f"⟨U+{ord(char):04X}⟩")


def json_text(value: object) -> str:
    """A JSON value to be read and changed by people: exactly that value, with escapes for what cannot be seen."""
    return json_escaped(json.dumps(value, indent=2, ensure_ascii=False))


def json_escaped(text: str) -> str:
    """JSON that somebody wrote: the same value, with escapes for what cannot be seen."""
    return _spelt(text, lambda char: json.dumps(char)[1:-1])


def json_block(value: object, label: str) -> Child:
    """A JSON value as text that scrolls, also by keyboard. Strings of other scripts do not turn what is beside them."""
    text = json_text(value)
    code = tag("code", [part if part.isascii() else tag("bdi", marked(part)) for part in _STRING.split(text)])
    long = f"This is long ({len(text):,} characters): its end is out of sight until you scroll there."
    return [
        tag("p", long, class_="note") if len(text) > _LONG or text.count("\n") > _LONG // 100 else None,
        tag("p", tag("mark", "Words marked so"), _DOUBT, class_="note") if "<mark" in code.markup else None,
        tag("pre", code, tabindex=0, role="region", aria_label=label),
    ]


def marked(text: str) -> Child:
    """The text; a word of letters from several alphabets that look alike stands out."""
    if text.isascii():
        return text
    return [tag("mark", part) if _mixed(part) else part for part in re.split(r"(\s+)", text)]


def _mixed(word: str) -> bool:
    letters = {char for char in _ESCAPE.sub("", word) if char.isalpha()}
    latin = any(char.isascii() for char in letters)
    return latin and any(unicodedata.name(char, "").startswith(_ALIKE) for char in letters)


def _markup(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Html):
            yield child.markup
        elif isinstance(child, str):
            yield html.escape(shown(child))
        elif child is not None:
            yield from _markup(child)


def _attribute(key: str, value: str | int | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(shown(str(value)))}"'


def _spelt(text: str, name: Callable[[str], str]) -> str:
    """The text with what cannot be seen as `name` writes it, and marks that are piled up on one letter, too."""
    if _PLAIN.fullmatch(text):
        return text
    found = set(text)
    marks = "".join(char for char in found if unicodedata.category(char) == "Mn")
    if marks:
        text = re.sub(f"(?<=[{marks}]{{{_MARKS}}})[{marks}]", lambda mark: name(mark[0]), text)
    return text.translate({ord(char): name(char) for char in found if _odd(char)})


def _odd(char: str) -> bool:
    if char in "\n\t" or " " <= char <= "~":
        return False
    return unicodedata.category(char) in _ODD_CATEGORIES or char.isspace() or char in _UNSEEN or _varies(char)


def _varies(char: str) -> bool:
    """Selectors of variants, which carry any bytes unseen behind any letter."""
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
