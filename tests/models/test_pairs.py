"""Every pair of APIs: the vendors' clients on one side, providers that speak each wire format on the other."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.models.front import fronting, running
from tests.models.kits import KITS, PICTURE, SCHEMA, Kit
from tests.servers.models import Mode, Provider, Say, provider

PARIS = ("call_a", "get_weather", '{"city": "Paris", "days": [1, 2]}')
ROME = ("call_b", "get_weather", '{"city": "Rome \\u00e9\\n"}')
NOTHING = ("call_c", "now", "{}")
PROVIDERS: dict[str, tuple[str, Mode]] = {
    "openai": ("openai", "ok"),
    "openai without responses": ("openai", "no responses"),
    "anthropic": ("anthropic", "ok"),
}


async def said(kit: Kit, kind: str, say: Say, *, stream: bool, **more: Any) -> tuple[Any, Provider]:
    upstream, mode = PROVIDERS[kind]
    with anyio.fail_after(30):
        async with provider(say, mode) as (state, url), running(upstream, url) as ours, fronting(ours) as front:
            body = kit.body(**more)
            read = await (kit.streamed(front, body) if stream else kit.whole(front, body))
    return read, state


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", PROVIDERS)
@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.api)
class TestPairs:
    async def test_words_and_what_they_cost_arrive(self, kit: Kit, kind: str, stream: bool) -> None:
        read, state = await said(kit, kind, Say(text="Grüße, world.\n\nAnd more."), stream=stream)
        assert read.text == "Grüße, world.\n\nAnd more."
        assert (read.stop, read.input, read.output, read.cached) == ("stop", 21, 9, 5)
        assert state.body["model"] == "model-x"
        assert "Be brief." in str(state.body)

    async def test_calls_of_several_tools_arrive(self, kit: Kit, kind: str, stream: bool) -> None:
        say = Say(text="Let me look.", calls=(PARIS, ROME, NOTHING), stop="tools")
        read, _ = await said(kit, kind, say, stream=stream)
        assert read.text == "Let me look."
        assert read.calls == (
            ("call_a", "get_weather", {"city": "Paris", "days": [1, 2]}),
            ("call_b", "get_weather", {"city": "Rome é\n"}),
            ("call_c", "now", {}),
        )
        assert read.stop == "tool_calls"

    async def test_an_answer_that_was_cut_off_says_so(self, kit: Kit, kind: str, stream: bool) -> None:
        read, _ = await said(kit, kind, Say(text="And then", stop="length"), stream=stream)
        assert (read.text, read.stop) == ("And then", "length")

    async def test_a_refusal_stays_one(self, kit: Kit, kind: str, stream: bool) -> None:
        read, _ = await said(kit, kind, Say(text="", refusal="I will not help with that."), stream=stream)
        assert read.refusal == "I will not help with that."
        if not (kit.api == "chat.completions" and kind != "anthropic"):  # there it is OpenAI's own finish_reason
            assert read.stop == "refusal"

    async def test_thoughts_do_not_get_into_the_words(self, kit: Kit, kind: str, stream: bool) -> None:
        read, _ = await said(kit, kind, Say(text="Four.", thought="Two and two, hm."), stream=stream)
        assert read.text == "Four."
        assert read.stop == "stop"


DESCRIBED = {"name": "get_weather", "description": "The weather."}
ADDRESS = f"data:image/png;base64,{PICTURE}"
NAMED = {"name": "answer", "schema": SCHEMA, "strict": True}


def tool_bodies(kit: Kit) -> dict[str, Any]:
    """A conversation with tools, results, a picture and a schema, as each API writes it."""
    return {"messages": messages_body, "chat.completions": chat_body, "responses": responses_body}[kit.api]()


def messages_body() -> dict[str, Any]:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}}
    return {
        "tools": [{**DESCRIBED, "input_schema": SCHEMA}], "tool_choice": {"type": "tool", "name": "get_weather"},
        "extra_body": {"temperature": 0.5}, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "See:"}, image]},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "c1", "name": "get_weather", "input": {"city": "Paris"}},
                {"type": "tool_use", "id": "c2", "name": "get_weather", "input": {"city": "Rome"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "sunny"},
                {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "Well?"}]},
        ],
    }  # fmt: skip


def chat_body() -> dict[str, Any]:

    def call(id_: str, city: str) -> dict[str, Any]:
        function = {"name": "get_weather", "arguments": f'{{"city":"{city}"}}'}
        return {"id": id_, "type": "function", "function": function}

    return {
        "tools": [{"type": "function", "function": {**DESCRIBED, "parameters": SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "temperature": 0.5, "response_format": {"type": "json_schema", "json_schema": NAMED},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "See:"},
                                         {"type": "image_url", "image_url": {"url": ADDRESS}}]},
            {"role": "assistant", "content": None, "tool_calls": [call("c1", "Paris"), call("c2", "Rome")]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "rain"}]},
            {"role": "user", "content": "Well?"},
        ],
    }  # fmt: skip


def responses_body() -> dict[str, Any]:
    return {
        "tools": [{"type": "function", **DESCRIBED, "parameters": SCHEMA, "strict": False}],
        "tool_choice": {"type": "function", "name": "get_weather"}, "temperature": 0.5,
        "text": {"format": {"type": "json_schema", **NAMED}},
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "See:"},
                                         {"type": "input_image", "image_url": ADDRESS, "detail": "auto"}]},
            {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city":"Paris"}'},
            {"type": "function_call", "call_id": "c2", "name": "get_weather", "arguments": '{"city":"Rome"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "rain"}]},
            {"role": "user", "content": "Well?"},
        ],
    }  # fmt: skip


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.api)
async def test_anthropic_sees_a_conversation_with_tools_in_its_own_words(kit: Kit) -> None:
    _, state = await said(kit, "anthropic", Say(), stream=False, **tool_bodies(kit))
    body = state.body
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert "Be brief." in str(body["system"])
    assert body["messages"][0]["content"][1]["source"] == {
        "type": "base64", "media_type": "image/png", "data": PICTURE,
    }  # fmt: skip
    assert [block["input"] for block in body["messages"][1]["content"]] == [{"city": "Paris"}, {"city": "Rome"}]
    results = body["messages"][2]["content"]
    assert [block["type"] for block in results] == ["tool_result", "tool_result", "text"]
    assert [block["tool_use_id"] for block in results[:2]] == ["c1", "c2"]
    assert body["tools"][0]["input_schema"] == SCHEMA
    assert body["tool_choice"] == {"type": "tool", "name": "get_weather"}
    assert body["output_config"]["format"] == {"type": "json_schema", "schema": SCHEMA}
    assert (body["temperature"], body["max_tokens"]) == (0.5, 100 if kit.api == "messages" else 4096)
    assert state.seen[-1].headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.api)
async def test_openai_sees_a_conversation_with_tools_in_its_own_words(kit: Kit) -> None:
    _, state = await said(kit, "openai without responses", Say(), stream=False, **tool_bodies(kit))
    body = state.body
    assert state.seen[-1].path == "/v1/chat/completions"
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert body["messages"][1]["content"][1]["image_url"]["url"] == f"data:image/png;base64,{PICTURE}"
    assert [call["id"] for call in body["messages"][2]["tool_calls"]] == ["c1", "c2"]
    assert [m["tool_call_id"] for m in body["messages"][3:5]] == ["c1", "c2"]
    assert body["tools"][0]["function"]["parameters"] == SCHEMA
    assert body["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA


async def test_a_server_without_responses_is_asked_for_them_once() -> None:
    kit = KITS[1]
    async with provider(mode="no responses") as (state, url), running("openai", url) as ours, fronting(ours) as front:
        with anyio.fail_after(20):
            for _ in range(2):
                assert (await kit.whole(front, kit.body())).text == "Hello there, world."
    assert [seen.path for seen in state.seen] == ["/v1/responses", "/v1/chat/completions", "/v1/chat/completions"]


async def test_fields_that_nobody_here_knows_go_through_to_the_same_api() -> None:
    async with provider() as (state, url), running("openai", url) as ours, fronting(ours) as front:
        with anyio.fail_after(20):
            await KITS[0].whole(front, KITS[0].body(extra_body={"chat_template_kwargs": {"a": [1]}}, seed=7, n=1))
    assert state.body["chat_template_kwargs"] == {"a": [1]}
    assert state.body["seed"] == 7
    assert state.seen[-1].headers["Authorization"] == "Bearer sk-ours"
