"""Whatever a model says, each API's own types accept how it is written there, and it reads back as the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, cast

import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.errors import InterlockError, InvalidCall, UpstreamProtocolError
from gateway.models import (
    TALKS,
    Answer,
    ModelStream,
    Talk,
    Tokens,
    as_stream,
    estimate,
    facts_of,
    read_answer,
    request_for,
    request_in,
    write_answer,
)
from gateway.models.neutral import Part, Refusal, Stop, Text, Thinking, ToolCall, events_of
from gateway.models.sse import Events
from gateway.models.streams import encoder

FUZZ: Final = settings(deadline=None, max_examples=60)
WHOLE: Final[dict[Talk, TypeAdapter[Any]]] = {
    "chat.completions": TypeAdapter(ChatCompletion), "responses": TypeAdapter(Response),
    "messages": TypeAdapter(AnthropicMessage),
}  # fmt: skip
EVENT: Final[dict[Talk, TypeAdapter[Any]]] = {
    "chat.completions": TypeAdapter(ChatCompletionChunk), "responses": TypeAdapter(ResponseStreamEvent),
    "messages": TypeAdapter(RawMessageStreamEvent),
}  # fmt: skip
WORDS: Final = st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable() or "\n" in text).map(
    lambda text: text.encode("utf-8", "ignore").decode() or "x"
)  # fmt: skip
SCALARS: Final = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | WORDS
OBJECTS: Final = st.dictionaries(WORDS, SCALARS | st.lists(SCALARS, max_size=2), max_size=3)
CALLS: Final = st.lists(st.tuples(st.sampled_from(["find", "read_file"]), OBJECTS), max_size=3)
TOKENS: Final = st.builds(
    lambda fresh, cached, written, wrote, thought: Tokens(fresh + cached + written, wrote, cached, written, thought),
    *[st.integers(0, 10_000)] * 5,
)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    parts: list[Part] = []
    if draw(st.booleans()):
        parts.append(Thinking(draw(WORDS)))
    if draw(st.booleans()):
        parts.append(Text(draw(WORDS)))
    calls = draw(CALLS)
    parts += [ToolCall(f"call_{at}", name, json.dumps(said)) for at, (name, said) in enumerate(calls)]
    stop: Stop = "tool_calls" if calls else draw(st.sampled_from(["stop", "length"]))
    if not parts:
        parts, stop = [Refusal(draw(WORDS))], "refusal"
    return Answer("id1", "m", tuple(parts), stop, draw(TOKENS), created=1_760_000_000)


def essence(answer: Answer) -> object:
    """What must survive every translation."""
    parts = [
        (part.name, part.id, json.loads(part.arguments)) if isinstance(part, ToolCall) else (type(part), part.text)
        for part in answer.parts
        if isinstance(part, Text | ToolCall | Refusal | Thinking)
    ]
    return parts, answer.stop, answer.tokens


@pytest.mark.parametrize("api", TALKS)
@FUZZ
@given(answer=answers())
def test_an_answer_is_what_the_vendor_s_types_accept_and_reads_back(api: Talk, answer: Answer) -> None:
    written = write_answer(api, answer, {})
    WHOLE[api].validate_python(written)
    back = read_answer(api, json.loads(json.dumps(written)))
    assert essence(back) == essence(answer)


@pytest.mark.parametrize("api", TALKS)
@pytest.mark.parametrize("replayed", [False, True], ids=["streamed", "replayed"])
@FUZZ
@given(answer=answers())
def test_a_stream_is_what_the_vendor_s_types_accept_and_reads_back(api: Talk, replayed: bool, answer: Answer) -> None:
    params = {"stream_options": {"include_usage": True}}
    if replayed:
        events = list(as_stream(api, write_answer(api, answer, {}), params))
    else:
        writer = encoder(api, params)
        events = [event for said in events_of(answer) for event in writer.feed(said)]
    for event in events:
        EVENT[api].validate_python(event)
    for target in TALKS:
        assert collected(api, target, events) == essence(answer)


def collected(api: Talk, target: Talk, events: list[Any]) -> object:
    """The stream, brought into another API event by event and gathered there as its clients do."""
    stream = ModelStream(api, target, {"stream_options": {"include_usage": True}})
    out = [json.loads(data) for event in events for data in stream.feed(json.dumps(event).encode())]
    out += [json.loads(data) for data in stream.finish()]
    gathered = {"chat.completions": gather_chat, "responses": gather_responses, "messages": gather_messages}[target](
        out
    )
    return essence(read_answer(target, gathered))


def gather_chat(chunks: list[Any]) -> Any:
    message: dict[str, Any] = {"role": "assistant", "content": "", "refusal": "", "reasoning_content": ""}
    calls: dict[int, Any] = {}
    choice: dict[str, Any] = {"index": 0, "message": message}
    for chunk in chunks:
        for piece in chunk["choices"]:
            choice["finish_reason"] = piece["finish_reason"] or choice.get("finish_reason")
            for name in ("content", "refusal", "reasoning_content"):
                message[name] += piece["delta"].get(name) or ""
            for call in piece["delta"].get("tool_calls") or []:
                known = calls.setdefault(call["index"], {"type": "function", "function": {"name": "", "arguments": ""}})
                known["id"] = call.get("id") or known["id"]
                for name in ("name", "arguments"):
                    known["function"][name] += call["function"].get(name) or ""
    message["tool_calls"] = list(calls.values())
    return {**chunks[0], "choices": [choice], "usage": chunks[-1]["usage"]}


def gather_responses(events: list[Any]) -> Any:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert items == events[-1]["response"]["output"]
    return events[-1]["response"]


def gather_messages(events: list[Any]) -> Any:
    message: dict[str, Any] = dict(events[0]["message"])
    blocks: list[dict[str, Any]] = []
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(blocks)
                blocks.append({**event["content_block"], "_json": ""})
            case "content_block_delta":
                delta, block = event["delta"], blocks[event["index"]]
                assert event["index"] == len(blocks) - 1
                for name, member in (("text", "text"), ("thinking", "thinking"), ("partial_json", "_json")):
                    block[member] = block.get(member, "") + delta[name] if name in delta else block.get(member, "")
            case "message_delta":
                message |= event["delta"]
                message["usage"] = event["usage"]
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["_json"] or "{}")
    message["content"] = [
        {name: value for name, value in block.items() if name in _MEMBERS[block["type"]]} for block in blocks
    ]
    return message


_MEMBERS: Final = {
    "text": ("type", "text"),
    "thinking": ("type", "thinking", "signature"),
    "tool_use": ("type", "id", "name", "input"),
}
GATHERERS: Final[dict[Talk, Callable[[list[Any]], Any]]] = {
    "chat.completions": gather_chat,
    "responses": gather_responses,
    "messages": gather_messages,
}


# What is not as it should be


def names(words: str) -> st.SearchStrategy[str]:
    """One of these."""
    return st.sampled_from(words.split())


MEMBERS: Final = names(
    "role content type text messages input tools function name id index delta choices tool_calls arguments usage "
    "output system stop item response message content_block source tool_choice error prompt_tokens input_tokens"
)
JSON: Final = st.recursive(
    SCALARS | st.floats(allow_nan=False) | names("user assistant function message text tool"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=4),
    max_leaves=12,
)
NAMES: Final = names(
    "model messages input tools tool_choice max_tokens stop text response_format system thinking output_config "
    "instructions n"
)
KINDS: Final = names(
    "message_start content_block_start content_block_delta message_delta error response.created "
    "response.output_item.added response.output_item.done response.completed response.failed"
)
FILLINGS: Final = ("message", "content_block", "delta", "item", "response", "usage")
EVENTS: Final = JSON | st.fixed_dictionaries({"type": KINDS, **dict.fromkeys(FILLINGS, JSON)})


@pytest.mark.parametrize("api", TALKS)
@FUZZ
@given(body=st.dictionaries(NAMES, JSON, max_size=5))
def test_a_request_that_is_no_request_is_refused_and_nothing_else(api: Talk, body: dict[str, Any]) -> None:
    facts_of(api, body)
    assert estimate(api, body).input_tokens > 0
    for target in TALKS:
        try:
            request_for(target, api, body, model="m", stream=False, strict=True)
        except InvalidCall as exc:
            assert str(exc)  # noqa: PT017  # any other error is the failure that is looked for


@pytest.mark.parametrize("api", TALKS)
@FUZZ
@given(value=JSON)
def test_an_answer_that_is_no_answer_is_refused_and_nothing_else(api: Talk, value: Any) -> None:
    for said in (value, {"choices": [value], "content": value, "output": value}):
        try:
            read_answer(api, said)
        except UpstreamProtocolError as exc:
            assert str(exc)  # noqa: PT017


@pytest.mark.parametrize("api", TALKS)
@FUZZ
@given(events=st.lists(EVENTS, max_size=4))
def test_events_that_are_none_are_refused_and_nothing_else(api: Talk, events: list[Any]) -> None:
    for target in TALKS:
        stream = ModelStream(api, target)
        try:
            for event in events:
                stream.feed(json.dumps(event).encode())
            stream.finish()
        except InterlockError as exc:
            assert stream.broken(exc)  # noqa: PT017


@FUZZ
@given(
    data=st.lists(st.sampled_from([b"hello", b"{}", b"a: b", b"x" * 30]), min_size=1, max_size=5),
    ends=st.sampled_from([b"\n", b"\r\n"]), size=st.integers(1, 9),
)  # fmt: skip
def test_events_are_the_same_however_their_bytes_come(data: list[bytes], ends: bytes, size: int) -> None:
    wire = b"".join(b": ping" + ends + b"event: e" + ends + b"data: " + piece + ends + ends for piece in data)
    parser = Events(1_000)
    out = [event for at in range(0, len(wire), size) for event in parser.feed(wire[at : at + size])]
    assert out == data


@FUZZ
@given(
    text=st.lists(st.sampled_from([b"data: xxxxxxxxxx", b"\n", b"data:", b"yyyyyyyyyyyyyyyyyyyyyyyyyyyy"]), max_size=30)
)
def test_no_event_is_larger_than_its_limit(text: list[bytes]) -> None:
    parser = Events(40)
    try:
        for piece in text:
            assert all(len(event) <= 40 + 40 for event in parser.feed(piece))
    except UpstreamProtocolError as exc:
        assert "40" in str(exc)  # noqa: PT017


ROLES: Final = st.sampled_from(["user", "assistant", "system"])


@st.composite
def talks(draw: st.DrawFn) -> dict[str, Any]:
    """A conversation as Chat Completions writes it."""
    messages: list[Any] = []
    for turn in range(draw(st.integers(1, 4))):
        role = draw(ROLES)
        content: Any = draw(WORDS)
        if role == "user" and draw(st.booleans()):
            image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
            content = [{"type": "text", "text": content}, image]
        messages.append({"role": role, "content": content})
        if role == "assistant":
            calls = [(f"c{turn}{at}", name, said) for at, (name, said) in enumerate(draw(CALLS))]
            functions = [
                {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(said)}}
                for id_, name, said in calls
            ]
            messages[-1] |= {"tool_calls": functions} if calls else {}
            messages += [{"role": "tool", "tool_call_id": id_, "content": draw(WORDS)} for id_, _, _ in calls]
    return {"model": "m", "messages": messages, "max_tokens": draw(st.integers(1, 99))}


@FUZZ
@given(body=talks())
def test_a_conversation_reads_the_same_after_it_went_through_any_other_api(body: dict[str, Any]) -> None:
    def spoken(api: Talk, params: Any) -> list[Any]:
        return [
            (message.role, json.loads(part.arguments) if isinstance(part, ToolCall) else part)
            for message in request_in(api, params).messages
            for part in message.parts
        ]

    wanted = spoken("chat.completions", body)
    for api in TALKS:
        written = request_for(api, "chat.completions", body, model="m", stream=False, strict=True)
        got = spoken(api, written)
        key = cast("Any", repr)
        assert sorted(got, key=key) == sorted(wanted, key=key)
        assert request_in(api, written).max_tokens == body["max_tokens"]
