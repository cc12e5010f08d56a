"""Whose budget is looked at or reset is known to policy, before it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gateway.authz.question import Questions
from gateway.authz.sessions import SessionFacts
from gateway.budgets import desk
from gateway.budgets.desk import BudgetDesk
from gateway.errors import InterlockError, PolicyDenied
from gateway.listeners.budgets import BudgetCalls
from gateway.pipeline import Pipeline
from gateway.spending import NOTHING, StandingQuery
from gateway.types import Call, Credentials, Entity, Identity, Permit
from tests.fakes import FakeDecider, FakeIdentifier, FakeRecorder, permit_for
from tests.spending.worlds import ANA, NOW_MS, World, budget

OP = Identity(Entity("user", "user:op"), tenant="acme", roles=("operator",), method="api_key")
NAMESAKE = replace(ANA, tenant="zeta")
ALL = StandingQuery(NOW_MS)
QUESTIONS = Questions(env="test", clock_ns=lambda: 1)


def of_own_tenant(asked: list[object]) -> Callable[[Call, Identity], Permit]:
    """What a rule would say that keeps operators to their tenant; `asked` gets what it saw."""

    def decide(call: Call, identity: Identity) -> Permit:
        question = QUESTIONS.about_call(call, identity, SessionFacts())
        resource = question["resource"]
        assert isinstance(resource, dict)
        seen = {name: resource["properties"].get(name) for name in ("scope", "holder", "tenant")}
        asked.append(seen)
        if identity.tenant and seen["tenant"] == identity.tenant:
            return permit_for(call, identity)
        raise PolicyDenied("not of your tenant")

    return decide


async def test_a_rule_can_keep_an_operator_to_the_budgets_of_one_tenant() -> None:
    world = World()
    world.rules = {"t": [budget(calls=9)]}
    await world.call()
    await world.call(who=NAMESAKE)
    accounts = {each.account.tenant: each.account.id for each in await world.store.standings(ALL)}
    asked: list[object] = []
    decider = FakeDecider()
    decider.decide_with = of_own_tenant(asked)
    people = FakeIdentifier({"op": OP})
    office = BudgetDesk(world.store, clock_ms=lambda: world.now_ms)
    trail = FakeRecorder()
    pipeline = Pipeline(
        identifier=people, authz=decider, upstream_for=lambda _: office, trail=trail, new_id=lambda: "q"
    )
    calls = BudgetCalls(pipeline, people, lambda: "q", office.facts_of)
    ends: list[type[InterlockError] | None] = []

    for account in (accounts["acme"], accounts["zeta"], "none"):
        for method in (desk.READ, desk.RESET):
            try:
                await calls.made(method, account, {}, Credentials("op"))
                ends.append(None)
            except InterlockError as exc:
                ends.append(type(exc))

    assert ends == [None, None, PolicyDenied, PolicyDenied, PolicyDenied, PolicyDenied]
    ana = {"scope": "subject", "holder": "user:ana"}
    nobodys = dict.fromkeys(("scope", "holder", "tenant"))
    assert asked == [{**ana, "tenant": "acme"}] * 2 + [{**ana, "tenant": "zeta"}] * 2 + [nobodys] * 2
    left = {each.account.tenant: each.spent for each in await world.store.standings(ALL)}
    assert left["acme"] == NOTHING
    assert left["zeta"].calls == 1
    assert len(trail.records) == 6
