"""The one path: what happens in which order, and what never happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import anyio
import pytest

from gateway.errors import (
    ApprovalPending,
    AuditUnavailable,
    InputTooLarge,
    InterlockError,
    PermitMismatch,
    PolicyDenied,
    PolicyEngineUnavailable,
    QuotaExceeded,
    Unauthenticated,
    UnknownResource,
    UpstreamTimeout,
)
from gateway.pipeline import Pipeline
from gateway.ports import Relay
from gateway.types import (
    Authorized,
    Call,
    Credentials,
    FrozenDict,
    Identity,
    Obligation,
    Outcome,
    Permit,
    Reason,
    Result,
    Ruling,
)
from tests.fakes import ANA, FakeUpstream
from tests.spine import CREDENTIALS, TOOL, World, a_call, refusing, under

DURABLE = Obligation("audit", FrozenDict({"durable": True}))


async def test_stages_run_in_the_order_that_is_the_security_property() -> None:
    world, order = World(), list[str]()

    def decide(call: Call, identity: Identity) -> Permit:
        order.append(f"decide for {identity.subject.id}, {len(world.identifier.seen)} identified")
        return under(DURABLE)(call, identity)

    def carry_out(call: Call, permit: Permit) -> tuple[Call, Permit]:
        order.append("narrow")
        return call, permit

    async def execute(authorized: Authorized, relay: Relay) -> Result:
        order.append(f"execute after {len(world.trail.committed)} intent")
        return Result(b'{"a":1}')

    def inspect(authorized: Authorized, result: Result) -> Result:
        order.append(f"inspect {result.payload.decode()} before the record of {len(world.trail.records)}")
        return replace(result, payload=b'{"a":"redacted"}')

    world.decider.decide_with, world.decider.carry_out_with = decide, carry_out
    world.upstream.answer, world.decider.inspect_with = execute, inspect

    result = await world.handle()

    assert order == [
        "decide for user:ana, 1 identified",
        "narrow",
        "execute after 1 intent",
        'inspect {"a":1} before the record of 1',
    ]
    assert result.payload == b'{"a":"redacted"}'
    assert [record.outcome for record in world.trail.records] == ["intent", "ok"]


async def test_unidentified_caller_is_refused_before_policy_is_asked() -> None:
    world = World()

    with pytest.raises(Unauthenticated):
        await world.pipeline.handle(a_call(), Credentials("stranger"), world.exchange)

    assert world.decider.asked == []
    assert world.upstream.executed == []
    assert (world.record.outcome, world.record.error, world.record.identity) == ("denied", "unauthenticated", None)
    assert world.record.decide_ns == world.record.execute_ns == world.record.inspect_ns == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (PolicyDenied("no", decision_id="d9", reasons=(Reason("a", rule="r"), Reason("b"))), "denied"),
        (ApprovalPending("held", decision_id="d9"), "denied"),
        (QuotaExceeded("slow down"), "denied"),
        (InputTooLarge("too much"), "denied"),
        (PolicyEngineUnavailable("gone"), "failed"),
    ],
)
async def test_refused_call_never_reaches_the_upstream_and_leaves_one_record(
    error: InterlockError, outcome: str
) -> None:
    world = World()
    world.decider.decide_with = refusing(error)

    with pytest.raises(type(error)):
        await world.handle()

    assert world.upstream.executed == []
    assert world.decider.inspected == []
    assert (world.record.outcome, world.record.error) == (outcome, error.code)
    assert world.record.decision_id == getattr(error, "decision_id", "")
    assert world.record.reasons == (("r:a", "b") if isinstance(error, PolicyDenied) else ())


async def test_refusal_is_recorded_with_the_ruling_that_it_comes_from() -> None:
    world, error = World(), QuotaExceeded("slow down")
    error.ruling = Ruling("d7", "rev7", "opa", cached=True)
    world.decider.decide_with = refusing(error)

    with pytest.raises(QuotaExceeded):
        await world.handle()

    record = world.record
    assert (record.decision_id, record.revision, record.engine, record.cached) == ("d7", "rev7", "opa", True)


async def test_refusal_of_the_result_is_recorded_with_its_own_ruling() -> None:
    world, error = World(), PolicyDenied("withheld", decision_id="d8")
    error.ruling = Ruling("d8", "rev8", "opa")

    def withhold(authorized: Authorized, result: Result) -> Result:
        raise error

    world.decider.inspect_with = withhold

    with pytest.raises(PolicyDenied):
        await world.handle()

    assert len(world.upstream.executed) == 1
    assert (world.record.outcome, world.record.decision_id, world.record.revision) == ("denied", "d8", "rev8")
    assert world.record.result_bytes == 2


async def test_arguments_that_cannot_be_narrowed_stop_the_call() -> None:
    world = World()

    def cannot(call: Call, permit: Permit) -> tuple[Call, Permit]:
        raise PolicyDenied("argument not permitted")

    world.decider.carry_out_with = cannot

    with pytest.raises(PolicyDenied):
        await world.handle()

    assert world.upstream.executed == []
    assert (world.record.outcome, world.record.decision_id) == ("denied", "d1")


async def test_narrowed_call_is_what_is_executed_and_recorded() -> None:
    world = World()

    def narrow(call: Call, permit: Permit) -> tuple[Call, Permit]:
        narrowed = call.with_arguments({"path": "/tmp/only"})
        return narrowed, replace(permit, call_digest=narrowed.digest)

    world.decider.carry_out_with = narrow

    await world.handle()

    assert world.upstream.executed[0].call.arguments == {"path": "/tmp/only"}
    assert world.record.call.arguments == {"path": "/tmp/only"}


async def test_permit_for_another_call_is_worth_nothing() -> None:
    world = World()
    world.decider.carry_out_with = lambda call, permit: (call.with_arguments({"path": "/etc/passwd"}), permit)

    with pytest.raises(PermitMismatch):
        await world.handle()

    assert world.upstream.executed == []
    assert (world.record.outcome, world.record.error) == ("failed", "permit_mismatch")


@pytest.mark.parametrize("outcome", ["ok", "tool_error", "rpc_error", "input_required"])
async def test_each_outcome_of_an_executed_call_leaves_one_record(outcome: Outcome) -> None:
    world = World()

    async def answer(authorized: Authorized, relay: Relay) -> Result:
        return Result(b'{"x":1}', outcome)

    world.upstream.answer = answer

    result = await world.handle()

    record = world.record
    assert result.outcome == record.outcome == outcome
    assert (record.identity, record.decision_id, record.revision) == (ANA, "d1", "r1")
    assert (record.result_bytes, record.ended_ns, record.error) == (7, 42, "")
    assert record.total_ns >= record.identify_ns + record.decide_ns + record.execute_ns + record.inspect_ns > 0


@pytest.mark.parametrize(
    ("fault", "code"), [(UpstreamTimeout("slow"), "upstream_timeout"), (RuntimeError("fault"), "internal")]
)
async def test_failure_of_the_upstream_is_raised_and_recorded(fault: Exception, code: str) -> None:
    world = World()
    world.upstream.fail_with = fault

    with pytest.raises(type(fault)):
        await world.handle()

    assert (world.record.outcome, world.record.error) == ("failed", code)
    assert world.record.execute_ns > 0


@pytest.mark.parametrize("disk", ["", "full"])
async def test_cancelled_call_is_recorded_and_its_cancellation_goes_on(disk: str) -> None:
    world, begun, after = World(), anyio.Event(), list[str]()

    async def forever(authorized: Authorized, relay: Relay) -> Result:
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    async def carried() -> None:
        await world.handle()
        after.append("went on")

    world.upstream.answer = forever

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(carried)
            await begun.wait()
            world.trail.fail_with = disk
            group.cancel_scope.cancel()

    assert after == []
    assert [record.outcome for record in world.trail.records] == ([] if disk else ["cancelled"])


async def test_no_call_is_carried_out_while_the_audit_log_is_full() -> None:
    world = World()
    world.trail.fail_with = "disk full"

    with pytest.raises(AuditUnavailable):
        await world.handle()

    assert world.decider.asked == []
    assert world.upstream.executed == []


async def test_result_that_cannot_be_recorded_is_withheld() -> None:
    world = World()

    async def fill_the_disk(authorized: Authorized, relay: Relay) -> Result:
        world.trail.fail_with = "disk full"
        return Result(b"{}")

    world.upstream.answer = fill_the_disk

    with pytest.raises(AuditUnavailable):
        await world.handle()


async def test_unknown_resource_is_refused_without_asking_policy() -> None:
    world = World()

    with pytest.raises(UnknownResource, match="does not exist or is not visible"):
        await world.handle(a_call(resource=replace(TOOL, known=False)))

    assert world.decider.asked == []
    assert (world.record.outcome, world.record.error) == ("denied", "unknown_resource")


async def test_upstream_that_is_gone_is_an_unknown_resource() -> None:
    world = World()

    def nowhere(call: Call) -> FakeUpstream:
        raise UnknownResource("not configured")

    pipeline = Pipeline(
        identifier=world.identifier, authz=world.decider, upstream_for=nowhere, trail=world.trail, new_id=str
    )

    with pytest.raises(UnknownResource):
        await pipeline.handle(a_call(), CREDENTIALS, world.exchange)

    assert world.record.outcome == "denied"


async def test_quarantined_tool_is_refused_with_the_way_out() -> None:
    world = World()

    with pytest.raises(PolicyDenied) as refused:
        await world.handle(a_call(resource=replace(TOOL, quarantine="- old\n+ new")))

    (reason,) = refused.value.reasons
    assert (reason.code, reason.public) == ("quarantined", True)
    assert "interlock pins diff files" in reason.remedy
    assert world.upstream.executed == []
    assert (world.record.outcome, world.record.decision_id) == ("denied", "d1")
    assert world.record.reasons == ("gateway.pins:quarantined",)


async def test_intent_is_on_disk_before_a_durable_effect() -> None:
    world = World()
    world.decider.decide_with = under(DURABLE)

    async def look(authorized: Authorized, relay: Relay) -> Result:
        (intent,) = world.trail.committed
        assert (intent.outcome, intent.decision_id, intent.ended_ns) == ("intent", "d1", 42)
        assert (intent.revision, intent.engine, intent.obligations) == ("r1", "fake", ("audit",))
        return Result(b"{}")

    world.upstream.answer = look

    await world.handle()

    assert [record.outcome for record in world.trail.records] == ["intent", "ok"]


async def test_intent_holds_the_arguments_where_policy_keeps_them() -> None:
    world = World()
    world.decider.decide_with = under(Obligation("audit", {"durable": True, "arguments": True}))

    await world.handle()

    assert [record.keep_arguments for record in world.trail.records] == [True, True]


async def test_effect_does_not_happen_when_its_intent_cannot_be_kept() -> None:
    world = World()

    def fill_the_disk(call: Call, identity: Identity) -> Permit:
        world.trail.fail_with = "disk full"
        return under(DURABLE)(call, identity)

    world.decider.decide_with = fill_the_disk

    with pytest.raises(AuditUnavailable):
        await world.handle()

    assert world.upstream.executed == []


@pytest.mark.parametrize(
    ("properties", "kept"), [({"durable": False, "arguments": True}, True), ({"durable": "true"}, False), ({}, False)]
)
async def test_only_a_plain_true_asks_for_more_than_the_usual_record(
    properties: Mapping[str, object], kept: bool
) -> None:
    world = World()
    world.decider.decide_with = under(Obligation("audit", properties), Obligation("label"))

    await world.handle()

    assert world.trail.committed == []
    assert world.record.keep_arguments is kept
    assert world.record.obligations == ("audit", "label")


async def test_effect_waits_for_what_is_to_be_done_before_it_and_does_not_happen_without() -> None:
    world, seen = World(), list[int]()

    async def before() -> None:
        seen.append(len(world.decider.asked) - len(world.upstream.executed))
        if len(seen) == 2:
            raise ApprovalPending("used meanwhile")

    await world.pipeline.handle(a_call(), CREDENTIALS, world.exchange, before=before)
    with pytest.raises(ApprovalPending):
        await world.pipeline.handle(a_call(), CREDENTIALS, world.exchange, before=before)

    assert seen == [1, 1]
    assert len(world.upstream.executed) == 1
    assert [record.outcome for record in world.trail.records] == ["ok", "denied"]
