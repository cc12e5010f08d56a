"""What routes saved, from the notes that routed calls left in the audit log: nothing is assumed but what is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway import codec
from gateway.routing.records import NOTE

_NANO = 10**9


@dataclass(slots=True)
class Sum:
    """Calls of one route, or of one class of tasks on it. `priced` are those whose both prices are known."""

    calls: int = 0
    answered: int = 0
    strong_calls: int = 0
    fallback_calls: int = 0
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    strong_tokens: int = 0
    """Of these, what the strong model read and wrote."""
    nano_usd: int = 0
    priced: int = 0
    priced_nano_usd: int = 0
    strong_nano_usd: int = 0
    """What the same tokens would have cost at the strong model's price, of those calls that are priced."""
    estimated: int = 0
    """Calls whose provider did not count what was read and written."""
    judged: int = 0
    bad: int = 0
    """Weak answers that could be judged by their form, and those of them that refused or were not as asked for."""
    expected: float = 0.0
    expected_calls: int = 0

    def add(self, note: Mapping[str, object]) -> None:
        """One routed call."""
        tries = note.get("tries")
        self.calls += 1
        self.attempts += len(tries) if isinstance(tries, list) else 0
        if not isinstance(note.get("input_tokens"), int):
            return
        served, spent, strong = note.get("served"), _whole(note, "nano_usd"), note.get("strong_nano_usd")
        read, wrote = _whole(note, "input_tokens"), _whole(note, "output_tokens")
        self.answered += 1
        self.strong_calls += served == "strong"
        self.fallback_calls += served == "fallback"
        self.input_tokens, self.output_tokens = self.input_tokens + read, self.output_tokens + wrote
        self.strong_tokens += read + wrote if served == "strong" else 0
        self.estimated += note.get("counted") is not True
        self.nano_usd += spent
        if isinstance(strong, int):
            self.priced, self.priced_nano_usd = self.priced + 1, self.priced_nano_usd + spent
            self.strong_nano_usd += strong
        self._judge(note, served)

    def _judge(self, note: Mapping[str, object], served: object) -> None:
        signals, expected = note.get("signals"), note.get("expected_quality")
        if served == "weak" and isinstance(signals, dict) and signals:
            self.judged, self.bad = self.judged + 1, self.bad + any(value is True for value in signals.values())
        if isinstance(expected, float | int):
            self.expected, self.expected_calls = self.expected + expected, self.expected_calls + 1

    def as_json(self) -> dict[str, object]:
        """For people and programs."""
        tokens = self.input_tokens + self.output_tokens
        return {
            "calls": self.calls,
            "answered": self.answered,
            "strong_calls": self.strong_calls,
            "fallback_calls": self.fallback_calls,
            "attempts": self.attempts,
            "tokens": tokens,
            "strong_tokens": self.strong_tokens,
            "tokens_kept_from_the_strong_model": tokens - self.strong_tokens,
            "usd": self.nano_usd / _NANO,
            "priced_calls": self.priced,
            "strong_usd": self.strong_nano_usd / _NANO if self.priced else None,
            "saved_usd": (self.strong_nano_usd - self.priced_nano_usd) / _NANO if self.priced else None,
            "cost_share": self.priced_nano_usd / self.strong_nano_usd if self.strong_nano_usd else None,
            "calls_with_estimated_tokens": self.estimated,
            "weak_answers_judged_by_form": self.judged,
            "weak_answers_bad_in_form": self.bad,
            "expected_quality": self.expected / self.expected_calls if self.expected_calls else None,
        }


@dataclass(slots=True)
class Report:
    """By route, and on each by class of task; answers from the cache, which no model was asked for."""

    routes: dict[str, Sum] = field(default_factory=dict)
    tasks: dict[tuple[str, str], Sum] = field(default_factory=dict)
    cache_hits: int = 0

    def add(self, entry: Mapping[str, object]) -> None:
        """One entry of the audit log, whatever it is about."""
        notes = _notes(entry)
        cache, note = notes.get("cache"), notes.get(NOTE)
        if isinstance(cache, Mapping) and cache.get("hit") is True:
            self.cache_hits += 1
        elif isinstance(note, Mapping) and note.get("cached") is not True:
            route, task = str(note.get("route", "")), str(note.get("task", ""))
            self.routes.setdefault(route, Sum()).add(note)
            self.tasks.setdefault((route, task), Sum()).add(note)

    def as_json(self) -> dict[str, object]:
        """For people and programs."""
        return {
            "routes": [
                {
                    "route": route,
                    **found.as_json(),
                    "tasks": [
                        {"task": task, **each.as_json()}
                        for (of, task), each in sorted(self.tasks.items())
                        if of == route
                    ],
                }
                for route, found in sorted(self.routes.items())
            ],
            "answers_from_the_cache": self.cache_hits,
        }


def report_of(entries: Iterable[Mapping[str, object]]) -> Report:
    """The sums over these entries of the audit log."""
    report = Report()
    for entry in entries:
        report.add(entry)
    return report


def in_words(report: Report) -> Iterator[str]:
    """Lines for people."""
    for route, found in sorted(report.routes.items()):
        yield f"{route}: {_line(found)}"
        for (of, task), each in sorted(report.tasks.items()):
            if of == route:
                yield f"  {task}: {_line(each)}"
        yield f"  quality: {_quality(found)}"
    if report.cache_hits:
        yield f"answers from the cache: {report.cache_hits}"
    if not report.routes:
        yield "no call of a route was recorded"


def _line(found: Sum) -> str:
    tokens = found.input_tokens + found.output_tokens
    share = f"{found.strong_calls} by the strong model" + (
        f", {found.fallback_calls} by a fallback" if found.fallback_calls else ""
    )
    words = [f"{found.answered} of {found.calls} calls answered, {share}"]
    words.append(f"{tokens} tokens, {tokens - found.strong_tokens} of them not by the strong model")
    if found.strong_nano_usd:
        part = found.priced_nano_usd / found.strong_nano_usd
        alone = f"{part:.1%} of what the strong model alone would have cost ({found.strong_nano_usd / _NANO:.6f} USD)"
        words.append(f"{found.nano_usd / _NANO:.6f} USD, {alone}")
        if found.priced < found.answered:
            words.append(f"prices of {found.answered - found.priced} calls are not known")
    else:
        words.append(f"{found.nano_usd / _NANO:.6f} USD; the strong model's price is not known")
    return "; ".join(words)


def _quality(found: Sum) -> str:
    expected = (
        f"{found.expected / found.expected_calls:.1%} of the strong model's, as measured when the route was calibrated"
        if found.expected_calls
        else "not measured: calibrate the route (`interlock models calibrate`)"
    )
    judged = (
        f"; of {found.judged} weak answers that could be judged by their form {found.bad} refused or were not as asked"
        if found.judged
        else ""
    )
    return expected + judged


def _notes(entry: Mapping[str, object]) -> Mapping[str, object]:
    text = entry.get("notes")
    try:
        notes = codec.loads(text.encode()) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return notes if isinstance(notes, dict) else {}


def _whole(note: Mapping[str, object], name: str) -> int:
    value = note.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
