"""The vendors' own clients, sync and async, use models through the gateway as they would without it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anthropic
import openai
import pytest
from anyio import to_thread
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.models_http.world import World, recorded
from tests.servers.models import Say

pytestmark = pytest.mark.anyio

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
ZONE: dict[str, object] = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
CLOCK: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "clock", "parameters": {**ZONE, "additionalProperties": False}, "strict": True},
}
TEXT = "Hello there, world."
MODELS = pytest.mark.parametrize("model", ["openai/good", "claude/good"])


@MODELS
async def test_chat_completions_come_whole_and_as_a_stream_from_either_provider(there: World, model: str) -> None:
    async with there.chat() as client:
        whole = await client.chat.completions.create(model=model, messages=HI)
        stream = await client.chat.completions.create(model=model, messages=HI, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]

    assert whole.choices[0].message.content == TEXT
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (21, 9)
    assert len(pieces) > 1
    assert "".join(pieces) == TEXT


@MODELS
async def test_responses_come_whole_and_as_a_stream_from_either_provider(there: World, model: str) -> None:
    async with there.chat() as client:
        whole = await client.responses.create(model=model, input="Hi")
        async with client.responses.stream(model=model, input="Hi") as stream:
            kinds = [event.type async for event in stream]
            last = await stream.get_final_response()

    assert whole.output_text == last.output_text == TEXT
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


@MODELS
async def test_messages_come_whole_and_as_a_stream_from_either_provider(there: World, model: str) -> None:
    async with there.messages() as client:
        whole = await client.messages.create(model=model, max_tokens=99, messages=[{"role": "user", "content": "Hi"}])
        async with client.messages.stream(
            model=model, max_tokens=99, messages=[{"role": "user", "content": "Hi"}]
        ) as stream:
            pieces = [text async for text in stream.text_stream]

    assert [block.text for block in whole.content if block.type == "text"] == [TEXT]
    assert "".join(pieces) == TEXT
    assert len(pieces) > 1


@MODELS
async def test_tools_are_offered_and_called_across_apis(there: World, model: str) -> None:
    say = Say(text="", calls=(("call_1", "clock", '{"zone":"UTC"}'),), stop="tools")
    there.one.say = there.other.say = say

    async with there.chat() as client:
        whole = await client.chat.completions.create(model=model, messages=HI, tools=[CLOCK])
        async with client.chat.completions.stream(model=model, messages=HI, tools=[CLOCK]) as stream:
            last = await stream.get_final_completion()

    for answer in (whole, last):
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("clock", {"zone": "UTC"})
        assert answer.choices[0].finish_reason == "tool_calls"
    kept = (there.one if model.startswith("openai") else there.other).body["tools"][0]
    assert kept.get("name", kept.get("function", {}).get("name")) == "clock"


async def test_embeddings_come_from_a_provider_that_has_them(there: World) -> None:
    async with there.chat() as client:
        answer = await client.embeddings.create(model="openai/good", input=["a", "b"])
        with pytest.raises(openai.BadRequestError, match="no embeddings"):
            await client.embeddings.create(model="claude/good", input="a")

    assert len(answer.data) == 2


async def test_clients_without_a_loop_are_served_too(there: World) -> None:
    def ask() -> tuple[str | None, str]:
        with (
            openai.OpenAI(base_url=f"{there.place.url}/v1", api_key=there.key, timeout=20) as one,
            anthropic.Anthropic(base_url=there.place.url, api_key=there.key, timeout=20) as other,
        ):
            said = one.chat.completions.create(model="openai/good", messages=HI)
            with other.messages.stream(
                model="claude/good", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
            ) as stream:
                return said.choices[0].message.content, stream.get_final_text()

    assert await to_thread.run_sync(ask) == (TEXT, TEXT)


async def test_lists_show_what_may_be_called_in_the_shape_of_the_asker(there: World) -> None:
    async with there.chat() as one, there.messages() as other:
        models = [model async for model in one.models.list()]
        named = [model async for model in other.models.list()]
        shown = await one.models.retrieve("openai/good")
        told = await other.models.retrieve("openai/good")
        with pytest.raises(openai.NotFoundError):
            await one.models.retrieve("openai/secret")

    assert (
        [model.id for model in models] == [model.id for model in named] == ["openai/good", "claude/good", "echo/echo"]
    )
    assert (shown.object, shown.owned_by) == ("model", "openai")
    assert (told.type, told.display_name, told.max_input_tokens) == ("model", "openai/good", 100_000)


async def test_what_the_gateway_is_not_told_of_goes_through_in_the_provider_s_own_api(there: World) -> None:
    extra: Mapping[str, Any] = {"some_new_field": {"deep": [1, 2]}}

    async with there.chat() as client:
        await client.chat.completions.create(model="openai/good", messages=HI, extra_body=dict(extra))

    assert there.one.body["some_new_field"] == {"deep": [1, 2]}
    assert there.one.body["model"] == "model-of-the-provider"
    assert there.key not in json.dumps(dict(there.one.seen[-1].headers))


async def test_a_bare_name_is_found_where_one_entry_has_it_and_a_pinned_one_needs_no_entry(there: World) -> None:
    async with there.chat() as client:
        await client.chat.completions.create(model="openai/nobody-wrote-this-down", messages=HI)
        unwritten = there.one.body["model"]
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="good", messages=HI)  # two entries are called so

    assert unwritten == "nobody-wrote-this-down"


async def test_a_call_is_one_record_with_its_tokens_and_its_cost(there: World) -> None:
    async with there.chat() as client:
        raw = await client.chat.completions.with_raw_response.create(model="openai/good", messages=HI)

    record = await recorded(there.place, lambda entry: entry["call"]["id"] == raw.headers["x-request-id"])
    assert raw.headers["x-interlock-model"] == "openai/good"
    assert raw.headers["x-interlock-decision"] == record["decision"]["id"]
    assert raw.headers["x-request-id"] == record["call"]["id"]
    assert record["notes"]["tokens"]["input"] == 21
    assert record["call"]["method"] == "chat.completions"


async def test_a_conversation_longer_than_any_question_to_policy_is_carried_out(there: World) -> None:
    long = [{"role": "user", "content": "word " * 100} for _ in range(1_500)]

    answer = await there.post("/v1/chat/completions", {"model": "openai/good", "messages": long})

    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert len(there.one.body["messages"]) == 1_500
