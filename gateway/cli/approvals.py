"""`interlock approvals`: see which calls wait for people, and decide on them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

from gateway.cli.main import OK, CommandFailed, Commands
from gateway.cli.remote import Object, Remote, printable
from gateway.cli.verbs import Verbs, add_verb, print_json
from gateway.cli.webhook_secret import add_webhook_secret

_ROLE: Final = "WHOM-THE-HOLD-ASKS"
_STATES: Final = ("pending", "approved", "denied", "spent", "withdrawn")


def add_parser(commands: Commands) -> None:
    """Mount the command and its verbs."""
    approvals = commands.add_parser("approvals", help="see which calls wait for people, and decide on them")
    verbs = approvals.add_subparsers(required=True, metavar="VERB")
    listing = add_verb(verbs, "list", "the calls that wait: yours, and those that you are asked about", _list, _ROLE)
    listing.add_argument("--state", choices=(*_STATES, "any"), default="pending", help="which (default: pending)")
    listing.add_argument("--all", action="store_true", help="everybody's, where policy allows you that")
    show = add_verb(verbs, "show", "who wants what, with which arguments, and why policy holds it", _show, _ROLE)
    show.add_argument("id", help="as `list` shows it")
    _add_approve(verbs)
    deny = add_verb(verbs, "deny", "say no, for good", _deny, _ROLE)
    deny.add_argument("id", help="as `list` shows it")
    deny.add_argument("--reason", required=True, help="why; the caller is told")
    grants = add_verb(verbs, "grants", "the standing grants that hold", _grants, _ROLE)
    grants.add_argument("--all", action="store_true", help="everybody's, where policy allows you that")
    grants.add_argument("--drop", default="", metavar="ID", help="end this one")
    add_webhook_secret(verbs)


def _add_approve(verbs: Verbs) -> None:
    approve = add_verb(verbs, "approve", "agree to a call, as it is or with other arguments", _approve, _ROLE)
    approve.add_argument("id", help="as `list` shows it")
    approve.add_argument("--reason", default="", help="why, for the record")
    approve.add_argument("--arguments", default="", metavar="JSON|@FILE", help="agree to these arguments instead")
    approve.add_argument("--seen", default="", metavar="DIGEST", help="what you agree to, as `show` names it")
    approve.add_argument("--uses", type=int, default=0, metavar="N", help="agree to N more calls like it")
    approve.add_argument("--for-s", type=int, default=0, metavar="SECONDS", help="for so long (with --uses)")
    approve.add_argument("--idle-s", type=int, default=0, metavar="SECONDS", help="and while it is used so often")
    approve.add_argument("--any-arguments", action="store_true", help="whatever their arguments are (with --uses)")


# Verbs


def _list(args: argparse.Namespace, gateway: Remote) -> int:
    state = "" if args.state == "any" else args.state
    query = urlencode({name: value for name, value in (("state", state), ("scope", _scope(args))) if value})
    answer = gateway.ask("GET", f"/approvals?{query}" if query else "/approvals")
    if args.json:
        return print_json(answer)
    tickets = _objects(answer.get("approvals"))
    for ticket in tickets:
        print(_line(ticket))
    if not tickets:
        print("nothing waits" if args.state == "pending" else "there are none")
    return OK


def _show(args: argparse.Namespace, gateway: Remote) -> int:
    ticket = gateway.ask("GET", _path(args.id))
    return print_json(ticket) if args.json else _describe(ticket)


def _approve(args: argparse.Namespace, gateway: Remote) -> int:
    body: Object = {"reason": args.reason, "seen": args.seen} if args.seen else {"reason": args.reason}
    if args.arguments:
        body["arguments"] = _arguments(args.arguments)
    if args.uses:
        numbers = {"uses": args.uses, "expires_s": args.for_s, "idle_s": args.idle_s}
        said = {name: value for name, value in numbers.items() if value}
        body["standing"] = {**said, "any_arguments": args.any_arguments}
    elif args.any_arguments or args.for_s or args.idle_s:
        raise CommandFailed("--for-s, --idle-s and --any-arguments are for a standing grant: say how often with --uses")
    return _voted(args, gateway.ask("POST", f"{_path(args.id)}/approve", body))


def _deny(args: argparse.Namespace, gateway: Remote) -> int:
    return _voted(args, gateway.ask("POST", f"{_path(args.id)}/deny", {"reason": args.reason}))


def _grants(args: argparse.Namespace, gateway: Remote) -> int:
    if args.drop:
        answer = gateway.ask("DELETE", f"/approvals/grants/{quote(args.drop, safe='')}")
        return print_json(answer) if args.json else _said(f"grant {args.drop} is over")
    answer = gateway.ask("GET", f"/approvals/grants?scope={_scope(args) or 'mine'}")
    if args.json:
        return print_json(answer)
    grants = _objects(answer.get("grants"))
    for grant in grants:
        what = f"{grant.get('action')} {_member(grant, 'resource', 'id')}"
        which = "any arguments" if grant.get("any_arguments") else "the same arguments"
        who = _member(grant, "subject", "id")
        print(printable(f"{grant.get('id')}  {grant.get('uses_left')} uses left  {who}  {what} ({which})"))
    return OK if grants else _said("no standing grant holds")


# Words


def _line(ticket: Object) -> str:
    what = f"{ticket.get('title')} [{ticket.get('action')} {_member(ticket, 'resource', 'id')}]"
    yours = "  <- you are asked" if ticket.get("may_vote") else ""
    who, left = ticket.get("requester"), ticket.get("left_s")
    return printable(f"{ticket.get('id')}  {ticket.get('state')}  {who}  {what}  {left} s left") + yours


def _describe(ticket: Object) -> int:
    print(_line(ticket))
    print(printable(f"who: {' for '.join(map(str, _list_of(ticket.get('subjects'))))}"))
    others = (("meta", "meta"), ("params", "other parameters"), ("edited", "an approver's arguments instead"))
    for name, label in (("arguments", "arguments"), *others):
        if ticket.get(name) is not None:
            print(f"{label}: {_json(ticket[name])}")
    for name, label in (("request", "policy asks"), ("catalog", "what it can reach"), ("labels", "session labels")):
        print(f"{label}: {_json(ticket.get(name))}")
    if ticket.get("standing") is not None:
        print(f"a standing grant is proposed: {_json(ticket['standing'])}")
    for number, stage in enumerate(_objects(ticket.get("stages")), 1):
        votes = [f"{vote.get('approver')}: {vote.get('verdict')}" for vote in _objects(stage.get("votes"))]
        said = ", ".join(votes) or "nobody yet"
        print(printable(f"stage {number}: {stage.get('quorum')} of {stage.get('approvers')} ({said})"))
    print(printable(f"seen: {ticket.get('agreeing_to')}"))
    print(printable(f"page: {ticket.get('url')}"))
    return OK


def _voted(args: argparse.Namespace, ticket: Object) -> int:
    if args.json:
        return print_json(ticket)
    grant = f"; standing grant {ticket['grant_id']}" if ticket.get("grant_id") else ""
    waits = "; it waits for more people" if ticket.get("state") == "pending" else ""
    return _said(f"{ticket.get('id')} is {ticket.get('state')}{grant}{waits}")


def _said(words: str) -> int:
    print(printable(words))
    return OK


def _arguments(text: str) -> object:
    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except ValueError as exc:
        raise CommandFailed(f"--arguments is not JSON: {exc}") from exc


def _path(ticket_id: str) -> str:
    return f"/approvals/{quote(ticket_id, safe='')}"


def _scope(args: argparse.Namespace) -> str:
    return "all" if args.all else ""


def _member(value: Object, name: str, inner: str) -> object:
    member = value.get(name)
    return member.get(inner, "") if isinstance(member, Mapping) else ""


def _list_of(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


def _objects(value: object) -> list[Object]:
    return [dict(item) for item in _list_of(value) if isinstance(item, Mapping)]


def _json(value: object) -> str:
    return json.dumps(value, indent=2)  # ASCII only, so that no terminal obeys it
