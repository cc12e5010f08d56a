"""What of a question a policy can see at all, found from its syntax tree.

Two questions that agree on those parts get the same answer, as long as the policy reads no clock, no randomness
and nothing else that changes from call to call. Both are found here, always erring on the side of more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from adapters.pdp.builtins import ARITY, IMPURE, VARIADIC
from adapters.pdp.rules import Call, Program, Read, Rule

Path: TypeAlias = tuple[str, ...]

VOLATILE: Final[tuple[Path, ...]] = tuple(
    ("context", fact) for fact in ("budget", "rate", "request_id", "time_ns", "trace_id")
)
"""Facts that differ from call to call, so that an answer that depends on them is not worth keeping."""

_MAX_COMBINATIONS: Final = 256


@dataclass(frozen=True, slots=True)
class Projection:
    """The paths below `input` that an entry point may read; `()` is the whole of it. None is a prefix of another."""

    paths: tuple[Path, ...]
    impurities: tuple[str, ...] = ()
    """Why equal questions may get different answers; empty when they cannot."""

    @property
    def pure(self) -> bool:
        """Whether the answer is decided by the values at `paths`."""
        return not self.impurities

    def may_read(self, path: Path) -> bool:
        """Whether a change at or below `path` could change the answer."""
        return any(_overlap(path, read) for read in self.paths)


def project(program: Program, entrypoint: Path) -> Projection:
    """The projection of `data.<entrypoint>`."""
    rules = program.closure(entrypoint)
    stand_ins = [pattern for rule in program.rules for pattern in rule.uses.stand_ins]
    calls = [call for rule in program.rules for call in rule.uses.calls if call.user_defined]
    reads = {
        path
        for rule in rules
        for read in rule.uses.inputs
        for path in _spelled_out(rule, read, calls, mocked=_is_stand_in(program, rule, stand_ins))
    }
    strange = [node for rule in rules for node in rule.uses.strange]
    if strange:
        reads.add(())
    paths = _without_longer(reads)
    return Projection(paths, tuple(sorted(_impurities(rules, paths))))


def _impurities(rules: Iterable[Rule], paths: tuple[Path, ...]) -> Iterator[str]:
    for rule in rules:
        yield from (f"{rule.file}:{node.line}: {node.kind} is not understood" for node in rule.uses.strange)
        yield from (f"{rule.file}:{call.node.line}: calls {call.name}" for call in rule.uses.calls if _is_impure(call))
    for fact in VOLATILE:
        if any(_overlap(fact, path) for path in paths):
            yield f"reads input.{'.'.join(fact)}"


def _is_impure(call: Call) -> bool:
    if call.user_defined:
        return False
    return call.name in IMPURE or not (call.name in ARITY or call.name in VARIADIC)


def _is_stand_in(program: Program, rule: Rule, stand_ins: Iterable[tuple[str | None, ...]]) -> bool:
    return any(rule in program.matching(pattern) for pattern in stand_ins)


def _spelled_out(rule: Rule, read: Read, calls: Iterable[Call], *, mocked: bool) -> Iterator[Path]:
    """The paths of one read, its parameters replaced by what the function is called with, cut at what is computed."""
    positions = sorted({step for step in read if isinstance(step, int)})
    choices = None if mocked else _literal_arguments(rule, positions, calls)
    if choices is None:
        yield _cut(step if isinstance(step, str) else None for step in read)
        return
    for values in choices:
        given = dict(zip(positions, values, strict=True))
        yield _cut(given[step] if isinstance(step, int) else step for step in read)


def _literal_arguments(rule: Rule, positions: list[int], calls: Iterable[Call]) -> list[tuple[str, ...]] | None:
    """What the function is called with at these positions, if every caller writes it out."""
    if not positions:
        return [()]
    found: set[tuple[str, ...]] = set()
    for call in itertools.islice((call for call in calls if call.name == f"data.{rule.name}"), _MAX_COMBINATIONS + 1):
        arguments = call.node.all("params")
        if len(arguments) <= positions[-1]:
            return None
        chosen = [arguments[position] for position in positions]
        if not all(argument.kind in {"String", "RawString"} for argument in chosen):
            return None
        found.add(tuple(argument.text for argument in chosen))
    return sorted(found) if len(found) <= _MAX_COMBINATIONS else None


def _cut(steps: Iterable[str | None]) -> Path:
    return tuple(step for step in itertools.takewhile(lambda step: step is not None, steps) if step is not None)


def _without_longer(paths: set[Path]) -> tuple[Path, ...]:
    kept = [path for path in paths if not any(path[:end] in paths for end in range(len(path)))]
    return tuple(sorted(kept))


def _overlap(left: Path, right: Path) -> bool:
    return all(one == other for one, other in zip(left, right, strict=False))
