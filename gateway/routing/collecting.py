"""Collects outcomes: prompts whose answers are known are put to both models of a route, and how they did is kept."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Final

from gateway.embedding import Embedder
from gateway.routing.outcomes import Pair, as_line, embedded, key_of, read_lines
from gateway.routing.ports import Outcome
from gateway.routing.tables import Judged
from gateway.routing.tasks import task_of_text

MAX_IN_A_ROW: Final = 10
"""So many prompts that could not be asked, one after the other, end a run: a budget is used up, a provider is down."""
TELL_EVERY: Final = 10
_BEGINNING: Final = b'{"embedder":'


class NotAsked(Exception):
    """A model gave no answer; the message says why. `of_prompt`: it cannot take this prompt, but maybe others."""

    def __init__(self, message: str, *, of_prompt: bool = False) -> None:
        super().__init__(message)
        self.of_prompt = of_prompt


@dataclass(frozen=True, slots=True)
class Known:
    """A prompt whose answer is known: what `expect` is found in is right. `line` is where it stands in its file."""

    line: int
    prompt: str
    expect: re.Pattern[str]

    def right(self, answer: str) -> bool:
        """Whether an answer is."""
        return self.expect.search(answer) is not None


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answered, and the tokens that were counted for it."""

    text: str
    tokens: int


@dataclass(slots=True)
class Tally:
    """How one run went, in prompts; `tokens` are those of all answers, also where the prompt was left out after all."""

    both: int = 0
    only_strong: int = 0
    only_weak: int = 0
    neither: int = 0
    left_out: int = 0
    tokens: int = 0

    @property
    def asked(self) -> int:
        """Those that both models answered."""
        return self.both + self.only_strong + self.only_weak + self.neither

    def judged(self, weak: bool, strong: bool) -> None:
        """One more that both models answered."""
        self.both += weak and strong
        self.only_strong += strong and not weak
        self.only_weak += weak and not strong
        self.neither += not (weak or strong)


def known_prompts(file: Path) -> list[Known]:
    """The lines of a file. Raises `ValueError` with the line that is none, `OSError`."""
    try:
        lines = file.read_bytes().decode().split("\n")  # other ends of lines may stand in a string of JSON
    except UnicodeDecodeError as exc:
        raise ValueError(f"{file}: cannot be read: {exc}") from exc
    found = [_known(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise ValueError(f"{file}: holds no prompts")
    return found


def _known(file: Path, number: int, line: str) -> Known:
    try:
        one = json.loads(line)
        prompt = one["prompt"]
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError("the prompt is no text")
        prompt.encode()  # half of a surrogate pair is no text for anybody
        return Known(number, prompt, re.compile(str(one["expect"]), re.IGNORECASE))
    except KeyError as exc:
        raise ValueError(f"{file}:{number}: {exc} is missing; {_FORM}") from exc
    except (ValueError, TypeError, re.error, RecursionError) as exc:
        raise ValueError(f"{file}:{number}: {exc}; {_FORM}") from exc


_FORM: Final = 'a line is {"prompt": ..., "expect": REGULAR EXPRESSION}'


# Where outcomes are kept


@dataclass(slots=True)
class Kept:
    """A file of outcomes that is open. It counts what can be learned from with this embedder and these models."""

    _file: FileIO
    embedder: str
    models: Pair
    count: int = 0
    lost: int = 0
    keys: set[str] = field(default_factory=set)

    def append(self, outcome: Outcome) -> None:
        """Add a line, in one step. Raises `OSError`."""
        line = as_line(outcome, self.embedder, self.models)
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, "the disk is full: the last outcome was not kept")
        self.counted(outcome)

    def counted(self, outcome: Outcome) -> None:
        """One that the file holds."""
        self.count += 1
        self.lost += outcome.strong > outcome.weak
        self.keys.add(outcome.key)


@contextmanager
def kept_in(path: Path, embedder: str, models: Pair) -> Iterator[Kept]:
    """Open a file of outcomes to add to it. Raises `ValueError` where it is something else or in use, `OSError`."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path}: is no file")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ValueError(f"{path}: another run is adding to it; wait for its end, or name another --out") from exc
        kept = Kept(file, embedder, models)
        try:
            _taken_up(file, kept)
        except ValueError as exc:
            raise ValueError(f"{path}: {exc}; name another --out") from exc
        yield kept


def _taken_up(file: FileIO, kept: Kept) -> None:
    """Count what is there. Half a line, left by a run when the disk or the machine failed, is taken off."""
    data = file.readall()
    whole, _, rest = data.rpartition(b"\n")
    torn = rest.startswith(_BEGINNING) and not rest.endswith(b"}")
    for outcome in read_lines((whole if torn else data).splitlines(), kept.embedder, kept.models):
        kept.counted(outcome)
    if torn:
        file.truncate(len(data) - len(rest))
    elif rest:
        file.write(b"\n")


# One run


async def unasked(prompts: Sequence[Known], kept: Kept, embedder: Embedder) -> list[tuple[Known, Outcome]]:
    """The prompts that are not kept yet, each once, with an outcome that lacks the judgement."""
    fresh: dict[str, Known] = {}
    for known in prompts:
        if (key := key_of(known.prompt)) not in kept.keys:
            fresh.setdefault(key, known)
    todo = list(fresh.values())
    rows = [Judged(known.prompt, 0, 0, task_of_text(known.prompt)) for known in todo]
    return list(zip(todo, await embedded(rows, embedder), strict=True))


@dataclass(slots=True)
class Collecting:
    """One run. `ask` puts a prompt to a model, and raises `NotAsked`; `tell` hears how far it is."""

    kept: Kept
    ask: Callable[[str, str], Said]
    tell: Callable[[str], None]
    tally: Tally = field(default_factory=Tally)
    _first: int = 0

    def run(self, prompts: Sequence[tuple[Known, Outcome]]) -> bool:
        """Ask them all, and keep each outcome at once; whether it came to the end of them."""
        in_a_row = 0
        for number, (known, blank) in enumerate(prompts, start=1):
            try:
                self.kept.append(self._outcome(known, blank))
                in_a_row = 0
            except NotAsked as exc:
                self.tally.left_out += 1
                in_a_row += not exc.of_prompt
                self.tell(f"line {known.line} is left out: {exc}")
            if in_a_row == MAX_IN_A_ROW:
                return number == len(prompts)
            if number % TELL_EVERY == 0 and number < len(prompts):
                self.tell(f"{number} of {len(prompts)} prompts")
        return True

    def _outcome(self, known: Known, blank: Outcome) -> Outcome:
        right = [False, False]
        for place in (self._first, 1 - self._first):
            try:
                said = self.ask(self.kept.models[place], known.prompt)
            except NotAsked:
                self._first = place  # of the next prompt too: the other one's answer would be paid for in vain
                raise
            self.tally.tokens += said.tokens
            right[place] = known.right(said.text)
        weak, strong = right
        self.tally.judged(weak, strong)
        return replace(blank, weak=float(weak), strong=float(strong))
