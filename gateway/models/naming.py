"""What callers may write as `model`: `provider/model`, a bare name of the catalogue, or a route (`auto:cheap`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway.errors import InvalidCall

AUTO: Final = "auto"
MAX_NAME: Final = 256
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*", re.ASCII)
_ROUTE: Final = re.compile(r"(auto(?:-[a-z0-9][a-z0-9-]*)?)(?::(.*))?", re.ASCII)
_WORD: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
_SHARE: Final = re.compile(r"(?:0?\.[0-9]{1,6}|0|1(?:\.0{1,6})?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pinned:
    """One model. `provider` is empty for a bare name, which only a catalogue can resolve."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}" if self.provider else self.model


@dataclass(frozen=True, slots=True)
class Alias:
    """A route: its name, what it is to prefer (`cheap`, `fast`), and the share of the best quality to keep."""

    route: str
    prefer: str = ""
    quality: float | None = None

    def __str__(self) -> str:
        quality = "" if self.quality is None else f"quality={self.quality:g}"
        wishes = ",".join(wish for wish in (self.prefer, quality) if wish)
        return f"{self.route}:{wishes}" if wishes else self.route


def parse_name(name: object) -> Pinned | Alias:
    """What a caller wrote as `model`. Raises `InvalidCall` where it names nothing that could exist."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        raise InvalidCall(f"model is not a string of 1 to {MAX_NAME} characters")
    route = _ROUTE.fullmatch(name)
    if route is not None:
        return Alias(route[1]) if route[2] is None else _alias(route[1], route[2])
    if not _NAME.fullmatch(name) or "//" in name or name.endswith("/"):
        raise InvalidCall("model is not a name: provider/model, or auto")
    provider, slash, model = name.partition("/")
    return Pinned(provider, model) if slash else Pinned("", name)


def _alias(route: str, wishes: str) -> Alias:
    prefer, quality = "", None
    for wish in wishes.split(","):
        name, equals, value = wish.partition("=")
        if name == "quality" and equals and quality is None and _SHARE.fullmatch(value):
            quality = float(value)
        elif not equals and not prefer and _WORD.fullmatch(name):
            prefer = name
        else:
            raise InvalidCall(
                "model: after auto: comes a preference (cheap, best or fast), quality=0.95 (0 to 1), or both"
            )
    return Alias(route, prefer, quality)
