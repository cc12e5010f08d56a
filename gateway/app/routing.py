"""Routes of models, put together: what predicts, what was learned, the cache of answers, the answers to MCP servers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import SEEK_END
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from gateway import codec
from gateway.app.models import Models
from gateway.authz.modelling import Model, outside
from gateway.config.models import Route as Described
from gateway.config.tree import Settings
from gateway.embedding import Embedder, EmbeddingUnavailable
from gateway.ports import Upstream
from gateway.routing.answers import Answers, Cached
from gateway.routing.attempts import Attempts
from gateway.routing.files import BadRouterFile, Loaded, load
from gateway.routing.gain import GainRouter
from gateway.routing.guard import Canary, QualityGuard
from gateway.routing.prompts import PIECES
from gateway.routing.routed import Catalog, Route, RoutedModels
from gateway.routing.sampling import Sampler
from gateway.types import Authorized, Call, Identity, Resource

log = logging.getLogger("interlock.routing")

FOLDER: Final = "routing"
"""In `state.dir`: what was learned (`ROUTE.router`), from what (`ROUTE.outcomes.jsonl`), and the runs of canaries."""
CANARIES: Final = "canaries.jsonl"
FOLLOW_S: Final = 2.0
MAX_CANARY_BYTES: Final = 4 << 20
MAX_TIMES: Final = 3
"""Beyond so many times the longest call, no other attempt is begun."""
ATTEMPT_GRACE_S: Final = 5.0
"""What an attempt may take beyond the time that its provider has."""


def router_file(settings: Settings, name: str, described: Described | None) -> Path:
    """Where what was learned for a route is kept."""
    if described is not None and described.router is not None:
        return described.router
    return settings.state.dir / FOLDER / f"{name}.router"


def outcomes_file(settings: Settings, name: str) -> Path:
    """Where outcomes of a route are collected, for it to be calibrated with."""
    return settings.state.dir / FOLDER / f"{name}.outcomes.jsonl"


def routing_embedder() -> Embedder:
    """What makes vectors of prompts: MiniLM where it is installed. Takes 0.3 s of CPU; call it in a thread."""
    try:
        from adapters.embedders.minilm import MiniLm  # onnxruntime, for those who have a route with a router
    except ImportError:
        from adapters.embedders.hashing import Hashing

        return Hashing()
    return MiniLm.installed(max_tokens=PIECES)


def read_router(path: Path, embedder: Embedder) -> Loaded:
    """What was learned. Raises `BadRouterFile`. Call it in a thread."""
    from adapters.routers import all_learners  # numpy, for those who have such a file

    return load(path, all_learners(), embedder=embedder.name, dimensions=embedder.dimensions)


def _semantic_embedder() -> Embedder | None:
    """For whole questions; `None` where there is nothing that knows meanings."""
    try:
        from adapters.embedders.minilm import MiniLm
    except ImportError:
        return None
    return MiniLm.installed()


@dataclass(frozen=True, slots=True)
class _Read:
    """A file of a router as it was when it was read."""

    stamp: tuple[int, int]
    loaded: Loaded | None


@dataclass(slots=True)
class Routing:
    """The routes of the catalogue that is in force. `run` has to run for what is learned to be used."""

    settings: Settings
    models: Models
    answers: Answers = field(default_factory=Answers)
    routed: RoutedModels = field(init=False)
    _embedder: Embedder | None = None
    _semantic: Embedder | None = None
    _semantic_wanted: bool = False
    _stirred: anyio.Event = field(default_factory=anyio.Event)
    _read: dict[str, _Read] = field(default_factory=dict)
    _guards: dict[tuple[str, str, str], QualityGuard] = field(default_factory=dict)
    _canaries_at: int = 0

    def __post_init__(self) -> None:
        most = self.settings.limits.call_timeout_s  # what any provider has at most; its own `timeout_s` comes first
        attempts = Attempts(attempt_s=most + ATTEMPT_GRACE_S, total_s=most * MAX_TIMES)
        catalog = Catalog(self.route, self.models.resolve, _outside)
        self.routed = RoutedModels(catalog, attempts)
        self.models.routed = self.routed

    def carrying(
        self, carrier: Callable[[Call], Upstream], labels_of: Callable[[Call, Identity], Sequence[str]]
    ) -> Callable[[Call], Upstream]:
        """The same, but that calls of models may be answered from the cache, where their permits say so."""
        cached = Cached(carrier, self.answers, labels_of, self._for_semantics, lambda: self.models.generation)
        return lambda call: cached if call.action == "model.call" else carrier(call)

    def sampler(self) -> Sampler:
        """What answers questions of MCP servers, while the catalogue says by which model."""
        return Sampler(lambda: self.models.catalogue.sampling, self.models.resolve)

    def route(self, name: str, tenant: str = "") -> Route | None:
        """A route as the catalogue describes it now, with what was learned for it, for one tenant's calls."""
        described = self.models.catalogue.routes.get(name)
        if described is None:
            return None
        read = self._read.get(name)
        loaded = read.loaded if read is not None and self._embedder is not None else None
        guard = self.guard(name, described).of(tenant)
        router = GainRouter(self._embedder if loaded is not None else None, loaded, guard)
        return Route(
            name,
            described.weak,
            described.strong,
            router,
            guard,
            described.quality,
            described.fallbacks,
            described.retries,
            described.cooldown_s,
            _expectation(loaded),
        )

    def guard(self, name: str, described: Described) -> QualityGuard:
        """What watches over the weak model of a route; another pair of models has another one."""
        return self._guards.setdefault((name, described.weak, described.strong), QualityGuard())

    async def run(self) -> None:
        """Read what was learned, at once and when it changes, and the runs of canaries, until cancelled."""
        while True:
            await self.follow()
            with anyio.move_on_after(FOLLOW_S):
                await self._stirred.wait()
            self._stirred = anyio.Event()

    async def follow(self) -> None:
        """Look once."""
        for name, described in self.models.catalogue.routes.items():
            await self._follow_router(name, router_file(self.settings, name, described))
        if self.models.catalogue.routes:
            self._take_canaries(await to_thread.run_sync(self._new_canaries))
        if self._semantic_wanted and self._semantic is None:
            self._semantic_wanted = False
            self._semantic = await _opened(_semantic_embedder)

    async def _follow_router(self, name: str, path: Path) -> None:
        stamp = await to_thread.run_sync(_stamp, path)
        known = self._read.get(name)
        if stamp is None:
            if known is not None:
                del self._read[name]
                log.warning("route %r: what was learned is gone (%s); it works by heuristic", name, path)
            return
        if known is not None and known.stamp == stamp:
            return
        if self._embedder is None:
            self._embedder = await _opened(routing_embedder)
        self._read[name] = _Read(stamp, await self._loaded(name, path))

    async def _loaded(self, name: str, path: Path) -> Loaded | None:
        if self._embedder is None:
            return None
        try:
            loaded = await to_thread.run_sync(read_router, path, self._embedder)
        except (BadRouterFile, ImportError) as exc:
            log.warning("route %r works by heuristic: %s", name, exc)
            return None
        log.info("route %r: %s %s is in use", name, loaded.trained.predictor.kind, loaded.sha256[:12])
        return loaded

    def _for_semantics(self) -> Embedder | None:
        """What makes vectors of whole questions; the first time it is asked for, it is opened in the background."""
        if self._semantic is None:
            self._semantic_wanted = True
            self._stirred.set()
        return self._semantic

    def _new_canaries(self) -> list[bytes]:
        path = self.settings.state.dir / FOLDER / CANARIES
        try:
            with path.open("rb") as file:
                if file.seek(0, SEEK_END) < self._canaries_at:
                    self._canaries_at = 0  # another file by now
                file.seek(self._canaries_at)
                data = file.read(MAX_CANARY_BYTES)
        except OSError:
            return []
        whole = data if len(data) == MAX_CANARY_BYTES and b"\n" not in data else data[: data.rfind(b"\n") + 1]
        self._canaries_at += len(whole)
        return whole.splitlines()

    def _take_canaries(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            try:
                self._take_canary(codec.loads(line))
            except ValueError as exc:
                log.warning("%s: a line is no run of canaries: %s", CANARIES, exc)

    def _take_canary(self, run: codec.JsonValue) -> None:
        name = run.get("route") if isinstance(run, dict) else None
        described = self.models.catalogue.routes.get(str(name))
        if described is None or not isinstance(run, dict):
            return
        guard = self.guard(str(name), described)
        match run:
            case {"resume": True}:
                guard.resume()
                log.info("route %r: the weak model is used again, as somebody said", name)
            case {"passed": int(passed), "total": int(total), "weak": str(weak)} if weak == described.weak:
                alarm = guard.canary(Canary(passed, total), now_s=time.time())
                if alarm is not None:
                    log.warning("route %r is stepped up to the strong model: %s", name, alarm.words)


def _expectation(loaded: Loaded | None) -> Callable[[float], float | None]:
    """What quality, relative to the strong model's, a promised one came to on judged outcomes."""
    if loaded is None:
        return lambda _: None
    calibration = loaded.trained.calibration
    return lambda quality: calibration.expected(quality).quality


def _outside(authorized: Authorized, resource: Resource) -> str:
    """Why the permit of a route's name does not reach a model."""
    for item in authorized.permit.obligations:
        if isinstance(item, Model) and (why := outside(item, resource)):
            return why
    return ""


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


async def _opened(make: Callable[[], Embedder | None]) -> Embedder | None:
    try:
        return await to_thread.run_sync(make)
    except EmbeddingUnavailable as exc:
        log.warning("%s", exc)
        return None
