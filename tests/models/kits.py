"""The vendors' own clients, as callers of the gateway: each asks the same thing in its API and reads the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Protocol

import anthropic
import openai
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

PICTURE: Final = "iVBORw0KGgo="
SCHEMA: Final = {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False,
}  # fmt: skip


@dataclass(frozen=True)
class Read:
    """What a client read out of an answer."""

    text: str
    calls: tuple[tuple[str, str, dict[str, Any]], ...]
    """Of each tool call: id, name, arguments."""
    stop: str
    input: int
    output: int
    cached: int
    refusal: str = ""


class Kit(Protocol):
    """One client."""

    api: str

    def body(self, **more: Any) -> dict[str, Any]: ...

    async def whole(self, url: str, body: dict[str, Any]) -> Read: ...

    async def streamed(self, url: str, body: dict[str, Any]) -> Read: ...


def _strictly(kind: Any, value: Any) -> None:
    """The vendor's own types, validated: their clients take what they get unread."""
    TypeAdapter(kind).validate_python(value)


class ChatKit:
    """`openai`, Chat Completions."""

    api = "chat.completions"

    def body(self, **more: Any) -> dict[str, Any]:
        system = {"role": "system", "content": "Be brief."}
        return {"model": "p/model-x", "messages": [system, {"role": "user", "content": "Hi"}], **more}

    async def whole(self, url: str, body: dict[str, Any]) -> Read:
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            answer = await client.chat.completions.create(**body)
        return self._read(answer)

    async def streamed(self, url: str, body: dict[str, Any]) -> Read:
        async with (
            openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client,
            client.chat.completions.stream(**body, stream_options={"include_usage": True}) as stream,
        ):
            async for event in stream:
                if event.type == "chunk":
                    _strictly(ChatCompletionChunk, event.chunk.to_dict())
            return self._read(stream.current_completion_snapshot)

    def _read(self, answer: ChatCompletion) -> Read:
        _strictly(ChatCompletion, answer.to_dict())
        message, usage = answer.choices[0].message, answer.usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        calls = [
            (call.id, call.function.name, json.loads(call.function.arguments))
            for call in message.tool_calls or []
            if call.type == "function"
        ]
        cached = usage.prompt_tokens_details.cached_tokens or 0
        stop = {"content_filter": "refusal"}.get(answer.choices[0].finish_reason, answer.choices[0].finish_reason)
        read, wrote = usage.prompt_tokens, usage.completion_tokens
        return Read(message.content or "", tuple(calls), stop, read, wrote, cached, message.refusal or "")


class ResponsesKit:
    """`openai`, Responses."""

    api = "responses"

    def body(self, **more: Any) -> dict[str, Any]:
        return {"model": "p/model-x", "instructions": "Be brief.", "input": "Hi", **more}

    async def whole(self, url: str, body: dict[str, Any]) -> Read:
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            return self._read(await client.responses.create(**body))

    async def streamed(self, url: str, body: dict[str, Any]) -> Read:
        number, last, added, done = 0, None, 0, 0
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            async with await client.responses.create(**body, stream=True) as plain:
                async for raw in plain:
                    _strictly(ResponseStreamEvent, raw.to_dict())
                    assert raw.sequence_number == number
                    number += 1
                    added += raw.type.endswith(".added")
                    done += raw.type in {"response.output_item.done", "response.content_part.done",
                                         "response.reasoning_summary_part.done"}  # fmt: skip
            async with client.responses.stream(**body) as stream:
                async for event in stream:
                    if event.type in {"response.completed", "response.incomplete"}:
                        last = event.response
        assert added == done > 0
        assert last is not None
        return self._read(last)

    def _read(self, answer: Response) -> Read:
        _strictly(Response, answer.to_dict())
        assert answer.usage is not None
        calls = [
            (item.call_id, item.name, json.loads(item.arguments))
            for item in answer.output
            if item.type == "function_call"
        ]
        parts = [part for item in answer.output if item.type == "message" for part in item.content]
        refusal = "".join(part.refusal for part in parts if part.type == "refusal")
        stop = "stop"
        if answer.incomplete_details is not None:
            stop = {"max_output_tokens": "length"}.get(answer.incomplete_details.reason or "", "refusal")
        elif refusal:
            stop = "refusal"
        elif calls:
            stop = "tool_calls"
        usage = answer.usage
        cached = usage.input_tokens_details.cached_tokens
        return Read(answer.output_text, tuple(calls), stop, usage.input_tokens, usage.output_tokens, cached, refusal)


class MessagesKit:
    """`anthropic`, Messages."""

    api = "messages"

    def body(self, **more: Any) -> dict[str, Any]:
        said = [{"role": "user", "content": "Hi"}]
        return {"model": "p/model-x", "max_tokens": 100, "system": "Be brief.", "messages": said, **more}

    async def whole(self, url: str, body: dict[str, Any]) -> Read:
        async with self._client(url) as client:
            return self._read(await client.messages.create(**body))

    async def streamed(self, url: str, body: dict[str, Any]) -> Read:
        kinds: list[str] = []
        async with self._client(url) as client:
            async with await client.messages.create(**body, stream=True) as plain:
                async for raw in plain:
                    _strictly(RawMessageStreamEvent, raw.to_dict())
                    kinds.append(raw.type)
            async with client.messages.stream(**body) as stream:
                final = await stream.get_final_message()
        assert kinds[0] == "message_start"
        assert kinds[-2:] == ["message_delta", "message_stop"]
        assert kinds.count("content_block_start") == kinds.count("content_block_stop")
        return self._read(final)

    def _client(self, url: str) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=url.removesuffix("/v1"), api_key="k", max_retries=0)

    def _read(self, answer: Message) -> Read:
        value = answer.to_dict()
        _strictly(Message, value)
        text = "".join(block.text for block in answer.content if block.type == "text")
        calls = [(block.id, block.name, dict(block.input)) for block in answer.content if block.type == "tool_use"]
        named = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
        details = answer.stop_details
        cached = answer.usage.cache_read_input_tokens or 0
        return Read(
            text, tuple(calls), named.get(answer.stop_reason or "", answer.stop_reason or ""),
            answer.usage.input_tokens + cached + (answer.usage.cache_creation_input_tokens or 0),
            answer.usage.output_tokens, cached, (details.explanation or "") if details is not None else "",
        )  # fmt: skip


KITS: Final[tuple[Kit, ...]] = (ChatKit(), ResponsesKit(), MessagesKit())
