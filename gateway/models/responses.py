"""OpenAI's Responses: requests and whole answers, to and from the neutral form.

Left out of a translation as harmless: `metadata`, `store` (what is translated is never stored), `include` of
encrypted reasoning, `prompt_cache_*`, `stream_options`, `reasoning.summary`, ids and statuses of input items, what
OpenAI's client read out of earlier answers (`parsed`, `parsed_arguments`), the service tiers `auto` and `default`,
`truncation: disabled`. Reasoning items go along only to the provider that can
verify them; `previous_response_id` and whatever else needs the provider's memory is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gateway.codec import JsonObject, JsonValue
from gateway.errors import InvalidCall
from gateway.models import chat
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

SIGNED: Final = "anthropic:signed:"
REDACTED: Final = "anthropic:redacted:"
"""What `encrypted_content` begins with where it holds a thought of Anthropic's, to be given back to it."""
_HARMLESS: Final = ("metadata", "store", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
                    "stream_options")  # fmt: skip


def read_request(body: Mapping[str, object]) -> Request:
    """What a caller asks. Raises `InvalidCall` that names the field for what has no neutral form."""
    fields = Fields(dict(body))
    fields.skip(*_HARMLESS)
    _defaults(fields)
    form, verbosity = _text(fields)
    instructions = fields.words("instructions")
    head = (Message("system", (Text(instructions),)),) if instructions else ()
    request = Request(
        api="responses",
        model=fields.text("model"),
        messages=fields.some("input", [*head, *_input(fields)]),
        tools=tuple([_tool(tool) for tool in fields.children("tools")]),
        choice=_choice(fields),
        parallel=fields.flag("parallel_tool_calls"),
        format=form,
        max_tokens=fields.count("max_output_tokens"),
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        effort=_effort(fields),
        verbosity=verbosity,
        user=fields.words("user") or fields.words("safety_identifier"),
        stream=fields.flag("stream") or False,
    )
    fields.skip("safety_identifier")
    fields.done()
    return request


def _defaults(fields: Fields) -> None:
    fields.only("background", False)
    fields.only("truncation", "disabled")
    fields.only("top_logprobs", 0)
    fields.only("service_tier", "auto", "default")
    if any(wanted != "reasoning.encrypted_content" for wanted in fields.texts("include")):
        raise fields.untranslatable("include")


def _text(fields: Fields) -> tuple[Format | None, str]:
    text = fields.child("text")
    if text is None:
        return None, ""
    form, wanted = None, text.child("format")
    if wanted is not None:
        match wanted.one_of("type", ("text", "json_object", "json_schema")):
            case "json_object":
                form = Format("json")
            case "json_schema":
                form = chat.schema_format(wanted)
        wanted.done()
    verbosity = text.words("verbosity")
    text.done()
    return form, verbosity


def _effort(fields: Fields) -> str:
    reasoning = fields.child("reasoning")
    if reasoning is None:
        return ""
    reasoning.skip("summary", "generate_summary")
    effort = reasoning.words("effort")
    reasoning.done()
    return effort


def _tool(fields: Fields) -> Tool:
    fields.one_of("type", ("function",))
    tool = Tool(fields.text("name"), fields.words("description"), fields.record("parameters"), fields.flag("strict"))
    fields.done()
    return tool


def _choice(fields: Fields) -> Choice | None:
    value = fields.raw("tool_choice")
    match value:
        case None:
            return None
        case "auto" | "none" | "required":
            return Choice(value)
        case {"type": "function", "name": str(name)}:
            return Choice("tool", name)
    raise fields.untranslatable("tool_choice")


def _input(fields: Fields) -> Sequence[Message]:
    """The items as messages; those of one side that follow each other are one turn."""
    said = fields.raw("input")
    if isinstance(said, str):
        return [Message("user", (Text(said),))]
    turns: list[Message] = []
    for item in fields.children("input"):
        message = _item(item)
        item.skip("id", "status", "phase")
        item.done()
        if turns and turns[-1].role == message.role and message.role == "assistant":
            turns[-1] = Message("assistant", (*turns[-1].parts, *message.parts))
        elif turns and _results(message) and turns[-1].role == "user" and _results(turns[-1]):
            turns[-1] = Message("user", (*turns[-1].parts, *message.parts))
        else:
            turns.append(message)
    return turns


def _results(message: Message) -> bool:
    return all(isinstance(part, ToolResult) for part in message.parts)


def _item(item: Fields) -> Message:
    kinds = ("message", "function_call", "function_call_output", "reasoning")
    match item.one_of("type", kinds, "message"):
        case "function_call":
            return Message("assistant", (_call(item),))
        case "function_call_output":
            return Message("user", (_output(item),))
        case "reasoning":
            return Message("assistant", tuple(_thoughts(item)))
    role = item.one_of("role", ("user", "assistant", "system", "developer"))
    parts = tuple(_content(item, "content"))
    return Message("assistant" if role == "assistant" else "user" if role == "user" else "system", parts)


def _call(item: Fields) -> ToolCall:
    item.skip("id", "status", "parsed_arguments")
    return ToolCall(item.text("call_id"), item.text("name"), item.words("arguments") or "{}")


def _output(item: Fields) -> ToolResult:
    item.skip("name")
    return ToolResult(item.text("call_id"), shown_in(item, "output", _content(item, "output")))


def _thoughts(item: Fields) -> Iterator[Part]:
    summary = "".join(part.words("text") for part in item.children("summary"))
    text = "".join(part.words("text") for part in item.children("content")) or summary
    sealed = item.words("encrypted_content")
    if sealed.startswith(REDACTED):
        yield Thinking(redacted=sealed.removeprefix(REDACTED))
    else:
        yield Thinking(text, sealed.removeprefix(SIGNED) if sealed.startswith(SIGNED) else "")


def _content(item: Fields, name: str) -> list[Part]:
    content = item.raw(name)
    if isinstance(content, str):
        return [Text(content)] if content else []
    return [_part(part) for part in item.children(name)]


def _part(fields: Fields) -> Part:
    fields.skip("prompt_cache_breakpoint", "annotations", "logprobs", "parsed")
    part: Part
    match fields.one_of("type", ("input_text", "output_text", "text", "input_image", "refusal")):
        case "input_image":
            part = chat.image_at(fields.text("image_url"), fields.words("detail"))
        case "refusal":
            part = Refusal(fields.text("refusal"))
        case _:
            part = Text(fields.text("text"))
    fields.done()
    return part


# The other way


def write_request(request: Request) -> JsonObject:
    """The request as a provider of Responses wants it. Raises `InvalidCall` for what it has no field for."""
    if request.stop:
        name = field_of(request, "stop")
        raise InvalidCall(f"{name} cannot be translated into the API of this model's provider; leave it out")
    items: list[JsonValue] = [item for message in request.messages for item in _items(message)]
    body: JsonObject = {"model": request.model, "input": items, "store": False}
    if request.tools:
        body["tools"] = [_tool_out(tool) for tool in request.tools]
    if request.choice is not None:
        named: JsonValue = {"type": "function", "name": request.choice.name}
        body["tool_choice"] = named if request.choice.mode == "tool" else request.choice.mode
    text = _text_out(request)
    optional: JsonObject = {
        "parallel_tool_calls": request.parallel if request.tools else None,
        "max_output_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "reasoning": {"effort": request.effort} if request.effort else None,
        "text": text or None,
        "user": request.user or None,
        "stream": True if request.stream else None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def _text_out(request: Request) -> JsonObject:
    text: JsonObject = {"verbosity": request.verbosity} if request.verbosity else {}
    if request.format is not None:
        schema = request.format.kind == "schema"
        text["format"] = {"type": "json_schema", **chat.named(request.format)} if schema else {"type": "json_object"}
    return text


def _tool_out(tool: Tool) -> JsonObject:
    """Left to itself this API makes tools strict, and the caller's own does not."""
    parameters: JsonValue = plain(tool.schema)
    strict = bool(tool.strict)
    described: JsonObject = {"description": tool.description} if tool.description else {}
    return {"type": "function", "name": tool.name, **described, "parameters": parameters, "strict": strict}


def _items(message: Message) -> Iterator[JsonValue]:
    """The items of one turn, in order; words between tool calls stand in messages of their own."""
    content: list[JsonValue] = []
    for part in message.parts:
        match part:
            case ToolCall() | ToolResult():
                yield from _spoken(message, content)
                content = []
                yield _item_out(part)
            case Thinking():  # another provider's: this one could not verify it
                pass
            case _:
                content.append(_part_out(part, message.role))
    yield from _spoken(message, content)


def _spoken(message: Message, content: list[JsonValue]) -> Iterator[JsonValue]:
    if content:
        yield {"type": "message", "role": message.role, "content": content}


def _item_out(part: ToolCall | ToolResult) -> JsonObject:
    if isinstance(part, ToolCall):
        return {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments}
    text = "".join(said.text for said in part.content if isinstance(said, Text))
    text = f"Error: {text}" if part.failed else text
    output: JsonValue = text
    if any(isinstance(said, Image) for said in part.content):
        output = [_part_out(said, "user") for said in part.content]
    return {"type": "function_call_output", "call_id": part.call_id, "output": output}


def _part_out(part: Part, role: str) -> JsonObject:
    match part:
        case Image():
            return {"type": "input_image", "image_url": part.address, "detail": part.detail or "auto"}
        case Refusal(text):
            return {"type": "refusal", "refusal": text}
        case Text(text):
            return {"type": "output_text" if role == "assistant" else "input_text", "text": text}
    raise InvalidCall("input holds a part that this API has no place for")


# Answers


def read_answer(value: object) -> Answer:
    """What a provider answered. Raises `UpstreamProtocolError` where it is no such answer."""
    fields = answered(value)
    if fields.value.get("status") == "failed":
        raise fields.wrong("status", "says that it failed")
    parts: list[Part] = []
    for item in fields.children("output"):
        parts += _said(item)
    return Answer(
        fields.words("id"),
        fields.words("model"),
        tuple(parts),
        stop_of(fields, parts),
        read_usage(fields.raw("usage")),
        created=int(fields.number("created_at") or 0),
    )


def _said(item: Fields) -> list[Part]:
    match item.words("type"):
        case "message":
            return _content(item, "content")
        case "function_call":
            return [_call(item)]
        case "reasoning":
            return [part for part in _thoughts(item) if part != Thinking()]
    raise item.wrong("type", "is of a kind that cannot be translated into the caller's API")


def stop_of(fields: Fields, parts: Sequence[Part]) -> Stop:
    """Why a response ended."""
    details = fields.child("incomplete_details")
    if details is not None and details.value.get("reason") == "max_output_tokens":
        return "length"
    refused = any(isinstance(part, Refusal) for part in parts)
    if refused or (details is not None and details.value.get("reason") == "content_filter"):
        return "refusal"
    return "tool_calls" if any(isinstance(part, ToolCall) for part in parts) else "stop"


def write_answer(answer: Answer, echo: Mapping[str, object] | None = None) -> JsonObject:
    """The answer as a caller of Responses wants it. `echo` holds the members of the request that it repeats."""
    items: list[JsonValue] = list(output_items(answer))
    return {**envelope(answer, echo or {}), "output": items, "usage": write_usage(answer.tokens)}


def envelope(answer: Answer, echo: Mapping[str, object], status: str = "") -> JsonObject:
    """A response without its output: what every event of its life repeats."""
    short = answer.stop == "length"
    filtered = answer.stop == "refusal" and not any(isinstance(part, Refusal) for part in answer.parts)
    reason: JsonValue = "max_output_tokens" if short else "content_filter"
    settled = "incomplete" if short or filtered else "completed"
    details: JsonValue = {"reason": reason} if (short or filtered) and not status else None
    repeated: JsonObject = {
        "tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "instructions": None, "metadata": {},
        "temperature": None, "top_p": None, "max_output_tokens": None, "text": {"format": {"type": "text"}},
        "reasoning": None,
    }  # fmt: skip
    for name in repeated:
        if echo.get(name) is not None:
            repeated[name] = plain(echo[name])
    return {
        "id": response_id(answer.id), "object": "response", "created_at": answer.created, "model": answer.model,
        "status": status or settled, "error": None, "incomplete_details": details, **repeated,
        "previous_response_id": None, "store": False, "truncation": "disabled", "background": False,
        "output": [], "usage": None,
    }  # fmt: skip


def response_id(known: str) -> str:
    """An id that looks like one of this API's."""
    return known if known.startswith("resp_") else f"resp_{known}"


def output_items(answer: Answer) -> Iterator[JsonObject]:
    """What was said, as items: words in a row are one message."""
    content: list[JsonValue] = []
    count = 0
    for part in answer.parts:
        if isinstance(part, Text | Refusal):
            content.append(output_part(part))
            continue
        if content:
            yield message_item(answer.id, count, content)
            count, content = count + 1, []
        if isinstance(part, ToolCall):
            yield call_item(answer.id, count, part)
        elif isinstance(part, Thinking):
            yield thought_item(answer.id, count, part)
        count += 1
    if content:
        yield message_item(answer.id, count, content)


def output_part(part: Text | Refusal) -> JsonObject:
    """A part of a message of the model."""
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}


def message_item(base: str, index: int, content: list[JsonValue], status: str = "completed") -> JsonObject:
    """A message of the model."""
    return {
        "id": f"msg_{base}_{index}", "type": "message", "role": "assistant", "status": status, "content": content,
    }  # fmt: skip


def call_item(base: str, index: int, call: ToolCall, status: str = "completed") -> JsonObject:
    """A tool call of the model."""
    return {
        "id": f"fc_{base}_{index}", "type": "function_call", "status": status,
        "call_id": call.id, "name": call.name, "arguments": call.arguments,
    }  # fmt: skip


def thought_item(base: str, index: int, thought: Thinking) -> JsonObject:
    """A thought of the model."""
    summary: list[JsonValue] = [{"type": "summary_text", "text": thought.text}] if thought.text else []
    item: JsonObject = {"id": f"rs_{base}_{index}", "type": "reasoning", "summary": summary}
    if thought.redacted or thought.signature:
        sealed = REDACTED + thought.redacted if thought.redacted else SIGNED + thought.signature
        item["encrypted_content"] = sealed
    return item


def read_usage(value: object) -> Tokens:
    """The tokens that a provider counted; none where it did not."""
    if value is None:
        return Tokens()
    fields = answered(value)
    read, written = fields.child("input_tokens_details"), fields.child("output_tokens_details")
    return Tokens(
        input=fields.count("input_tokens") or 0,
        output=fields.count("output_tokens") or 0,
        cached=(read.count("cached_tokens") or 0) if read else 0,
        cache_written=(read.count("cache_write_tokens") or 0) if read else 0,
        reasoning=(written.count("reasoning_tokens") or 0) if written else 0,
    )


def write_usage(tokens: Tokens) -> JsonObject:
    """The tokens as callers of Responses know them."""
    return {
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_written},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.total,
    }
