"""`interlock models canary` and `collect`: prompts whose answers are known, asked through a gateway that runs."""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

from gateway.app.routing import CANARIES, FOLDER, outcomes_file
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK, CommandFailed
from gateway.cli.remote import Refused, Remote, add_remote, printable, remote
from gateway.cli.routes import add_route, described_route, embedder_of_routes, learners, opened, print_json
from gateway.config.tree import Settings
from gateway.embedding import EmbeddingUnavailable
from gateway.routing.collecting import (
    MAX_IN_A_ROW,
    Collecting,
    Kept,
    Known,
    NotAsked,
    Said,
    Tally,
    kept_in,
    known_prompts,
    unasked,
)
from gateway.routing.learning import MIN_LOST, MIN_OUTCOMES
from gateway.routing.ports import Outcome

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

_FILE: Final = 'lines of {"prompt": ..., "expect": REGULAR EXPRESSION}'
_GRACE_S: Final = 5.0
"""What the gateway may take beyond the longest call, to say itself that it took too long."""
_OF_PROMPT: Final = frozenset({400, 413, 422})
_SERVER_ERROR: Final = 500


def add_verbs(verbs: Verbs) -> None:
    """Mount both."""
    purpose = "ask the weak model prompts whose answers are known, through the gateway, and tell it how many were right"
    canary = _verb(verbs, "canary", purpose)
    canary.add_argument("file", type=Path, nargs="?", help=_FILE)
    canary.add_argument("--resume", action="store_true", help="ask nothing: the weak model may be used again")
    canary.set_defaults(func=_canary)
    purpose = "ask both models prompts whose answers are known, through the gateway, and keep how both did to calibrate"
    collect = _verb(verbs, "collect", purpose)
    collect.add_argument("file", type=Path, help=_FILE)
    collect.add_argument("--out", type=Path, metavar="OUTCOMES", help="add to this file (state.dir/routing/...)")
    collect.set_defaults(func=_collect)


def _verb(verbs: Verbs, name: str, purpose: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    add_remote(parser)
    add_route(parser)
    return parser


# What both do


def _read(file: Path) -> Sequence[Known]:
    try:
        return known_prompts(file)
    except ValueError as exc:
        raise CommandFailed(str(exc)) from exc
    except OSError as exc:
        raise CommandFailed(f"{file}: cannot be read: {exc.strerror}") from exc


def _gateway(args: argparse.Namespace, settings: Settings) -> Remote:
    return replace(remote(args, "dev"), timeout_s=settings.limits.call_timeout_s + _GRACE_S)


def _ask(gateway: Remote, run: str, model: str, prompt: str, **more: object) -> Said:
    # `user` makes it a question that was never asked: one from the cache would tell of the model as it was.
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "user": run, **more}
    answer = gateway.ask("POST", "/v1/chat/completions", body)
    choices, usage = answer.get("choices"), answer.get("usage")
    message = choices[0].get("message") if isinstance(choices, list) and choices else None
    text = str(message.get("content") or "") if isinstance(message, Mapping) else ""
    tokens = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    return Said(text, tokens if isinstance(tokens, int) else 0)


# Canaries


def _canary(args: argparse.Namespace) -> int:
    settings, models = opened(args)
    name, described = described_route(models.catalogue, args.route)
    place = settings.state.dir / FOLDER / CANARIES
    if args.resume:
        _append(place, {"route": name, "resume": True, "at_s": int(time.time())})
        print(f"{name}: the weak model may be used again")
        return OK
    if args.file is None:
        raise CommandFailed("give the file of canaries, or --resume")
    prompts = _read(args.file)
    ask = functools.partial(_ask, _gateway(args, settings), f"interlock-canary-{uuid.uuid4().hex}", described.weak)
    passed = sum(known.right(ask(known.prompt, temperature=0).text) for known in prompts)
    told = {"route": name, "weak": described.weak, "passed": passed, "total": len(prompts), "at_s": int(time.time())}
    _append(place, told)
    if args.json:
        return print_json(told)
    print(f"{name}: {passed} of {len(prompts)} canaries pass with {described.weak}")
    return OK


def _append(path: Path, value: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")


# Outcomes to calibrate with


def _collect(args: argparse.Namespace) -> int:
    settings, models = opened(args)
    name, described = described_route(models.catalogue, args.route)
    learners()  # without them nobody could learn from what is paid for here
    prompts, gateway, embedder = _read(args.file), _gateway(args, settings), embedder_of_routes()
    place: Path = args.out or outcomes_file(settings, name)
    if args.out is None:
        place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with kept_in(place, embedder.name, (described.weak, described.strong)) as kept:
            todo = anyio.run(unasked, prompts, kept, embedder)
            _tell(f"{len(todo)} of {len(prompts)} prompts are to be asked; the outcomes go to {place}")
            ask = functools.partial(_asked, gateway, f"interlock-collect-{uuid.uuid4().hex}")
            ended = _run(Collecting(kept, ask, _tell), todo)
    except (ValueError, EmbeddingUnavailable) as exc:
        raise CommandFailed(str(exc)) from exc
    except OSError as exc:
        raise CommandFailed(f"{place}: {exc.strerror}") from exc
    return _collected(args, name, place, kept, ended)


def _asked(gateway: Remote, run: str, model: str, prompt: str) -> Said:
    """No temperature: models that reason take none, and most callers leave it to the model."""
    try:
        return _ask(gateway, run, model, prompt)
    except Refused as exc:
        if exc.code == CANNOT and exc.status < _SERVER_ERROR:  # no such key, no such gateway: no prompt will do better
            raise
        raise NotAsked(f"{model}: {exc}", of_prompt=exc.status in _OF_PROMPT) from exc


def _run(job: Collecting, todo: Sequence[tuple[Known, Outcome]]) -> Tally:
    try:
        if not job.run(todo):
            _tell(f"{MAX_IN_A_ROW} prompts in a row could not be asked: the others were not tried")
    except (KeyboardInterrupt, CommandFailed):
        if job.kept.count:
            _tell(f"{job.kept.count} outcomes are kept; the same command goes on from there")
        raise
    return job.tally


def _tell(words: str) -> None:
    print(printable(f"collect: {words}"), file=sys.stderr, flush=True)


def _collected(args: argparse.Namespace, name: str, place: Path, kept: Kept, tally: Tally) -> int:
    missing = {"outcomes": max(0, MIN_OUTCOMES - kept.count), "only_strong": max(0, MIN_LOST - kept.lost)}
    weak, strong = kept.models
    told = {"route": name, "weak": weak, "strong": strong, "asked": tally.asked, **asdict(tally)}
    code = NOT_AS_IT_SHOULD_BE if tally.left_out else OK
    if args.json:
        print_json({**told, "file": str(place), "outcomes": kept.count, "missing": missing})
        return code
    print(f"{name}: {tally.asked} prompts answered by {weak} and {strong}, with {tally.tokens} tokens")
    print(f"right: both {tally.both}, only {strong} {tally.only_strong}, only {weak} {tally.only_weak}", end="")
    print(f", neither {tally.neither}; left out {tally.left_out}")
    print(f"{place}: {kept.count} outcomes")
    print(f"next: {_next(args, missing, tally)}")
    return code


def _next(args: argparse.Namespace, missing: Mapping[str, int], tally: Tally) -> str:
    again = "this command again for those that were left out; " if tally.left_out else ""
    needed = [
        f"{missing['outcomes']} more outcomes ({MIN_OUTCOMES} in all)" if missing["outcomes"] else "",
        f"{missing['only_strong']} more that only the strong model gets right ({MIN_LOST} in all)"
        if missing["only_strong"]
        else "",
    ]
    file = f" {args.out}" if args.out else ""
    calibrate = f"`interlock models calibrate{file} --route {args.route}`"
    wanted = " and ".join(each for each in needed if each)
    return f"{again}{wanted} are needed for {calibrate}" if wanted else f"{again}{calibrate}"
