"""What is kept of a routed call: one note in its audit record, of which reports are made and headers are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.models import Price, Tokens, price_from, text_tokens
from gateway.models.neutral import Answer, Refusal, Text, Thinking, ToolCall
from gateway.routing.attempts import Candidate, Tried
from gateway.routing.gain import Choice
from gateway.types import Resource, Usage

NOTE: Final = "route"
"""The name of the note."""
LOGGER: Final = "interlock.route"
"""Under which name a client is told of the choice, while its answer has not begun."""
HEADER: Final = b"x-interlock-route"
MODEL_HEADER: Final = b"x-interlock-model"
CACHE_HEADER: Final = b"x-interlock-cache"


@dataclass(frozen=True, slots=True)
class Spent:
    """What the answer cost, and what it would have cost had the strong model written it: the same tokens at its price.

    `strong_nano_usd` is `None` where nobody knows that price. `counted`: the provider said what was read and written.
    """

    tokens: Tokens
    nano_usd: int
    strong_nano_usd: int | None
    counted: bool

    def as_json(self) -> dict[str, object]:
        """For the record."""
        return {
            "input_tokens": self.tokens.input,
            "output_tokens": self.tokens.output,
            "nano_usd": self.nano_usd,
            "strong_nano_usd": self.strong_nano_usd,
            "counted": self.counted,
        }


def spent_by(
    usage: Usage | None, counted: Tokens, answer: Answer | None, chosen: Resource, strong: Resource, reads: int
) -> Spent:
    """From what the provider counted; where it told only a sum, what was written is estimated from its words."""
    total = usage.tokens if usage is not None else 0
    tokens = counted if counted.total else _split(total, answer, reads)
    paid = usage.nano_usd if usage is not None else 0
    price = price_from(strong.catalog)
    if chosen.id == strong.id and (paid or price is not None):
        return Spent(tokens, paid, paid, bool(counted.total))
    return Spent(tokens, paid, None if price is None else price.cost(_plain(tokens)), bool(counted.total))


NOTHING: Final = Spent(Tokens(), 0, 0, True)
"""Of an answer that was there already."""


def _plain(tokens: Tokens) -> Tokens:
    """What another model would have had to read: nothing of it from this one's cache."""
    return Tokens(tokens.input, tokens.output)


def _split(total: int, answer: Answer | None, reads: int) -> Tokens:
    if answer is None:
        return Tokens(min(reads, total), max(total - reads, 0))
    wrote = sum(text_tokens(_words(part)) for part in answer.parts)
    return Tokens(max(total - wrote, 0), min(wrote, total)) if total else Tokens(reads, wrote)


def _words(part: object) -> str:
    match part:
        case Text(text) | Refusal(text) | Thinking(text):
            return text
        case ToolCall():
            return f"{part.name}{part.arguments}"
    return ""


def price_of(resource: Resource) -> Price | None:
    """What a model costs, if the catalogue says."""
    return price_from(resource.catalog)


def note_of(  # what a note is made of
    route: str, choice: Choice, tries: Sequence[Tried], candidate: Candidate | None, task: str, expected: float | None
) -> dict[str, object]:
    """The note of a call that was decided; what its answer came to is added once there is one."""
    explained = choice.as_json()
    about = {name: explained[name] for name in ("tier", "why", "words", "quality", "gain", "threshold", "predictor")}
    return {
        "route": route,
        "model": candidate.resource.id if candidate is not None else "",
        "served": candidate.tier if candidate is not None else "",
        **about,
        "router": choice.router[:12],
        "evidence": explained["evidence"],
        "expected_quality": expected,
        "task": task,
        "tries": [each.as_json() for each in tries],
    }


def header_of(note: Mapping[str, object], *, under_way: int = 0) -> str:
    """The reason in one header line: `auto; model="p/m"; tier=weak; why=no_gain; gain=-0.013; tries=1`."""
    words = [str(note["route"]), f'model="{note["model"]}"', f"tier={note['served']}", f"why={note['why']}"]
    for name in ("gain", "threshold", "quality"):
        value = note[name]
        if isinstance(value, float | int) and abs(value) < 1e6:
            words.append(f"{name}={value:.4g}")
    tries = note["tries"]
    words.append(f"tries={under_way + (len(tries) if isinstance(tries, list) else 0)}")
    return "; ".join(words)
