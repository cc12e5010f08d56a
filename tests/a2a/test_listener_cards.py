"""The card at its well-known address, the extended card, and the webhook for notifications."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gateway import codec
from gateway.errors import PolicyDenied
from gateway.types import Authorized, Call, Identity, Permit, Result
from tests.a2a.worlds import ANONYMOUS, World, card, entry
from tests.fakes import FakeIdentifier, permit_for

PATHS = pytest.mark.parametrize("path", ["/.well-known/agent-card.json", "/.well-known/agent.json"])
CARD = "/.well-known/agent-card.json"


@PATHS
async def test_the_card_is_ours_and_its_read_is_a_call(path: str) -> None:
    world = World()

    got = await world.send("GET", path)

    shown = json.loads(got.body)
    assert (got.status, got.header("content-type")) == (200, "application/json")
    assert {interface["url"] for interface in shown["supportedInterfaces"]} == {"https://gateway.example/agents/cook"}
    assert len(shown["signatures"]) == 1
    assert b"10.1.2.3" not in got.body
    (call,) = world.decider.asked
    assert (call.action, call.method, call.resource.id) == ("a2a.card.read", "card/read", "cook")
    assert world.upstream.executed == []
    assert [record.outcome for record in world.trail.records] == ["ok"]


async def test_anonymous_callers_read_the_card_where_the_identifier_knows_them() -> None:
    world = World(identifier=FakeIdentifier({}, anonymous=ANONYMOUS))

    got = await world.send("GET", CARD, None, (b"authorization", b"-"))

    assert got.status == 200


async def test_policy_decides_who_reads_the_card() -> None:
    world = World()
    world.deny(PolicyDenied("no"))

    got = await world.send("GET", CARD, None, (b"if-none-match", b"*"))

    assert got.status == 403


async def test_a_client_that_has_the_card_is_told_so() -> None:
    world = World()
    first = await world.send("GET", CARD)
    etag, modified = first.header("etag"), first.header("last-modified")

    by_tag = await world.send("GET", CARD, None, (b"if-none-match", etag.encode()))
    by_date = await world.send("GET", CARD, None, (b"if-modified-since", modified.encode()))
    other = await world.send("GET", CARD, None, (b"if-none-match", b'"other"'))

    assert (by_tag.status, by_tag.body, by_date.status, other.status) == (304, b"", 304, 200)
    assert by_tag.header("etag") == etag
    assert "max-age" in first.header("cache-control")
    assert len(world.trail.records) == 4


async def test_a_card_that_policy_changed_is_not_kept_by_anybody() -> None:
    world = World()

    def inspect(authorized: Authorized, result: Result) -> Result:
        return replace(result, payload=b'{"name":"Cook"}')

    world.decider.inspect_with = inspect

    got = await world.send("GET", CARD, None, (b"if-none-match", b"*"))

    assert (got.status, got.body) == (200, b'{"name":"Cook"}')
    assert got.header("cache-control") == "no-store"
    assert got.header("etag") == ""


async def test_an_agent_without_a_card_is_unavailable() -> None:
    world = World()
    world.agents.put(replace(entry(), card=type(entry().card)(), down="connection refused"))

    got = await world.send("GET", CARD)

    assert got.status == 503


async def test_a_quarantined_card_is_not_served() -> None:
    world = World()
    world.agents.put(replace(entry(), quarantine="skills changed"))

    got = await world.send("GET", CARD)

    assert got.status == 403


async def test_the_extended_card_bears_our_addresses_and_signature_for_every_version() -> None:
    world = World()
    secret = {"id": "secret", "name": "Secret", "description": "for some", "tags": ["x"]}
    world.answer(codec.dumps({**card(), "skills": [secret]}))

    new = await world.send("GET", "/extendedAgentCard")
    old = await world.rpc("agent/getAuthenticatedExtendedCard", {}, (b"a2a-version", b"-"))

    shown = json.loads(new.body)
    assert [skill["id"] for skill in shown["skills"]] == ["secret"]
    assert shown["supportedInterfaces"][0]["url"] == "https://gateway.example/agents/cook"
    assert b"10.1.2.3" not in new.body + old.body
    assert old.result["signatures"] == shown["signatures"]


async def test_an_extended_card_that_is_none_is_an_invalid_answer() -> None:
    world = World()
    world.answer(b"[]")

    got = await world.rpc("GetExtendedAgentCard")

    assert got.error["code"] == -32006


async def test_notifications_go_to_the_relay_without_credentials() -> None:
    world = World()
    world.pushes.status = 202

    got = await world.send("POST", "/push/r-1", {"task": {}}, (b"authorization", b"-"), (b"a2a-version", b"-"))

    assert (got.status, got.body) == (202, b"")
    assert world.pushes.seen == [("cook", "r-1", b'{"task": {}}')]


@pytest.mark.parametrize(
    ("verb", "path", "size", "status"),
    [
        ("GET", "/push/r-1", 1, 405),
        ("POST", "/push/", 1, 404),
        ("POST", "/push/a/b", 1, 404),
        ("POST", "/push/r", 100_001, 413),
    ],
)
async def test_notifications_in_another_form_are_refused(verb: str, path: str, size: int, status: int) -> None:
    world = World()

    got = await world.send(verb, path, b"x" * size)

    assert got.status == status
    assert world.pushes.seen == []


async def test_the_decision_on_a_card_is_for_the_identity_that_asks() -> None:
    world = World()
    asked: list[str] = []

    def decide(call: Call, identity: Identity) -> Permit:
        asked.append(identity.subject.id)
        return permit_for(call, identity)

    world.decider.decide_with = decide

    await world.send("GET", CARD, None, (b"authorization", b"Bearer bo"))

    assert asked == ["user:bo"]
