"""Evidence recall on a long-conversation set: how much of what answers a question is among the first ten recalled.

Reads LoCoMo's `locomo10.json`, which is CC BY-NC: to be evaluated, and never shipped. Each turn is a record, each
conversation a tenant, and each question is asked of the store, the index and both as the product asks them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from adapters.embedders.hashing import Hashing
from adapters.memory.exact import ExactIndex
from adapters.memory.sqlite import SqliteMemory, open_memory
from gateway.embedding import Embedder
from gateway.memory.fusion import hybrid
from gateway.memory.records import Draft, Embedded, Hit, Kind, Reach, Scope, Source, SourceType, View

AIM: Final = 0.60
FIRST: Final = 10
WAYS: Final = ("words", "meaning", "hybrid")
_CATEGORIES: Final[Mapping[int, str]] = {
    1: "multi-hop",
    2: "temporal",
    3: "open domain",
    4: "single-hop",
    5: "adversarial",
}
_SOURCE: Final = Source(SourceType.USER, ref="bench")


@dataclass(frozen=True, slots=True)
class Question:
    """One question, and the turns that answer it."""

    text: str
    evidence: frozenset[str]
    category: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns by their ids, and what is asked about them."""

    name: str
    turns: Mapping[str, str]
    questions: Sequence[Question]


@dataclass(slots=True)
class Scores:
    """What was found, by way and category: the part of the evidence of each question."""

    embedder: str
    found: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def add(self, way: str, category: int, part: float) -> None:
        """One question, asked in one way."""
        self.found.setdefault((way, category), []).append(part)

    def of(self, way: str, category: int = 0) -> float:
        """The mean over all questions, or over those of a category."""
        values = [
            one for (each, kind), parts in self.found.items() if each == way and category in {0, kind} for one in parts
        ]
        return sum(values) / len(values) if values else 0.0

    @property
    def questions(self) -> int:
        """How many were asked in each way."""
        return sum(len(parts) for (way, _), parts in self.found.items() if way == WAYS[0])

    def as_json(self) -> str:
        """For programs."""
        rows = {way: {"all": self.of(way), **self._by_category(way)} for way in WAYS}
        return json.dumps({"embedder": self.embedder, "questions": self.questions, "recall_at_10": rows}, indent=2)

    def _by_category(self, way: str) -> dict[str, float]:
        return {name: self.of(way, category) for category, name in _CATEGORIES.items()}

    def as_text(self) -> str:
        """For people."""
        head = f"evidence recall@{FIRST}, {self.questions} questions, {self.embedder} (hybrid is to be {AIM:.2f})"
        lines = [f"{way:8} {self.of(way):.3f}   {self._categories(way)}" for way in WAYS]
        return "\n".join([head, *lines])

    def _categories(self, way: str) -> str:
        return "  ".join(f"{name} {value:.2f}" for name, value in self._by_category(way).items())


def conversations(file: Path) -> Iterator[Conversation]:
    """What is in the file. Questions without evidence that is a turn are left out."""
    for number, each in enumerate(json.loads(file.read_text(encoding="utf-8"))):
        turns = dict(_turns(each["conversation"]))
        questions = [_question(asked, turns) for asked in each["qa"]]
        yield Conversation(f"c{number}", turns, [one for one in questions if one.evidence])


def _turns(conversation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, session in conversation.items():
        if name.startswith("session_") and isinstance(session, list):
            for turn in session:
                yield turn["dia_id"], f"{turn['speaker']}: {turn['text']}"


def _question(asked: Mapping[str, Any], turns: Mapping[str, str]) -> Question:
    named = {part.strip() for one in asked.get("evidence", []) for part in str(one).replace(";", " ").split()}
    return Question(str(asked["question"]), frozenset(named & turns.keys()), int(asked["category"]))


def embedder_of(name: str) -> Embedder:
    """The embedder of that name."""
    if name == "hashing":
        return Hashing()
    from adapters.embedders.minilm import MiniLm  # noqa: PLC0415  # it takes a second, and may not be installed

    return MiniLm.installed()


async def measure(file: Path, place: Path, embedder: Embedder) -> Scores:
    """Ask every question of the file in every way."""
    scores = Scores(embedder.name)
    async with AsyncExitStack() as stack:
        store = await open_memory(place / "recall.db", clock_ms=lambda: 1)
        stack.push_async_callback(store.aclose)
        index = ExactIndex(store, model=embedder.name, dimensions=embedder.dimensions)
        stack.push_async_callback(index.aclose)
        for one in conversations(file):
            view = await _filled(store, embedder, one)
            for question in one.questions:
                await _asked(scores, store, index, embedder, view, question)
    return scores


async def _filled(store: SqliteMemory, embedder: Embedder, one: Conversation) -> View:
    for name, text in one.turns.items():
        draft = Draft("turns", text, Scope.ORG, Kind.EPISODIC, _SOURCE, key=name)
        vector = (await embedder.embed([text]))[0]
        await store.add(one.name, draft, Embedded(embedder.name, vector))
    reach = Reach(whole=True)
    return View(one.name, frozenset(await store.classes(one.name, reach)), reach)


async def _asked(  # whom, where, and what
    scores: Scores, store: SqliteMemory, index: ExactIndex, embedder: Embedder, view: View, question: Question
) -> None:
    vector = (await embedder.embed([question.text]))[0]
    both = await hybrid(store, index, embedder, view, question.text, limit=FIRST)
    keys = {
        "words": await _keys(store, view, await store.lexical(view, question.text, FIRST)),
        "meaning": await _keys(store, view, await index.nearest(view, vector, FIRST)),
        "hybrid": {one.version.key for one in both},
    }
    for way, found in keys.items():
        scores.add(way, question.category, len(question.evidence & found) / len(question.evidence))


async def _keys(store: SqliteMemory, view: View, hits: Sequence[Hit]) -> set[str]:
    return {version.key for version in (await store.fetch(view, [hit.row for hit in hits])).values()}
