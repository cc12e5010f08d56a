"""`interlock kill`: stop a subject, an agent, an upstream, a tool or everything, in a running gateway, at once."""

from __future__ import annotations

import argparse
from typing import Final

from gateway.cli.main import OK, Commands
from gateway.cli.remote import Remote, printable
from gateway.cli.verbs import add_verb, print_json

_ROLE: Final = "operator"
_KINDS: Final = ("subject", "agent", "upstream", "tool", "everything")
_WHICH: Final = "user:ana, agent:bot, warehouse (an upstream), warehouse/query (a tool); nothing for everything"


def add_parser(commands: Commands) -> None:
    """Mount the command and its three verbs."""
    purpose = "stop a subject, an agent, an upstream, a tool or everything, at once"
    kill = commands.add_parser("kill", help=purpose)
    verbs = kill.add_subparsers(required=True, metavar="VERB")
    add_verb(verbs, "list", "the kill switches that are set", _list, _ROLE)
    put = add_verb(verbs, "set", "stop it: no new call, and the calls in flight end", _set, _ROLE)
    put.add_argument("--reason", default="", help="why, for those who find it stopped")
    clear = add_verb(verbs, "clear", "let it go on", _clear, _ROLE)
    for parser in (put, clear):
        parser.add_argument("kind", choices=_KINDS)
        parser.add_argument("value", nargs="?", default="", help=_WHICH)


def _list(args: argparse.Namespace, gateway: Remote) -> int:
    answer = gateway.ask("GET", "/switches")
    if args.json:
        return print_json(answer)
    switches = answer.get("switches")
    for switch in switches if isinstance(switches, list) else []:
        what = f"{switch['kind']} {switch['value']}".strip()
        why = f": {switch['reason']}" if switch["reason"] else ""
        print(printable(f"{what}  set by {switch['set_by']}{why}"))
    if not switches:
        print("no kill switch is set")
    return OK


def _set(args: argparse.Namespace, gateway: Remote) -> int:
    body = {"kind": args.kind, "value": args.value, "reason": args.reason}
    answer = gateway.ask("PUT", "/switches", body)
    if args.json:
        return print_json(answer)
    print(printable(f"{_named(args)} is stopped; calls in flight that were ended: {answer.get('ended')}"))
    return OK


def _clear(args: argparse.Namespace, gateway: Remote) -> int:
    answer = gateway.ask("DELETE", "/switches", {"kind": args.kind, "value": args.value})
    if args.json:
        return print_json(answer)
    print(printable(f"{_named(args)} may go on"))
    return OK


def _named(args: argparse.Namespace) -> str:
    return f"{args.kind} {args.value}".strip()
