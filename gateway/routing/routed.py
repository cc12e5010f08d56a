"""Carries out calls of models by a route's name: decides which model, and asks it as a call of its own.

Every model that is asked is asked through `relay.act`: policy, budgets and the audit log see each attempt as the
concrete call that it is. What a route's name itself is permitted (`model`, `redact`, `cap`) holds for all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.errors import InterlockError, InvalidCall, PolicyDenied, UnknownResource
from gateway.models import TALKS, Alias, Talk, Tokens, capped, last_user_text, parse_name, with_model
from gateway.ports import Relay, Upstream
from gateway.routing.attempts import Attempts, Begun, Candidate, Run
from gateway.routing.fitting import Needs, misfit, needs_of, nothing_fits
from gateway.routing.gain import Choice, Tier
from gateway.routing.guard import QualityGuard
from gateway.routing.judging import Heard, answer_in, asked_in, signals_of
from gateway.routing.records import (
    CACHE_HEADER,
    HEADER,
    LOGGER,
    MODEL_HEADER,
    NOTE,
    NOTHING,
    header_of,
    note_of,
    spent_by,
)
from gateway.routing.speeds import Speeds
from gateway.routing.tasks import Task, task_of
from gateway.types import Authorized, Reason, Resource, Result

log = logging.getLogger("interlock.routing")

ACTION: Final = "model.call"
CHEAP: Final = "cheap"
BEST: Final = "best"
FAST: Final = "fast"
PREFERENCES: Final = (CHEAP, BEST, FAST)
_WHOLE_ONLY: Final = frozenset({"redact", "cap"})


class Router(Protocol):
    """Decides for one prompt (`gateway.routing.gain.GainRouter`)."""

    async def choose(self, prompt: str, quality: float) -> Choice: ...


@dataclass(frozen=True, slots=True)
class Route:
    """One name that stands for several models. `expected` says what quality a promised one came to when measured."""

    name: str
    weak: str
    strong: str
    router: Router
    guard: QualityGuard
    quality: float = 0.95
    fallbacks: tuple[str, ...] = ()
    retries: int = 1
    cooldown_s: float = 30.0
    expected: Callable[[float], float | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Catalog:
    """Where names are looked up: `route` by its name and the caller's tenant.

    `outside` says why the permit of a route does not reach a model, or nothing.
    """

    route: Callable[[str, str], Route | None]
    resolve: Callable[[str], Resource]
    outside: Callable[[Authorized, Resource], str]


@dataclass(slots=True)
class _Job:
    """One routed call on its way."""

    authorized: Authorized
    relay: Relay
    api: Talk
    route: Route
    choice: Choice
    task: Task
    needs: Needs
    run: Run
    heard: Heard | None = None
    told: dict[str, object] = field(default_factory=dict)


class RoutedModels:
    """The `Upstream` of `auto` and its like."""

    def __init__(self, catalog: Catalog, attempts: Attempts, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._catalog, self._attempts, self._now_s = catalog, attempts, now_s
        self.speeds = Speeds()

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Ask the model that was chosen; where it cannot, another one of the route."""
        job = await self._decided(authorized, relay)
        candidate: Candidate | None = None
        try:
            candidates = self._candidates(job)
            candidate, result = await self._attempts.answered(candidates, job.run, lambda *made: self._made(job, *made))
        finally:
            if candidate is None:  # also a call that nobody answered says in its record what was tried
                self._note(job, None)
        return self._answered(job, candidate, result)

    async def _decided(self, authorized: Authorized, relay: Relay) -> _Job:
        call = authorized.call
        alias = parse_name(call.resource.name)
        tenant = authorized.identity.tenant
        route = self._catalog.route(alias.route, tenant) if isinstance(alias, Alias) else None
        if route is None or not isinstance(alias, Alias):
            raise UnknownResource(f"model {call.resource.name!r} does not exist or is not visible to you")
        if call.method not in TALKS:
            raise InvalidCall(f"{call.method}: vectors of two models cannot be compared, so name one model")
        api = call.method
        prompt, needs = last_user_text(api, call.params), needs_of(api, call.params)
        choice = await self._chosen(route, alias, prompt)
        task, run = task_of(api, call.params, prompt), Run(route.retries, route.cooldown_s)
        return _Job(authorized, relay, api, route, choice, task, needs, run)

    async def _chosen(self, route: Route, alias: Alias, prompt: str) -> Choice:
        if alias.prefer not in ("", *PREFERENCES):
            raise InvalidCall(f"model: a route prefers {', '.join(PREFERENCES)}, and not {alias.prefer}")
        quality = route.quality if alias.quality is None else alias.quality
        if alias.prefer == BEST:
            quality = 1.0
        elif alias.prefer == CHEAP and alias.quality is None:
            quality = 0.0
        elif alias.prefer == FAST and alias.quality is None and route.guard.alarm is None:
            return self._fastest(route, quality)
        return await route.router.choose(prompt, quality)

    def _fastest(self, route: Route, quality: float) -> Choice:
        """The one of both that answered sooner until now; the weak one while nothing is known."""
        weak, strong = (self._catalog.resolve(name).id for name in (route.weak, route.strong))
        tier: Tier = "strong" if self.speeds.faster(strong, weak) else "weak"
        words = f"the {tier} model answers sooner (weak, strong: {self.speeds.words(weak, strong)})"
        return Choice(tier, "asked", words, quality)

    # Which models, in which order

    def _candidates(self, job: _Job) -> Sequence[Candidate]:
        """Those that exist, that the permit of the route's name reaches, and that can take the request."""
        found: list[Candidate] = []
        misfits: list[str] = []
        barred = ""
        for tier, name in self._order(job):
            resource = self._catalog.resolve(name)
            if not resource.known or resource.upstream == job.authorized.call.resource.upstream:
                continue
            if why := self._catalog.outside(job.authorized, resource):
                barred = barred or why
            elif why := misfit(job.needs, resource):
                misfits.append(f"{resource.id} {why}")
            else:
                found.append(Candidate(resource, tier, self._params(job, resource)))
        if found:
            return found
        raise nothing_fits(job.needs, misfits) if misfits else _barred(job, barred)

    def _order(self, job: _Job) -> Sequence[tuple[str, str]]:
        route, strong = job.route, ("strong", job.route.strong)
        pair = [strong, ("weak", route.weak)] if job.choice.tier == "strong" else [("weak", route.weak), strong]
        every = [*pair, *[("fallback", name) for name in route.fallbacks]]
        tiers: dict[str, str] = {}
        for tier, name in every:
            tiers.setdefault(name, tier)
        return [(tier, name) for name, tier in tiers.items()]

    def _params(self, job: _Job, resource: Resource) -> Mapping[str, object]:
        params: Mapping[str, object] = with_model(job.authorized.call.params, resource.id)
        for item in job.authorized.permit.obligations:
            limit = item.properties.get("max_tokens") if item.type == "model" else None
            if isinstance(limit, int):
                params = capped(job.api, params, limit)
        if params.get("stream") is True and not _may_stream(job.authorized, resource):
            params = {name: value for name, value in params.items() if name not in {"stream", "stream_options"}}
        return params

    # One attempt

    async def _made(self, job: _Job, candidate: Candidate, begun: Begun) -> Result:
        started, first_s = self._now_s(), 0.0
        job.heard = Heard(job.api) if candidate.params.get("stream") is True else None

        async def sink(event: bytes) -> None:
            nonlocal first_s
            if not begun.shown:
                begun.show()
                first_s = self._now_s() - started
                self._note(job, candidate)
                await self._tell(job)
            if job.heard is not None:
                job.heard.feed(event)
            await job.relay.emit(event)

        result = await job.relay.act(
            ACTION, job.authorized.call.method, candidate.resource, candidate.params, sink=sink
        )
        if not _given_again(result):
            self.speeds.heard(candidate.resource.id, first_s if begun.shown else self._now_s() - started)
        return result

    async def _tell(self, job: _Job) -> None:
        """Say which model answers before its answer begins: the head of a response cannot be changed after that."""
        if not job.authorized.call.parent_id:
            data = {"route": header_of(job.told, under_way=1), "model": job.told["model"]}
            await job.relay.notify("notifications/message", {"level": "info", "logger": LOGGER, "data": data})

    def _answered(self, job: _Job, candidate: Candidate, result: Result) -> Result:
        streamed = job.heard is not None and bool(job.told)
        heard = job.heard if streamed else None
        again = _given_again(result)
        if again:  # no model was asked: it says nothing of one, and cost nothing
            self._note(job, candidate, {**NOTHING.as_json(), "cached": True})
        else:
            self._judge(job, candidate, result, heard)
        headers = ((HEADER, _line(header_of(job.told))), (MODEL_HEADER, _line(candidate.resource.id)), *again)
        # What the concrete call spent is charged to its own accounts and to those of this one: it is told once.
        return Result(result.payload, result.outcome, result.labels, headers)

    def _judge(self, job: _Job, candidate: Candidate, result: Result, heard: Heard | None) -> None:
        answer = answer_in(job.api, result, heard)
        signals = signals_of(asked_in(job.api, candidate.params), answer) if result.outcome == "ok" else {}
        if candidate.resource.id == self._catalog.resolve(job.route.weak).id and signals:
            alarm = job.route.guard.answered(signals, now_s=time.time())
            if alarm is not None:
                log.warning("route %r is stepped up to the strong model: %s", job.route.name, alarm.words)
        counted = heard.tokens if heard is not None else answer.tokens if answer is not None else Tokens()
        strong = self._catalog.resolve(job.route.strong)
        spent = spent_by(result.usage, counted, answer, candidate.resource, strong, job.needs.reads)
        self._note(job, candidate, {**spent.as_json(), "signals": dict(signals)})

    def _note(self, job: _Job, candidate: Candidate | None, more: Mapping[str, object] | None = None) -> None:
        expected = None
        if (quality := _measured(job.choice, candidate)) is not None:
            with suppress(InterlockError):
                expected = job.route.expected(quality)
        note = note_of(job.route.name, job.choice, job.run.tries, candidate, job.task, expected)
        job.told = {**note, **(more or {})}
        job.relay.note(NOTE, job.told)


def _measured(choice: Choice, candidate: Candidate | None) -> float | None:
    """At which quality the calibration tells of this call; `None` where another model answered than was measured."""
    if candidate is not None and candidate.tier not in (choice.tier, "strong"):
        return None
    if choice.why == "asked":  # one model takes them all, whatever quality the route has
        return 1.0 if choice.tier == "strong" else 0.0
    return choice.quality


def _given_again(result: Result) -> tuple[tuple[bytes, bytes], ...]:
    """The line that says so, where the answer to a concrete call was there already."""
    return tuple([line for line in result.headers if line[0] == CACHE_HEADER])


def _may_stream(authorized: Authorized, resource: Resource) -> bool:
    """Whether pieces of an answer may be shown before all of it is known, and whether the model has any."""
    lacks = resource.catalog.get("lacks")
    if isinstance(lacks, tuple | list) and "streaming" in lacks:
        return False
    for item in authorized.permit.obligations:
        if item.type in _WHOLE_ONLY or (item.type == "model" and item.properties.get("stream") is False):
            return False
    return True


def _barred(job: _Job, why: str) -> InterlockError:
    if not why:
        return UnknownResource(f"route {job.route.name!r} has no model that is configured")
    decision = job.authorized.permit.decision_id
    reason = Reason("model_not_permitted", why, "interlock", public=True, remedy="name another model, or another route")
    words = f"policy leaves no model of this route: {why} (decision {decision})"
    return PolicyDenied(words, decision_id=decision, reasons=(reason,))


def _line(text: str) -> bytes:
    return text.encode("latin-1", "replace")


_: type[Upstream] = RoutedModels
