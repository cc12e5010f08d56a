"""`interlock agents`: which A2A agents there are, what their cards say, and a person's yes to a new one."""

from __future__ import annotations

import argparse
import getpass
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

from adapters.stores.sql import open_store
from gateway import codec
from gateway.a2a.directory import AgentEntry
from gateway.app.cards import judged
from gateway.cli.cards import fetched, remedy_for
from gateway.cli.files import content, replace
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK, CommandFailed, Commands
from gateway.cli.options import add_config, config_path
from gateway.config.reading import load, loads
from gateway.config.tree import Agent, Settings
from gateway.errors import ConfigError, InterlockError
from gateway.ports import Pin, StateStore
from gateway.registry import Mode
from gateway.registry.card_pins import accepted_card, waiting_card
from gateway.registry.pins import Pending, accept

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

MAX_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Desk:
    """What a verb works with."""

    args: argparse.Namespace
    path: Path
    settings: Settings


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one agent."""

    name: str
    spec: Agent
    pin: Pin | None
    waiting: Pending | None
    shown: AgentEntry | None = None
    fault: str = ""

    @property
    def state(self) -> str:
        """`accepted`, `waits` (a changed or new card that nobody accepted), `down`, or `new`: never seen."""
        if self.fault:
            return "down"
        if self.waiting is not None:
            return "waits"
        return "accepted" if self.pin is not None else "new"


_Verb: TypeAlias = Callable[[Desk], Awaitable[int]]


def add_parser(commands: Commands) -> None:
    """Mount the command and its four verbs."""
    agents = commands.add_parser("agents", help="show, add and accept A2A agents")
    verbs = agents.add_subparsers(required=True, metavar="VERB")
    listing = _verb(verbs, "list", "every configured agent, with the state of its card", _list)
    listing.add_argument("--fetch", action="store_true", help="ask each agent for its card now")
    show = _verb(verbs, "show", "what the card of an agent says, and what of it waits", _show)
    show.add_argument("name", help="its name in the configuration")
    show.add_argument("--fetch", action="store_true", help="ask the agent for its card now")
    add = _verb(verbs, "add", "look at the card of an agent, and put it into the configuration", _add)
    add.add_argument("name", help="the name that callers are to know it by")
    add.add_argument("card_url", metavar="CARD_URL", help="the address of its card")
    yes = _verb(verbs, "accept", "put the card that waits in force", _accept)
    yes.add_argument("name", help="its name in the configuration")
    yes.add_argument("--digest", default="", help="refuse unless the digest of the card that waits begins so")
    yes.add_argument("--by", default="", help="who accepts (default: the user of this shell)")


def _verb(verbs: Verbs, name: str, purpose: str, verb: _Verb) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=purpose)
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=_run, verb=verb)
    return parser


def _run(args: argparse.Namespace) -> int:
    path = config_path(args)
    verb: _Verb = args.verb
    return anyio.run(verb, Desk(args, path, load(path)))


# Verbs


async def _list(desk: Desk) -> int:
    rows = await _rows(desk, tuple(desk.settings.agents), fetch=desk.args.fetch)
    if desk.args.json:
        _print_json({"agents": [_as_json(row) for row in rows]})
        return OK
    for row in rows:
        print(f"{row.name:20} {row.state:9} {_plain(_title(row))}  {_plain(row.spec.card_url)}{_because(row)}")
    if not rows:
        print("no agent yet: add one with `interlock agents add NAME CARD_URL`")
    return OK


async def _show(desk: Desk) -> int:
    row = (await _rows(desk, (_known(desk, desk.args.name),), fetch=desk.args.fetch))[0]
    if desk.args.json:
        _print_json(_as_json(row) | {"card": _card(row), "diff": row.waiting.diff if row.waiting else ""})
        return OK
    print(f"{row.name}: {row.state}{_because(row)}")
    print(f"  card     {_plain(row.spec.card_url)}")
    for line in _summary(_card(row)) or [f"its card was never seen{'' if desk.args.fetch else ': try --fetch'}"]:
        print(f"  {line}")
    if row.fault:
        print("`interlock doctor` says what to do")
    if row.pin is not None:
        print(f"  accepted by {_plain(row.pin.accepted_by) or '-'}  {row.pin.digest}")
    if row.waiting is not None:
        print(f"  waits    {row.waiting.candidate.digest}\n{row.waiting.diff}")
        print(f"accept it with `interlock agents accept {row.name}`")
    return OK


async def _add(desk: Desk) -> int:
    name, url = desk.args.name, desk.args.card_url
    if name in desk.settings.agents or name in desk.settings.upstreams:
        raise CommandFailed(f"there is a {name!r} in {desk.path} already: choose another name", CANNOT)
    before = content(desk.path) or b""
    after = _with_agent(before, name, url)
    spec = loads(after.decode(), desk.path.parent).agents[name]
    try:
        entry = await fetched(name, spec)
    except (InterlockError, ConfigError) as exc:
        raise CommandFailed(f"agent {name!r} is not added: {exc}; {remedy_for(exc, url)}", CANNOT) from exc
    card = json.loads(codec.jcs(entry.card))
    replace(desk.path, before, after)
    if desk.args.json:
        _print_json({"added": name, "card_url": url, "digest": entry.digest, "signed_by": entry.signed_by})
        return OK
    for line in _summary(card):
        print(line)
    print(
        f"signed by {_plain(entry.signed_by)}" if entry.signed_by else "not signed: it is trusted as it is seen first"
    )
    print(f"added [agents.{name}] to {desk.path}; a running gateway takes it up by itself")
    return OK


async def _accept(desk: Desk) -> int:
    name = _known(desk, desk.args.name)
    async with _store(desk) as store:
        waiting = waiting_card(await store.pins(name))
        if waiting is None:
            raise CommandFailed(f"no card of agent {name!r} waits: see `interlock agents list`", NOT_AS_IT_SHOULD_BE)
        _check_digest(waiting, desk.args.digest)
        by = desk.args.by or f"user:{getpass.getuser()}"
        await store.put_pins([accept(waiting, by=by, now_s=int(time.time()))])
    if desk.args.json:
        _print_json({"accepted": name, "digest": waiting.candidate.digest, "by": by, "diff": waiting.diff})
        return OK
    print(waiting.diff)
    print(f"accepted the card of {name} by {by}; a running gateway takes it up by itself")
    return OK


# What is known


async def _rows(desk: Desk, names: Sequence[str], *, fetch: bool) -> list[Row]:
    async with _store(desk) as store:
        seen = await _all_fetched(desk, names, store) if fetch else {}
        rows = []
        for name in names:
            pins = await store.pins(name)
            shown, fault = seen.get(name, (None, ""))
            spec = desk.settings.agents[name]
            rows.append(Row(name, spec, accepted_card(pins), waiting_card(pins), shown, fault))
    return rows


async def _all_fetched(
    desk: Desk, names: Sequence[str], store: StateStore
) -> Mapping[str, tuple[AgentEntry | None, str]]:
    seen: dict[str, tuple[AgentEntry | None, str]] = {}
    limiter = anyio.CapacityLimiter(MAX_AT_ONCE)

    async def ask(name: str) -> None:
        spec = desk.settings.agents[name]

        async def judge(entry: AgentEntry) -> AgentEntry:
            mode: Mode = spec.pin
            return await judged(store, entry, mode, now_s=int(time.time()))

        async with limiter:
            try:
                seen[name] = (await fetched(name, spec, judge), "")
            except (InterlockError, ConfigError) as exc:
                seen[name] = (None, str(exc))

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(ask, name)
    return seen


def _known(desk: Desk, name: str) -> str:
    if name not in desk.settings.agents:
        known = ", ".join(desk.settings.agents) or "none"
        raise CommandFailed(f"no agent {name!r} is configured in {desk.path}; there are: {known}", CANNOT)
    return name


def _check_digest(waiting: Pending, expected: str) -> None:
    """The card may have changed again since it was looked at."""
    if not waiting.candidate.digest.removeprefix("sha256:").startswith(expected.removeprefix("sha256:")):
        raise CommandFailed(
            f"the card that waits is now {waiting.candidate.digest}: look at it again with `agents show`",
            NOT_AS_IT_SHOULD_BE,
        )


@asynccontextmanager
async def _store(desk: Desk) -> AsyncIterator[StateStore]:
    state = desk.settings.state
    store = await open_store(state.address(), data_dir=state.dir, clock_s=time.time)
    try:
        yield store
    finally:
        await store.aclose()


def _with_agent(before: bytes, name: str, card_url: str) -> bytes:
    """The file with one more section at its end; all that was there stays as it was."""
    section = (
        f"[agents.{name}]\ncard_url = {json.dumps(card_url, ensure_ascii=False)}\n"  # a JSON string is a TOML string
    )
    gap = b"" if not before else b"\n" if before.endswith(b"\n") else b"\n\n"
    return before + gap + section.encode()


# What is printed


def _card(row: Row) -> Mapping[str, object]:
    """The card as it is shown now, or as it was accepted, or as it waits."""
    if row.shown is not None:
        return dict(json.loads(codec.jcs(row.shown.card)))
    pin = row.pin or (row.waiting.candidate if row.waiting else None)
    value = codec.loads(pin.definition) if pin is not None else {}
    card = value.get("card") if isinstance(value, dict) else None
    return card if isinstance(card, dict) else {}


def _summary(card: Mapping[str, object]) -> list[str]:
    lines = [f"{label:8} {_plain(str(card.get(label) or '-'))}" for label in ("name", "version", "description")]
    for one in _objects(card.get("supportedInterfaces")):
        words = (one.get("protocolBinding"), one.get("protocolVersion"), one.get("url"))
        lines.append("reached  " + "  ".join(_plain(str(word)) for word in words))
    for skill in _objects(card.get("skills")):
        lines.append(f"skill    {_plain(str(skill.get('id')))}: {_plain(str(skill.get('name')))}")
    return lines if card else []


def _objects(value: object) -> list[Mapping[str, object]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list | tuple) else []


def _title(row: Row) -> str:
    return str(_card(row).get("name") or "-")


def _because(row: Row) -> str:
    return f"  ({_plain(row.fault)})" if row.fault else ""


def _as_json(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "state": row.state,
        "card_url": row.spec.card_url,
        "title": _title(row),
        "digest": row.pin.digest if row.pin else None,
        "waiting_digest": row.waiting.candidate.digest if row.waiting else None,
        "accepted_by": row.pin.accepted_by if row.pin else None,
        "signed_by": row.shown.signed_by if row.shown else None,
        "fault": row.fault,
    }


def _plain(text: str) -> str:
    """What a card says is the upstream's choice, and a terminal obeys control characters."""
    return text if text.isprintable() else ascii(text)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
