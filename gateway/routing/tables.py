"""Judged tables as others publish them: a prompt in each row, and how a weak and a strong model answered it.

They are CSV, or objects of JSON on a line each. RouteLLM names the columns after the two models, and writes True and
False, or marks from 1 to 10 (MT-Bench).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

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
            objects = file.read(1) == "{"
            file.seek(0)
            return _objects(path, file) if objects else _fields(path, file)
    except UnicodeDecodeError as exc:
        raise ValueError(f"{path}: is no text in UTF-8 ({exc.reason} at byte {exc.start})") from exc
    except csv.Error as exc:
        raise ValueError(f"{path}: is no CSV: {exc}") from exc
    finally:
        csv.field_size_limit(before)


def _fields(path: Path, file: TextIO) -> tuple[Sequence[str], list[_Row]]:
    table = csv.DictReader(file, restval="", restkey="", strict=True)  # else a quotation without end takes the rest
    names = [name.strip() for name in table.fieldnames or ()]
    named = [name for name in names if name]
    if len(set(named)) != len(named):
        raise ValueError(f"{path}: has two columns of one name; there are {_listed(names)}")
    table.fieldnames = names
    return names, list(_rows(table))


def _rows(table: csv.DictReader[str]) -> Iterator[_Row]:
    begins = table.line_num + 1
    try:
        for row in table:
            if "" in row and isinstance(row[""], list):
                raise csv.Error("it has more fields than the first line")
            yield table.line_num, row
            begins = table.line_num + 1
    except csv.Error as exc:
        raise csv.Error(f"the row that begins in line {begins}: {exc}") from exc


def _objects(path: Path, file: TextIO) -> tuple[Sequence[str], list[_Row]]:
    found = [(number, _object(path, number, line)) for number, line in enumerate(file, start=1) if line.strip()]
    names = list(dict.fromkeys(name for _, row in found for name in row))
    return names, [(number, {name: row.get(name, "") for name in names}) for number, row in found]


def _object(path: Path, number: int, line: str) -> Mapping[str, str]:
    try:
        match json.loads(line):
            case dict(members):
                row = {name.strip(): _text(value) for name, value in members.items()}
            case _:
                raise ValueError("it is something else")
        row.get(PROMPT, "").encode()  # half of a surrogate pair is no text for anybody
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"{path}:{number}: is no object of JSON: {exc}") from exc
    return row


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def _judgements(path: Path, names: Sequence[str], rows: Sequence[_Row]) -> tuple[str, str]:
    """The two columns that judge: named so, or else the only two that hold nothing but judgements.

    Numbers of rows are none. Where too few are left, a column of which most is judgements counts, for its faulty row to
    be named.
    """
    given = [name for name in COLUMNS if name in names]
    if len(given) == 2:
        return COLUMNS
    if given:
        missing = next(name for name in COLUMNS if name not in names)
        raise ValueError(f"{path}: has {given[0]}, and no column {missing}")
    texts = {name: [row[name] for _, row in rows] for name in names if name not in (PROMPT, "", *TASKS)}
    found = [name for name in texts if _judges(texts[name])]
    others = [name for name in found if not _counts(texts[name])]
    found = others if len(others) == 2 else found
    mostly = [name for name in texts if _judges(texts[name], 0.5)] if len(found) < 2 else []
    if len(mostly) == 2:
        return mostly[0], mostly[1]
    if len(found) != 2:
        said = f"{len(found)} columns hold judgements ({_listed(found)})" if found else "no column holds judgements"
        raise ValueError(f"{path}: {said}; call the two that count {' and '.join(COLUMNS)}")
    return found[0], found[1]


def _judges(texts: Sequence[str], least: float = 1.0) -> bool:
    said = [text for text in texts if not _is_missing(text)]
    return bool(said) and sum(map(_is_mark, said)) >= least * len(said)


def _counts(texts: Sequence[str]) -> bool:
    """Whether they number the rows, beyond what two marks could be by chance."""
    return len(texts) > 2 and any(list(texts) == [str(at + first) for at in range(len(texts))] for first in (0, 1))


def _is_mark(text: str) -> bool:
    try:
        _mark(text)
    except ValueError:
        return False
    return True


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
