"""Agents that ask each other through the gateway: on whose behalf, how deep, never in a circle, with nobody's keys."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2
import pytest
from a2a.helpers.proto_helpers import new_text_message
from a2a.server.agent_execution.agent_executor import AgentExecutor
from a2a.server.agent_execution.context import RequestContext
from a2a.server.events.event_queue import EventQueue
from a2a.types import Role
from anyio import to_thread

from conformance.gateway import Plan
from gateway.audit.reader import Filter, Tail
from tests.conformance.talking import Json
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, new_key, prepare, rules
from tests.e2e.sdk_agents import SdkAgent, process_of, sdk_agent

pytestmark = pytest.mark.slow

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
DEEP: Final = tuple(f"d{number}" for number in range(1, 10))
"""One more than a call may come through; all of them are the first agent under other names."""
HEADER: Final = "interlock-chain"
RULES: Final = """allow if input.resource.properties.upstream == "a"

allow if startswith(input.resource.properties.upstream, "d")

# The second agent works for Ana only, and only when the first one asks.
allow if {
	input.resource.properties.upstream == "b"
	input.subject.id == "agent:a"
	input.subject.properties.on_behalf_of == {"type": "user", "id": "user:ana"}
	input.subject.properties.delegation == ["user:ana", "agent:a"]
}
"""


@dataclass
class Passing(AgentExecutor):
    """Told "a b c", agent a tells agent b "b c", and answers what comes of it; the last one is done."""

    url: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    hands_on: bool = True
    """Whether it sends the header that the gateway gave it along with what it asks."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        own, *rest = context.get_user_input().split(" ")
        assert context.call_context is not None
        headers = context.call_context.state["headers"]
        told = await self._asked(own, rest, headers) if rest else f"{own} is done"
        await event_queue.enqueue_event(
            new_text_message(told, context_id=context.context_id or "", role=Role.ROLE_AGENT)
        )

    async def _asked(self, own: str, rest: Sequence[str], headers: Mapping[str, str]) -> str:
        sent = {"traceparent": headers["traceparent"]}
        if self.hands_on:
            sent[HEADER] = headers[HEADER]
        return words_of(await said(self.url, rest, self.keys[f"agent:{own}"], sent))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise NotImplementedError


async def said(url: str, path: Sequence[str], key: str, headers: Mapping[str, str]) -> Json:
    """The answer to a message that asks the first of these agents to ask the others, in turn."""
    part = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": " ".join(path)}]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": part}}
    known = {"authorization": f"Bearer {key}", "a2a-version": "1.0", **headers}
    async with httpx2.AsyncClient(timeout=30, trust_env=False) as http:
        response = await http.post(f"{url}/agents/{path[0]}", json=body, headers=known)
    answer: Json = response.json()
    return answer


def words_of(answer: Json) -> str:
    """What the last agent said, or what became of the call before it."""
    if "error" in answer:
        return json.dumps(answer["error"])
    text: str = answer["result"]["message"]["parts"][0]["text"]
    return text


@dataclass(frozen=True, slots=True)
class World:
    """A gateway before two agents that ask each other through it."""

    place: Place
    first: SdkAgent
    second: SdkAgent
    keys: Mapping[str, str]
    passing: Passing

    async def say(self, who: str, *path: str, **headers: str) -> str:
        """What comes of asking the first agent to ask the others."""
        sent = {"traceparent": f"00-{TRACE}-{'1' * 16}-01", **headers}
        return words_of(await said(self.place.url, path, self.keys[f"user:{who}"], sent))

    async def recorded(self, subject: str, outcome: str) -> list[Json]:
        """The calls of a subject that ended so, once there are any."""

        async def look() -> list[Json]:
            found = Tail(self.place.state / "audit", Filter(outcome, subject, "a2a.message.send")).last(1_000)
            return [json.loads(body) for body in found]

        return await eventually(look)


@asynccontextmanager
async def world(directory: Path, *, hands_on: bool = True) -> AsyncIterator[World]:
    """Both agents are called with credentials of their own, and call with their own keys."""
    passing = Passing(hands_on=hands_on)
    async with sdk_agent("a", passing) as first, sdk_agent("b", passing) as second, AsyncExitStack() as stack:
        urls = {"a": first.card_url, "b": second.card_url, **dict.fromkeys(DEEP, first.card_url)}
        for name in urls:
            (directory / f"{name}.secret").write_text(f"hop-to-{name}")
        tables: dict[str, Mapping[str, object]] = {
            f"agents.{name}": {"card_url": url, "headers": {"authorization": f"Bearer file:{name}.secret"}}
            for name, url in urls.items()
        }
        place = prepare(directory, Plan({}, {"policy": rules(directory, all=RULES), **tables}))
        keys = {f"user:{name}": await new_key(place, name) for name in ("ana", "bo")}
        keys |= {f"agent:{name}": await new_key(place, name, kind="agent") for name in urls}
        passing.url, passing.keys = place.url, keys
        stack.enter_context(await to_thread.run_sync(process_of, place))
        yield World(place, first, second, keys, passing)


@pytest.mark.parametrize("hands_on", [True, False], ids=["with the header", "without it"])
async def test_agent_that_would_be_asked_again_is_not(tmp_path: Path, hands_on: bool) -> None:
    async with world(tmp_path, hands_on=hands_on) as made:
        straight = await made.say("ana", "a", "b")
        in_a_circle = await made.say("ana", "a", "b", "a")
        heard = [len(made.first.heard), len(made.second.heard)]
        (refused,) = await made.recorded("agent:b", "denied")

    assert straight == "b is done"
    error = json.loads(in_a_circle)
    assert error["code"] == -31403
    assert "a -> b -> a" in error["message"]
    assert "delegation_loop" in [detail["reason"].lower() for detail in error["data"]]
    assert heard == [2, 2]
    assert refused["identity"]["delegation"] == ["user:ana", "agent:a", "agent:b"]
    assert refused["identity"]["on_behalf_of"]["id"] == "user:ana"
    assert "delegation_loop" in json.dumps(refused)


async def test_agent_is_asked_only_on_behalf_of_whom_policy_names(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        for_ana, for_bo = await made.say("ana", "a", "b"), await made.say("bo", "a", "b")
        directly = await made.say("ana", "b")
        (asked,) = await made.recorded("agent:a", "ok")
        (refused,) = await made.recorded("agent:a", "denied")
        heard = len(made.second.heard)

    assert for_ana == "b is done"
    assert "-31403" in for_bo
    assert "-31403" in directly
    assert heard == 1
    assert asked["identity"]["delegation"] == ["user:ana", "agent:a"]
    assert asked["identity"]["on_behalf_of"] == {"type": "user", "id": "user:ana"}
    assert refused["identity"]["delegation"] == ["user:bo", "agent:a"]


async def test_chain_is_no_longer_than_it_may_be(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        as_deep_as_may_be = await made.say("ana", *DEEP[:8])
        too_deep = await made.say("ana", *DEEP)
        (refused,) = await made.recorded("agent:d8", "denied")

    assert as_deep_as_may_be == "d8 is done"
    assert "came through 8 agents already" in too_deep
    assert "delegation_too_deep" in too_deep.lower()
    assert refused["identity"]["delegation"] == ["user:ana", *(f"agent:{name}" for name in DEEP[:8])]


async def test_hop_has_its_own_credentials_and_the_trace_of_the_first(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        mine = {"cookie": "session=ana", "x-api-key": "ana's", "x-forwarded-for": "10.0.0.1", "forwarded": "for=ana"}
        done = await made.say("ana", "a", "b", **mine)
        (to_first,), (to_second,) = made.first.heard, made.second.heard
        (asked,) = await made.recorded("agent:a", "ok")
        keys = made.keys

    assert done == "b is done"
    for headers, name in ((to_first, "a"), (to_second, "b")):
        assert headers["authorization"] == f"Bearer hop-to-{name}"
        assert headers["traceparent"].split("-")[1] == TRACE
        assert not {"cookie", "x-api-key", "x-forwarded-for", "forwarded"} & set(headers)
        assert not any(key in value for key in keys.values() for value in headers.values())
    spans = [headers["traceparent"].split("-")[2] for headers in (to_first, to_second)]
    assert len({"1" * 16, *spans}) == 3
    assert to_first[HEADER] != to_second[HEADER]
    assert asked["trace_id"] == TRACE


async def test_chain_of_one_agent_is_of_no_use_to_another_caller(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.say("ana", "a")
        stolen = made.first.heard[0][HEADER]
        sent = {"traceparent": f"00-{TRACE}-{'1' * 16}-01", HEADER: stolen}
        answers = [
            await said(made.place.url, ("a",), made.keys[who], sent) for who in ("user:bo", "agent:b", "user:ana")
        ]
        heard = len(made.first.heard)

    assert [answer["error"]["code"] for answer in answers] == [-31401] * 3
    assert heard == 1
