"""A pipeline whose budgets are kept by a real ledger, over a store that the test chooses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count

import anyio

from gateway.authz.obligations import obligations_in
from gateway.budgets.ledger import LEASE_MS, STEP_MS, Ledger
from gateway.pipeline import Pipeline
from gateway.ports import CallRecord, Relay
from gateway.spending import NOTHING, BudgetStore, Standing, StandingQuery
from gateway.types import Authorized, Call, Entity, FrozenDict, Identity, Permit, Resource, Result, Usage, freeze
from tests.fake_budgets import FakeBudgetStore
from tests.fakes import FakeDecider, FakeExchange, FakeIdentifier, FakeRecorder, FakeUpstream, permit_for

ANA = Identity(Entity("user", "user:ana"), tenant="acme", method="api_key")
NOW_MS = 1_700_000_050_000
DAY_LEFT_S = 86_400 - NOW_MS // 1_000 % 86_400
Answer = Callable[[Authorized, Relay], Awaitable[Result]]


def budget(**properties: object) -> Mapping[str, object]:
    """One `budget` as policy writes it, of the subject unless told otherwise."""
    return {"type": "budget", "properties": {"scope": "subject", **properties}}


def cost(**properties: object) -> Mapping[str, object]:
    """One `cost` as policy writes it."""
    return {"type": "cost", "properties": properties}


def tool(name: str = "t") -> Resource:
    """A tool of the upstream `u`."""
    return Resource("tool", f"u/{name}", "u", name)


def model(*, price: tuple[float, float] | None = (1_000, 2_000), upstream: str = "p") -> Resource:
    """A model with a price in billionths of a dollar per token."""
    names = ("nano_usd_per_token_in", "nano_usd_per_token_out")
    catalog = {"price": dict(zip(names, price, strict=True))} if price is not None else {}
    frozen = freeze(catalog)
    assert isinstance(frozen, FrozenDict)
    return Resource("model", f"{upstream}/m", upstream, "m", catalog=frozen)


async def done(authorized: Authorized, relay: Relay) -> Result:
    """What an upstream does that does nothing."""
    return Result(b"{}")


class World:
    """`rules` says by the name of a resource which obligations policy sets, `answers` what an upstream then does."""

    def __init__(
        self,
        store: BudgetStore | None = None,
        *,
        lease_ms: int = LEASE_MS,
        step_ms: int = STEP_MS,
        monotonic_s: Callable[[], float] | None = None,
    ) -> None:
        self.now_ms = NOW_MS
        self.deadline_s = 30.0
        self.store = store or FakeBudgetStore()
        self.rules: dict[str, Sequence[Mapping[str, object]]] = {}
        self.answers: dict[str, Answer] = {}
        self.decider = FakeDecider()
        self.decider.decide_with = self._permit
        self.trail = FakeRecorder()
        self.exchange = FakeExchange()
        self.ledger = Ledger(
            self.store,
            clock_ms=lambda: self.now_ms,
            monotonic_s=monotonic_s or (lambda: (self.now_ms - NOW_MS) / 1_000),
            lease_ms=lease_ms,
            step_ms=step_ms,
        )
        numbers = count(1)
        self._new_id: Callable[[], str] = lambda: f"c{next(numbers)}"
        self.pipeline = Pipeline(
            identifier=FakeIdentifier({}),
            authz=self.decider,
            upstream_for=lambda _: FakeUpstream(self._answer),
            trail=self.trail,
            new_id=self._new_id,
        )
        self.pipeline.budgets = self.ledger

    async def call(
        self,
        resource: Resource | None = None,
        who: Identity = ANA,
        *,
        session: str = "s1",
        estimate: tuple[int, int] | None = None,
        **params: str,
    ) -> Result:
        """Take a call down the path; of a model, with an estimate of its tokens."""
        resource = resource or tool()
        action = "model.call" if resource.type == "model" else "mcp.tools.call"
        facts = facts_of(estimate) if estimate is not None else FrozenDict()
        sent = FrozenDict(params)
        made = Call(self._new_id(), action, "tools/call", resource, sent, session_id=session, facts=facts)
        with anyio.fail_after(self.deadline_s):
            return await self.pipeline.handle(made, who, self.exchange)

    async def standings(self) -> Mapping[tuple[str, str], Standing]:
        """How accounts stand, by scope and name."""
        found = await self.store.standings(StandingQuery(self.now_ms))
        return {(each.account.scope, each.account.name): each for each in found}

    async def spent(self, scope: str = "subject", name: str = "") -> Usage:
        """What was spent of an account that nobody holds anything of now."""
        standing = (await self.standings())[scope, name]
        assert standing.held == NOTHING
        return standing.spent

    @property
    def record(self) -> CallRecord:
        """The last record."""
        return self.trail.records[-1]

    @property
    def told(self) -> Mapping[str, object]:
        """What the last record says of budgets."""
        notes = self.record.notes
        told = notes["budget"] if notes is not None else None
        assert isinstance(told, Mapping)
        return told

    def _permit(self, call: Call, identity: Identity) -> Permit:
        obligations = obligations_in(self.rules.get(call.resource.name, ()))
        return replace(permit_for(call, identity), obligations=obligations)

    async def _answer(self, authorized: Authorized, relay: Relay) -> Result:
        return await self.answers.get(authorized.call.resource.name, done)(authorized, relay)


def facts_of(estimate: tuple[int, int]) -> FrozenDict:
    """The facts of a call of a model."""
    frozen = freeze({"estimate": {"input_tokens": estimate[0], "output_tokens": estimate[1]}})
    assert isinstance(frozen, FrozenDict)
    return frozen


def reporting(nano_usd: int, tokens: int) -> Answer:
    """An upstream that reports what it used up."""

    async def answer(authorized: Authorized, relay: Relay) -> Result:
        return Result(b"{}", usage=Usage(nano_usd, tokens))

    return answer
