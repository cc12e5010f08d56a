"""What commands about a route have in common: the catalogue, the route that is meant, what makes vectors."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from gateway.app.models import Models
from gateway.app.routing import routing_embedder
from gateway.cli.main import OK, CommandFailed
from gateway.cli.options import config_path
from gateway.config.models import Catalogue, Route, load_models
from gateway.config.reading import load
from gateway.config.tree import Settings
from gateway.embedding import Embedder, EmbeddingUnavailable
from gateway.errors import InvalidCall
from gateway.models import Alias, parse_name
from gateway.routing.ports import Learner


def add_route(parser: argparse.ArgumentParser) -> None:
    """`--route NAME`."""
    parser.add_argument("--route", default="auto", metavar="NAME", help="as callers write it (auto)")


def opened(args: argparse.Namespace) -> tuple[Settings, Models]:
    """The configuration, and the models and routes of `models.toml`."""
    settings = load(config_path(args))
    models = Models()
    models.configure(settings, load_models(settings))
    return settings, models


def described_route(catalogue: Catalogue, name: str) -> tuple[str, Route]:
    """The route behind a name as callers write it. Raises `CommandFailed`."""
    try:
        parsed = parse_name(name)
    except InvalidCall as exc:
        raise CommandFailed(f"--route {name}: {exc}") from exc
    described = catalogue.routes.get(parsed.route) if isinstance(parsed, Alias) else None
    if described is None or not isinstance(parsed, Alias):
        known = ", ".join(catalogue.routes) or "none"
        raise CommandFailed(f"models.toml describes no route {name!r}; the routes are: {known}")
    return parsed.route, described


def embedder_of_routes() -> Embedder:
    """What makes vectors of prompts. Raises `CommandFailed`."""
    try:
        return routing_embedder()
    except EmbeddingUnavailable as exc:
        raise CommandFailed(str(exc)) from exc


def learners() -> Sequence[Learner]:
    """What learns from outcomes. Raises `CommandFailed` where the packages for it are missing."""
    try:
        from adapters.routers import all_learners  # numpy, for those who teach
    except ImportError as exc:
        raise without(exc) from exc
    return all_learners()


def without(missing: ImportError) -> CommandFailed:
    """What to say where a package is missing."""
    return CommandFailed(f"{missing.name} is not installed, which routers are made with: install the extra 'memory'")


def print_json(value: object) -> int:
    """Print it for programs; the exit code."""
    print(json.dumps(value, indent=2, default=list))
    return OK
