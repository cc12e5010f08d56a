"""What policy narrows of a call: how it streams, how much is written, where it runs, what is taken out of it."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.models_http.world import World

pytestmark = pytest.mark.anyio

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
TEXT = "Hello there, world."
TOKEN = "ghp_" + "a1B2c3D4" * 5


async def test_an_answer_that_policy_wants_whole_still_comes_as_the_stream_that_was_asked_for(there: World) -> None:
    async with there.chat() as client:
        stream = await client.chat.completions.create(model="openai/good", messages=HI, stream=True, user="whole")
        chunks = [chunk async for chunk in stream]
        async with client.responses.stream(model="openai/good", input="Hi", user="whole") as events:
            last = await events.get_final_response()

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert last.output_text == TEXT
    assert "stream" not in there.one.body


async def test_what_is_taken_out_of_an_answer_is_taken_out_of_its_stream(there: World) -> None:
    there.one.say.text = f"the key is {TOKEN}, keep it"

    async with there.chat() as client:
        stream = await client.chat.completions.create(model="openai/good", messages=HI, stream=True, user="careful")
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert TOKEN not in said
    assert said.startswith("the key is ")


async def test_policy_lowers_what_may_be_written(there: World) -> None:
    async with there.chat() as client:
        await client.chat.completions.create(model="openai/good", messages=HI, user="short", max_tokens=900)
        lowered = there.one.body["max_tokens"]
        await client.chat.completions.create(model="openai/good", messages=HI, user="short", max_tokens=3)

    assert (lowered, there.one.body["max_tokens"]) == (7, 3)


async def test_policy_leaves_some_regions(there: World) -> None:
    async with there.chat() as one, there.messages() as other:
        await one.chat.completions.create(model="openai/good", messages=HI, user="european")
        with pytest.raises(openai.PermissionDeniedError, match=r"eu-\* of the regions, and this model runs in us-east"):
            await one.chat.completions.create(model="claude/good", messages=HI, user="european")
        with pytest.raises(openai.PermissionDeniedError, match="nobody knows where"):
            await one.chat.completions.create(model="openai/unwritten", messages=HI, user="european")
        asked: Any = {"model": "claude/good", "max_tokens": 9_000, "messages": HI}
        with pytest.raises(anthropic.PermissionDeniedError, match="at most 1000 tokens"):
            await other.messages.create(**asked)

    assert not there.other.seen
