"""Judged tables as others publish them: CSV with a prompt, and how a weak and a strong model answered it.

RouteLLM names the columns after the two models, and writes True and False, or marks from 1 to 10 (MT-Bench).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COLUMNS: Final = ("weak_correct", "strong_correct")
PROMPT: Final = "prompt"
TASKS: Final = ("task", "domain", "category", "subject")
MAX_FIELD: Final = 16 << 20
MAX_MARK: Final = 10.0
_MISSING: Final = frozenset({"", "nan", "none", "null", "na", "n/a"})
_WORDS: Final[Mapping[str, float]] = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class Judged:
    """A row of a judged table: a prompt, and how both models answered it."""

    prompt: str
    weak: float
    strong: float
    task: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows that are judged, which columns they are from, and how many others had no prompt or no judgement."""

    rows: tuple[Judged, ...]
    weak: str
    strong: str
    left_out: int = 0


_Row = tuple[int, Mapping[str, str]]


def judged_table(path: Path) -> Table:
    """Read one, in any order of columns. Marks up to 10 become grades from 0 to 1. Raises `ValueError`, `OSError`."""
    if path.is_dir():
        raise ValueError(f"{path}: is a directory; name the tables in it")
    names, rows = _read(path)
    if PROMPT not in names:
        raise ValueError(f"{path}: has no column {PROMPT}; there are {_listed(names)}")
    columns = _judgements(path, names, rows)
    marks = [[_marked(path, number, row[name]) for name in columns] for number, row in rows]
    scale = _scale(path, [mark for pair in marks for mark in pair if mark is not None])
    task = next((name for name in TASKS if name in names), "")
    judged = [
        (row[PROMPT], weak / scale, strong / scale, row[task] if task else "")
        for (_, row), (weak, strong) in zip(rows, marks, strict=True)
        if weak is not None and strong is not None and row[PROMPT].strip()
    ]
    if not judged:
        raise ValueError(f"{path}: holds no row with a prompt and both judgements")
    low, high = columns
    if columns != COLUMNS and sum(row[1] for row in judged) > sum(row[2] for row in judged):
        judged = [(prompt, strong, weak, of) for prompt, weak, strong, of in judged]
        low, high = high, low  # named after models, the strong one is the one that did better
    return Table(tuple([Judged(*row) for row in judged]), low, high, len(rows) - len(judged))


def _read(path: Path) -> tuple[Sequence[str], list[_Row]]:
    before = csv.field_size_limit(MAX_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, restval="", restkey="")
            names = [name.strip() for name in table.fieldnames or ()]
            if len(set(names)) != len(names):
                raise ValueError(f"{path}: has two columns of one name; there are {_listed(names)}")
            table.fieldnames = names
            return names, list(_rows(table))
    except UnicodeDecodeError as exc:
        raise ValueError(f"{path}: is no text in UTF-8 ({exc.reason} at byte {exc.start})") from exc
    except csv.Error as exc:
        raise ValueError(f"{path}: is no CSV: {exc}") from exc
    finally:
        csv.field_size_limit(before)


def _rows(table: csv.DictReader[str]) -> Iterator[_Row]:
    for row in table:
        if "" in row and isinstance(row[""], list):
            raise csv.Error(f"line {table.line_num} has more fields than the first line")
        yield table.line_num, row


def _judgements(path: Path, names: Sequence[str], rows: Sequence[_Row]) -> tuple[str, str]:
    """The two columns that judge: named so, or else the only two that hold nothing but judgements."""
    given = [name for name in COLUMNS if name in names]
    if len(given) == 2:
        return COLUMNS
    if given:
        missing = next(name for name in COLUMNS if name not in names)
        raise ValueError(f"{path}: has {given[0]}, and no column {missing}")
    found = [name for name in names if name not in (PROMPT, "", *TASKS) and _judges(row[name] for _, row in rows)]
    if len(found) != 2:
        said = f"{len(found)} columns hold judgements ({_listed(found)})" if found else "no column holds judgements"
        raise ValueError(f"{path}: {said}; call the two that count {' and '.join(COLUMNS)}")
    return found[0], found[1]


def _judges(texts: Iterator[str]) -> bool:
    said = {text for text in texts if not _is_missing(text)}
    try:
        return bool(said) and all(_mark(text) is not None for text in said)
    except ValueError:
        return False


def _scale(path: Path, marks: Sequence[float]) -> float:
    if max(marks, default=0.0) <= 1:
        return 1.0
    if min(marks) < 1:
        raise ValueError(f"{path}: {max(marks):g} is out of range where others are below 1: marks go from 1 to 10")
    return MAX_MARK


def _marked(path: Path, number: int, text: str) -> float | None:
    try:
        return None if _is_missing(text) else _mark(text)
    except ValueError as exc:
        words = "an answer is judged true or false, from 0 to 1, or with a mark up to 10"
        raise ValueError(f"{path}:{number}: {exc}; {words}") from exc


def _is_missing(text: str) -> bool:
    return text.strip().lower() in _MISSING


def _mark(text: str) -> float:
    known = _WORDS.get(text.strip().lower())
    mark = float(text) if known is None else known
    if not 0 <= mark <= MAX_MARK:
        raise ValueError(f"{text.strip()} is out of range")
    return mark


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name[:60] or "(one without a name)" for name in names[:12]) or "none"
