"""Decides recorded questions again under other rules, in several processes, and counts what becomes of them.

Time, session and approval are facts of the question, so the same rules give the same answers at any time. Questions
that agree in everything these rules can read are decided once in each process.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.pool import AsyncResult
from typing import Final, Literal, NamedTuple, TypeAlias, cast

import orjson

from adapters.pdp.bundle import Bundle
from adapters.pdp.cached import KeyMaker, NotAKey
from adapters.pdp.engine import EngineFailure, RegoEngine
from adapters.pdp.projection import VOLATILE, Path, Projection
from adapters.pdp.regorus import RULES, engine_of, unavailable
from gateway import codec
from gateway.authz.answer import judge
from gateway.cli.main import CommandFailed
from gateway.decisions.event import DECISION, Event
from gateway.decisions.reader import event_in, is_replayable, lost_in
from gateway.errors import PolicyEngineUnavailable
from gateway.types import Deny, NeedsApproval, Ruling

Verdict: TypeAlias = Literal["allow", "deny", "hold"]

LINES_AT_ONCE: Final = 1_000
CHUNK_S: Final = 120.0
MAX_GROUPS: Final = 5_000
"""Changes that are told apart; what comes after them is only counted."""
_MAX_KNOWN: Final = 200_000
_PASSING: Final = frozenset({"a2a_task", "mcp_task"})
"""Resources that come and go with each call."""


class Outcome(NamedTuple):
    """What an answer comes to in the gateway, and its particulars: reasons, obligations and labels, or the request."""

    verdict: Verdict
    details: tuple[str, ...] = ()


class Row(NamedTuple):
    """One cell of the matrix."""

    tool: str
    tenant: str
    old: Verdict
    new: Verdict


class Change(NamedTuple):
    """Calls that fare differently in one way."""

    row: Row
    subject: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(slots=True)
class Found:
    """How many calls a change is about, and one of them."""

    calls: int = 0
    decision_id: str = ""
    time: str = ""


@dataclass(slots=True)
class Tally:
    """What was found in a part of the log, or in all of it."""

    matrix: Counter[Row] = field(default_factory=Counter)
    changes: dict[Change, Found] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """`replayed`, `evaluated`, `results`, and what was not replayed: `masked`, `unanswered`, `lists`, `lost`, `torn`,
    `ungrouped` (changed, and beyond what is told apart)."""
    revisions: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Take in what was found elsewhere."""
        self.matrix += other.matrix
        self.counts += other.counts
        self.revisions += other.revisions
        for change, found in other.changes.items():
            self.note(change, found)

    def note(self, change: Change, found: Found) -> None:
        """Count a change."""
        known = self.changes.get(change)
        if known is not None:
            known.calls += found.calls
        elif len(self.changes) < MAX_GROUPS:
            self.changes[change] = found
        else:
            self.counts["ungrouped"] += found.calls

    def moved(self, new: Verdict) -> int:
        """How many calls came to be allowed, denied or held that were not."""
        return sum(calls for row, calls in self.matrix.items() if row.new == new != row.old)


def impure_by(projection: Projection) -> list[str]:
    """Why the same question may be answered differently another time; what stands in the question does not count."""
    facts = {f"reads input.{'.'.join(path)}" for path in VOLATILE}
    return [impurity for impurity in projection.impurities if impurity not in facts]


def replay(bundle: Bundle, projection: Projection, lines: Iterable[bytes], *, since: str, jobs: int) -> Tally:
    """Everything that these lines say from `since` on (a timestamp). Raises `CommandFailed` when a process is stuck."""
    total, waiting = Tally(), deque[AsyncResult[Tally]]()
    paths = None if impure_by(projection) else projection.paths
    context = multiprocessing.get_context("spawn")  # an engine must not be shared with the process it was made in
    with context.Pool(jobs, _prepare, (bundle, paths, since)) as pool:
        for part in _parts(lines):
            waiting.append(pool.apply_async(_replay_part, (part,)))
            if len(waiting) > 3 * jobs:
                total.add(_got(waiting.popleft()))
        while waiting:
            total.add(_got(waiting.popleft()))
    return total


def _parts(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    source = iter(lines)
    while part := list(islice(source, LINES_AT_ONCE)):
        yield part


def _got(result: AsyncResult[Tally]) -> Tally:
    try:
        return result.get(CHUNK_S)
    except multiprocessing.TimeoutError as exc:
        what = f"{LINES_AT_ONCE} decisions took longer than {CHUNK_S:g} s under these rules, or ended the process"
        raise CommandFailed(f"{what}; `interlock policy check` says what makes them costly") from exc
    except EngineFailure as failure:
        raise CommandFailed(f"the rules cannot be loaded: {failure.where} {failure.text or failure.kind}") from failure


_mine: list[Replayer] = []
_given: list[tuple[Bundle, tuple[Path, ...] | None, str]] = []


def _prepare(bundle: Bundle, paths: tuple[Path, ...] | None, since: str) -> None:
    """At the start of a process. The engine is made with the first part, where a failure finds its way back."""
    _given[:] = [(bundle, paths, since)]


def _replay_part(lines: list[bytes]) -> Tally:
    if not _mine:
        _mine.append(Replayer(*_given[0]))
    return _mine[0].replayed(lines)


class Replayer:
    """One process's engine, and the answers that it knows. Raises `EngineFailure` for rules that cannot be loaded.

    `paths` are those that the rules can read; `None` when the same question may be answered differently.
    """

    def __init__(self, bundle: Bundle, paths: tuple[Path, ...] | None, since: str) -> None:
        self._bundle, self._since = bundle, since
        self._engine: RegoEngine | None = engine_of(bundle)
        self._keys = KeyMaker("decision", bundle.revision, paths) if paths is not None else None
        self._answers: dict[bytes, Outcome] = {}
        self._recorded: dict[bytes, Outcome] = {}

    def replayed(self, lines: Iterable[bytes]) -> Tally:
        """What these lines come to."""
        tally = Tally()
        for line in lines:
            event = event_in(line)
            if event is None:
                tally.counts["torn"] += 1
            elif str(event.get("timestamp", "")) >= self._since:
                self._count(event, tally)
        return tally

    def _count(self, event: Event, tally: Tally) -> None:
        why_not = unfit(event)
        if why_not:
            tally.counts[why_not] += lost_in(event) or 1
            return
        question = cast("Mapping[str, object]", event["input"])
        old, new = self._old(event["result"]), self._new(question, tally)
        row = Row(tool_of(question), tenant_of(question), old.verdict, new.verdict)
        tally.matrix[row] += 1
        tally.counts["replayed"] += 1
        tally.counts["results"] += question.get("phase") == "response"
        tally.revisions[revision_of(event)] += 1
        if old != new:
            change = Change(row, subject_of(question), old.details, new.details)
            tally.note(change, Found(1, str(event.get("decision_id", "")), str(event["timestamp"])))

    def _old(self, value: object) -> Outcome:
        key = codec.dumps(value)
        known = self._recorded.get(key)
        if known is None:
            known = outcome_of(value)
            _keep(self._recorded, key, known)
        return known

    def _new(self, question: Mapping[str, object], tally: Tally) -> Outcome:
        key = self._key(question)
        known = self._answers.get(key) if key is not None else None
        if known is None:
            tally.counts["evaluated"] += 1
            known = self._evaluated(question)
            if key is not None:
                _keep(self._answers, key, known)
        return known

    def _key(self, question: Mapping[str, object]) -> bytes | None:
        try:
            return self._keys.key(question) if self._keys is not None else None
        except (NotAKey, orjson.JSONEncodeError):
            return None

    def _evaluated(self, question: Mapping[str, object]) -> Outcome:
        if self._engine is None:
            self._engine = engine_of(self._bundle)
        try:
            return outcome_of(codec.loads(self._engine.evaluate(RULES["decision"], codec.dumps(question))))
        except EngineFailure as failure:
            if failure.kind == "panic":
                self._engine = None
            return Outcome("deny", (unavailable(failure).reason,))


def unfit(event: Event) -> str:
    """Why an event cannot be replayed (a key of `Tally.counts`); empty when it can."""
    if lost_in(event):
        return "lost"
    if event.get("path") != DECISION:
        return "lists"
    if "result" not in event and "error" in event and not event.get("erased"):
        return "unanswered"
    return "" if is_replayable(event) else "masked"


def outcome_of(value: object) -> Outcome:
    """What the gateway makes of an answer; as there, whatever it cannot read or carry out is a denial."""
    try:
        decision = judge(value, call_digest="", ruling=Ruling(""))
    except PolicyEngineUnavailable as exc:
        return Outcome("deny", (exc.reason,))
    if isinstance(decision, Deny):
        return Outcome("deny", tuple(sorted({f"{reason.rule}:{reason.code}" for reason in decision.reasons})))
    context = cast("Mapping[str, Mapping[str, Sequence[object]]]", value).get("context", {})
    if isinstance(decision, NeedsApproval):
        return Outcome("hold", (codec.canonical(context["access_request"]).decode(),))
    duties = {codec.canonical(entry).decode() for entry in context.get("obligations", ())}
    return Outcome("allow", tuple(sorted(duties | {f"label {label}" for label in decision.labels})))


def tool_of(question: Mapping[str, object]) -> str:
    """What a call is about, for the matrix."""
    action, resource = _member(question, "action"), _member(question, "resource")
    passing = resource.get("type") in _PASSING
    what = _member(resource, "properties").get("upstream") if passing else resource.get("id")
    name = action.get("name")
    label = f"{what}" if name == "mcp.tools.call" else f"{name} {what}"
    return f"{label} (result)" if question.get("phase") == "response" else label


def tenant_of(question: Mapping[str, object]) -> str:
    """The caller's tenant; empty when there is none."""
    return str(_member(_member(question, "subject"), "properties").get("tenant") or "")


def subject_of(question: Mapping[str, object]) -> str:
    """Who calls."""
    return str(_member(question, "subject").get("id") or "")


def revision_of(event: Event) -> str:
    """The policy that the event was decided under."""
    return str(_member(_member(event, "bundles"), "interlock").get("revision") or "")


def _member(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    member = value.get(name)
    return cast("Mapping[str, object]", member) if isinstance(member, dict) else {}


def _keep(known: dict[bytes, Outcome], key: bytes, outcome: Outcome) -> None:
    if len(known) >= _MAX_KNOWN:
        known.clear()
    known[key] = outcome
