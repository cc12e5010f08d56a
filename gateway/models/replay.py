"""A whole answer as the stream that a client asked for, where policy had to see all of it first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, cast

from gateway import codec
from gateway.codec import JsonObject, JsonValue
from gateway.models.chat_stream import wants_usage
from gateway.models.neutral import Talk
from gateway.types import EMPTY

_DELTAS: Final = {"text": ("text", "text_delta"), "thinking": ("thinking", "thinking_delta")}


def as_stream(api: Talk, answer: JsonObject, params: Mapping[str, object] = EMPTY) -> Iterator[JsonObject]:
    """The events of an answer in its own API; what is unknown in it stands in them as it is."""
    match api:
        case "chat.completions":
            return _chat(answer, include_usage=wants_usage(params))
        case "messages":
            return _messages(answer)
        case "responses":
            return _responses(answer)


def _objects(value: object) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _chat(answer: JsonObject, *, include_usage: bool) -> Iterator[JsonObject]:
    head: JsonObject = {**answer, "object": "chat.completion.chunk"}
    usage = head.pop("usage", None)
    end: JsonObject = {"usage": None} if include_usage else {}
    for choice in _objects(answer.get("choices")):
        index, message = choice.get("index", 0), choice.get("message")
        delta: JsonObject = {**message} if isinstance(message, dict) else {}
        calls = _objects(delta.get("tool_calls"))
        if calls:
            delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
        said: JsonObject = {"index": index, "delta": delta, "finish_reason": None, "logprobs": choice.get("logprobs")}
        over: JsonObject = {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason"), "logprobs": None}
        yield {**head, "choices": [said], **end}
        yield {**head, "choices": [over], **end}
    if include_usage:
        yield {**head, "choices": [], "usage": usage}


def _messages(answer: JsonObject) -> Iterator[JsonObject]:
    begun: JsonObject = {**answer, "content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(_objects(answer.get("content"))):
        empty, deltas = _block(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending: JsonObject = {name: answer.get(name) for name in ("stop_reason", "stop_sequence", "stop_details")}
    usage: JsonValue = answer.get("usage") or {"output_tokens": 0}
    yield {"type": "message_delta", "delta": ending, "usage": usage}
    yield {"type": "message_stop"}


def _block(block: JsonObject) -> tuple[JsonObject, list[JsonObject]]:
    """A content block as it begins, and what fills it."""
    kind = str(block.get("type"))
    if kind in _DELTAS:
        member, delta = _DELTAS[kind]
        filled: list[JsonObject] = [{"type": delta, member: block.get(member, "")}]
        if block.get("signature"):
            filled.append({"type": "signature_delta", "signature": block["signature"]})
        filled += [{"type": "citations_delta", "citation": citation} for citation in _objects(block.get("citations"))]
        emptied: JsonObject = {"citations": None} if kind == "text" else {"signature": ""}
        return {**block, member: "", **emptied}, filled
    if kind == "tool_use":
        written = _json(block.get("input"))
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": written}]
    return block, []


def _json(value: object) -> str:
    return codec.dumps(value if value is not None else {}).decode()


def _responses(answer: JsonObject) -> Iterator[JsonObject]:
    for number, event in enumerate(_life(answer)):
        yield {**event, "sequence_number": number}


def _life(answer: JsonObject) -> Iterator[JsonObject]:
    early: JsonObject = {
        **answer, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None,
    }  # fmt: skip
    yield {"type": "response.created", "response": early}
    yield {"type": "response.in_progress", "response": early}
    for index, item in enumerate(_objects(answer.get("output"))):
        where: JsonObject = {"output_index": index}
        yield {"type": "response.output_item.added", **where, "item": _begun(item)}
        for event in _filled(item):
            yield {**event, **where, "item_id": item.get("id", "")}
        yield {"type": "response.output_item.done", **where, "item": item}
    status = answer.get("status")
    ended = status if status in ("incomplete", "failed") else "completed"
    yield {"type": f"response.{ended}", "response": answer}


def _begun(item: JsonObject) -> JsonObject:
    emptied: Mapping[str, JsonObject] = {
        "message": {"content": [], "status": "in_progress"},
        "function_call": {"arguments": "", "status": "in_progress"},
        "reasoning": {"summary": []},
    }
    return {**item, **emptied.get(str(item.get("type")), {})}


def _filled(item: JsonObject) -> Iterator[JsonObject]:
    match item.get("type"):
        case "message":
            for index, part in enumerate(_objects(item.get("content"))):
                for event in _part(part):
                    yield {**event, "content_index": index}
        case "function_call":
            kind = "response.function_call_arguments"
            yield {"type": f"{kind}.delta", "delta": item.get("arguments", "")}
            yield {"type": f"{kind}.done", "arguments": item.get("arguments", ""), "name": item.get("name", "")}
        case "reasoning":
            for index, part in enumerate(_objects(item.get("summary"))):
                for event in _summary(part):
                    yield {**event, "summary_index": index}


def _part(part: JsonObject) -> Iterator[JsonObject]:
    kind = str(part.get("type"))
    member = {"output_text": "text", "refusal": "refusal"}.get(kind)
    if member is None:
        yield {"type": "response.content_part.added", "part": part}
    else:
        text = part.get(member, "")
        empty: JsonObject = {member: ""} | ({"annotations": [], "logprobs": []} if member == "text" else {})
        more: JsonObject = {"logprobs": []} if member == "text" else {}
        yield {"type": "response.content_part.added", "part": {**part, **empty}}
        yield {"type": f"response.{kind}.delta", "delta": text, **more}
        yield {"type": f"response.{kind}.done", member: text, **more}
    yield {"type": "response.content_part.done", "part": part}


def _summary(part: JsonObject) -> Iterator[JsonObject]:
    text, kind = part.get("text", ""), "response.reasoning_summary"
    yield {"type": f"{kind}_part.added", "part": cast("JsonObject", {**part, "text": ""})}
    yield {"type": f"{kind}_text.delta", "delta": text}
    yield {"type": f"{kind}_text.done", "text": text}
    yield {"type": f"{kind}_part.done", "part": part}
