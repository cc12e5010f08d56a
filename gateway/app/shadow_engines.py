"""The engines that are asked beside the one that decides, each in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from anyio import to_thread

from adapters.pdp.activation import EngineSpec, build_engine
from adapters.pdp.bundle import Bundle, Fault, PolicyRefused, bundle_of, load_bundle
from adapters.pdp.engine import EngineFailure
from adapters.pdp.isolated import IsolatedPdp
from adapters.pdp.rules import Program
from adapters.pdp.syntax import modules_in
from adapters.pdp.trial import TrialEngine
from gateway import codec
from gateway.config.decisions import Policy
from gateway.config.fields import policy_library

MONITORED: Final = "data.interlock.monitored"
"""The entry point that collects what `monitor` rules find."""
_TEAMS: Final = "rules"
_MONITOR: Final = "monitor"


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate that is ready to be asked. `revision` is what it would have as the active policy."""

    revision: str
    pdp: IsolatedPdp


async def open_contender(policy: Policy, candidate: Path) -> Contender:
    """Load, check and test the candidate as the active policy is, and start it. Raises `PolicyRefused`."""
    bundle = await to_thread.run_sync(load_bundle, [policy_library(), candidate])
    revision = await to_thread.run_sync(revision_as, bundle, candidate.name, policy.path.name)
    engine = await build_engine(EngineSpec("process", policy.timeout_ms / 1000, cache_entries=0), bundle)
    return Contender(revision, cast("IsolatedPdp", engine.pdp))  # what "process" without a cache is


def candidate_revision(policy: Policy, candidate: Path) -> str:
    """The revision that the rules in that directory would have in `policy.path`. Raises `PolicyRefused`."""
    return revision_as(load_bundle([policy_library(), candidate]), candidate.name, policy.path.name)


def revision_as(bundle: Bundle, folder: str, name: str) -> str:
    """The revision of a policy once its directory `folder` is called `name`: the names of files count in it."""
    library = {file.path for file in load_bundle([policy_library()]).files}
    prefix = f"{folder}/"
    files = {
        file.path if file.path in library else f"{name}/{file.path.removeprefix(prefix)}": file.text
        for file in bundle.files
    }
    return bundle_of(files, cast("Mapping[str, object]", codec.loads(bundle.data))).revision


async def open_monitor(policy: Policy, bundle: Bundle) -> IsolatedPdp | None:
    """An engine for the `monitor` rules of a policy that was found fit; `None` where it has none.

    Raises `PolicyRefused` where it cannot be started.
    """
    if not await to_thread.run_sync(has_monitor, bundle):
        return None
    pdp = IsolatedPdp(bundle, timeout_s=policy.timeout_ms / 1000)
    await pdp.start()
    return pdp


def has_monitor(bundle: Bundle) -> bool:
    """Whether a team's package defines `monitor`. Raises `PolicyRefused` for what cannot be parsed."""
    library = {file.path for file in load_bundle([policy_library()]).files}
    if not any(_MONITOR in file.text for file in bundle.files if file.path not in library):
        return False
    try:
        with TrialEngine(Bundle(bundle.files, bundle.data, "")) as engine:
            program = Program(modules_in(engine.tree()))
    except EngineFailure as exc:
        raise PolicyRefused([Fault(exc.file or "policy", exc.line, exc.col, exc.text or exc.kind)]) from exc
    return any(rule.path[:1] == (_TEAMS,) and rule.path[2:3] == (_MONITOR,) for rule in program.rules)
