"""OpenAI's Chat Completions: requests and whole answers, to and from the neutral form.

Left out of a translation as harmless: `metadata`, `store`, `prompt_cache_key`, `prompt_cache_options`,
`prompt_cache_retention`, `prompt_cache_breakpoint`, `stream_options`, `annotations` of earlier answers, what OpenAI's
client read out of them (`parsed`, `parsed_arguments`), the service tiers `auto` and `default`, and values that mean the
default (`n: 1`, penalties of 0, `logprobs: false`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from gateway.codec import JsonObject, JsonValue
from gateway.errors import InvalidCall
from gateway.models.neutral import (
    Answer,
    Choice,
    Format,
    Image,
    Message,
    Part,
    Refusal,
    Request,
    Stop,
    Text,
    Thinking,
    Tokens,
    Tool,
    ToolCall,
    ToolResult,
    field_of,
)
from gateway.models.reading import Fields, answered, plain, shown_in

_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,([A-Za-z0-9+/=_-]*)", re.ASCII)
_HARMLESS: Final = (
    "metadata", "store", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "stream_options",
)  # fmt: skip
_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")
STOPS: Final[Mapping[str, Stop]] = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "refusal",
    "function_call": "tool_calls",
}  # fmt: skip
FINISHES: Final[Mapping[Stop, str]] = {
    "stop": "stop", "stop_sequence": "stop", "length": "length", "tool_calls": "tool_calls",
    "refusal": "content_filter",
}  # fmt: skip


def read_request(body: Mapping[str, object]) -> Request:
    """What a caller asks. Raises `InvalidCall` that names the field for what has no neutral form."""
    fields = Fields(dict(body))
    fields.skip(*_HARMLESS)
    _defaults(fields)
    limit = fields.count("max_completion_tokens")
    older = fields.count("max_tokens")
    request = Request(
        api="chat.completions",
        model=fields.text("model"),
        messages=fields.some("messages", [_message(message) for message in fields.children("messages")]),
        tools=tuple([_tool(tool) for tool in fields.children("tools")]),
        choice=_choice(fields),
        parallel=fields.flag("parallel_tool_calls"),
        format=_format(fields),
        max_tokens=limit if limit is not None else older,
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        stop=_stops(fields),
        effort=fields.words("reasoning_effort"),
        verbosity=fields.words("verbosity"),
        user=fields.words("user") or fields.words("safety_identifier"),
        stream=fields.flag("stream") or False,
    )
    fields.skip("safety_identifier")
    fields.done()
    return request


def _defaults(fields: Fields) -> None:
    fields.only("n", 1)
    fields.only("logprobs", False)
    fields.only("frequency_penalty", 0)
    fields.only("presence_penalty", 0)
    fields.only("logit_bias", {})
    fields.only("modalities", ["text"], ("text",))
    fields.only("service_tier", "auto", "default")


def _stops(fields: Fields) -> tuple[str, ...]:
    stop = fields.raw("stop")
    return (stop,) if isinstance(stop, str) else tuple(fields.texts("stop"))


def _message(fields: Fields) -> Message:
    role = fields.one_of("role", ("system", "developer", "user", "assistant", "tool"))
    parts: tuple[Part, ...]
    match role:
        case "tool":
            content = shown_in(fields, "content", content_parts(fields))
            role, parts = "user", (ToolResult(fields.text("tool_call_id"), content),)
        case "assistant":
            fields.skip("annotations", "parsed")
            parts = (*_thoughts(fields), *content_parts(fields), *_refusal(fields), *_calls(fields))
        case _:
            parts = tuple(content_parts(fields))
    fields.done()
    return Message("user" if role == "user" else "assistant" if role == "assistant" else "system", parts)


def _thoughts(fields: Fields) -> Iterator[Part]:
    """Not OpenAI's, but what servers of open models call it."""
    text = fields.words("reasoning_content")
    if text:
        yield Thinking(text)


def _refusal(fields: Fields) -> Iterator[Part]:
    text = fields.words("refusal")
    if text:
        yield Refusal(text)


def _calls(fields: Fields) -> Iterator[ToolCall]:
    for call in fields.children("tool_calls"):
        call.one_of("type", ("function",), "function")
        function = call.child("function")
        if function is None:
            raise call.wrong("function", "is missing")
        yield ToolCall(call.text("id"), function.text("name"), function.words("arguments") or "{}")
        call.skip("index")
        function.skip("parsed_arguments")
        function.done()
        call.done()


def content_parts(fields: Fields, name: str = "content") -> list[Part]:
    """A message's content: text, or an array of parts."""
    content = fields.raw(name)
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)] if content else []
    return [_part(part) for part in fields.children(name)]


def _part(fields: Fields) -> Part:
    fields.skip("prompt_cache_breakpoint")
    part: Part
    match fields.one_of("type", ("text", "image_url", "refusal")):
        case "text":
            part = Text(fields.text("text"))
        case "refusal":
            part = Refusal(fields.text("refusal"))
        case _:
            image = fields.child("image_url")
            if image is None:
                raise fields.wrong("image_url", "is missing")
            part = image_at(image.text("url"), image.words("detail"))
            image.done()
    fields.done()
    return part


def image_at(address: str, detail: str) -> Image:
    """A picture at a URL, which may hold the picture itself."""
    held = _DATA_URL.fullmatch(address)
    detail = "" if detail == "auto" else detail
    return Image(media_type=held[1], data=held[2], detail=detail) if held else Image(url=address, detail=detail)


def _tool(fields: Fields) -> Tool:
    fields.one_of("type", ("function",), "function")
    function = fields.child("function")
    if function is None:
        raise fields.wrong("function", "is missing")
    tool = Tool(
        function.text("name"), function.words("description"), function.record("parameters"), function.flag("strict")
    )
    function.done()
    fields.done()
    return tool


def _choice(fields: Fields) -> Choice | None:
    value = fields.raw("tool_choice")
    match value:
        case None:
            return None
        case "auto" | "none" | "required":
            return Choice(value)
        case {"type": "function", "function": {"name": str(name)}}:
            return Choice("tool", name)
    raise fields.untranslatable("tool_choice")


def _format(fields: Fields) -> Format | None:
    wanted = fields.child("response_format")
    if wanted is None:
        return None
    found: Format | None = None
    match wanted.one_of("type", ("text", "json_object", "json_schema")):
        case "json_object":
            found = Format("json")
        case "json_schema":
            schema = wanted.child("json_schema")
            if schema is None:
                raise wanted.wrong("json_schema", "is missing")
            found = schema_format(schema)
    wanted.done()
    return found


def schema_format(fields: Fields) -> Format:
    """A JSON schema that answers must follow, with its name."""
    found = Format(
        "schema", fields.text("name"), fields.record("schema"), fields.flag("strict"), fields.words("description")
    )
    fields.done()
    return found


# The other way


def write_request(request: Request) -> JsonObject:
    """The request as a provider of Chat Completions wants it. Raises `InvalidCall` for what it has no field for."""
    if request.effort and request.effort not in _EFFORTS:
        raise InvalidCall(f"{field_of(request, 'effort')} cannot be {request.effort!r} with this model's provider")
    body: JsonObject = {"model": request.model, "messages": [m for said in request.messages for m in _said(said)]}
    if request.tools:
        body["tools"] = [{"type": "function", "function": _function(tool)} for tool in request.tools]
    if request.choice is not None:
        named: JsonValue = {"type": "function", "function": {"name": request.choice.name}}
        body["tool_choice"] = named if request.choice.mode == "tool" else request.choice.mode
    if request.format is not None:
        body["response_format"] = _format_out(request.format)
    optional: JsonObject = {
        "parallel_tool_calls": request.parallel if request.tools else None,
        "max_completion_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        "reasoning_effort": request.effort or None,
        "verbosity": request.verbosity or None,
        "user": request.user or None,
    }
    body.update({name: value for name, value in optional.items() if value is not None})
    if request.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _function(tool: Tool) -> JsonObject:
    function: JsonObject = {"name": tool.name, "parameters": plain(tool.schema)}
    if tool.description:
        function["description"] = tool.description
    return function if tool.strict is None else {**function, "strict": tool.strict}


def _format_out(wanted: Format) -> JsonValue:
    return {"type": "json_object"} if wanted.kind == "json" else {"type": "json_schema", "json_schema": named(wanted)}


def named(wanted: Format) -> JsonObject:
    """A schema with its name, as both of OpenAI's APIs write it."""
    schema: JsonObject = {"name": wanted.name or "answer", "schema": plain(wanted.schema)}
    if wanted.description:
        schema["description"] = wanted.description
    return schema if wanted.strict is None else {**schema, "strict": wanted.strict}


def _said(message: Message) -> Iterator[JsonObject]:
    """One neutral message as those that say the same here: every tool result is one of its own, and comes first."""
    if message.role == "assistant":
        yield _assistant(message.parts)
        return
    seen: list[JsonValue] = []
    for part in message.parts:
        if isinstance(part, ToolResult):
            yield from _result(part, seen)
        else:
            seen.append(_shown(part))
    if seen or not message.parts:
        yield {"role": message.role, "content": _brief(seen)}


def _result(result: ToolResult, seen: list[JsonValue]) -> Iterator[JsonObject]:
    """Tool messages hold only text, so the pictures of a result are shown right after all results."""
    texts = [part.text for part in result.content if isinstance(part, Text)]
    pictures = [part for part in result.content if isinstance(part, Image)]
    if pictures:
        seen.append({"type": "text", "text": f"Images returned by tool call {result.call_id}:"})
        seen += [_shown(picture) for picture in pictures]
    failed = "Error: " if result.failed else ""
    yield {"role": "tool", "tool_call_id": result.call_id, "content": failed + "\n".join(texts)}


def _brief(parts: list[JsonValue]) -> JsonValue:
    """One text needs no array, which some servers do not understand."""
    match parts:
        case []:
            return ""
        case [{"type": "text", "text": str(text)}]:
            return text
    return parts


def _shown(part: Part) -> JsonValue:
    match part:
        case Image():
            where: JsonObject = {"url": part.address}
            return {"type": "image_url", "image_url": where | ({"detail": part.detail} if part.detail else {})}
        case Text(text) | Refusal(text):
            return {"type": "text", "text": text}
    raise InvalidCall("messages hold a part that only assistants say")


def _assistant(parts: tuple[Part, ...]) -> JsonObject:
    """What a model said, as in an answer. A thought goes along only as text, which nobody has to verify."""
    texts = [part.text for part in parts if isinstance(part, Text)]
    refusals = [part.text for part in parts if isinstance(part, Refusal)]
    calls: list[JsonValue] = [_called(part) for part in parts if isinstance(part, ToolCall)]
    message: JsonObject = {"role": "assistant", "content": "".join(texts) if texts else None}
    if refusals:
        message["refusal"] = "".join(refusals)
    if calls:
        message["tool_calls"] = calls
    elif not texts and not refusals:
        message["content"] = ""
    return message


def _called(call: ToolCall) -> JsonObject:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


# Answers


def read_answer(value: object) -> Answer:
    """What a provider answered. Raises `UpstreamProtocolError` where it is no such answer."""
    fields = answered(value)
    first = next(fields.children("choices"), None)
    message = first.child("message") if first is not None else None
    if first is None or message is None:
        raise fields.wrong("choices", "holds no message")
    calls = tuple(_calls(message))
    parts = (*_thoughts(message), *content_parts(message), *_refusal(message), *calls)
    stop = STOPS.get(first.words("finish_reason"), "stop")
    if calls and stop == "stop":  # some servers say so
        stop = "tool_calls"
    tokens = read_usage(fields.raw("usage"))
    return Answer(fields.words("id"), fields.words("model"), parts, stop, tokens, created=fields.count("created") or 0)


def write_answer(answer: Answer) -> JsonObject:
    """The answer as a caller of Chat Completions wants it."""
    message = _assistant(answer.parts)
    if message["content"] == "" and answer.stop == "refusal":
        message["content"] = None
    message.setdefault("refusal", None)
    thoughts = "".join(part.text for part in answer.parts if isinstance(part, Thinking))
    if thoughts:
        message["reasoning_content"] = thoughts
    choice: JsonObject = {
        "index": 0, "message": message, "logprobs": None, "finish_reason": FINISHES[answer.stop],
    }  # fmt: skip
    return {
        "id": answer.id, "object": "chat.completion", "created": answer.created, "model": answer.model,
        "choices": [choice], "usage": write_usage(answer.tokens),
    }  # fmt: skip


def read_usage(value: object) -> Tokens:
    """The tokens that a provider counted; none where it did not."""
    if value is None:
        return Tokens()
    fields = answered(value)
    read, written = fields.child("prompt_tokens_details"), fields.child("completion_tokens_details")
    kept = read.child("cache_creation_token_details") if read else None  # litellm's, of Anthropic's models
    return Tokens(
        input=fields.count("prompt_tokens") or 0,
        output=fields.count("completion_tokens") or 0,
        cached=(read.count("cached_tokens") or 0) if read else 0,
        cache_written=(read.count("cache_write_tokens") or read.count("cache_creation_tokens") or 0) if read else 0,
        reasoning=(written.count("reasoning_tokens") or 0) if written else 0,
        cache_written_5m=(kept.count("ephemeral_5m_input_tokens") or 0) if kept else 0,
    )


def write_usage(tokens: Tokens) -> JsonObject:
    """The tokens as callers of Chat Completions know them."""
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.total,
        "prompt_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_written},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }
