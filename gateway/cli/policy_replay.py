"""`interlock policy replay` and `suggest`: what other rules would have said, and rules that say what was used."""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from adapters.pdp.bundle import Bundle
from adapters.pdp.checks import PACKAGE
from adapters.pdp.policytests import run_tests
from adapters.pdp.projection import Projection, project
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed, Commands
from gateway.cli.options import add_config, config_path
from gateway.cli.policy_files import usable
from gateway.cli.remote import printable
from gateway.cli.replaying import Change, Found, Row, Tally, Verdict, impure_by, replay
from gateway.cli.suggesting import Draft, draft_of
from gateway.config import load
from gateway.decisions.event import timestamp
from gateway.decisions.reader import lines_in

DIRECTORY: Final = "decisions"
SHOWN: Final = 20
_NS: Final = 1_000_000_000
_SPAN: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_KINDS: Final[tuple[tuple[Verdict, str], ...]] = (
    ("allow", "newly allowed"),
    ("deny", "newly denied"),
    ("hold", "newly held"),
)
_OTHER: Final = "other reasons or obligations"
_LEFT_OUT: Final = {
    "masked": "masked",
    "unanswered": "policy gave no answer then",
    "lists": "about lists",
    "lost": "lost when they were made",
    "torn": "torn lines",
}


def add_verbs(verbs: Commands) -> None:
    """Mount `replay` and `suggest`."""
    replaying = verbs.add_parser(
        "replay",
        help="decide recorded calls again under other rules",
        description="Exit code 0: nothing is allowed that was not; 1: something is; 2: there was nothing to replay.",
    )
    replaying.add_argument("--against", type=Path, required=True, metavar="DIR", help="the rules, beside the library")
    replaying.add_argument("--allow-new", action="store_true", help="exit code 0 though something is newly allowed")
    replaying.add_argument("--jobs", type=_jobs, default=0, metavar="N", help="processes (default: one per CPU)")
    replaying.set_defaults(func=replay_recorded)
    suggesting = verbs.add_parser(
        "suggest",
        help="draft rules that allow what was used, and nothing else",
        description="The draft comes with tests made of the same calls. Read it before it is put in force.",
    )
    suggesting.add_argument("--out", type=Path, metavar="DIR", help="write the draft here (default: print it)")
    suggesting.set_defaults(func=suggest)
    for verb, since in ((replaying, "24h"), (suggesting, "7d")):
        verb.add_argument(
            "--since", type=_span_s, default=since, metavar="TIME", help=f"30m, 24h, 7d, ... or all (default: {since})"
        )
        verb.add_argument("--log", type=Path, metavar="DIR", help="the decision log (default: that of the gateway)")
        verb.add_argument("--json", action="store_true", help="print JSON")
        add_config(verb)


def replay_recorded(arguments: argparse.Namespace) -> int:
    """Exit code 1 when a call is newly allowed, else 0."""
    bundle, program = usable([arguments.against])
    projection = project(program, (PACKAGE, "decision"))
    since_ns = _since_ns(arguments.since)
    jobs = arguments.jobs or len(os.sched_getaffinity(0))
    started = time.monotonic()
    lines = _recorded(_log_of(arguments), since_ns)
    tally = replay(bundle, projection, lines, since=timestamp(since_ns), jobs=jobs)
    seconds = time.monotonic() - started
    if not tally.counts["replayed"]:
        raise CommandFailed(f"there is no decision to replay{_left_out(tally) or ': the log has none of that time'}")
    remarks = _remarks(tally, projection)
    if arguments.json:
        print(json.dumps(_as_json(bundle, tally, remarks, seconds), ensure_ascii=False))
    else:
        print("\n".join(_as_text(bundle, tally, remarks, seconds)))
    return NOT_AS_IT_SHOULD_BE if tally.moved("allow") and not arguments.allow_new else OK


def suggest(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the draft passes its own tests, else 1."""
    since_ns = _since_ns(arguments.since)
    draft = draft_of(_recorded(_log_of(arguments), since_ns), since=timestamp(since_ns))
    if not draft.grants:
        raise CommandFailed("no call was permitted in that time, so there is nothing to suggest")
    if arguments.out is not None:
        _write(draft, arguments.out)
        passed = _passes(arguments.out, draft)
    else:
        passed = True
    if arguments.json:
        print(json.dumps({"files": draft.files, "grants": draft.grants, "left_out": draft.left_out, "ok": passed}))
    else:
        print("\n".join(_told(draft, arguments.out)))
    return OK if passed else NOT_AS_IT_SHOULD_BE


def _jobs(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError("a number of processes from 1 to 256")
    return int(text)


def _span_s(text: str) -> int:
    """Seconds; 0 for all time."""
    match = _SPAN.fullmatch(text)
    if match is None and text != "all":
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time; write 30m, 24h, 7d or all")
    return int(match[1]) * _UNIT_S[match[2]] if match is not None else 0


def _since_ns(span_s: int) -> int:
    return max(time.time_ns() - span_s * _NS, 0) if span_s else 0


def _log_of(arguments: argparse.Namespace) -> Path:
    chosen: Path | None = arguments.log
    directory = chosen or load(config_path(arguments)).state.dir / DIRECTORY
    if not directory.is_dir():
        raise CommandFailed(f"{directory}: there is no decision log; name one with --log")
    return directory


def _recorded(directory: Path, since_ns: int) -> Iterator[bytes]:
    try:
        yield from lines_in(directory, since_ns)
    except OSError as exc:
        raise CommandFailed(f"{directory}: the decision log cannot be read: {exc.strerror or exc}") from exc


def _remarks(tally: Tally, projection: Projection) -> list[str]:
    remarks = [f"the answers may differ from one time to the next: {impurity}" for impurity in impure_by(projection)]
    if not tally.counts["results"] and projection.may_read(("resource", "properties", "result")):
        remarks.append("these rules look at results, and none was recorded: the rules then in force did not")
    if tally.counts["ungrouped"]:
        remarks.append(f"{tally.counts['ungrouped']} more changed calls are not listed one by one")
    return remarks


def _grouped(tally: Tally) -> Iterator[tuple[str, list[tuple[Change, Found]]]]:
    ordered = sorted(tally.changes.items(), key=lambda item: (-item[1].calls, item[0]))
    for verdict, title in _KINDS:
        yield title, [item for item in ordered if item[0].row.new == verdict != item[0].row.old]
    yield _OTHER, [item for item in ordered if item[0].row.new == item[0].row.old]


def _as_json(bundle: Bundle, tally: Tally, remarks: list[str], seconds: float) -> Mapping[str, object]:
    changed = {title.replace(" ", "_"): [_change(*item) for item in items] for title, items in _grouped(tally)}
    return {
        "revision": bundle.revision,
        "recorded_revisions": dict(tally.revisions),
        "seconds": round(seconds, 3),
        "counts": dict(tally.counts),
        "matrix": [{**row._asdict(), "calls": calls} for row, calls in sorted(tally.matrix.items())],
        "moved": {verdict: tally.moved(verdict) for verdict, _ in _KINDS},
        "changes": changed,
        "remarks": remarks,
    }


def _change(change: Change, found: Found) -> Mapping[str, object]:
    facts = {"subject": change.subject, "before": change.before, "after": change.after}
    return {**change.row._asdict(), **facts, "calls": found.calls, "decision_id": found.decision_id, "time": found.time}


def _as_text(bundle: Bundle, tally: Tally, remarks: list[str], seconds: float) -> Iterator[str]:
    counts = tally.counts
    yield f"policy {bundle.revision}: {counts['replayed']} decisions again in {seconds:.1f} s{_left_out(tally)}"
    yield from (f"note: {remark}" for remark in remarks)
    width = max(len(printable(row.tool)) for row in tally.matrix)
    yield ""
    for row, calls in sorted(tally.matrix.items(), key=_changed_first):
        mark = "*" if row.old != row.new else " "
        tool, tenant = printable(row.tool), printable(row.tenant)
        yield f"{mark} {row.old:>5} -> {row.new:<5} {calls:>8}  {tool:<{width}}  {tenant}".rstrip()
    for title, items in _grouped(tally):
        if items:
            yield f"\n{title}:"
            yield from (_line(change, found) for change, found in items[:SHOWN])
            if len(items) > SHOWN:
                yield f"  and {len(items) - SHOWN} more; --json lists them all"
    if not tally.changes:
        yield "\nno difference"


def _changed_first(item: tuple[Row, int]) -> tuple[bool, Row]:
    return item[0].old == item[0].new, item[0]


def _line(change: Change, found: Found) -> str:
    row = change.row
    before, after = ", ".join(change.before) or "nothing", ", ".join(change.after) or "nothing"
    words = f"{row.old} ({before}) -> {row.new} ({after})"
    text = f"  {found.calls} x {row.tool} by {change.subject or 'nobody'}: {words}; first in {found.decision_id}"
    return printable(text)


def _left_out(tally: Tally) -> str:
    parts = [f"{tally.counts[key]} {words}" for key, words in _LEFT_OUT.items() if tally.counts[key]]
    return f"; left out: {', '.join(parts)}" if parts else ""


def _write(draft: Draft, directory: Path) -> None:
    if directory.exists() and any(directory.iterdir()):
        raise CommandFailed(f"{directory}: is not empty; name another directory for the draft")
    for name, text in draft.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _passes(directory: Path, draft: Draft) -> bool:
    bundle, _ = usable([directory])
    report = run_tests(bundle)
    draft.remarks.extend(str(fault) for fault in report.faults)
    return not report.faults


def _told(draft: Draft, directory: Path | None) -> Iterator[str]:
    if directory is None:
        for name, text in draft.files.items():
            shown = text if name.endswith(".rego") else "\n".join(map(printable, text.split("\n")))
            yield f"# ---- {name} ----\n{shown}"
    yield f"{draft.grants} grants from {draft.calls} permitted calls, {draft.cases} test cases"
    yield from (f"left out: {calls} calls {why}" for why, calls in sorted(draft.left_out.items()))
    yield from (f"note: {printable(remark)}" for remark in draft.remarks)
    if directory is not None:
        yield f"next: interlock policy test --path {directory}; interlock policy replay --against {directory}"
