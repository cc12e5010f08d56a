"""Whether statements of a policy hold for a question, asked in the place where they stand.

A probe is a rule put behind those of a file, so that it sees the same imports, rules and functions. For statements of
a function it is reached as the function is: through its callers, with their arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from types import TracebackType
from typing import Final, Self

from adapters.pdp.bodies import Body
from adapters.pdp.bundle import Bundle, Source
from adapters.pdp.engine import EngineFailure
from adapters.pdp.trial import TrialEngine

_NAME: Final = "interlock_probe_"
_MAX_DROPPED: Final = 16


class Held(Enum):
    """What came of a probe."""

    YES = auto()
    NO = auto()
    UNKNOWN = auto()
    """It cannot be asked in this form."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A call on the way to a probe: in `body`, after `before`, with these arguments and under these `with`s."""

    body: Body
    before: tuple[str, ...]
    arguments: str
    modifiers: str


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Do these statements hold in this body, reached through these calls?"""

    body: Body
    statements: tuple[str, ...]
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True)
class _Written:
    """One rule that was added, for the probe that needs it."""

    file: str
    text: str
    probe: Probe


class Probes:
    """The probes of one question, in an engine of their own. Add all of them before the first is asked."""

    def __init__(self, bundle: Bundle, question: bytes, deadline_s: float) -> None:
        self._bundle = replace(bundle, tests=())
        self._question = question
        self._deadline_s = deadline_s
        self._written: list[_Written] = []
        self._names: dict[int, str] = {}
        self._troubles: dict[int, str] = {}
        self._count = 0
        self._engine: TrialEngine | None = None

    def add(self, probes: Sequence[Probe]) -> None:
        """Prepare to ask these."""
        for probe in probes:
            name = self._write(probe, probe.body, probe.statements)
            for frame in reversed(probe.frames):
                call = f"{name}({frame.arguments}) {frame.modifiers}"
                name = self._write(probe, frame.body, (*frame.before, call))
            self._names[id(probe)] = name

    def ask(self, probe: Probe) -> Held:
        """Whether it holds. Raises `EngineFailure` when the engine cannot be asked anything."""
        engine = self._engine = self._engine or self._loaded()
        if id(probe) in self._troubles:
            return Held.UNKNOWN
        try:
            engine.evaluate(self._names[id(probe)], self._question)
        except EngineFailure as failure:
            if engine.is_over:
                raise
            if failure.kind == "failed":
                self._troubles[id(probe)] = failure.text
            return Held.NO
        return Held.YES

    def trouble(self, probe: Probe) -> str:
        """The error that came of it; empty for none."""
        return self._troubles.get(id(probe), "")

    def close(self) -> None:
        """End the engine."""
        if self._engine is not None:
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _write(self, probe: Probe, body: Body, statements: Sequence[str]) -> str:
        """Add one rule; its name."""
        self._count += 1
        name = f"{_NAME}{self._count}"
        head = f"{name}({body.parameters})" if body.parameters is not None else name
        lines = "\n".join(f"\t{statement}" for statement in ("true", *statements))
        self._written.append(_Written(body.rule.file, f"\n{head} if {{\n{lines}\n}}\n", probe))
        return ".".join(("data", *body.rule.module.package, name))

    def _loaded(self) -> TrialEngine:
        """The engine, without the probes that it does not take."""
        for _ in range(_MAX_DROPPED):
            try:
                return self._started()
            except EngineFailure as failure:
                bad = self._at(failure.file, failure.line)
                if bad is None:
                    raise
                self._troubles[id(bad)] = failure.text
        return self._started()

    def _started(self) -> TrialEngine:
        files = tuple(Source(file.path, self._extended(file)) for file in self._bundle.files)
        engine = TrialEngine(replace(self._bundle, files=files), deadline_s=self._deadline_s)
        try:
            engine.query(f"{_NAME}ready := true")  # the engine analyses the rules when it is first asked
        except EngineFailure:
            engine.close()
            raise
        return engine

    def _rules_of(self, file: str) -> list[_Written]:
        return [rule for rule in self._written if rule.file == file and id(rule.probe) not in self._troubles]

    def _extended(self, file: Source) -> str:
        return "\n".join((file.text, *(rule.text for rule in self._rules_of(file.path))))

    def _at(self, file: str, line: int) -> Probe | None:
        """The probe whose rule stands at this line."""
        source = next((each for each in self._bundle.files if each.path == file), None)
        if source is None:
            return None
        last = source.text.count("\n") + 1
        for rule in self._rules_of(file):
            first, last = last, last + rule.text.count("\n") + 1
            if first < line <= last:
                return rule.probe
        return None
