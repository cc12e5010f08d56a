"""Tries models one after the other until one answers: retries, cooldowns, timeouts. Never after the first event."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio

from gateway.errors import InterlockError, InvalidCall, QuotaExceeded, UpstreamTimeout, UpstreamUnavailable
from gateway.routing.cooldowns import Cooldowns
from gateway.routing.failures import Verdict, verdict_on
from gateway.types import Resource, Result

BACKOFF_S: Final = 0.25
MAX_BACKOFF_S: Final = 4.0
PATIENCE_S: Final = 2.0
"""So long a provider may ask to wait, and the call does; beyond that another model is asked."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be asked, and what it is asked. `tier` is its place in the route."""

    resource: Resource
    tier: str
    params: Mapping[str, object]

    @property
    def keys(self) -> tuple[str, str]:
        """What cools down for it: its provider, and itself."""
        return f"provider:{self.resource.upstream}", f"model:{self.resource.id}"


@dataclass(slots=True)
class Begun:
    """Whether anything of an answer has been shown; from then on there is no other attempt, and no timeout."""

    scope: anyio.CancelScope
    shown: bool = False

    def show(self) -> None:
        """Something is shown now."""
        self.shown, self.scope.deadline = True, math.inf


Make: TypeAlias = Callable[[Candidate, Begun], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one attempt; `outcome` is `ok`, the code of an error, or `cooling`."""

    model: str
    outcome: str
    took_ms: int = 0
    skipped: bool = False
    """The provider was not asked: policy, a budget or a cooldown was in the way."""

    def as_json(self) -> dict[str, object]:
        """For the record."""
        return {"model": self.model, "outcome": self.outcome, "took_ms": self.took_ms}


@dataclass(slots=True)
class Run:
    """One call's attempts. `tries` tells of them whatever happens."""

    retries: int = 0
    cooldown_s: float = 30.0
    tries: list[Tried] = field(default_factory=list)
    errors: list[tuple[Verdict, InterlockError]] = field(default_factory=list)
    deadline_s: float = math.inf


class NoModel(UpstreamUnavailable):
    """No model of a route can answer now."""

    def __init__(self, message: str, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Attempts:
    """Keeps what is known of providers' failures. Clock, sleep and chance are for tests to replace."""

    def __init__(
        self,
        *,
        attempt_s: float = 120.0,
        total_s: float = 300.0,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.cooldowns = Cooldowns(now_s)
        self._attempt_s, self._total_s = attempt_s, total_s
        self._now_s, self._sleep, self._chance = now_s, sleep, chance

    async def answered(self, candidates: Sequence[Candidate], run: Run, make: Make) -> tuple[Candidate, Result]:
        """The first answer that one of them gives. Raises what the caller is told where none does."""
        run.deadline_s = self._now_s() + self._total_s
        for candidate in candidates:
            result = await self._of_one(candidate, run, make)
            if result is not None:
                return candidate, result
        raise self._none(candidates, run)

    async def _of_one(self, candidate: Candidate, run: Run, make: Make) -> Result | None:
        for number in range(run.retries + 1):
            if self._now_s() >= run.deadline_s:
                return None
            if not self.cooldowns.enter(candidate.keys):
                run.tries.append(Tried(candidate.resource.id, "cooling", skipped=True))
                return None
            try:
                return await self._attempted(candidate, run, make, last=number == run.retries)
            except InterlockError as exc:
                verdict = next(verdict for verdict, error in reversed(run.errors) if error is exc)
                if verdict.final:
                    raise
            wait_s = self._wait(verdict, number)
            if not verdict.again or number == run.retries or wait_s > PATIENCE_S + BACKOFF_S:
                return None
            await self._sleep(wait_s)
        return None

    async def _attempted(self, candidate: Candidate, run: Run, make: Make, *, last: bool) -> Result:
        """One attempt. Whatever it ends with is noted, and told to the cooldowns."""
        started, verdict, outcome, shown = self._now_s(), Verdict(), "cancelled", False
        try:
            with anyio.move_on_after(self._attempt_s) as scope:
                begun = Begun(scope)
                try:
                    result = await make(candidate, begun)
                finally:
                    shown = begun.shown
                outcome = result.outcome
                if outcome != "ok":  # it broke after its first event, and has said so in its last one
                    verdict = Verdict(final=True, of_provider=True)
                return result
            raise UpstreamTimeout(f"model {candidate.resource.id!r} did not answer in time")
        except InterlockError as exc:
            verdict, outcome = verdict_on(exc, shown=shown), exc.code
            run.errors.append((verdict, exc))
            raise
        finally:
            took_ms = round((self._now_s() - started) * 1_000)
            run.tries.append(Tried(candidate.resource.id, outcome, took_ms, verdict.skipped))
            if last or not verdict.again or not verdict.at_once or verdict.retry_after_s > PATIENCE_S:
                self._tell(candidate, verdict, outcome, run.cooldown_s, started)
            else:  # it asks for a moment, which the call waits
                self._tell(candidate, Verdict(), outcome, run.cooldown_s, started)

    def _tell(self, candidate: Candidate, verdict: Verdict, outcome: str, cooldown_s: float, begun_s: float) -> None:
        """A refusal of policy says nothing of a provider, and a cancelled call neither."""
        for key, blamed in zip(candidate.keys, (verdict.of_provider, verdict.of_model), strict=True):
            if blamed:
                least_s = verdict.retry_after_s
                self.cooldowns.failed(key, cooldown_s, at_once=verdict.at_once, least_s=least_s, begun_s=begun_s)
            elif outcome == "ok":
                self.cooldowns.succeeded(key)
            else:
                self.cooldowns.left(key, begun_s=begun_s)

    def _wait(self, verdict: Verdict, number: int) -> float:
        grown = min(BACKOFF_S * 2.0**number, MAX_BACKOFF_S)
        return max(grown * (0.5 + self._chance() / 2), float(verdict.retry_after_s))

    def _none(self, candidates: Sequence[Candidate], run: Run) -> InterlockError:
        """What is told where nobody answered: a provider's failure before a refusal; of denied models no name."""
        failed = [(verdict, error) for verdict, error in run.errors if not verdict.skipped]
        refused = {each.model for each in run.tries if each.skipped and each.outcome != "cooling"}
        asked = [each for each in candidates if each.resource.id not in refused]
        wait_s = min([math.ceil(self.cooldowns.wait_s(each.keys)) for each in asked], default=0)
        cooling = any(each.outcome == "cooling" for each in run.tries)
        if not failed and run.errors and not cooling:
            return run.errors[0][1]
        if failed and not cooling and all(isinstance(error, InvalidCall) for _, error in failed):
            return failed[0][1]  # it is the request, and another time will not help it
        if failed and all(isinstance(error, QuotaExceeded) for _, error in failed):
            least = min(verdict.retry_after_s for verdict, _ in failed)
            return QuotaExceeded("every model of this route asks to wait", retry_after_s=max(least, 1))
        if len(failed) == 1 and len(run.tries) == 1:
            return failed[0][1]
        # What was not asked is not named: policy was not asked about it, or said no.
        said = list(dict.fromkeys(f"{each.model}: {each.outcome}" for each in run.tries if not each.skipped))
        said += ["others failed a moment ago"] if cooling else []
        if failed and all(isinstance(error, UpstreamTimeout) for _, error in failed):
            return UpstreamTimeout(f"no model of this route answered in time ({'; '.join(said)})")
        return NoModel(f"no model of this route can answer now ({'; '.join(said)})", max(wait_s, 1))
