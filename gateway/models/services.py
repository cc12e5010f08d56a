"""What is asked of a provider, or was given by it, beyond its standard service: it has a price of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

MEMBERS: Final = ("service_tier", "speed", "inference_geo")
MAX_NAME: Final = 32
_UNDECIDED: Final = "auto"
_STANDARD: Final = frozenset(
    {_UNDECIDED, "default", "standard", "standard_only", "flex", "batch", "global", "not_available"}
)
"""What costs the standard price, or less."""
_SAME: Final[Mapping[tuple[str, str], str]] = {("service_tier", "fast"): "priority"}
"""OpenAI's two names for one thing; `fast` is Anthropic's name for another."""


def service_of(*said: Mapping[str, object]) -> str:
    """What is asked for, in words like `priority` or `fast us`; empty for the standard.

    Of what is said several times (by a request, then by its answer) the last holds.
    """
    found: dict[str, str] = {}
    for each in said:
        found.update(_said(each))
    named = {_SAME.get(item, item[1]) for item in found.items() if item[1] not in _STANDARD}
    return " ".join(sorted(named))


def service_in(answer: Mapping[str, object]) -> dict[str, str]:
    """What an answer, or one event of it, tells of the service that was given."""
    found: dict[str, str] = {}
    for holder in (answer, answer.get("response"), answer.get("message")):
        if isinstance(holder, Mapping):
            found.update(_said(holder))
            usage = holder.get("usage")
            found.update(_said(usage) if isinstance(usage, Mapping) else ())
    return {name: value for name, value in found.items() if value != _UNDECIDED}


def _said(each: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name in MEMBERS:
        value = each.get(name)
        if value is not None:
            yield name, value[:MAX_NAME] if isinstance(value, str) else type(value).__name__
