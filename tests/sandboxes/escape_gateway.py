"""A gateway that runs the escape suite in a box: `python -m tests.sandboxes.escape_gateway DRIVER [UID]`.

Reads the target and the path of an egress socket, a line each. It is given secrets in its environment and an open
file, as any gateway has them. Writes what the suite said, and at the end a line of JSON with `version` and `reason`;
the suite was not run if there is a reason.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import anyio

from gateway.errors import InterlockError
from sandboxes.driver import Driver
from sandboxes.escape.check import Target
from tests.sandboxes.drivers import DRIVERS
from tests.sandboxes.places import a_place
from tests.sandboxes.scene import LIMITS, suite, told


def main() -> int:
    target = Target.from_json(sys.stdin.readline())
    egress = Path(sys.stdin.readline().strip())
    if len(sys.argv) > 2:
        become(int(sys.argv[2]))
    os.environ["GATEWAY_SECRET"] = target.canary
    os.set_inheritable(os.open(target.canary_file, os.O_RDONLY), True)
    made = DRIVERS[sys.argv[1]]
    facts = anyio.run(run_suite, made.make(), replace(target, own_kernel=made.own_kernel), egress)
    sys.stdout.write(json.dumps(facts))
    return 0


def become(uid: int) -> None:
    """Give up root, and use a Python that this user may execute. What is imported later must be readable already."""
    importlib.import_module("anyio._backends._asyncio")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if not os.access(sys.executable, os.X_OK):
        sys.executable = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable


async def run_suite(driver: Driver, target: Target, egress: Path) -> dict[str, str]:
    """Run it in a box, without asking first: where there is no box, the probe has to say why."""
    with tempfile.TemporaryDirectory(prefix="interlock-boxes-") as directory, anyio.fail_after(120):
        asked = replace(target, gateway_paths=(*target.gateway_paths, directory))
        async with a_place(Path(directory) / "boxes", egress, LIMITS) as place:
            try:
                program = await driver.start(suite(), place)
            except InterlockError as exc:
                probe = await driver.probe()
                return {"version": probe.version, "reason": f"{probe.reason or exc}; {probe.remedy}"}
            async with program:
                await program.send(told(asked), deadline_s=10)
                while piece := await program.receive():
                    sys.stdout.write(piece.decode())
                status = await program.wait()
            failed = f"it ended with {status}: {program.stderr[-2000:]}" if status else ""
            version = program.facts.version or (await driver.probe()).version
            return {"version": version, "reason": failed}


if __name__ == "__main__":
    sys.exit(main())
