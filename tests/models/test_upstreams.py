"""What becomes of a call when its provider fails, stalls, or sends what it should not; and what is charged for."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import anyio
import openai
import pytest

from adapters.models.anthropic import anthropic_upstream
from adapters.models.openai import LACKING_S, openai_upstream
from adapters.models.terms import Terms
from gateway.errors import (
    InterlockError,
    InvalidCall,
    PolicyDenied,
    QuotaExceeded,
    UnknownResource,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.models import Price, ProviderRefused
from gateway.types import FrozenDict, Obligation, Usage
from tests.fakes import FakeRelay
from tests.models.front import Asked, ask, authorized, fronting, running
from tests.models.kits import KITS
from tests.servers.models import SECRET, Mode, Say, provider

BODIES: dict[str, dict[str, Any]] = {kit.api: kit.body() for kit in KITS}
APIS = list(BODIES)
KINDS = ["openai", "anthropic"]
LONG = Say(text="word " * 40)
PRICE = Price(input=3_000_000_000, output=15_000_000_000, cached=300_000_000)
"""3 dollars a million tokens in, 15 out, 0.30 from the cache."""


async def tried(kind: str, api: str, mode: Mode, *, stream: bool = True, say: Say = LONG, **terms: Any) -> Asked:
    async with provider(say, mode) as (_, url), running(kind, url, **terms) as upstream:
        return await ask(upstream, api, {**BODIES[api], **({"stream": True} if stream else {})})


FAILURES: list[tuple[Mode, type[InterlockError]]] = [
    ("429", QuotaExceeded), ("500", UpstreamUnavailable), ("401", UpstreamUnavailable), ("404", UnknownResource),
    ("400", ProviderRefused), ("garbage", UpstreamProtocolError), ("type", UpstreamProtocolError),
    ("huge", UpstreamProtocolError), ("slow", UpstreamTimeout),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("mode", "expected"), FAILURES, ids=[mode for mode, _ in FAILURES])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_failure_is_told_by_its_kind_and_without_the_provider_s_words(
    kind: str, mode: Mode, expected: type[InterlockError], stream: bool
) -> None:
    timeout_s = 0.3 if mode == "slow" else 10.0
    asked = await tried(kind, APIS[0], mode, stream=stream, max_bytes=100_000, timeout_s=timeout_s)
    assert type(asked.error) is expected
    assert SECRET not in str(asked.error)
    assert "sk-" not in str(asked.error)
    assert asked.events == []


@pytest.mark.parametrize("kind", KINDS)
async def test_the_provider_s_wish_to_wait_is_handed_on(kind: str) -> None:
    asked = await tried(kind, "messages", "429")
    assert isinstance(asked.error, QuotaExceeded)
    assert asked.error.retry_after_s == 17


@pytest.mark.parametrize("kind", KINDS)
async def test_a_prompt_that_is_too_long_can_be_told_from_other_refusals(kind: str) -> None:
    asked = await tried(kind, "messages", "400")
    assert isinstance(asked.error, ProviderRefused)
    assert asked.error.too_long


async def test_a_provider_that_is_not_there_is_unavailable() -> None:
    async with running("openai", "http://127.0.0.1:9/v1") as upstream:
        asked = await ask(upstream, APIS[0], BODIES[APIS[0]])
    assert isinstance(asked.error, UpstreamUnavailable)


@pytest.mark.parametrize("mode", ["cut", "error", "silent"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("api", APIS)
async def test_a_stream_that_breaks_ends_with_an_error_of_the_caller_s_api_and_is_charged_for(
    api: str, kind: str, mode: Mode
) -> None:
    timeout_s = 0.5 if mode == "silent" else 10.0
    asked = await tried(kind, api, mode, timeout_s=timeout_s, price=lambda _: PRICE)
    assert asked.error is None
    assert asked.result is not None
    assert asked.result.outcome == "rpc_error"
    usage = asked.result.usage
    assert usage is not None
    assert usage.tokens >= 40
    assert usage.nano_usd > 0
    assert asked.notes["tokens"]["output"] > 0  # type: ignore[index]
    assert SECRET not in json.dumps(asked.events)
    kinds = [event.get("type") for event in asked.events]
    match api:
        case "chat.completions":
            assert set(asked.events[-1]) == {"error"}
        case "messages":
            assert kinds[-1] == "error"
        case _:
            assert "error" in kinds
            assert [event["sequence_number"] for event in asked.events] == list(range(len(kinds)))


@pytest.mark.parametrize("kind", KINDS)
async def test_the_vendors_clients_raise_when_a_stream_breaks(kind: str) -> None:
    for kit in (KITS[0], KITS[2]):
        async with provider(LONG, "cut") as (_, url), running(kind, url) as ours, fronting(ours) as front:
            with anyio.fail_after(20), pytest.raises((openai.APIError, anthropic.APIError)):
                await kit.streamed(front, kit.body())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_of_responses_that_breaks_fails_the_response(kind: str) -> None:
    async with provider(LONG, "cut") as (_, url), running(kind, url) as ours, fronting(ours) as front:
        with anyio.fail_after(20):
            async with (
                openai.AsyncOpenAI(base_url=front, api_key="k", max_retries=0) as client,
                await client.responses.create(**KITS[1].body(), stream=True) as stream,
            ):
                kinds = [event.type async for event in stream]
    assert "error" in kinds
    assert "response.completed" not in kinds


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.api)
async def test_the_vendors_clients_know_a_rate_limit_by_its_error(kit: Any) -> None:
    async with provider(LONG, "429") as (_, url), running("openai", url) as ours, fronting(ours) as front:
        with anyio.fail_after(20), pytest.raises((openai.RateLimitError, anthropic.RateLimitError)) as caught:
            await kit.whole(front, kit.body())
    assert isinstance(caught.value, openai.RateLimitError | anthropic.RateLimitError)
    assert caught.value.response.headers["retry-after"] == "17"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("api", APIS)
async def test_a_call_is_charged_what_the_provider_counted(api: str, kind: str, stream: bool) -> None:
    asked = await tried(kind, api, "ok", stream=stream, price=lambda _: PRICE)
    assert asked.result is not None
    # 16 fresh tokens at 3 dollars a million, 5 from the cache at 0.30, 9 written at 15
    assert asked.result.usage == Usage(nano_usd=16 * 3_000 + 5 * 300 + 9 * 15_000, tokens=30)


async def test_where_the_provider_counts_nothing_an_estimate_is_charged() -> None:
    asked = await tried("openai", "chat.completions", "no usage", stream=False)
    assert asked.result is not None
    assert asked.result.usage is not None
    assert asked.result.usage.tokens > 40


async def test_the_catalogue_s_price_and_name_of_the_model_come_first() -> None:
    catalog = {"model": "gpt-real", "usd_per_mtok_in": 1, "usd_per_mtok_out": 2.5}
    async with provider() as (state, url), running("openai", url, price=lambda _: PRICE) as upstream:
        asked = await ask(upstream, "chat.completions", BODIES["chat.completions"], catalog=catalog)
    assert state.body["model"] == "gpt-real"
    assert asked.result is not None
    assert asked.result.usage == Usage(nano_usd=21 * 1_000 + 9 * 2_500, tokens=30)


@pytest.mark.parametrize("type_", ["redact", "cap", "model"])
async def test_nothing_is_streamed_where_policy_must_see_the_whole_answer(type_: str) -> None:
    obligation = Obligation(type_, FrozenDict({"stream": False}))
    async with provider() as (state, url), running("openai", url) as upstream:
        asked = await ask(upstream, "chat.completions", {**BODIES["chat.completions"], "stream": True}, obligation)
    assert asked.events == []
    assert "stream" not in state.body
    assert asked.answer["choices"][0]["message"]["content"] == "Hello there, world."


async def test_the_permit_s_limit_on_what_is_written_reaches_the_provider() -> None:
    obligation = Obligation("model", FrozenDict({"max_tokens": 50}))
    async with provider() as (state, url), running("anthropic", url) as upstream:
        for api, body in BODIES.items():
            await ask(upstream, api, body, obligation)
            assert state.body["max_tokens"] == 50
        await ask(upstream, "messages", {**BODIES["messages"], "max_tokens": 20}, obligation)
    assert state.body["max_tokens"] == 20


async def test_usage_that_the_caller_did_not_ask_for_is_not_in_its_stream() -> None:
    async with provider() as (state, url), running("openai", url) as upstream:
        asked = await ask(upstream, "chat.completions", {**BODIES["chat.completions"], "stream": True})
    assert state.body["stream_options"] == {"include_usage": True}
    assert all(event["choices"] for event in asked.events)


async def test_policy_that_ends_a_stream_is_not_taken_for_a_failure_of_the_provider() -> None:
    relay = FakeRelay()
    relay.refuse_events = PolicyDenied("not this")
    async with provider() as (_, url), running("openai", url) as upstream:
        with anyio.fail_after(10), pytest.raises(PolicyDenied):
            await upstream.execute(authorized("messages", {**BODIES["messages"], "stream": True}), relay)
    assert "tokens" in relay.notes


async def test_an_answer_longer_than_its_limit_is_refused_as_it_comes() -> None:
    for stream in (False, True):
        asked = await tried(
            "openai", "chat.completions", "ok", stream=stream, say=Say(text="x" * 9_000), max_bytes=4_000
        )
        broken = asked.error if asked.error is not None else asked.events[-1]["error"]["code"]
        assert isinstance(broken, UpstreamProtocolError) or broken == "upstream_protocol_error"


async def test_a_connection_serves_several_streams() -> None:
    ports: set[str] = set()
    async with provider() as (state, url), running("openai", url) as upstream:
        for _ in range(3):
            asked = await ask(upstream, "chat.completions", {**BODIES["chat.completions"], "stream": True})
            assert asked.error is None
        ports = {seen.peer for seen in state.seen}
    assert len(ports) == 1


UNTRANSLATABLE: list[tuple[str, str, dict[str, Any], str]] = [
    ("chat.completions", "anthropic", {"logit_bias": {"5": 1}}, "logit_bias"),
    ("chat.completions", "anthropic", {"n": 2}, "n "),
    ("chat.completions", "anthropic", {"seed": 1}, "seed"),
    ("chat.completions", "anthropic", {"response_format": {"type": "json_object"}}, "response_format"),
    ("chat.completions", "anthropic", {"temperature": 1.5}, "temperature"),
    ("chat.completions", "anthropic", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    ("chat.completions", "anthropic", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
     "messages[0].content[0].type"),
    ("responses", "anthropic", {"previous_response_id": "resp_0"}, "previous_response_id"),
    ("responses", "anthropic", {"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ("responses", "anthropic", {"background": True}, "background"),
    ("messages", "openai", {"top_k": 5}, "top_k"),
    ("messages", "openai", {"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ("messages", "openai", {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
     "messages[0].content[0].type"),
]  # fmt: skip


@pytest.mark.parametrize(("api", "kind", "more", "named"), UNTRANSLATABLE, ids=[row[3] for row in UNTRANSLATABLE])
async def test_what_cannot_be_translated_is_refused_by_name(
    api: str, kind: str, more: dict[str, Any], named: str
) -> None:
    async with provider() as (state, url), running(kind, url) as upstream:
        asked = await ask(upstream, api, {**BODIES[api], **more})
    assert type(asked.error) is InvalidCall
    assert str(asked.error).startswith(named)
    assert state.seen == []


async def test_embeddings_go_through_and_are_counted() -> None:
    body = {"model": "p/e", "input": ["a", "b"], "encoding_format": "float"}
    async with provider() as (state, url), running("openai", url) as upstream:
        asked = await ask(upstream, "embeddings", body, name="e")
    assert state.body == {**body, "model": "e"}
    assert asked.answer["data"][1]["embedding"] == [0.5, -0.25]
    assert asked.result is not None
    assert asked.result.usage == Usage(tokens=4)
    refused = await ask(anthropic_upstream(Terms("a")), "embeddings", body)
    assert isinstance(refused.error, InvalidCall)


async def test_a_server_that_once_had_no_responses_is_asked_for_them_again_after_some_minutes() -> None:
    now = [1_000.0]
    async with provider(mode="no responses") as (state, url), anyio.create_task_group() as tasks:
        upstream = openai_upstream(Terms("p", url), lambda: now[0])
        tasks.start_soon(upstream.run)
        first = await ask(upstream, "responses", BODIES["responses"])
        state.mode = "ok"
        now[0] += LACKING_S - 1
        soon = await ask(upstream, "responses", BODIES["responses"])
        now[0] += 1
        later = await ask(upstream, "responses", BODIES["responses"])
        tasks.cancel_scope.cancel()

    assert [each.error for each in (first, soon, later)] == [None, None, None]
    assert [seen.path.removeprefix("/v1") for seen in state.seen] == [
        "/responses", "/chat/completions", "/chat/completions", "/responses",
    ]  # fmt: skip
