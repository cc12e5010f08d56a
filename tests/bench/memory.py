"""What recall costs with many records: words and meaning merged, beside brute force, with what it takes of memory.

Texts are made of words with the frequencies of natural language, vectors are clustered as those of texts are. Every
round asks other questions; none is left out.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import anyio
import numpy as np
from numpy.typing import NDArray

from adapters.memory.exact import ExactIndex
from adapters.memory.sqlite import SqliteMemory, open_memory
from gateway.embedding import Embedder
from gateway.memory.fusion import POOL, hybrid
from gateway.memory.ports import VectorIndex
from gateway.memory.records import Draft, Embedded, Kind, Reach, Scope, Source, SourceType, View
from tests.bench import meters
from tests.bench.figures import Row, Spread, Unmeasured, table
from tests.bench.machine import Machine

T = TypeVar("T")

RECORDS: Final = 100_000
DIMENSIONS: Final = 384
MODEL: Final = "bench"
RECALL_P50_MS: Final = 40.0
RECALL_AT_10: Final = 0.98
_CLUSTERS: Final = 400
_WORDS: Final = 30_000
_BATCH: Final = 500
_SOURCE: Final = Source(SourceType.USER, ref="bench")


class Vectors:
    """An `Embedder` whose vectors lie in clusters, as those of texts do, and which costs nothing."""

    name, dimensions = MODEL, DIMENSIONS

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._centres = self._random.standard_normal((_CLUSTERS, DIMENSIONS)).astype(np.float32)

    def make(self, count: int) -> NDArray[np.float32]:
        """So many vectors of length 1."""
        which = self._random.integers(0, _CLUSTERS, count)
        made = self._centres[which] + 0.7 * self._random.standard_normal((count, DIMENSIONS)).astype(np.float32)
        lengths: NDArray[np.float32] = np.linalg.norm(made, axis=1, keepdims=True).astype(np.float32)
        return (made / lengths).astype(np.float32)

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        return [vector.astype("<f4").tobytes() for vector in self.make(len(texts))]


@dataclass(slots=True)
class Report:
    """All that was found out."""

    machine: Machine
    rows: list[Row] = field(default_factory=list)
    faults: list[Unmeasured] = field(default_factory=list)

    def as_json(self) -> str:
        """For programs."""
        rows, faults = [row.as_json() for row in self.rows], [asdict(fault) for fault in self.faults]
        return json.dumps({"machine": asdict(self.machine), "rows": rows, "unmeasured": faults}, indent=2)

    def as_text(self) -> str:
        """For people."""
        return f"{self.machine}\n{table(self.rows, self.faults)}"

    def add(self, what: str, unit: str, values: Sequence[float], aim: float | None = None) -> None:
        """One more thing that was measured."""
        self.rows.append(Row("memory", what, unit, Spread.of(values), aim=aim))


class Texts:
    """Sentences whose words are as frequent as those of a language (Zipf), the same for one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # no secret
        self._words = [self._word() for _ in range(_WORDS)]
        self._weights = np.cumsum(1 / np.arange(1, _WORDS + 1)).tolist()

    def _word(self) -> str:
        return "".join(self._random.choice("bcdfglmnprst") + self._random.choice("aeiou") for _ in range(3))

    def sentence(self, words: int) -> str:
        """So many words, the frequent ones more often."""
        return " ".join(self._random.choices(self._words, cum_weights=self._weights, k=words))


@dataclass(frozen=True, slots=True)
class Asked:
    """A memory that is filled, and what is asked of it."""

    store: SqliteMemory
    view: View
    texts: Texts
    vectors: Vectors
    matrix: NDArray[np.float32]
    questions: int


class Modelled:
    """An `Embedder` that costs what the real one costs, and gives the vectors of the other."""

    def __init__(self, vectors: Vectors, model: Embedder) -> None:
        self._vectors, self._model = vectors, model
        self.name, self.dimensions = vectors.name, vectors.dimensions

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        """Both, one after the other."""
        await self._model.embed(texts)
        return await self._vectors.embed(texts)


async def measure(place: Path, *, records: int = RECORDS, questions: int = 200) -> Report:
    """Fill a memory, then ask it, with each index that is installed."""
    report, texts, vectors = Report(Machine.now()), Texts(1), Vectors(2)
    store = await open_memory(place / "memory.db", clock_ms=lambda: time.time_ns() // 1_000_000)
    started = time.perf_counter()
    matrix = await _fill(store, texts, vectors, records)
    report.add(f"adding, of {records:,} records, each", "ms", [(time.perf_counter() - started) * 1e3 / records])
    view = View("acme", frozenset(await store.classes("acme", Reach(whole=True))), Reach(whole=True))
    asked = Asked(store, view, texts, vectors, matrix, questions)
    exact = ExactIndex(store, model=MODEL, dimensions=DIMENSIONS)
    await _with_index(report, asked, "exact", exact)
    await _costs(report, asked, exact)
    await exact.aclose()
    try:
        await _with_index(report, asked, "chroma", await _chroma(store, place))
    except ImportError as exc:
        report.faults.append(Unmeasured("memory", "recall@10 of chroma", f"{exc.name} is not installed"))
    await store.aclose()
    return report


async def _chroma(store: SqliteMemory, place: Path) -> VectorIndex:
    from adapters.memory.chroma import open_chroma  # noqa: PLC0415  # may not be installed, takes a second
    from adapters.memory.chroma_places import LocalChroma  # noqa: PLC0415

    return await open_chroma(store, LocalChroma(place / "vectors"), model=MODEL, dimensions=DIMENSIONS)


def _model(report: Report) -> Embedder | None:
    try:
        from adapters.embedders.minilm import MiniLm  # noqa: PLC0415  # may not be installed, takes a second
    except ImportError as exc:
        report.faults.append(Unmeasured("memory", "recall with its embedding", f"{exc.name} is not installed"))
        return None
    return MiniLm.installed()


async def _fill(store: SqliteMemory, texts: Texts, vectors: Vectors, records: int) -> NDArray[np.float32]:
    matrix = vectors.make(records)
    kinds = (Kind.SEMANTIC, Kind.EPISODIC)
    for start in range(0, records, _BATCH):
        batch = range(start, min(start + _BATCH, records))
        drafts = [Draft("facts", texts.sentence(20), Scope.ORG, kinds[i % 2], _SOURCE) for i in batch]
        await _add(store, drafts, [matrix[i].tobytes() for i in batch])
    return matrix


async def _add(store: SqliteMemory, drafts: Sequence[Draft], vectors: Sequence[bytes]) -> None:
    async with anyio.create_task_group() as tasks:
        for draft, vector in zip(drafts, vectors, strict=True):
            tasks.start_soon(store.add, "acme", draft, Embedded(MODEL, vector))


async def _with_index(report: Report, asked: Asked, name: str, index: VectorIndex) -> None:
    """How long the index takes to be made, and how much of the truth it finds."""
    started = time.perf_counter()
    await index.nearest(asked.view, asked.matrix[0].tobytes(), 10)
    report.add(f"making the index {name}", "ms", [(time.perf_counter() - started) * 1e3])
    missing, times = list[float](), Times()
    for _ in range(asked.questions):
        vector = asked.vectors.make(1)[0]
        found = await times.of(index.nearest(asked.view, vector.tobytes(), 10))
        truth = np.argsort(-np.vecdot(asked.matrix, vector))[:10]  # BLAS would spin on while the next is timed
        missing.append(1 - len({hit.row - 1 for hit in found} & set(truth.tolist())) / 10)
    times.onto(report, f"the ten nearest, {name}")
    report.add(f"recall@10 of {name} against brute force", "", [1 - sum(missing) / len(missing)])
    report.add(f"recall@10 of {name} that is missing", "", [sum(missing) / len(missing)], 1 - RECALL_AT_10)


async def _costs(report: Report, asked: Asked, index: VectorIndex) -> None:
    """What a recall costs as the product does it, with the embedding of the question, and its parts."""
    store, view, model = asked.store, asked.view, _model(report)
    embedder: Embedder = asked.vectors if model is None else Modelled(asked.vectors, model)
    await hybrid(store, index, embedder, view, asked.texts.sentence(8))  # the first one makes what is made once
    before = meters.rss_mib(os.getpid())
    whole, parts = Times(), {"embedding": Times(), "words": Times(), "meaning": Times()}
    for _ in range(asked.questions):
        query = asked.texts.sentence(8)
        await whole.of(hybrid(store, index, embedder, view, query))
        vector = (await parts["embedding"].of(embedder.embed([query])))[0]
        await parts["words"].of(store.lexical(view, query, POOL))
        await parts["meaning"].of(index.nearest(view, vector, POOL))
    whole.onto(report, "recall, embedding included" if model else "recall, no embedding", RECALL_P50_MS)
    for name, times in parts.items():
        times.onto(report, f"of it {name}")
    after = meters.rss_mib(os.getpid())
    report.add("RSS before the questions", "MiB", [before])
    report.add(f"RSS after {4 * asked.questions} questions", "MiB", [after])
    report.add("RSS that came with them", "MiB", [after - before], 32.0)


@dataclass(slots=True)
class Times:
    """What each question took: by the clock, and of CPU in all threads."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    async def of(self, asked: Awaitable[T]) -> T:
        """One more; what it gives."""
        started, used = time.perf_counter(), time.process_time()
        given = await asked
        self.wall.append((time.perf_counter() - started) * 1e3)
        self.cpu.append((time.process_time() - used) * 1e3)
        return given

    def onto(self, report: Report, what: str, aim: float | None = None) -> None:
        """Medians with their spread, and the 99th percentiles."""
        for name, values in (("wall", self.wall), ("CPU", self.cpu)):
            report.add(f"{what}, {name}", "ms", values, aim if name == "wall" else None)
            report.add(f"{what}, {name}, 99th percentile", "ms", [sorted(values)[round(0.99 * (len(values) - 1))]])
