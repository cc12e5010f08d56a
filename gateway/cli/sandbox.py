"""`interlock sandbox`: what isolation works here, a command in a box, and the boxes that there are."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, cast, get_args

import anyio
from anyio import to_thread

from gateway.app.boxes import PACKAGES, PROBES, drivers_of, environments_in, guard_of
from gateway.boxes import Level, Program
from gateway.cli.drivers import Tried, strongest, tried
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed, Commands
from gateway.cli.options import add_config, config_path
from gateway.config import Settings, load, loads, secrets
from gateway.config.fields import DriverName
from gateway.errors import ConfigError, UpstreamUnavailable
from sandboxes import environments
from sandboxes.binds import FORM, bind_of
from sandboxes.boxes import Boxes, Wanted
from sandboxes.cgroups import Cgroups
from sandboxes.closure import closure_of
from sandboxes.covers import admitted
from sandboxes.environments import Described, chosen
from sandboxes.guarded import Guarded
from sandboxes.host.process import ChildProcess
from sandboxes.ledger import Entry, Ledger, Phase
from sandboxes.packages import PackageCache, equipped
from sandboxes.probing import Probes
from sandboxes.spec import Bind, BoxSpec

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

LEVELS: Final = tuple(level.value for level in Level if level is not Level.NONE)
_PIECE: Final = 64 * 1024
_STDERR_S: Final = 0.1
_PATIENCE_S: Final = 86_400.0
"""How long a program may take to read what it is sent: it is a person who waits here."""


def add_parser(commands: Commands) -> None:
    """Mount the command and its four verbs."""
    sandbox = commands.add_parser("sandbox", help="show what isolation works here, run a command in a box, ...")
    verbs = sandbox.add_subparsers(required=True, metavar="VERB")
    doctor = _verb(verbs, "doctor", "use each driver once, for real, and say what works and what would help")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(func=_doctor)
    _add_run(verbs)
    listing = _verb(verbs, "list", "the boxes of this gateway that there are now")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(func=_list)
    kill = _verb(verbs, "kill", "end a box, with everything that runs in it")
    which = kill.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="?", help="as `list` shows it")
    which.add_argument("--all", action="store_true", help="every box of this gateway")
    kill.set_defaults(func=_kill)


def _verb(verbs: Verbs, name: str, purpose: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    add_config(parser)
    return parser


def _add_run(verbs: Verbs) -> None:
    run = _verb(verbs, "run", "run a command in a box, without any network, and give its exit status")
    run.usage = "interlock sandbox run [OPTIONS] -- COMMAND [ARGUMENT ...]"
    run.add_argument("--environment", default="", metavar="NAME", help="the environment to make it from")
    run.add_argument("--level", choices=LEVELS, default="", help="the least level (default: sandbox.level)")
    run.add_argument("--driver", choices=get_args(DriverName), default="", help="this driver and no other")
    run.add_argument(
        "--bind", action="append", default=[], metavar="BIND", help=f"show a path: {FORM}; may be repeated"
    )
    run.add_argument("--verbose", "-v", action="store_true", help="say on standard error what the box sees, and why")
    run.add_argument("command", nargs="+", help="the program and its arguments, after --")
    run.set_defaults(func=_run)


def settings_at(path: Path) -> Settings:
    """The configuration, or the defaults beside where it would be. Raises `ConfigError`."""
    return load(path) if path.exists() else loads("", path.parent)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _doctor(arguments: argparse.Namespace) -> int:
    settings = settings_at(config_path(arguments))
    found: list[Tried] = []
    for driver in tried(settings, _say, again=True):
        found.append(driver)
        if not arguments.json:
            _show(driver)
    needed = Level(settings.sandbox.level)
    best, commands = strongest(found, needed), _commands(settings)
    if arguments.json:
        print(json.dumps(_report(found, needed, best, commands), indent=2))
    else:
        _conclude(needed, best, commands)
    faulty = any("fault" in entry for entry in commands)
    return NOT_AS_IT_SHOULD_BE if best is None or faulty else OK


def _show(driver: Tried) -> None:
    if driver.probe.ok:
        print(f"ok      {driver.name}: {driver.words}", flush=True)
        return
    print(f"without {driver.name} (level {driver.level}): {driver.probe.reason}", flush=True)
    if driver.probe.remedy:
        print(f"          -> {driver.probe.remedy}")


def _conclude(needed: Level, best: Tried | None, commands: list[Mapping[str, object]]) -> None:
    for entry in commands:
        print(f"upstream {entry['upstream']}: {entry.get('fault') or 'its box sees /usr and'}")
        for place, why in cast("Mapping[str, str]", entry.get("shows", {})).items():
            print(f"          | {place}: {why}")
    if best is None:
        print(f"no driver works here that gives level {needed} (sandbox.level): nothing that needs a box runs")
    else:
        print(f"level {needed} (sandbox.level) is asked for, and boxes are made by {best.name}: {best.level}")


def _report(
    found: list[Tried], needed: Level, best: Tried | None, commands: list[Mapping[str, object]]
) -> Mapping[str, object]:
    drivers = [
        {
            "name": driver.name,
            "level": driver.level.value,
            **asdict(driver.probe),
            "features": sorted(driver.probe.features),
        }
        for driver in found
    ]
    return {
        "ok": best is not None and not any("fault" in entry for entry in commands),
        "level": needed.value,
        "chosen": best.name if best else "",
        "drivers": drivers,
        "upstreams": commands,
    }


def _commands(settings: Settings) -> list[Mapping[str, object]]:
    """What the box of each upstream sees, or why there can be none."""
    guard = guard_of(settings)
    found: list[Mapping[str, object]] = []
    for name, upstream in settings.upstreams.items():
        if not upstream.command or upstream.sandbox == "none":
            continue
        key = f"upstreams.{name}"
        try:
            closure = closure_of(upstream.command, os.environ, upstream.cwd, f"{key}.command")
            admitted(closure.binds, guard, f"{key}.command")
            binds = admitted([bind_of(text, Path()) for text in upstream.binds], guard, f"{key}.binds")
        except ConfigError as error:
            found.append({"upstream": name, "fault": str(error)})
            continue
        shows = {bind.place: "configured, writable" if bind.writable else "configured" for bind in binds}
        found.append({"upstream": name, "shows": {**closure.reasons, **shows}, "notes": closure.notes})
    return found


def _run(arguments: argparse.Namespace) -> int:
    try:
        return anyio.run(_in_a_box, arguments)
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    """What went wrong, without the task groups that it went through."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _in_a_box(arguments: argparse.Namespace) -> int:
    settings = settings_at(config_path(arguments))
    if arguments.driver not in ("", *settings.sandbox.drivers):
        raise CommandFailed(f"driver {arguments.driver!r} is not in sandbox.drivers of the configuration: add it there")
    guard = guard_of(settings)
    described = chosen(
        environments.load(environments_in(settings), secrets, guard), arguments.environment, "--environment"
    )
    ledger, cgroups = Ledger.of(settings.state.dir), await to_thread.run_sync(Cgroups.found)
    boxes = Boxes(drivers_of(settings), ledger, Probes(settings.state.dir / PROBES), None, cgroups)
    packages = PackageCache(settings.state.dir / PACKAGES, os.environ)
    try:
        equipment = await equipped(described.spec, described.packages, packages, _say)
        spec = _spec(arguments, equipment, described, guard)
        levels = (Level(arguments.level or settings.sandbox.level), described.level)
        strictest = max(levels, key=lambda level: level.rank)
        wanted = Wanted(spec, strictest, "interlock sandbox run", described.digest, driver=arguments.driver)
        async with boxes.running(), await boxes.start(wanted) as program:
            if arguments.verbose:
                _say(f"box {program.facts.id}: {program.facts.driver} {program.facts.version}, {program.facts.level}")
            return await _attended(program)
    finally:
        ledger.close()


def _spec(arguments: argparse.Namespace, equipment: BoxSpec, described: Described, guard: Guarded) -> BoxSpec:
    command, env, binds = tuple(arguments.command), dict(equipment.env), equipment.binds
    asked = [_bind(text) for text in arguments.bind]
    if equipment.base is None:
        closure = closure_of(command, os.environ, Path.cwd(), "COMMAND")
        command, env = closure.command, {**closure.env, **env}
        needed = tuple(bind for bind in closure.binds if bind.place not in {other.place for other in asked})
        binds = (*binds, *admitted(needed, guard, "COMMAND"))
        for line in (*closure.notes, *(f"{at}: {why}" for at, why in closure.reasons.items() if arguments.verbose)):
            _say(line)
    return replace(
        equipment,
        label=os.path.basename(command[0]),
        command=command,
        env=env,
        secrets={name: secrets.resolve_secret(reference) for name, reference in described.secrets.items()},
        binds=(*binds, *admitted(asked, guard, "--bind")),
        egress=False,
    )


def _bind(text: str) -> Bind:
    try:
        return bind_of(text, Path.cwd())
    except ValueError as exc:
        raise CommandFailed(f"--bind {exc}") from exc


async def _attended(program: Program) -> int:
    """Pass the standard streams through until the program ends; its exit status."""
    async with anyio.create_task_group() as group:
        group.start_soon(_feed, program)
        group.start_soon(_relay_stderr, program)
        while data := await program.receive():
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        status = await program.wait()
        group.cancel_scope.cancel()
    return status


async def _feed(program: Program) -> None:
    """What we are sent goes to the program, and so does its end."""
    mode = os.fstat(0).st_mode
    watched = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(0)  # others are always ready: files, /dev/null
    while program.exit_status is None:
        if watched:
            await anyio.wait_readable(0)
        data = os.read(0, _PIECE)
        if not data or not await _sent(program, data):
            break
    if isinstance(program, ChildProcess):
        program.end_input()


async def _sent(program: Program, data: bytes) -> bool:
    try:
        await program.send(data, deadline_s=_PATIENCE_S)
    except UpstreamUnavailable:  # it reads no more; its output and its exit status say the rest
        return False
    return True


async def _relay_stderr(program: Program) -> None:
    """Standard error is kept rather than streamed, its end only: look at it now and then."""
    shown = ""
    try:
        while True:
            await anyio.sleep(_STDERR_S)
            shown = _show_more(shown, program.stderr)
    finally:
        _show_more(shown, program.stderr)


def _show_more(shown: str, now: str) -> str:
    """Print what is new; where the beginning was dropped meanwhile, all that is there."""
    if now != shown:
        sys.stderr.write(now.removeprefix(shown))
        sys.stderr.flush()
    return now


def _list(arguments: argparse.Namespace) -> int:
    entries = Ledger.of(settings_at(config_path(arguments)).state.dir).entries()
    if arguments.json:
        print(json.dumps({"boxes": [asdict(entry) for entry in entries]}, indent=2))
        return OK
    for entry in entries:
        print(_line(entry))
    if not entries:
        print("no boxes")
    return OK


def _line(entry: Entry) -> str:
    age = f"{max(0, int(time.time()) - entry.started_s)} s" if entry.started_s else "?"
    left = "  (left behind: the next start clears it away)" if entry.phase is Phase.DEAD else ""
    made = f"{entry.driver} {entry.version}".strip() or "?"
    return f"{entry.id}  {entry.phase:8}  {entry.level or '?':11}  {made}  {age}  {entry.purpose}{left}"


def _kill(arguments: argparse.Namespace) -> int:
    ledger = Ledger.of(settings_at(config_path(arguments)).state.dir)
    alive = [entry.id for entry in ledger.entries() if entry.phase is not Phase.DEAD]
    for box_id in alive if arguments.all else [arguments.id]:
        anyio.run(ledger.kill, box_id)
        print(f"ended {box_id}")
    return OK
