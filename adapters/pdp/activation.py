"""How a policy becomes the one that decides: checked, tested and only then swapped in, between two questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import anyio.to_thread

from adapters.pdp.bundle import Bundle, PolicyRefused
from adapters.pdp.cached import MAX_ENTRIES, CachedPdp
from adapters.pdp.checks import ENTRYPOINTS, PACKAGE, examine
from adapters.pdp.cost import Isolation, isolation_for
from adapters.pdp.isolated import TIMEOUT_S, IsolatedPdp
from adapters.pdp.policytests import run_tests
from adapters.pdp.projection import Path, Projection, project
from adapters.pdp.regorus import RegorusPdp
from adapters.pdp.rules import Program
from adapters.pdp.unread import without_unread
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer, Entrypoint, PolicyDecisionPoint

__all__ = ["ActivePdp", "Engine", "EngineSpec", "PolicyRefused", "build_engine"]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How the embedded engine is to run a bundle. Times in seconds; `cache_entries` 0 keeps no answers."""

    isolation: Isolation = "auto"
    timeout_s: float = TIMEOUT_S
    cache_entries: int = MAX_ENTRIES
    run_tests: bool = True


class Closing(Protocol):
    """A decision point that holds something until it is closed."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """A decision point that was found fit to decide, with what is known of its policy."""

    pdp: PolicyDecisionPoint
    revision: str
    isolation: Literal["inline", "process", "remote"]
    projections: Mapping[Entrypoint, Projection] = field(default_factory=dict)
    resource: Closing | None = None
    bundle: Bundle | None = None
    """The rules, where they are ours to know."""

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
        """As the port says."""
        return await self.pdp.evaluate(entrypoint, question)

    def may_read(self, path: Path, entrypoint: Entrypoint = "decision") -> bool:
        """Whether a change at or below this path of the question could change the answer."""
        projection = self.projections.get(entrypoint)
        return projection is None or not projection.pure or projection.may_read(path)

    def close(self) -> None:
        """Let go of what the decision point holds."""
        if self.resource is not None:
            self.resource.close()


async def build_engine(spec: EngineSpec, bundle: Bundle) -> Engine:
    """An embedded engine for `bundle` that may be activated. Raises `PolicyRefused` with every fault otherwise.

    Takes a few tenths of a second, most of it in other processes; the event loop goes on meanwhile.
    """
    examined = await anyio.to_thread.run_sync(examine, bundle)
    faults = list(examined.faults)
    if not faults and spec.run_tests:
        faults += (await anyio.to_thread.run_sync(run_tests, bundle)).faults
    if faults or examined.program is None:
        raise PolicyRefused(faults)
    decisive = await anyio.to_thread.run_sync(without_unread, bundle, examined.program)
    return replace(await _started(spec, decisive, examined.program), bundle=bundle)


async def _started(spec: EngineSpec, bundle: Bundle, program: Program) -> Engine:
    isolation = isolation_for(spec.isolation, program, bundle)
    engine: RegorusPdp | IsolatedPdp
    if isolation == "process":
        engine = IsolatedPdp(bundle, timeout_s=spec.timeout_s)
        await engine.start()
    else:
        engine = RegorusPdp(bundle)
    projections = projections_of(program)
    pdp: PolicyDecisionPoint = engine
    if spec.cache_entries > 0:
        pdp = CachedPdp(engine, projections, revision=bundle.revision, max_entries=spec.cache_entries)
    return Engine(pdp, bundle.revision, isolation, projections, engine)


def projections_of(program: Program) -> dict[Entrypoint, Projection]:
    """What each entry point may read."""
    return {name: project(program, (PACKAGE, name)) for name in ENTRYPOINTS}


class ActivePdp:
    """The decision point whose policy can be exchanged between two questions. Before the first one: everything is no.

    A question is answered by the policy that was active when it was asked; the one before is closed when its last
    question is answered.
    """

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._asked: dict[int, int] = {}

    @property
    def engine(self) -> Engine | None:
        """What decides now."""
        return self._engine

    @property
    def revision(self) -> str:
        """The revision of the active policy; empty when there is none."""
        return self._engine.revision if self._engine is not None else ""

    def activate(self, engine: Engine) -> None:
        """Let `engine` decide from now on."""
        previous, self._engine = self._engine, engine
        if previous is not None and previous is not engine and not self._asked.get(id(previous)):
            previous.close()

    def may_read(self, path: Path, entrypoint: Entrypoint = "decision") -> bool:
        """As `Engine.may_read`, of the active policy."""
        return self._engine is None or self._engine.may_read(path, entrypoint)

    def close(self) -> None:
        """Stop deciding: every further question is refused."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
        """As the port says."""
        engine = self._engine
        if engine is None:
            raise PolicyEngineUnavailable("no policy is loaded, so everything is denied")
        key = id(engine)
        self._asked[key] = self._asked.get(key, 0) + 1
        try:
            return await engine.pdp.evaluate(entrypoint, question)
        finally:
            self._answered(key, engine)

    def _answered(self, key: int, engine: Engine) -> None:
        self._asked[key] -= 1
        if not self._asked[key]:
            del self._asked[key]
            if engine is not self._engine:
                engine.close()


_: type[PolicyDecisionPoint] = ActivePdp
