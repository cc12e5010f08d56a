"""`interlock policy test`: run a policy's own tests, once or whenever a file changes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from watchfiles import DefaultFilter, watch

from adapters.pdp.bundle import Bundle, Fault
from adapters.pdp.checks import check_bundle
from adapters.pdp.policytests import Report, run_tests
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed
from gateway.cli.policy_files import Verbs, add_json, add_path, load, own_files, plain, print_json
from gateway.config.fields import policy_library, starter_policies

STEP_MS: Final = 250
"""How long Ctrl-C may take to be noticed while nothing changes."""
_DESCRIPTION: Final = (
    "Run the tests of a policy: rules named test_* in *_test.rego, and the cases in cases/*.yaml or .json, each a list"
    " of {name, input, expect}. Exit code 0 if there are tests and all passed."
)


def add_verb(verbs: Verbs) -> None:
    """Mount `test`."""
    verb = verbs.add_parser("test", help="run the policy's own tests", description=_DESCRIPTION)
    verb.add_argument("--coverage", action="store_true", help="say how much of each file the tests reach, and what not")
    verb.add_argument(
        "--fail-under",
        type=_percent,
        metavar="PERCENT",
        help="fail when the tests reach less of your files (the library's do not count); implies --coverage",
    )
    verb.add_argument("--watch", action="store_true", help="run them again whenever a file changes, until Ctrl-C")
    add_json(verb)
    add_path(verb)
    verb.set_defaults(func=test)


def test(arguments: argparse.Namespace) -> int:
    """Exit code 0 if there are tests, all passed and enough is covered, else 1; with `--watch` of the last run."""
    return _watched(arguments) if arguments.watch else _run(arguments)


def _watched(arguments: argparse.Namespace) -> int:
    places = [*(arguments.path or [starter_policies()]), policy_library()]
    missing = [str(place) for place in places if not place.is_dir()]
    if missing:
        raise CommandFailed(f"{', '.join(missing)}: not a directory that can be watched")
    changes = watch(
        *places, watch_filter=DefaultFilter(), rust_timeout=STEP_MS, yield_on_timeout=True, raise_interrupt=True
    )
    code = OK
    try:
        next(changes)  # from now on nothing is missed, what changes during the first run included
        code = _run(arguments)
        _say_waiting(arguments)
        for changed in changes:
            if changed:
                _say_changed(arguments, [Path(name) for _, name in changed])
                code = _run(arguments)
                _say_waiting(arguments)
    except KeyboardInterrupt:
        return code
    return code


def _say_waiting(arguments: argparse.Namespace) -> None:
    if not arguments.json:
        print("waiting for a change; Ctrl-C ends", flush=True)


def _say_changed(arguments: argparse.Namespace, files: Sequence[Path]) -> None:
    if not arguments.json:
        print(f"\nchanged: {', '.join(sorted({file.name for file in files}))}", flush=True)


def _run(arguments: argparse.Namespace) -> int:
    bundle, faults = load(arguments.path)
    coverage = arguments.coverage or arguments.fail_under is not None
    report = Report(())
    if bundle is not None:
        faults = check_bundle(bundle)
        report = report if faults else run_tests(bundle, coverage=coverage)
        faults += report.faults
    covered = _overall(report, bundle) if bundle is not None and coverage and report.covered else None
    enough = arguments.fail_under is None or (covered is not None and covered >= arguments.fail_under)
    good = not faults and bool(report.outcomes) and enough
    if arguments.json:
        _print_plain(report, faults, good=good, covered=covered)
    else:
        _print_report(report, faults, covered)
        if not enough:
            print(f"covered: {0 if covered is None else covered:.1f} %, less than {arguments.fail_under:g} %")
    return OK if good else NOT_AS_IT_SHOULD_BE


def _overall(report: Report, bundle: Bundle) -> float:
    return report.percent_of(own_files(bundle))


def _print_plain(report: Report, faults: Sequence[Fault], *, good: bool, covered: float | None) -> None:
    value: dict[str, object] = {"ok": good, "tests": len(report.outcomes), "faults": plain(faults)}
    value["uncovered"] = {file: list(lines) for file, lines in report.uncovered.items()}
    if covered is not None:
        files = {file: round(report.percent(file), 1) for file in sorted(report.covered)}
        value["coverage"] = {"percent": round(covered, 1), "files": files}
    print_json(value)


def _print_report(report: Report, faults: Sequence[Fault], covered: float | None) -> None:
    for fault in faults:
        print(fault)
    for outcome in report.outcomes:
        for line in outcome.printed if outcome.fault else ():
            print(f"print of {outcome.name}: {line}")
    failed = sum(1 for outcome in report.outcomes if outcome.fault)
    print(f"{len(report.outcomes) - failed} passed, {failed} failed" if report.outcomes else "no tests were run")
    for file in sorted(report.covered if covered is not None else ()):
        print(f"{file}: {report.percent(file):.1f} %")
        lines = report.uncovered.get(file, ())
        if lines:
            print(f"{file}: not reached: {', '.join(str(line) for line in lines)}")
    if covered is not None:
        print(f"covered: {covered:.1f} % of your files" + ("" if report.uncovered else "; every line was reached"))


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage: name a number from 0 to 100")
    return value
