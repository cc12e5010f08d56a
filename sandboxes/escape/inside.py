"""Makes every check in turn, each in a process of its own, and says how it went. Runs inside the box.

Reads a `Target` as one line of JSON and writes one line for each check: `{"id", "outcome", "detail"}`. Every check is
made such that it does no harm where it succeeds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Final

from sandboxes.escape import devices, execution, files, kernel, limits, mounts, network, processes
from sandboxes.escape.check import Check, Outcome, Target, Tries

CHECKS: Final[tuple[Check, ...]] = tuple(
    check
    for module in (files, mounts, processes, execution, kernel, devices, network, limits)
    for check in module.CHECKS
)
_DEADLINE_S: Final = 40


def main() -> int:
    """Everything, or the checks whose ids are given as arguments."""
    os.environ["ESCAPE_OPENED"] = "|".join(processes.opened_at_start())
    target = Target.from_json(sys.stdin.readline())
    for line in outcomes(target, frozenset(sys.argv[1:])):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0


def outcomes(target: Target, wanted: frozenset[str]) -> Iterator[str]:
    """A line of JSON for each check."""
    for check in CHECKS:
        if not wanted or check.id in wanted:
            outcome, detail = _apart(check, target)
            yield json.dumps({"id": check.id, "outcome": outcome, "detail": detail})


def _apart(check: Check, target: Target) -> tuple[Outcome, str]:
    """Make the check in a child, so that what it does to itself ends with it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _in_child(check, target, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if ended == -signal.SIGSYS:
        return "blocked", "killed by the filter"
    if ended != 0 or not said:
        return "unclear", f"ended with {ended}: {said[-300:].decode(errors='replace')}"
    outcome, detail = json.loads(said)
    return outcome, detail


def _in_child(check: Check, target: Target, writing: int) -> None:
    tries, code = Tries(target), 1
    signal.alarm(_DEADLINE_S)
    try:
        check.run(tries)
        os.write(writing, json.dumps([check.outcome(tries), tries.detail]).encode())
        code = 0
    except (Exception, SystemExit):  # noqa: BLE001  # whatever it was, the next check has to be made
        os.write(writing, traceback.format_exc().encode())
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
