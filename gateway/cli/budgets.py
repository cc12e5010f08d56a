"""`interlock budgets`: see what was spent of which budget in a running gateway, and begin one anew."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from gateway.cli.main import OK, Commands
from gateway.cli.remote import Object, Remote, printable
from gateway.cli.verbs import add_verb, print_json

_ROLE: Final = "operator"
_UNITS: Final = ("usd", "tokens", "calls", "seconds")


def add_parser(commands: Commands) -> None:
    """Mount the command and its three verbs."""
    purpose = "see what was spent of which budget, and begin one anew"
    verbs = commands.add_parser("budgets", help=purpose).add_subparsers(required=True, metavar="VERB")
    listing = add_verb(verbs, "list", "the budgets that you spend, those used last first", _list, _ROLE)
    listing.add_argument("--all", action="store_true", help="everybody's, where policy allows you that")
    show = add_verb(
        verbs, "show", "one budget: its limits, what was spent, and what calls in flight hold", _show, _ROLE
    )
    reset = add_verb(verbs, "reset", "begin a budget anew: nothing of it is spent", _reset, _ROLE)
    for parser in (show, reset):
        parser.add_argument("id", help="as `list` shows it, and the message of who met its limit")


def _list(args: argparse.Namespace, gateway: Remote) -> int:
    answer = gateway.ask("GET", "/budgets?scope=all" if args.all else "/budgets")
    if args.json:
        return print_json(answer)
    listed = answer.get("budgets")
    budgets = [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    for budget in budgets:
        print(printable(_line(budget)))
    if not budgets:
        print("nothing was charged to a budget" + ("" if args.all else " of yours"))
    return OK


def _show(args: argparse.Namespace, gateway: Remote) -> int:
    budget = gateway.ask("GET", f"/budgets/{quote(args.id, safe='')}")
    return print_json(budget) if args.json else _describe(budget)


def _reset(args: argparse.Namespace, gateway: Remote) -> int:
    budget = gateway.ask("POST", f"/budgets/{quote(args.id, safe='')}/reset")
    return print_json(budget) if args.json else _describe(budget)


def _line(budget: Mapping[str, object]) -> str:
    limits, spent = _numbers(budget, "limits"), _numbers(budget, "spent")
    parts = [f"{_plain(spent.get(unit, 0))} of {_plain(limits[unit])} {unit}" for unit in _UNITS if unit in limits]
    near = "  <- near its limit" if budget.get("warns") else ""
    return f"{budget.get('id')}  {_title(budget)}  {', '.join(parts)}{near}"


def _title(budget: Mapping[str, object]) -> str:
    name = f"{budget['name']!r} of " if budget.get("name") else ""
    window = f" per {budget['window_s']} s" if budget.get("window_s") else ""
    return f"{name}{budget.get('scope')} {budget.get('holder') or '(nobody)'}{window}"


def _describe(budget: Object) -> int:
    limits, spent, held = (_numbers(budget, part) for part in ("limits", "spent", "held"))
    print(printable(f"{budget.get('id')}  {_title(budget)}"))
    for unit in _UNITS:
        limit = f" of {_plain(limits[unit])}" if unit in limits else ""
        holds = f", {_plain(held[unit])} held by calls in flight" if held.get(unit) else ""
        print(f"{unit}: {_plain(spent.get(unit, 0))}{limit}{holds}")
    print(f"window ends: {_when(budget.get('ends_s'))}")
    print(printable(f"who can raise it: {budget.get('owner') or 'the owner of the rule that sets it'}"))
    return OK


def _plain(value: float) -> str:
    """A number as people write it: calls of models cost millionths of a dollar."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _when(ends_s: object) -> str:
    return datetime.fromtimestamp(ends_s, UTC).isoformat() if isinstance(ends_s, int) and ends_s else "never"


def _numbers(budget: Mapping[str, object], name: str) -> dict[str, float]:
    member = budget.get(name)
    found = member.items() if isinstance(member, Mapping) else ()
    return {str(unit): value for unit, value in found if isinstance(value, int | float)}
