"""`interlock keys`: make an API key (shown this once), list them, revoke one."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

from adapters.stores.sql import open_store
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed, Commands
from gateway.identity.keys import mint
from gateway.ports import ApiKey, StateStore
from gateway.types import Entity

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

_Action: TypeAlias = Callable[[argparse.Namespace, StateStore], Awaitable[int]]

_SUBJECT = re.compile(r"(user|agent|service):[^\s:][^\s]{0,254}")
_DURATION = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
_SECONDS: Final = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def add_parser(commands: Commands) -> None:
    """Mount the command and its three verbs."""
    keys = commands.add_parser("keys", help="make, list and revoke API keys")
    verbs = keys.add_subparsers(required=True, metavar="VERB")
    create = _verb(verbs, "create", "make a key and print it, once", _create)
    create.add_argument("--subject", required=True, type=_subject, help="who it speaks for: user:ana, agent:bot, ...")
    create.add_argument("--role", action="append", default=[], help="a role that policy knows; may be repeated")
    create.add_argument("--scope", action="append", default=[], help="a scope; may be repeated")
    create.add_argument("--tenant", default="", help="the tenant of the subject")
    create.add_argument("--expires", type=_duration_s, default=0, metavar="30d", help="lifetime: m, h, d or w")
    _verb(verbs, "list", "every key, without its secret", _list)
    revoke = _verb(verbs, "revoke", "make a key useless, for good", _revoke)
    revoke.add_argument("id", help="as `list` shows it")


async def create_key(
    store: StateStore,
    *,
    subject: Entity,
    now_s: int,
    roles: Sequence[str] = (),
    scopes: Sequence[str] = (),
    tenant: str = "",
    expires_s: int = 0,
) -> tuple[ApiKey, str]:
    """Make a key and keep its hash; the text is what its owner is shown, once. `expires_s` is a time, 0 never."""
    key, text = mint(subject, now_s=now_s, roles=roles, scopes=scopes, tenant=tenant, expires_s=expires_s)
    await store.put_key(key)
    return key, text


def _verb(verbs: Verbs, name: str, purpose: str, action: _Action) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=purpose)
    parser.add_argument("--data", type=Path, default=Path(".interlock"), metavar="DIR", help="the data directory")
    parser.add_argument("--url", default="", metavar="URL", help="the state database, where it is not in DIR")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=_run, action=action)
    return parser


def _run(args: argparse.Namespace) -> int:
    return anyio.run(_with_store, args)


async def _with_store(args: argparse.Namespace) -> int:
    store = await open_store(args.url, data_dir=args.data, clock_s=time.time)
    try:
        action: _Action = args.action
        return await action(args, store)
    finally:
        await store.aclose()


async def _create(args: argparse.Namespace, store: StateStore) -> int:
    now_s = int(time.time())
    key, text = await create_key(
        store,
        subject=args.subject,
        now_s=now_s,
        roles=args.role,
        scopes=args.scope,
        tenant=args.tenant,
        expires_s=now_s + args.expires if args.expires else 0,
    )
    if args.json:
        _print_json({**_row(key, now_s), "key": text})
        return OK
    print(text)
    # Beside the output, so that `interlock keys create ... > bo.key` makes a file that `--key-file` takes.
    print(f"\nkey {key.id} for {key.subject_id}, {_until(key)}: keep it now, it is not shown again", file=sys.stderr)
    return OK


async def _list(args: argparse.Namespace, store: StateStore) -> int:
    now_s = int(time.time())
    keys = await store.keys()
    if args.json:
        _print_json({"keys": [_row(key, now_s) for key in keys]})
        return OK
    for key in keys:
        print(f"{key.id}  {_state(key, now_s):8}{key.subject_id}  {_until(key)}{_rights(key)}")
    if not keys:
        print("no key yet: make one with `interlock keys create --subject user:NAME --role ROLE`")
    return OK


async def _revoke(args: argparse.Namespace, store: StateStore) -> int:
    if not await store.revoke_key(args.id, int(time.time())):
        raise CommandFailed(f"no valid key has the id {args.id!r}: see `interlock keys list`", NOT_AS_IT_SHOULD_BE)
    if args.json:
        _print_json({"revoked": args.id})
        return OK
    print(f"revoked {args.id}; a running gateway refuses it within a second or so")
    return OK


def _subject(text: str) -> Entity:
    match = _SUBJECT.fullmatch(text)
    if match is None or not text.isprintable():
        raise argparse.ArgumentTypeError("write it as user:NAME, agent:NAME or service:NAME")
    return Entity(match[1], text)


def _duration_s(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError("write a number and m, h, d or w, as in 30d")
    return int(match[1]) * _SECONDS[match[2]]


def _state(key: ApiKey, now_s: int) -> str:
    if key.revoked_s:
        return "revoked"
    return "expired" if 0 < key.expires_s <= now_s else "valid"


def _until(key: ApiKey) -> str:
    return f"until {datetime.fromtimestamp(key.expires_s, UTC).isoformat()}" if key.expires_s else "without expiry"


def _rights(key: ApiKey) -> str:
    named = {"roles": ",".join(key.roles), "scopes": ",".join(key.scopes), "tenant": key.tenant}
    return "".join(f"  {name}={value}" for name, value in named.items() if value)


def _row(key: ApiKey, now_s: int) -> dict[str, object]:
    return {
        "id": key.id,
        "state": _state(key, now_s),
        "subject": key.subject_id,
        "roles": key.roles,
        "scopes": key.scopes,
        "tenant": key.tenant,
        "created_s": key.created_s,
        "expires_s": key.expires_s,
        "revoked_s": key.revoked_s,
    }


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
