"""How good the gain router is on judged tables, and what a decision costs: by repeated 5-fold cross-validation.

Which prompts are learned from and which are predicted is drawn PARTITIONS times, since a single draw moves the figures
by a point or two: means are given, with the least and the greatest beside them.

No row is scored by a predictor that has seen it or a prompt that reads the same, and every router has the settings that
a deployment gets. Those settings (how much of a prompt is read, how many neighbours, which penalty) were chosen by such
figures on `routing/mmlu.csv` and `routing/gsm8k.csv`: on these two tables they flatter a little, and only rows that
nobody looked at say what a router is worth elsewhere.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Final

from adapters.embedders.minilm import MiniLm
from adapters.routers import all_learners
from gateway.routing.evaluation import Scored, Scores, scores
from gateway.routing.heuristic import Heuristic
from gateway.routing.learning import TooFewOutcomes, cross_predicted
from gateway.routing.outcomes import key_of
from gateway.routing.ports import GainPredictor, Outcome
from gateway.routing.prompts import PIECES, Sample, condensed, features_of
from gateway.routing.tables import Judged, Table, judged_table
from tests.bench.figures import Spread
from tests.bench.machine import Machine

APGR: Final = 0.64
STRONG_CALLS: Final = 0.48
CPU_MS: Final = 15.0
TIMED: Final = 300
"""Decisions that are timed, from the whole table."""
PARTITIONS: Final = 5
FEW: Final = 300
"""With fewer rows, figures are mostly luck: it is said beside them."""


@dataclass(frozen=True, slots=True)
class Line:
    """One router on one table: `scores` is the mean of `each`."""

    table: str
    router: str
    scores: Scores
    each: tuple[Scores, ...]
    """Those of every partition; a router that learns nothing has but one."""

    @classmethod
    def of(cls, table: str, router: str, partitions: Iterable[Sequence[Scored]]) -> Line:
        """From what was predicted under each partition."""
        each = tuple(scores(scored) for scored in partitions)
        means = [fmean(getattr(one, field.name) for one in each) for field in fields(Scores)]
        return cls(table, router, Scores(*means), each)


@dataclass(frozen=True, slots=True)
class Report:
    """All lines, beside what a decision of the last router costs: vector, measures and prediction."""

    machine: Machine
    lines: tuple[Line, ...]
    cpu_ms: Mapping[str, Spread]
    read: Mapping[str, str]
    """What each table held, for people."""

    def as_json(self) -> str:
        """For programs."""
        return json.dumps(
            {**asdict(self), "aims": {"apgr": APGR, "strong_calls": STRONG_CALLS, "cpu_ms": CPU_MS}}, indent=2
        )

    def as_text(self) -> str:
        """For people."""
        head = f"{'table':<12}{'router':<16}{'APGR':>8}{'CPT50':>8}{'CPT80':>8}{'95 % at':>9}"
        costs = [
            f"{table:<12}CPU of a decision: {cost.median:.1f} ms ({cost.p10:.1f} to {cost.p90:.1f}; aim {CPU_MS:g})"
            for table, cost in self.cpu_ms.items()
        ]
        aims = f"aims on MMLU: APGR at least {APGR}, 95 % of the strong model's quality at {STRONG_CALLS:.0%} or less"
        read = [f"{table:<12}{words}" for table, words in self.read.items()]
        return "\n".join([str(self.machine), "", *read, "", head, *map(_row, self.lines), "", *costs, aims])


def _row(line: Line) -> str:
    found = line.scores
    shares = "".join(f"{share:>8.1%}" for share in (found.cpt50, found.cpt80))
    row = f"{line.table:<12}{line.router:<16}{found.apgr:>8.3f}{shares}{found.calls_at_quality:>9.1%}"
    if len(line.each) == 1:
        return row
    apgr, calls = [one.apgr for one in line.each], [one.calls_at_quality for one in line.each]
    return f"{row}   APGR {min(apgr):.3f} to {max(apgr):.3f}, 95 % at {min(calls):.1%} to {max(calls):.1%}"


def measure(paths: Sequence[Path]) -> Report:
    """Score every router on every table. Raises `ValueError` for what is no judged table, or teaches nothing."""
    tables = {_name(path, paths): (path, judged_table(path)) for path in paths}  # all faults before any work
    machine, embedder = Machine.now(), MiniLm.installed(max_tokens=PIECES)
    lines: list[Line] = []
    costs: dict[str, Spread] = {}
    for name, (path, table) in tables.items():
        outcomes = [_outcome(row, embedder.vector) for row in table.rows]
        try:
            lines += [Line.of(name, router, scored) for router, scored in _routers(table.rows, outcomes)]
        except (TooFewOutcomes, ValueError) as exc:
            raise ValueError(f"{path}: {exc}") from exc
        predictor = all_learners()[-1].learn(outcomes)
        costs[name] = Spread.of(_timed([row.prompt for row in table.rows], embedder.vector, predictor))
    return Report(
        machine.until_now(), tuple(lines), costs, {name: _words(table) for name, (_, table) in tables.items()}
    )


def _name(path: Path, paths: Sequence[Path]) -> str:
    """That of the file, as long as it is the only one of that name."""
    return path.stem if [each.stem for each in paths].count(path.stem) == 1 else str(path)


def _words(table: Table) -> str:
    words = f"{len(table.rows)} rows, weak: {table.weak}, strong: {table.strong}"
    words += f"; {table.left_out} rows without a prompt or a judgement left out" if table.left_out else ""
    return words + (f"; with fewer than {FEW} rows, mostly luck" if len(table.rows) < FEW else "")


def _outcome(row: Judged, vector: Callable[[str], bytes]) -> Outcome:
    sample = Sample(vector(condensed(row.prompt)), features_of(row.prompt))
    return Outcome(sample, row.weak, row.strong, row.task, key_of(row.prompt))


def _routers(rows: Sequence[Judged], outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[list[Scored]]]]:
    chance, heuristic = random.Random(0), Heuristic()
    yield "random", [[Scored(chance.random(), row.weak, row.strong) for row in rows] for _ in range(PARTITIONS)]
    yield "prompt length", [[Scored(len(row.prompt), row.weak, row.strong) for row in rows]]
    yield "heuristic", [[Scored(heuristic.predict(one.sample).gain, one.weak, one.strong) for one in outcomes]]
    drawn = [[replace(one, key=f"{draw or ''}{one.key}") for one in outcomes] for draw in range(PARTITIONS)]
    for learner in all_learners():
        yield learner.kind, [cross_predicted(partition, learner) for partition in drawn]


def _timed(prompts: Sequence[str], vector: Callable[[str], bytes], predictor: GainPredictor) -> Iterator[float]:
    for prompt in prompts[:: max(1, len(prompts) // TIMED)]:
        before = time.thread_time_ns()
        predictor.predict(Sample(vector(condensed(prompt)), features_of(prompt)))
        yield (time.thread_time_ns() - before) / 1e6
