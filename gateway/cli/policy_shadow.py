"""`interlock policy shadow` and `promote`: what a candidate policy would have done, and letting it decide."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from adapters.pdp.bundle import PolicyRefused, load_bundle
from adapters.pdp.checks import check_bundle
from adapters.pdp.policytests import run_tests
from gateway.app.shadow_engines import candidate_revision
from gateway.cli.directories import stage, swap
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed, Commands
from gateway.cli.options import add_config, config_path
from gateway.cli.remote import printable
from gateway.config import Settings, load, policy_library, starter_policies
from gateway.shadow import Report, Tally, newly_allowed, read_report

_SHOWN: Final = 50
_NOTHING: Final = (
    'nothing is asked beside the active policy; set [policy] candidate = "DIR", or write a `monitor` rule, '
    "and let the gateway run"
)


def add_verbs(verbs: Commands) -> None:
    """Mount the commands below `interlock policy`."""
    showing = verbs.add_parser(
        "shadow",
        help="show what the candidate policy and monitor rules would have done",
        description="Exit code 0, or 1 when there is nothing to show or the candidate cannot be asked.",
    )
    showing.set_defaults(func=show)
    promoting = verbs.add_parser(
        "promote",
        help="let the candidate policy decide",
        description="Puts a copy of [policy] candidate in the place of [policy] path, and keeps what was there beside "
        "it. A gateway that runs takes it up by itself.",
    )
    promoting.add_argument("--revision", required=True, metavar="SHA256", help="the one that `policy shadow` shows")
    promoting.add_argument("--force", action="store_true", help="even if it was compared with nothing yet")
    promoting.add_argument("--allow-new", action="store_true", help="even if it allows calls that are not allowed now")
    promoting.set_defaults(func=promote)
    for verb in (showing, promoting):
        add_config(verb)
        verb.add_argument("--json", action="store_true", help="print JSON")


def show(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 1 when there is nothing to show or the candidate is not asked."""
    settings = load(config_path(arguments))
    report = read_report(settings.state.dir)
    nothing = report is None or not (report.path or report.monitor_fault or report.monitoring.asked)
    report = report or Report()
    if arguments.json:
        print(json.dumps(report.plain(), ensure_ascii=False))
    else:
        print("\n".join([_NOTHING] if nothing else _lines(report)))
    return NOT_AS_IT_SHOULD_BE if nothing or report.fault or report.monitor_fault else OK


def _lines(report: Report) -> Iterator[str]:
    comparison, monitoring = report.comparison, report.monitoring
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.written_s))
    yield f"active {comparison.active or 'none'}, as of {stamp}"
    if report.path:
        yield f"candidate {comparison.candidate or 'not asked'} in {report.path}"
    if report.fault:
        yield f"  it is not asked:\n{report.fault}"
    elif report.path:
        words = f"{comparison.newly_allowed} newly allowed"
        yield f"  {comparison.compared} questions compared, {comparison.unasked} not asked, {words}"
        yield from _rows(comparison.divergences, "  every answer is the same")
    if report.monitor_fault:
        yield f"monitor rules are not asked:\n{report.monitor_fault}"
    elif monitoring.asked or monitoring.unasked:
        yield f"monitor rules: {monitoring.asked} questions, {monitoring.unasked} not asked"
        yield from _rows(monitoring.findings, "  nothing found")
    if report.dropped:
        yield f"{report.dropped} decisions came too quickly to be looked at"


def _rows(tally: Tally, nothing: str) -> Iterator[str]:
    for row, count in list(tally)[:_SHOWN]:
        note = f": {count.note}" if count.note else ""
        words = f"{'  '.join(part or '-' for part in row)}  (such as {count.example}){note}"
        yield f"  {count.times:>7}  {printable(words)}"
    if len(tally) > _SHOWN:
        yield f"  and {len(tally) - _SHOWN} more (--json shows all)"
    if not len(tally):
        yield nothing


def promote(arguments: argparse.Namespace) -> int:
    """Exit code 0 if the candidate decides from now on, else 1, with nothing changed."""
    settings = load(config_path(arguments))
    candidate = _candidate(settings)
    _check_places(settings, candidate)
    wanted: str = arguments.revision
    if _revision(settings, candidate) != wanted:
        found = _revision(settings, candidate)
        raise _refused(f"{candidate} holds {found} by now, not {wanted}; look at `interlock policy shadow` again")
    if _revision(settings, settings.policy.path) == wanted:
        return _say(arguments, f"policy {wanted} is in {settings.policy.path} already", revision=wanted, kept="")
    _check_findings(settings, wanted, force=arguments.force, allow_new=arguments.allow_new)
    target = settings.policy.path.resolve()
    kept = _put(settings, candidate, target, wanted)
    text = (
        f"policy {wanted} is now in {target}; a gateway that runs takes it up within seconds\n"
        f"to go back: mv {target} {target}.undone && mv {kept} {target}"
    )
    return _say(arguments, text, revision=wanted, kept=str(kept))


def _put(settings: Settings, candidate: Path, target: Path, wanted: str) -> Path:
    """Put a copy of just that revision in place; where the former policy is kept."""
    staged = stage(candidate, target)
    try:
        if candidate_revision(settings.policy, staged) != wanted:
            raise _refused(f"{candidate} was changed just now; nothing was done, run it again")
        _check_policy(staged)
        return swap(staged, target, time.time())
    finally:
        if staged.exists():
            shutil.rmtree(staged)


def _candidate(settings: Settings) -> Path:
    policy = settings.policy
    if policy.candidate is None:
        raise CommandFailed('there is no candidate: set [policy] candidate = "DIR"')
    if policy.engine == "authzen" or policy.from_bundle:
        what = "url" if policy.from_bundle else 'engine = "authzen"'
        raise CommandFailed(f"[policy] {what}: the active policy is not in a directory; publish the candidate there")
    return policy.candidate


def _check_places(settings: Settings, candidate: Path) -> None:
    target, source, shipped = settings.policy.path.resolve(), candidate.resolve(), starter_policies().resolve().parent
    if target == shipped or shipped in target.parents:
        raise _refused(f"{target} comes with Interlock and is not changed; set [policy] path to a directory of yours")
    if target == source or target in source.parents or source in target.parents:
        raise _refused(f"[policy] path and candidate overlap ({target}, {source}); keep them apart")
    if not target.is_dir():
        raise CommandFailed(f"[policy] path: {target} is not a directory")


def _revision(settings: Settings, place: Path) -> str:
    try:
        return candidate_revision(settings.policy, place)
    except PolicyRefused as exc:
        raise _refused(f"{place} cannot be read:\n{exc}") from exc


def _check_findings(settings: Settings, wanted: str, *, force: bool, allow_new: bool) -> None:
    report = read_report(settings.state.dir) or Report()
    comparison = report.comparison
    pair = (_revision(settings, settings.policy.path), wanted)
    if (comparison.active, comparison.candidate) != pair or not comparison.compared:
        if not force:
            raise _refused(f"{wanted} was not compared with {pair[0]}, the active one, yet; let it run, or --force")
        return
    if comparison.newly_allowed and not allow_new:
        kinds = [row for row, _ in comparison.divergences if newly_allowed(row[0])]
        listed = "\n".join(f"  {printable('  '.join(part or '-' for part in row))}" for row in kinds[:_SHOWN])
        raise _refused(
            f"{comparison.newly_allowed} calls would be newly allowed (--allow-new to have it so):\n{listed}"
        )


def _check_policy(place: Path) -> None:
    bundle = load_bundle([policy_library(), place])
    faults = check_bundle(bundle) or run_tests(bundle).faults
    if faults:
        raise _refused("the candidate could not be activated:\n" + "\n".join(str(fault) for fault in faults))


def _refused(text: str) -> CommandFailed:
    return CommandFailed(text, NOT_AS_IT_SHOULD_BE)


def _say(arguments: argparse.Namespace, text: str, **values: str) -> int:
    print(json.dumps({"ok": True, **values}, ensure_ascii=False) if arguments.json else text)
    return OK
