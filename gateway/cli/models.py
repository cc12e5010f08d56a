"""`interlock models`: what models there are, which one a prompt goes to and why, and what routes saved."""

from __future__ import annotations

import argparse
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

from gateway.app.routing import outcomes_file, read_router, router_file
from gateway.audit.reader import Filter
from gateway.audit.report import Unverifiable
from gateway.audit.segment import read_rows_backwards, reading, segment_paths
from gateway.audit.verify import read_entry
from gateway.cli.known_answers import add_verbs
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed, Commands
from gateway.cli.options import add_config, config_path
from gateway.cli.remote import printable
from gateway.cli.routes import add_route, described_route, embedder_of_routes, learners, opened, print_json, without
from gateway.config.models import Route
from gateway.config.reading import load
from gateway.embedding import Embedder, EmbeddingUnavailable
from gateway.models import Alias, parse_name
from gateway.routing.files import BadRouterFile, Loaded, save
from gateway.routing.gain import Choice, GainRouter
from gateway.routing.guard import QualityGuard
from gateway.routing.learning import TooFewOutcomes, Trained, train
from gateway.routing.outcomes import Pair, embedded, read_lines
from gateway.routing.ports import Outcome
from gateway.routing.reporting import in_words, report_of
from gateway.routing.routed import FAST, PREFERENCES
from gateway.routing.tables import judged_table
from gateway.routing.tasks import task_of_text
from gateway.types import Resource

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

_SPAN: Final = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_USD: Final = "usd_per_mtok_"


def add_parser(commands: Commands) -> None:
    """Mount the command and its verbs."""
    purpose = "models and routes: list, explain, collect, calibrate, canary, report"
    verbs = commands.add_parser("models", help=purpose).add_subparsers(required=True, metavar="VERB")
    _verb(verbs, "list", "the models and routes of models.toml").set_defaults(func=_list)
    route = _verb(verbs, "route", "which model a prompt goes to, and why; nothing is asked of any model")
    route.set_defaults(func=_route)
    route.add_argument("--explain", required=True, metavar="TEXT", help="the prompt (- reads it from the input)")
    calibrate = _verb(verbs, "calibrate", "teach a route from judged answers, and measure what it keeps")
    calibrate.set_defaults(func=_calibrate)
    judged = "CSV (prompt, weak_correct, strong_correct, task) or outcomes (those that were collected)"
    calibrate.add_argument("file", type=Path, nargs="?", help=judged)
    for parser in (route, calibrate):
        add_route(parser)
    report = _verb(verbs, "report", "what routes cost, against the strong model alone, from the audit log")
    report.set_defaults(func=_report)
    report.add_argument("--since", default="", metavar="SPAN", help="only the last 90m, 24h, 7d, ... (all)")
    add_verbs(verbs)


def _verb(verbs: Verbs, name: str, purpose: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _list(args: argparse.Namespace) -> int:
    settings, models = opened(args)
    routes = {name: each.model_dump(mode="json") for name, each in models.catalogue.routes.items()}
    for name, each in models.catalogue.routes.items():
        routes[name]["calibrated"] = router_file(settings, name, each).is_file()
    listed = [{"id": each.id, **dict(each.catalog)} for each in models.listed()]
    if args.json:
        return print_json({"models": listed, "routes": routes})
    for resource in models.listed():
        print(printable(_line(resource)))
    for name, described in models.catalogue.routes.items():
        learned = "calibrated" if routes[name]["calibrated"] else "by heuristic, not calibrated"
        print(printable(f"{name}  weak {described.weak}, strong {described.strong}, {learned}"))
    if not listed and not routes:
        print("no models: write models.toml beside the configuration, or call provider/model")
    return OK


def _line(resource: Resource) -> str:
    catalog = resource.catalog
    prices = [catalog.get(f"{_USD}{name}") for name in ("in", "out")]
    known = all(isinstance(each, float) for each in prices)
    price = f"{prices[0]:g} and {prices[1]:g} USD for a million tokens in and out" if known else "price unknown"
    room, region = catalog.get("context_tokens") or "?", catalog.get("region") or "?"
    return f"{resource.id}  {price}, context {room}, region {region}"


# Which model, and why


def _route(args: argparse.Namespace) -> int:
    settings, models = opened(args)
    text = sys.stdin.read() if args.explain == "-" else args.explain
    name, described = described_route(models.catalogue, args.route)
    parsed = parse_name(args.route)
    if isinstance(parsed, Alias) and parsed.prefer not in ("", *PREFERENCES):
        raise CommandFailed(f"a route prefers {', '.join(PREFERENCES)}, and not {parsed.prefer}")
    asked = parsed.quality if isinstance(parsed, Alias) else None
    quality = described.quality if asked is None else asked
    if isinstance(parsed, Alias) and asked is None:
        quality = {"cheap": 0.0, "best": 1.0}.get(parsed.prefer, quality)
    if isinstance(parsed, Alias) and parsed.prefer == FAST and asked is None:
        raise CommandFailed(
            f"{args.route} goes by how soon models answered in a gateway that runs: nothing is predicted"
        )
    path = router_file(settings, name, described)
    embedder = embedder_of_routes() if path.is_file() else None
    loaded = _read(path, embedder) if embedder is not None else None
    router = GainRouter(embedder, loaded, QualityGuard())
    choice = anyio.run(router.choose, text, quality)
    return _explain(args, name, described, choice, task_of_text(text))


def _explain(args: argparse.Namespace, name: str, described: Route, choice: Choice, task: str) -> int:
    chosen = described.strong if choice.tier == "strong" else described.weak
    if args.json:
        return print_json({"route": name, "model": chosen, "task": task, **choice.as_json()})
    print(printable(f"{name} -> {chosen} ({choice.tier}): {choice.words}"))
    print(f"predictor: {choice.predictor}{f' {choice.router[:12]}' if choice.router else ''}; task: {task}")
    for title, figures in (("evidence", choice.evidence), ("features", choice.features)):
        if figures:
            print(f"{title}: " + ", ".join(f"{key} {value:g}" for key, value in figures.items()))
    print("policy, budgets, cooldowns and the watch over quality have their say when a call is made")
    return OK


def _read(path: Path, embedder: Embedder) -> Loaded:
    try:
        return read_router(path, embedder)
    except BadRouterFile as exc:
        raise CommandFailed(str(exc), NOT_AS_IT_SHOULD_BE) from exc
    except ImportError as exc:
        raise without(exc) from exc


# Teach a route


def _calibrate(args: argparse.Namespace) -> int:
    settings, models = opened(args)
    name, described = described_route(models.catalogue, args.route)
    known, embedder, path = learners(), embedder_of_routes(), router_file(settings, name, described)
    file: Path = args.file or outcomes_file(settings, name)
    if args.file is None and not file.exists():
        collect = f"`interlock models collect FILE --route {args.route}`"
        raise CommandFailed(f"{file}: no outcomes were collected yet: {collect} does it, or name a judged table")
    try:
        outcomes = anyio.run(_outcomes, file, embedder, (described.weak, described.strong))
        trained = train(outcomes, known, embedder=embedder.name, dimensions=embedder.dimensions)
    except TooFewOutcomes as exc:
        raise CommandFailed(f"{file}: {exc}; nothing was changed", NOT_AS_IT_SHOULD_BE) from exc
    except (ValueError, EmbeddingUnavailable) as exc:
        said = str(exc)
        raise CommandFailed(said if said.startswith(str(file)) else f"{file}: {said}") from exc
    except OSError as exc:
        raise CommandFailed(f"{file}: cannot be read: {exc.strerror}; name one file") from exc
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = save(trained, path)
    return _taught(args, path, sha256, trained, described)


async def _outcomes(file: Path, embedder: Embedder, models: Pair) -> Sequence[Outcome]:
    with file.open("rb") as content:
        if content.read(1) not in (b"{", b""):
            return await embedded(judged_table(file).rows, embedder)
        content.seek(0)
        lines = content.readlines()
    outcomes = list(read_lines(lines, embedder.name, models))
    if not outcomes:
        weak, strong = models
        raise ValueError(f"none of its {len(lines)} outcomes is of {weak} and {strong} with vectors of {embedder.name}")
    return outcomes


def _taught(args: argparse.Namespace, path: Path, sha256: str, trained: Trained, described: Route) -> int:
    step, found = trained.calibration.expected(described.quality), trained.scores
    told = {
        "file": str(path),
        "sha256": sha256,
        "kind": trained.predictor.kind,
        "outcomes": trained.calibration.outcomes,
        "apgr": found.apgr,
        "cpt50": found.cpt50,
        "cpt80": found.cpt80,
        "quality_asked": described.quality,
        "quality_expected": step.quality,
        "strong_share": step.share,
    }
    if args.json:
        return print_json(told)
    print(f"{path}: {trained.predictor.kind}, of {trained.calibration.outcomes} outcomes, sha256 {sha256[:12]}")
    print(f"order of unseen prompts: APGR {found.apgr:.3f} (0.5 is chance), CPT(50 %) {found.cpt50:.1%}")
    expected = f"{step.share:.1%} of the calls go to the strong model, {step.quality:.1%} of its quality is expected"
    print(f"for quality {described.quality:g}: {expected}")
    print("a gateway that runs takes it within seconds")
    return OK


# What routes saved


def _report(args: argparse.Namespace) -> int:
    settings = load(config_path(args))
    since_ns = time.time_ns() - _span_s(args.since) * 1_000_000_000 if args.since else 0
    try:
        report = report_of(_entries(settings.state.dir / "audit", since_ns))
    except (Unverifiable, sqlite3.Error) as exc:
        raise CommandFailed(str(exc)) from exc
    if args.json:
        return print_json({"since": args.since or "the beginning of the audit log", **report.as_json()})
    for line in in_words(report):
        print(printable(line))
    return OK


def _entries(directory: Path, since_ns: int) -> Iterator[Mapping[str, object]]:
    """Those of calls of models, the newest first; records stand in the order in which calls ended."""
    if not directory.is_dir() or not segment_paths(directory):
        raise Unverifiable(f"{directory}: there is no audit log here")
    wanted = Filter(action="model.call")
    for _, path in reversed(segment_paths(directory)):
        with reading(path) as db:
            for row in read_rows_backwards(db):
                entry = read_entry(row.body)
                if int(str(entry.get("time_ns", 0))) < since_ns:
                    return
                if wanted.admits(row.body):
                    yield entry


def _span_s(text: str) -> int:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise CommandFailed(f"--since {text}: write a number and s, m, h or d, as in 7d")
    return int(found[1]) * _SECONDS[found[2]]
