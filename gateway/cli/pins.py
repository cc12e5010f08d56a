"""`interlock pins`: what waits for a person because an upstream changed it, and that person's yes."""

from __future__ import annotations

import argparse
import getpass
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anyio

from adapters.stores.sql import open_store
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK, CommandFailed, Commands
from gateway.ports import Pin, StateStore
from gateway.registry.pins import PENDING, Pending, accept, pending

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

_Action: TypeAlias = Callable[[argparse.Namespace, StateStore], Awaitable[int]]


def add_parser(commands: Commands) -> None:
    """Mount the command and its three verbs."""
    pins = commands.add_parser("pins", help="look at changed tool definitions, and accept them")
    verbs = pins.add_subparsers(required=True, metavar="VERB")
    _verb(verbs, "list", "every pinned definition of an upstream, and what waits", _list)
    diff = _verb(verbs, "diff", "how the definitions that wait differ from the accepted ones", _diff)
    diff.add_argument("name", nargs="?", help="only this tool, prompt or template")
    yes = _verb(verbs, "accept", "put definitions that wait in force", _accept)
    yes.add_argument("name", nargs="?", help="the tool, prompt or template")
    yes.add_argument("--all", action="store_true", help="everything of this upstream that waits")
    yes.add_argument("--kind", choices=("tool", "prompt", "template"), help="which one, where two share a name")
    yes.add_argument("--digest", default="", help="refuse unless the candidate's digest, as `diff` shows it, begins so")
    yes.add_argument("--by", default="", help="who accepts (default: the user of this shell)")


def _verb(verbs: Verbs, name: str, purpose: str, action: _Action) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=purpose)
    parser.add_argument("upstream", help="its name in the configuration")
    parser.add_argument("--data", type=Path, default=Path(".interlock"), metavar="DIR", help="the data directory")
    where = "the state database, where it is not in DIR"
    parser.add_argument("--url", "--state", dest="state", default="", metavar="URL", help=where)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=_run, action=action)
    return parser


def _run(args: argparse.Namespace) -> int:
    return anyio.run(_with_store, args)


async def _with_store(args: argparse.Namespace) -> int:
    if not args.state and not args.data.is_dir():
        raise CommandFailed(f"{args.data} is not a directory: name the gateway's data directory with --data", CANNOT)
    store = await open_store(args.state, data_dir=args.data, clock_s=time.time)
    try:
        action: _Action = args.action
        return await action(args, store)
    finally:
        await store.aclose()


async def _list(args: argparse.Namespace, store: StateStore) -> int:
    pins = await store.pins(args.upstream)
    waiting = pending(pins)
    in_force = [pin for pin in pins if not pin.kind.startswith(PENDING)]
    if args.json:
        _print_json({"pins": [_pin_row(pin) for pin in in_force], "waiting": [_waiting_row(one) for one in waiting]})
        return OK
    for pin in in_force:
        print(f"{pin.kind:8} {_plain(pin.name)}  {pin.digest[:23]}  accepted by {_plain(pin.accepted_by) or '-'}")
    for one in waiting:
        print(f"{one.kind:8} {_plain(one.candidate.name)}  {one.candidate.digest[:23]}  WAITS")
    if not pins:
        print(f"nothing of upstream {args.upstream!r} was ever pinned")
    return OK


async def _diff(args: argparse.Namespace, store: StateStore) -> int:
    waiting = _selected(pending(await store.pins(args.upstream)), args.name, None)
    if args.json:
        _print_json({"waiting": [_waiting_row(one) for one in waiting]})
        return OK
    if not waiting:
        print("nothing waits")
    for one in waiting:
        _print_diff(one)
    return OK


async def _accept(args: argparse.Namespace, store: StateStore) -> int:
    if bool(args.name) == args.all:
        raise CommandFailed("say which: a name, or --all", CANNOT)
    waiting = _selected(pending(await store.pins(args.upstream)), args.name, args.kind)
    if not waiting:
        raise CommandFailed(f"nothing such waits: see `interlock pins list {args.upstream}`", NOT_AS_IT_SHOULD_BE)
    if args.name and len(waiting) > 1:
        raise CommandFailed(f"{args.name!r} is more than one kind: add --kind", CANNOT)
    _check_digest(waiting, args.digest)
    by = args.by or f"user:{getpass.getuser()}"
    await store.put_pins([accept(one, by=by, now_s=int(time.time())) for one in waiting])
    if args.json:
        _print_json({"accepted": [_waiting_row(one) for one in waiting]})
        return OK
    for one in waiting:
        _print_diff(one)
    print(f"accepted {len(waiting)} by {by}; a running gateway takes it up by itself")
    return OK


def _selected(waiting: Sequence[Pending], name: str | None, kind: str | None) -> list[Pending]:
    named = [one for one in waiting if name is None or one.candidate.name == name]
    return [one for one in named if kind is None or one.kind == kind]


def _check_digest(waiting: Sequence[Pending], expected: str) -> None:
    """The definition may have changed again since it was looked at."""
    for one in waiting:
        if not one.candidate.digest.removeprefix("sha256:").startswith(expected.removeprefix("sha256:")):
            raise CommandFailed(
                f"{one.kind} {one.candidate.name!r} is now {one.candidate.digest}: look at it again with `diff`",
                NOT_AS_IT_SHOULD_BE,
            )


def _print_diff(one: Pending) -> None:
    print(f"{one.kind} {_plain(one.candidate.name)}  {one.candidate.digest}")
    print(one.diff)


def _pin_row(pin: Pin) -> dict[str, object]:
    return {
        "kind": pin.kind,
        "name": pin.name,
        "digest": pin.digest,
        "accepted_by": pin.accepted_by,
        "accepted_s": pin.accepted_s,
    }


def _waiting_row(one: Pending) -> dict[str, object]:
    accepted = one.pin.digest if one.pin else None
    return {
        "kind": one.kind,
        "name": one.candidate.name,
        "digest": one.candidate.digest,
        "accepted_digest": accepted,
        "diff": one.diff,
    }


def _plain(text: str) -> str:
    """The name of a prompt is the upstream's choice, and a terminal obeys control characters."""
    return text if text.isprintable() else ascii(text)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
