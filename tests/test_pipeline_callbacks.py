"""What an upstream may ask and tell the client during a call, and that policy stands between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from gateway.errors import InputTooLarge, InvalidCall, PolicyDenied, UpstreamProtocolError
from gateway.pipeline import CALLBACK_ACTIONS
from gateway.ports import Relay
from gateway.types import Authorized, Call, Era, Identity, Obligation, Permit, Result
from tests.fakes import ANA, FakeExchange, FakeUpstream, permit_for
from tests.spine import TOOL, World, under


def asking(method: str, params: Mapping[str, object] | None = None) -> FakeUpstream:
    """An upstream that puts one question to its client and gives the reply as its result."""

    async def ask(authorized: Authorized, relay: Relay) -> Result:
        return await relay.ask(method, params or {"message": "sure?"})

    return FakeUpstream(ask)


@pytest.mark.parametrize("method", sorted(CALLBACK_ACTIONS))
async def test_question_of_an_upstream_is_a_call_of_its_own(method: str) -> None:
    world = World(upstream=asking(method))
    world.exchange.answers[method] = Result(b'{"action":"accept"}')
    action, kind = CALLBACK_ACTIONS[method]

    result = await world.handle()

    parent, question = world.decider.asked
    assert result.payload == b'{"action":"accept"}'
    assert (question.action, question.method, question.parent_id) == (action, method, parent.id)
    assert question.id not in {"", parent.id}
    assert (question.resource.type, question.resource.id, question.resource.upstream) == (kind, "files", "files")
    assert (question.resource.name, question.resource.catalog) == ("read", TOOL.catalog)
    assert question.session_id == parent.session_id
    assert question.params == {"message": "sure?"}
    assert world.exchange.asked == [question]
    asked, called = world.trail.records
    assert (asked.call.id, asked.outcome, asked.identity) == (question.id, "ok", ANA)
    assert (called.call.id, called.outcome) == (parent.id, "ok")


async def test_question_that_policy_forbids_never_reaches_the_client() -> None:
    world = World(upstream=asking("elicitation/create"))

    def no_questions(call: Call, identity: Identity) -> Permit:
        if call.action == "mcp.elicitation.create":
            raise PolicyDenied("no questions", decision_id="d2")
        return permit_for(call, identity)

    world.decider.decide_with = no_questions

    with pytest.raises(PolicyDenied):
        await world.handle()

    assert world.exchange.asked == []
    question, parent = world.trail.records
    assert (question.outcome, question.decision_id, question.call.parent_id) == ("denied", "d2", parent.call.id)
    assert parent.outcome == "denied"


async def test_answer_of_the_client_is_inspected_like_any_result() -> None:
    world = World(upstream=asking("sampling/createMessage"))
    world.exchange.answers["sampling/createMessage"] = Result(b'{"content":"secret"}')
    world.decider.inspect_with = lambda authorized, result: replace(result, payload=b'{"content":"***"}')

    result = await world.handle()

    assert [seen.payload for seen in world.decider.inspected] == [b'{"content":"secret"}', b'{"content":"***"}']
    assert result.payload == b'{"content":"***"}'


async def test_question_that_the_client_cannot_be_asked_fails_on_record() -> None:
    world = World(upstream=asking("roots/list"))

    with pytest.raises(InvalidCall):
        await world.handle()

    assert [(r.call.method, r.outcome) for r in world.trail.records] == [
        ("roots/list", "failed"),
        ("tools/call", "failed"),
    ]


async def test_question_that_is_not_in_mcp_is_a_fault_of_the_upstream() -> None:
    world = World(upstream=asking("tools/call"))

    with pytest.raises(UpstreamProtocolError, match="'files'"):
        await world.handle()

    assert world.exchange.asked == []
    assert (world.record.outcome, world.record.error) == ("failed", "upstream_protocol_error")


async def test_question_too_large_for_policy_is_not_asked() -> None:
    world = World(upstream=asking("elicitation/create", {"values": list(range(3_000))}))

    with pytest.raises(InputTooLarge):
        await world.handle()

    assert world.exchange.asked == []
    assert world.record.outcome == "denied"


async def test_upstream_sees_of_the_client_what_the_exchange_knows() -> None:
    world = World(exchange=FakeExchange("ana's session", era=Era.MODERN))
    world.exchange.capabilities = {"roots": {}}
    world.exchange.log_level, world.exchange.wants_progress = "info", True
    seen: list[object] = []

    async def look(authorized: Authorized, relay: Relay) -> Result:
        seen.extend([relay.owner, relay.era, relay.capabilities, relay.log_level, relay.wants_progress])
        return Result(b"{}")

    world.upstream.answer = look

    await world.handle()

    assert seen == ["ana's session", Era.MODERN, {"roots": {}}, "info", True]


NEWS: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("notifications/progress", {"progress": 1, "message": "reading ana@example.org"}),
    ("notifications/message", {"level": "info", "data": "ana@example.org"}),
    ("notifications/tools/list_changed", {}),
)


async def telling(authorized: Authorized, relay: Relay) -> Result:
    for method, params in NEWS:
        await relay.notify(method, params)
    return Result(b"{}")


async def test_only_news_of_the_call_itself_reaches_the_client() -> None:
    world = World(upstream=FakeUpstream(telling))

    await world.handle()

    assert world.exchange.told == list(NEWS[:2])


async def test_what_is_redacted_from_the_result_does_not_leave_by_a_notification() -> None:
    world = World(upstream=FakeUpstream(telling))
    world.decider.decide_with = under(Obligation("redact", {"paths": ["$.email"]}))

    await world.handle()

    assert world.exchange.told == [("notifications/progress", {"progress": 1})]
