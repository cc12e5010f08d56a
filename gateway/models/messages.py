"""Anthropic's Messages: requests and whole answers, to and from the neutral form.

Left out of a translation as harmless: `cache_control`, `metadata` but its `user_id`, the service tiers `auto` and
`standard_only`, `thinking` that is disabled or adaptive (both are what providers do by themselves), and thoughts of
earlier turns where they go to a provider that cannot verify them. `thinking.budget_tokens` becomes an effort.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

from gateway import codec
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
    Role,
    Stop,
    Text,
    Thinking,
    Tokens,
    Tool,
    ToolCall,
    ToolResult,
    field_of,
)
from gateway.models.reading import Fields, answered, arguments_object, plain, shown_in

DEFAULT_MAX_TOKENS: Final = 4_096
"""This API wants a limit; where the caller set none and nothing is known of the model, it is this."""
_EFFORTS: Final = ((2_048, "low"), (8_192, "medium"))
_EFFORT_OUT: Final = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh",
                      "max": "max"}  # fmt: skip
STOPS: Final[Mapping[str, Stop]] = {
    "end_turn": "stop", "max_tokens": "length", "stop_sequence": "stop_sequence", "tool_use": "tool_calls",
    "refusal": "refusal", "pause_turn": "length", "model_context_window_exceeded": "length",
}  # fmt: skip
REASONS: Final[Mapping[Stop, str]] = {
    "stop": "end_turn", "stop_sequence": "stop_sequence", "length": "max_tokens", "tool_calls": "tool_use",
    "refusal": "refusal",
}  # fmt: skip


def read_request(body: Mapping[str, object]) -> Request:
    """What a caller asks. Raises `InvalidCall` that names the field for what has no neutral form."""
    fields = Fields(dict(body))
    fields.skip("cache_control")
    fields.only("service_tier", "auto", "standard_only")
    fields.only("speed", "standard")
    form, effort = _output(fields)
    choice, parallel = _choice(fields)
    system = tuple(_content(fields, "system"))
    if not all(isinstance(part, Text) for part in system):
        raise fields.wrong("system", "holds something else than text")
    head = (Message("system", system),) if system else ()
    thinking = _thinking(fields)
    request = Request(
        api="messages",
        model=fields.text("model"),
        messages=fields.some("messages", [*head, *[_message(message) for message in fields.children("messages")]]),
        tools=tuple([_tool(tool) for tool in fields.children("tools")]),
        choice=choice,
        parallel=parallel,
        format=form,
        max_tokens=fields.count("max_tokens"),
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        stop=tuple(fields.texts("stop_sequences")),
        effort=effort or thinking,
        user=_user(fields),
        stream=fields.flag("stream") or False,
    )
    fields.done()
    return request


def _output(fields: Fields) -> tuple[Format | None, str]:
    config = fields.child("output_config")
    if config is None:
        return None, ""
    effort, wanted, form = config.words("effort"), config.child("format"), None
    if wanted is not None:
        wanted.one_of("type", ("json_schema",))
        form = Format("schema", "answer", wanted.record("schema"), strict=True)
        wanted.done()
    config.done()
    return form, effort


def _thinking(fields: Fields) -> str:
    thinking = fields.child("thinking")
    if thinking is None:
        return ""
    thinking.skip("display")
    kind = thinking.one_of("type", ("enabled", "disabled", "adaptive"))
    budget = thinking.count("budget_tokens") or 0
    thinking.done()
    if kind != "enabled":
        return ""
    return next((effort for limit, effort in _EFFORTS if budget <= limit), "high")


def _choice(fields: Fields) -> tuple[Choice | None, bool | None]:
    wanted = fields.child("tool_choice")
    if wanted is None:
        return None, None
    single = wanted.flag("disable_parallel_tool_use")
    choice: Choice
    match wanted.one_of("type", ("auto", "any", "tool", "none")):
        case "tool":
            choice = Choice("tool", wanted.text("name"))
        case "any":
            choice = Choice("required")
        case "none":
            choice = Choice("none")
        case _:
            choice = Choice("auto")
    wanted.done()
    return choice, None if single is None else not single


def _user(fields: Fields) -> str:
    metadata = fields.child("metadata")
    return metadata.words("user_id") if metadata is not None else ""


def _message(fields: Fields) -> Message:
    role = fields.one_of("role", ("user", "assistant", "system"))
    message = Message(_ROLES[role], tuple(_content(fields, "content")))
    fields.done()
    return message


_ROLES: Final[Mapping[str, Role]] = {"user": "user", "assistant": "assistant", "system": "system"}


def _content(fields: Fields, name: str) -> list[Part]:
    content = fields.raw(name)
    if isinstance(content, str):
        return [Text(content)] if content else []
    return [_block(block) for block in fields.children(name)]


def _block(fields: Fields) -> Part:
    fields.skip("cache_control")
    kinds = ("text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking")
    part: Part
    match fields.one_of("type", kinds):
        case "text":
            fields.only("citations", [], ())
            part = Text(fields.text("text"))
        case "image":
            part = _image(fields)
        case "tool_use":
            fields.skip("caller")
            arguments = codec.dumps(fields.record("input")).decode()
            part = ToolCall(fields.text("id"), fields.text("name"), arguments)
        case "tool_result":
            content = shown_in(fields, "content", _content(fields, "content"))
            part = ToolResult(fields.text("tool_use_id"), content, fields.flag("is_error") or False)
        case "thinking":
            part = Thinking(fields.words("thinking"), fields.words("signature"))
        case _:
            part = Thinking(redacted=fields.text("data"))
    fields.done()
    return part


def _image(fields: Fields) -> Image:
    source = fields.child("source")
    if source is None:
        raise fields.wrong("source", "is missing")
    if source.one_of("type", ("base64", "url")) == "url":
        image = Image(url=source.text("url"))
    else:
        image = Image(media_type=source.text("media_type"), data=source.text("data"))
    source.done()
    return image


def _tool(fields: Fields) -> Tool:
    fields.skip("cache_control", "eager_input_streaming")
    fields.only("type", "custom")
    tool = Tool(fields.text("name"), fields.words("description"), fields.record("input_schema"), fields.flag("strict"))
    fields.done()
    return tool


# The other way


def write_request(request: Request, max_tokens: int = DEFAULT_MAX_TOKENS) -> JsonObject:
    """The request as Anthropic wants it; `max_tokens` holds where the caller set no limit.

    Raises `InvalidCall` for what it has no field for.
    """
    _check(request)
    system, messages = _turns(request)
    body: JsonObject = {
        "model": request.model,
        "max_tokens": max_tokens if request.max_tokens is None else request.max_tokens,
        "messages": messages,
    }
    config: JsonObject = {}
    if request.effort and request.effort != "none":
        config["effort"] = _EFFORT_OUT[request.effort]
    if request.format is not None:
        config["format"] = {"type": "json_schema", "schema": plain(request.format.schema)}
    optional: JsonObject = {
        "system": system or None,
        "tools": [_tool_out(tool) for tool in request.tools] or None,
        "tool_choice": _choice_out(request),
        "thinking": {"type": "disabled"} if request.effort == "none" else None,
        "output_config": config or None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop_sequences": list(request.stop) or None,
        "metadata": {"user_id": request.user} if request.user else None,
        "stream": True if request.stream else None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def _check(request: Request) -> None:
    trouble = {
        "verbosity": bool(request.verbosity),
        "format": request.format is not None and request.format.kind == "json",
        "temperature": request.temperature is not None and not 0 <= request.temperature <= 1,
        "effort": bool(request.effort) and request.effort not in {"none", *_EFFORT_OUT},
    }
    hints = {"format": "only a JSON schema can be asked of this model", "temperature": "it lies between 0 and 1"}
    for name, wrong in trouble.items():
        if wrong:
            hint = hints.get(name, "this model's provider knows no such thing")
            raise InvalidCall(f"{field_of(request, name)} cannot be translated: {hint}")


def _turns(request: Request) -> tuple[list[JsonValue], list[JsonValue]]:
    """What the system says at first, and the turns; two of one side in a row are one, as this API wants them."""
    system: list[JsonValue] = []
    turns: list[tuple[str, list[JsonValue]]] = []
    for message in request.messages:
        blocks: list[JsonValue] = [block for part in message.parts for block in _blocks(part)]
        if message.role == "system" and not turns:
            system += blocks
        elif turns and turns[-1][0] == message.role:
            turns[-1][1].extend(blocks)
        elif blocks:
            turns.append((message.role, blocks))
    return system, [{"role": role, "content": _results_first(blocks)} for role, blocks in turns]


def _results_first(blocks: list[JsonValue]) -> list[JsonValue]:
    """Results of tools stand before whatever else their turn holds."""

    def other(block: JsonValue) -> bool:
        return not (isinstance(block, dict) and block.get("type") == "tool_result")

    return sorted(blocks, key=other)


def _blocks(part: Part) -> Iterator[JsonObject]:
    match part:
        case Text("") | Refusal(""):  # it takes no empty ones
            pass
        case Text(text) | Refusal(text):
            yield {"type": "text", "text": text}
        case Image():
            yield {"type": "image", "source": _source(part)}
        case Thinking():
            yield from _thought(part)
        case ToolCall():
            fault = InvalidCall(f"the arguments of tool call {part.id!r} are not a JSON object")
            arguments = arguments_object(part.arguments, fault)
            yield {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}
        case ToolResult():
            content: list[JsonValue] = [block for said in part.content for block in _blocks(said)]
            failed: JsonObject = {"is_error": True} if part.failed else {}
            yield {"type": "tool_result", "tool_use_id": part.call_id, "content": content, **failed}


def _thought(part: Thinking) -> Iterator[JsonObject]:
    """One that the provider can verify as its own; it refuses any other."""
    if part.redacted:
        yield {"type": "redacted_thinking", "data": part.redacted}
    elif part.signature:
        yield {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _source(image: Image) -> JsonObject:
    if image.url:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": image.media_type, "data": image.data}


def _tool_out(tool: Tool) -> JsonObject:
    schema: JsonValue = plain(tool.schema) or {"type": "object", "properties": {}}
    written: JsonObject = {"name": tool.name, "input_schema": schema}
    if tool.description:
        written["description"] = tool.description
    return written if tool.strict is None else {**written, "strict": tool.strict}


def _choice_out(request: Request) -> JsonObject | None:
    choice = request.choice or (Choice("auto") if request.parallel is False and request.tools else None)
    if choice is None:
        return None
    kind = {"required": "any"}.get(choice.mode, choice.mode)
    written: JsonObject = {"type": kind, "name": choice.name} if kind == "tool" else {"type": kind}
    if request.parallel is None or kind == "none":
        return written
    return {**written, "disable_parallel_tool_use": not request.parallel}


# Answers


def read_answer(value: object) -> Answer:
    """What a provider answered. Raises `UpstreamProtocolError` where it is no such answer."""
    fields = answered(value)
    if not isinstance(fields.value.get("content"), list):
        raise fields.wrong("content", "is not an array")
    parts = tuple(_content(fields, "content"))
    reason = fields.words("stop_reason")
    return Answer(
        fields.words("id"),
        fields.words("model"),
        (*parts, *refusal_of(fields)),
        STOPS.get(reason, "stop"),
        read_usage(fields.raw("usage")),
        fields.words("stop_sequence"),
    )


def refusal_of(fields: Fields) -> Iterator[Refusal]:
    """Why the model refused, in words, if it says."""
    details = fields.child("stop_details")
    if details is not None and details.value.get("type") == "refusal":
        explanation = details.words("explanation")
        if explanation:
            yield Refusal(explanation)


def write_answer(answer: Answer) -> JsonObject:
    """The answer as a caller of Messages wants it."""
    refusal = "".join(part.text for part in answer.parts if isinstance(part, Refusal))
    content: list[JsonValue] = [block for part in _cut(answer) for block in answer_blocks(part)]
    return {
        "id": message_id(answer.id), "type": "message", "role": "assistant", "model": answer.model,
        "content": content, "stop_reason": "refusal" if refusal else REASONS[answer.stop],
        "stop_sequence": answer.stop_sequence or None, "stop_details": stop_details(refusal),
        "usage": write_usage(answer.tokens),
    }  # fmt: skip


def _cut(answer: Answer) -> tuple[Part, ...]:
    """The parts. Of a tool call that was cut off within its arguments none of these are left, as in this API's own."""
    match answer.parts:
        case (*before, ToolCall(id_, name, arguments)) if answer.stop in ("length", "refusal"):
            with suppress(ValueError):
                codec.loads(arguments.encode())
                return answer.parts
            return (*before, ToolCall(id_, name))
    return answer.parts


def stop_details(refusal: str) -> JsonValue:
    """What goes with the stop reason `refusal`."""
    return {"type": "refusal", "category": None, "explanation": refusal} if refusal else None


def message_id(known: str) -> str:
    """An id that looks like one of this API's."""
    return known if known.startswith("msg_") else f"msg_{known}"


def answer_blocks(part: Part) -> Iterator[JsonObject]:
    """A part of an answer as content blocks."""
    match part:
        case Text(text) if text:
            yield {"type": "text", "text": text, "citations": None}
        case Thinking() if part.redacted:
            yield {"type": "redacted_thinking", "data": part.redacted}
        case Thinking():
            yield {"type": "thinking", "thinking": part.text, "signature": part.signature}
        case ToolCall():
            fault = answered({}).wrong("", "holds a tool call whose arguments are not a JSON object")
            arguments = arguments_object(part.arguments, fault)
            yield {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}
        case _:
            pass


def read_usage(value: object) -> Tokens:
    """The tokens that a provider counted; `input_tokens` of this API leaves out what went through its cache."""
    if value is None:
        return Tokens()
    fields = answered(value)
    cached, written = fields.count("cache_read_input_tokens") or 0, fields.count("cache_creation_input_tokens") or 0
    details, made = fields.child("output_tokens_details"), fields.child("cache_creation")
    brief = (made.count("ephemeral_5m_input_tokens") or 0) if made is not None else 0
    if made is not None:
        written = max(written, brief + (made.count("ephemeral_1h_input_tokens") or 0))
    return Tokens(
        input=(fields.count("input_tokens") or 0) + cached + written,
        output=fields.count("output_tokens") or 0,
        cached=cached,
        cache_written=written,
        reasoning=(details.count("thinking_tokens") or 0) if details is not None else 0,
        cache_written_5m=brief,
    )


def write_usage(tokens: Tokens) -> JsonObject:
    """The tokens as callers of Messages know them."""
    return {
        "input_tokens": max(0, tokens.input - tokens.cached - tokens.cache_written),
        "cache_creation_input_tokens": tokens.cache_written,
        "cache_read_input_tokens": tokens.cached,
        "output_tokens": tokens.output,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning},
    }
