"""The model that is built in: offline, always the same, through every API and the vendors' own clients."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
import openai
import pytest

from adapters.models.echo import vector_of
from gateway.errors import InvalidCall, QuotaExceeded, UpstreamTimeout, UpstreamUnavailable
from tests.models.front import ask, fronting, running
from tests.models.kits import KITS, SCHEMA, Kit, Read

USERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "chat.completions": lambda text: {"messages": [{"role": "user", "content": text}]},
    "messages": lambda text: {"messages": [{"role": "user", "content": text}]},
    "responses": lambda text: {"input": text},
}
TOOLS: dict[str, Any] = {
    "chat.completions": [{"type": "function", "function": {"name": "find", "parameters": SCHEMA, "strict": True}}],
    "messages": [{"name": "find", "input_schema": SCHEMA}],
    "responses": [{"type": "function", "name": "find", "parameters": SCHEMA, "strict": False}],
}


async def said(kit: Kit, text: str, *, stream: bool = False, **more: Any) -> Read:
    body = kit.body(**USERS[kit.api](text), **more)
    async with running("echo") as upstream, fronting(upstream) as front:
        with anyio.fail_after(20):
            return await (kit.streamed(front, body) if stream else kit.whole(front, body))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.api)
class TestEveryApi:
    async def test_it_repeats_what_it_is_told_and_counts(self, kit: Kit, stream: bool) -> None:
        read = await said(kit, "Hello,  you\n two!", stream=stream)
        assert read.text == "Hello,  you\n two!"
        assert read.stop == "stop"
        assert read.input > 0
        assert read.output > 0

    async def test_it_calls_the_tools_that_it_is_told_to_call(self, kit: Kit, stream: bool) -> None:
        text = '/call find {"city": "Oslo"}\n/call find {"city": "Bergen"}\n/call unknown {}'
        read = await said(kit, text, stream=stream, tools=TOOLS[kit.api])
        assert [(name, arguments) for _, name, arguments in read.calls] == [
            ("find", {"city": "Oslo"}), ("find", {"city": "Bergen"}),
        ]  # fmt: skip
        assert read.stop == "tool_calls"

    async def test_it_refuses_when_told_to(self, kit: Kit, stream: bool) -> None:
        read = await said(kit, "/refuse", stream=stream)
        assert (read.text, read.refusal, read.stop) == ("", "I will not do that.", "refusal")


async def test_the_same_question_has_the_same_answer() -> None:
    async with running("echo") as upstream:
        body = KITS[0].body()
        first, second = await ask(upstream, "chat.completions", body), await ask(upstream, "chat.completions", body)
    assert first.answer == second.answer


async def test_it_stops_at_its_limit_and_at_stop_sequences() -> None:
    assert (await said(KITS[2], "one two three four", max_tokens=2)).text == "one two "
    async with running("echo") as upstream:
        body = {**USERS["messages"]("one STOP two"), "model": "m", "max_tokens": 9, "stop_sequences": ["STOP"]}
        asked = await ask(upstream, "messages", body)
    assert asked.answer["content"][0]["text"] == "one "


async def test_it_answers_in_the_form_of_a_schema() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    assert (await said(KITS[0], "Oslo", response_format=form)).text == '{"city":"Oslo"}'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("how", "error"), [("429", QuotaExceeded), ("500", UpstreamUnavailable), ("slow", UpstreamTimeout)]
)
async def test_it_fails_as_it_is_told_to(how: str, error: type[Exception], stream: bool) -> None:
    async with running("echo", timeout_s=0.1) as upstream:
        asked = await ask(
            upstream, "chat.completions", {"model": "m", **USERS["messages"](f"/fail {how}"), "stream": stream}
        )
    assert isinstance(asked.error, error)


@pytest.mark.parametrize("given", [None, []], ids=["nothing", "an empty list"])
@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.api)
async def test_it_is_not_asked_with_no_words_at_all(kit: Kit, given: Any) -> None:
    name = next(iter(USERS[kit.api]("")))
    async with running("echo") as upstream:
        asked = await ask(upstream, kit.api, {"model": "m", "max_tokens": 9, name: given})
    assert isinstance(asked.error, InvalidCall)
    assert str(asked.error) == f"{name} is missing or empty"


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.api)
async def test_its_stream_can_be_cut(kit: Kit) -> None:
    async with running("echo") as upstream:
        body = {**kit.body(), **USERS[kit.api]("some words\n/fail cut"), "stream": True}
        asked = await ask(upstream, kit.api, body)
    assert asked.result is not None
    assert asked.result.outcome == "rpc_error"
    assert asked.result.usage is not None
    assert asked.result.usage.tokens > 0
    assert len(asked.events) > 1


async def test_its_vectors_are_near_where_words_are_shared() -> None:
    async with running("echo") as upstream, fronting(upstream) as front:
        with anyio.fail_after(20):
            async with openai.AsyncOpenAI(base_url=front, api_key="k", max_retries=0) as client:
                answer = await client.embeddings.create(model="m", input=["cats and dogs", "dogs and cats", "taxes"])
    one, two, three = [item.embedding for item in answer.data]
    assert one == two == vector_of("cats and dogs")
    assert sum(a * b for a, b in zip(one, three, strict=True)) < 0.6
    assert sum(value * value for value in one) == pytest.approx(1)
    assert answer.usage.prompt_tokens > 0


async def test_a_text_of_nothing_but_space_is_repeated_as_soon_as_any_other() -> None:
    space = " \n" * 100_000
    async with running("echo") as upstream:
        began = time.process_time()
        asked = await ask(upstream, "chat.completions", {**KITS[0].body(), **USERS["chat.completions"](space)})
        took_s = time.process_time() - began

    assert asked.answer["choices"][0]["message"]["content"] == space
    assert took_s < 5  # it took minutes of a gateway that did nothing else


async def test_vectors_that_no_answer_may_hold_are_refused_before_they_are_made() -> None:
    body = {"model": "e", "input": ["a"] * 1_024, "dimensions": 8_192}
    async with running("echo") as upstream:
        refused = await ask(upstream, "embeddings", body)
        answered = await ask(upstream, "embeddings", {**body, "dimensions": 256})

    assert isinstance(refused.error, InvalidCall)
    assert "ask for fewer" in str(refused.error)
    assert len(answered.answer["data"]) == 1_024
