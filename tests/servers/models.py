"""Providers of models on loopback, written after their documentation and without the gateway's own code.

`Provider` speaks OpenAI's API (chat completions, responses, embeddings) and Anthropic's (messages). `say` is what its
model says, `mode` how it fails.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, Final, Literal, TypeAlias

import anyio
from aiohttp import web

Json: TypeAlias = dict[str, Any]
Mode: TypeAlias = Literal[
    "ok", "cut", "429", "slow", "silent", "garbage", "500", "type", "huge", "404", "401", "400", "error",
    "no responses", "no usage",
]  # fmt: skip
SECRET: Final = "sk-provider-secret-0123456789"
CREATED: Final = 1_760_000_000
MODEL: Final = "model-of-the-provider"
Frame: TypeAlias = tuple[str, Json | str]
"""The name of an event (empty: none) and its data."""


REFUSALS: Final[Mapping[str, tuple[int, tuple[str, ...], Mapping[str, str]]]] = {
    "429": (429, ("rate_limit_error",), {"Retry-After": "17"}),
    "500": (500, ("api_error",), {}),
    "401": (401, ("authentication_error",), {}),
    "404": (404, ("not_found_error", "model_not_found"), {}),
    "400": (400, ("invalid_request_error", "context_length_exceeded", "prompt is too long"), {}),
}


@dataclass
class Say:
    """What the model says, and what it says that it cost (input includes what came from the cache)."""

    text: str = "Hello there, world."
    calls: tuple[tuple[str, str, str], ...] = ()
    """Of each tool call: id, name, arguments."""
    thought: str = ""
    refusal: str = ""
    stop: Literal["stop", "length", "tools", "refusal"] = "stop"
    input: int = 21
    output: int = 9
    cached: int = 5
    written_5m: int = 0
    written_1h: int = 0
    """What went into the cache, of Messages: for so long."""
    reasoning: int = 3
    service: str = "default"


@dataclass
class Seen:
    """One request that came."""

    path: str
    headers: Mapping[str, str]
    body: Json
    peer: str = ""
    """Which connection it came on."""


@dataclass
class Provider:
    """The server's state; `seen` holds what was asked of it."""

    say: Say = field(default_factory=Say)
    mode: Mode = "ok"
    seen: list[Seen] = field(default_factory=list)
    released: anyio.Event = field(default_factory=anyio.Event)
    """`slow` and `silent` wait for it."""

    @property
    def body(self) -> Json:
        """The last request's."""
        return self.seen[-1].body

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any of the APIs."""
        peer = str(request.transport.get_extra_info("peername")) if request.transport is not None else ""
        self.seen.append(Seen(request.path, dict(request.headers), await request.json(), peer))
        failure = await self._failure(request)
        if failure is not None:
            return failure
        api = request.path.removeprefix("/v1/")
        if api == "embeddings":
            return web.json_response(embeddings(self.body))
        if self.body.get("stream"):
            return await self._stream(request, api)
        whole = {"chat/completions": chat, "responses": responses, "messages": message}[api](self.say)
        if self.mode == "no usage":
            whole.pop("usage")
        return web.json_response(whole)

    async def _failure(self, request: web.Request) -> web.StreamResponse | None:
        anthropic = request.path.endswith("/messages")
        if self.mode in REFUSALS:
            status, words, headers = REFUSALS[self.mode]
            return web.json_response(error(*words, anthropic=anthropic), status=status, headers=headers)
        if self.mode in {"garbage", "huge"}:
            body = b"data: " + (b"{nonsense" if self.mode == "garbage" else b"x" * 300_000) + b"\n\n"
            return web.Response(body=body, content_type=_type(self.body))
        if self.mode == "type":
            return web.Response(text="<html>hello</html>", content_type="text/html")
        if self.mode == "no responses" and request.path.endswith("/responses"):
            return web.json_response({"detail": "Not Found"}, status=404)
        if self.mode == "slow":
            with anyio.move_on_after(30):
                await self.released.wait()
        return None

    async def _stream(self, request: web.Request, api: str) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        frames = list({"chat/completions": chat_frames, "responses": response_frames, "messages": message_frames}[api](
            self.say, self.body))  # fmt: skip
        for number, (name, data) in enumerate(frames):
            if number == len(frames) - 3 and self.mode in {"cut", "silent", "error"}:
                await self._spoil(request, answer, api)
                return answer
            await answer.write(frame(name, data))
        await answer.write_eof()
        return answer

    async def _spoil(self, request: web.Request, answer: web.StreamResponse, api: str) -> None:
        if self.mode == "error":
            told = error("overloaded_error", anthropic=api == "messages")
            flat = {"type": "error", "code": "server_error", "message": SECRET, "param": None, "sequence_number": 99}
            await answer.write(
                frame("" if api == "chat/completions" else "error", flat if api == "responses" else told)
            )
        elif self.mode == "silent":
            with anyio.move_on_after(30):
                await self.released.wait()
        elif request.transport is not None:
            request.transport.abort()


def _type(body: Json) -> str:
    return "text/event-stream" if body.get("stream") else "application/json"


def error(kind: str, code: str = "", words: str = "", *, anthropic: bool) -> Json:
    """An error as a provider words it, with something in it that nobody may see."""
    told = {"type": kind, "message": f"{words} Incorrect API key provided: {SECRET}"}
    return {"type": "error", "error": told} if anthropic else {"error": {**told, "param": None, "code": code or None}}


def frame(name: str, data: Json | str) -> bytes:
    """One event on the wire."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def pieces(text: str, size: int = 7) -> list[str]:
    """A text as it trickles in."""
    return [text[at : at + size] for at in range(0, len(text), size)]


# Chat Completions


def chat_usage(say: Say) -> Json:
    return {
        "prompt_tokens": say.input, "completion_tokens": say.output, "total_tokens": say.input + say.output,
        "prompt_tokens_details": {"cached_tokens": say.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": say.reasoning, "audio_tokens": 0},
    }  # fmt: skip


def chat_stop(say: Say) -> str:
    named = {"stop": "stop", "length": "length", "tools": "tool_calls", "refusal": "content_filter"}
    return named["tools" if say.calls else say.stop]


def chat(say: Say) -> Json:
    message: Json = {
        "role": "assistant",
        "content": say.text or None,
        "refusal": say.refusal or None,
        "annotations": [],
    }
    if say.thought:
        message["reasoning_content"] = say.thought
    if say.calls:
        message["tool_calls"] = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id_, name, arguments in say.calls
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": chat_stop(say)}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": CREATED, "model": MODEL, "choices": [choice],
        "usage": chat_usage(say), "service_tier": say.service, "system_fingerprint": "fp_1",
    }  # fmt: skip


def chat_frames(say: Say, body: Json) -> Iterator[Frame]:
    counting = (body.get("stream_options") or {}).get("include_usage")
    head = {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED, "model": MODEL,
        "service_tier": say.service, "system_fingerprint": "fp_1", **({"usage": None} if counting else {}),
    }  # fmt: skip

    def chunk(delta: Json, reason: str | None = None) -> Frame:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return "", {**head, "choices": [choice]}

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    for piece in pieces(say.thought):
        yield chunk({"reasoning_content": piece})
    for piece in pieces(say.text):
        yield chunk({"content": piece})
    for piece in pieces(say.refusal):
        yield chunk({"refusal": piece})
    for index, (id_, name, arguments) in enumerate(say.calls):
        call = {"index": index, "id": id_, "type": "function", "function": {"name": name, "arguments": ""}}
        yield chunk({"tool_calls": [call]})
        for piece in pieces(arguments):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, chat_stop(say))
    if counting:
        yield "", {**head, "choices": [], "usage": chat_usage(say)}
    yield "", "[DONE]"


# Responses


def response_usage(say: Say) -> Json:
    return {
        "input_tokens": say.input, "output_tokens": say.output, "total_tokens": say.input + say.output,
        "input_tokens_details": {"cached_tokens": say.cached, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": say.reasoning},
    }  # fmt: skip


def response_items(say: Say) -> list[Json]:
    items: list[Json] = []
    if say.thought:
        summary = [{"type": "summary_text", "text": say.thought}]
        items.append({"id": "rs_1", "type": "reasoning", "summary": summary})
    content: list[Json] = []
    if say.text:
        content.append({"type": "output_text", "text": say.text, "annotations": [], "logprobs": []})
    if say.refusal:
        content.append({"type": "refusal", "refusal": say.refusal})
    if content:
        head = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
        items.append({**head, "content": content})
    for id_, name, arguments in say.calls:
        call = {"id": f"fc_{id_}", "type": "function_call", "status": "completed", "call_id": id_}
        items.append({**call, "name": name, "arguments": arguments})
    return items


def responses(say: Say, items: list[Json] | None = None, status: str = "") -> Json:
    short = say.stop == "length"
    over = "incomplete" if short else "completed"
    return {
        "id": "resp_1", "object": "response", "created_at": CREATED, "model": MODEL, "status": status or over,
        "error": None, "incomplete_details": {"reason": "max_output_tokens"} if short and not status else None,
        "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True,
        "output": response_items(say) if items is None else items, "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None}, "store": False, "temperature": 1.0, "top_p": 1.0,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "truncation": "disabled",
        "usage": None if status else response_usage(say), "user": None,
        "service_tier": "auto" if status else say.service,
    }  # fmt: skip


EMPTIED: Final[Mapping[str, Json]] = {
    "message": {"content": [], "status": "in_progress"},
    "reasoning": {"summary": []},
    "function_call": {"arguments": "", "status": "in_progress"},
}


def response_frames(say: Say, body: Json) -> Iterator[Frame]:
    for number, event in enumerate(_response_events(say)):
        yield event["type"], {**event, "sequence_number": number}


def _response_events(say: Say) -> Iterator[Json]:
    yield {"type": "response.created", "response": responses(say, [], "in_progress")}
    yield {"type": "response.in_progress", "response": responses(say, [], "in_progress")}
    for index, item in enumerate(response_items(say)):
        where = {"output_index": index, "item_id": item["id"]}
        empty = EMPTIED[item["type"]]
        yield {"type": "response.output_item.added", "output_index": index, "item": {**item, **empty}}
        yield from _item_events(item, where)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    over = "incomplete" if say.stop == "length" else "completed"
    yield {"type": f"response.{over}", "response": responses(say)}


def _item_events(item: Json, where: Json) -> Iterator[Json]:
    if item["type"] == "function_call":
        for piece in pieces(item["arguments"]):
            yield {"type": "response.function_call_arguments.delta", **where, "delta": piece}
        whole = {"arguments": item["arguments"], "name": item["name"]}
        yield {"type": "response.function_call_arguments.done", **where, **whole}
    for index, part in enumerate(item.get("summary", [])):
        at, kind = {**where, "summary_index": index}, "response.reasoning_summary"
        yield {"type": f"{kind}_part.added", **at, "part": {**part, "text": ""}}
        for piece in pieces(part["text"]):
            yield {"type": f"{kind}_text.delta", **at, "delta": piece}
        yield {"type": f"{kind}_text.done", **at, "text": part["text"]}
        yield {"type": f"{kind}_part.done", **at, "part": part}
    for index, part in enumerate(item.get("content", [])):
        at, kind = {**where, "content_index": index}, part["type"]
        name = "text" if kind == "output_text" else "refusal"
        more: Json = {"logprobs": []} if name == "text" else {}
        yield {"type": "response.content_part.added", **at, "part": {**part, name: ""}}
        for piece in pieces(part[name]):
            yield {"type": f"response.{kind}.delta", **at, "delta": piece, **more}
        yield {"type": f"response.{kind}.done", **at, name: part[name], **more}
        yield {"type": "response.content_part.done", **at, "part": part}


# Messages


def message_usage(say: Say) -> Json:
    return {
        "input_tokens": say.input - say.cached - say.written_5m - say.written_1h,
        "cache_creation_input_tokens": say.written_5m + say.written_1h,
        "cache_creation": {"ephemeral_5m_input_tokens": say.written_5m, "ephemeral_1h_input_tokens": say.written_1h},
        "cache_read_input_tokens": say.cached, "output_tokens": say.output,
        "output_tokens_details": {"thinking_tokens": say.reasoning}, "service_tier": "standard",
    }  # fmt: skip


def message_stop(say: Say) -> Json:
    named = {"stop": "end_turn", "length": "max_tokens", "tools": "tool_use", "refusal": "refusal"}
    reason = "refusal" if say.refusal else named["tools" if say.calls else say.stop]
    details = {"type": "refusal", "category": None, "explanation": say.refusal} if say.refusal else None
    return {"stop_reason": reason, "stop_sequence": None, "stop_details": details}


def message_blocks(say: Say) -> list[Json]:
    blocks: list[Json] = []
    if say.thought:
        blocks.append({"type": "thinking", "thinking": say.thought, "signature": "c2lnbmVk"})
    if say.text:
        blocks.append({"type": "text", "text": say.text, "citations": None})
    for id_, name, arguments in say.calls:
        blocks.append({"type": "tool_use", "id": id_, "name": name, "input": json.loads(arguments)})
    return blocks


def message(say: Say) -> Json:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL}
    return {**head, "content": message_blocks(say), **message_stop(say), "usage": message_usage(say)}


def message_frames(say: Say, body: Json) -> Iterator[Frame]:
    begun = {**message(say), "content": [], "stop_reason": None, "stop_details": None}
    begun["usage"] = {**message_usage(say), "output_tokens": 1}
    yield "message_start", {"type": "message_start", "message": begun}
    yield "ping", {"type": "ping"}
    arguments = iter([text for _, _, text in say.calls])
    for index, block in enumerate(message_blocks(say)):
        empty, deltas = _block_deltas(block, arguments)
        yield "content_block_start", {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": index}
    usage = {"output_tokens": say.output, "output_tokens_details": {"thinking_tokens": say.reasoning}}
    yield "message_delta", {"type": "message_delta", "delta": message_stop(say), "usage": usage}
    yield "message_stop", {"type": "message_stop"}


def _block_deltas(block: Json, arguments: Iterator[str]) -> tuple[Json, list[Json]]:
    if block["type"] == "text":
        return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
    if block["type"] == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
        return {**block, "thinking": "", "signature": ""}, [
            *deltas, {"type": "signature_delta", "signature": block["signature"]},
        ]  # fmt: skip
    written = ["", *pieces(next(arguments))]
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in written]


def embeddings(body: Json) -> Json:
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [{"object": "embedding", "index": index, "embedding": [0.5, -0.25]} for index in range(len(inputs))]
    return {"object": "list", "data": data, "model": MODEL, "usage": {"prompt_tokens": 4, "total_tokens": 4}}


@asynccontextmanager
async def serving(answer: Any, *paths: str, tls: SSLContext | None = None, method: str = "POST") -> AsyncIterator[str]:
    """Serve these paths on loopback; the address up to and with `/v1`."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    for path in paths:
        app.router.add_route(method, path, answer)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"{'https' if tls else 'http'}://{host}:{port}/v1"
    finally:
        await runner.cleanup()


PATHS: Final = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings")


@asynccontextmanager
async def provider(say: Say | None = None, mode: Mode = "ok") -> AsyncIterator[tuple[Provider, str]]:
    """A provider that is up, and its address."""
    state = Provider(say or Say(), mode)
    async with serving(state.answer, *PATHS) as url:
        try:
            yield state, url
        finally:
            state.released.set()
