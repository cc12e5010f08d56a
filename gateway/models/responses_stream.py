"""Streams of OpenAI's Responses, to and from neutral events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gateway.codec import JsonObject, JsonValue
from gateway.models.errors import told_by_provider
from gateway.models.neutral import (
    Answer,
    Begin,
    CallBegun,
    CallPiece,
    End,
    Event,
    Part,
    Refusal,
    Refused,
    Said,
    Text,
    Thinking,
    Thought,
    Tokens,
    ToolCall,
)
from gateway.models.reading import Fields, answered
from gateway.models.responses import (
    REDACTED,
    SIGNED,
    call_item,
    envelope,
    message_item,
    output_part,
    read_usage,
    stop_of,
    thought_item,
    write_usage,
)
from gateway.types import EMPTY

LAST: Final = ("response.completed", "response.incomplete")


class Decoder:
    """Events of this API in, neutral ones out. What repeats what was said already (`.done`) means nothing new."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._said_arguments = False
        self.tokens = Tokens()

    def feed(self, event: JsonObject) -> list[Event]:
        """What one event says. Raises what the provider says went wrong, and `UpstreamProtocolError`."""
        fields = answered(event)
        match event.get("type"):
            case "error":
                raise told_by_provider(event)
            case "response.failed":
                response = event.get("response")
                raise told_by_provider(response.get("error") if isinstance(response, dict) else None)
            case "response.created":
                return [self._begin(fields.child("response") or answered({}))]
            case "response.output_item.added":
                return list(self._item(fields.child("item") or answered({})))
            case "response.output_item.done":
                return list(self._whole(fields.child("item") or answered({})))
            case "response.completed" | "response.incomplete":
                return [self._end(fields.child("response") or answered({}))]
        return list(self._delta(fields))

    def _begin(self, response: Fields) -> Begin:
        return Begin(response.words("id"), response.words("model"), int(response.number("created_at") or 0))

    def _item(self, item: Fields) -> Iterator[Event]:
        match item.words("type"):
            case "function_call":
                self._said_arguments = False
                call = ToolCall(item.text("call_id"), item.text("name"))
                self._parts.append(call)
                yield CallBegun(call.id, call.name)
            case "message" | "reasoning":
                pass
            case _:
                raise item.wrong("type", "is of a kind that cannot be translated into the caller's API")

    def _delta(self, fields: Fields) -> Iterator[Event]:
        match fields.words("type"):
            case "response.output_text.delta":
                yield Said(fields.text("delta"))
            case "response.refusal.delta":
                self._parts.append(Refusal(""))
                yield Refused(fields.text("delta"))
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                yield Thought(fields.text("delta"))
            case "response.function_call_arguments.delta":
                self._said_arguments = True
                yield CallPiece(fields.text("delta"))

    def _whole(self, item: Fields) -> Iterator[Event]:
        """What only the end of an item tells: arguments that came at once, and seals of thoughts."""
        if item.value.get("type") == "function_call" and not self._said_arguments:
            yield CallPiece(item.words("arguments") or "{}")
        sealed = item.words("encrypted_content") if item.value.get("type") == "reasoning" else ""
        if sealed.startswith(SIGNED):
            yield Thought(signature=sealed.removeprefix(SIGNED))
        elif sealed.startswith(REDACTED):
            yield Thought(redacted=sealed.removeprefix(REDACTED))

    def _end(self, response: Fields) -> End:
        self.tokens = read_usage(response.raw("usage"))
        return End(stop_of(response, self._parts), self.tokens)

    def end(self) -> list[Event]:
        """Nothing: the end is an event of its own here."""
        return []


class Encoder:
    """Neutral events in, this API's out: each item is added, filled and done, and the end repeats all of them.

    `echo` holds the members of the request that a response repeats.
    """

    def __init__(self, echo: Mapping[str, object] = EMPTY) -> None:
        self._echo = echo
        self._number = 0
        self._answer = Answer("", "", (), "stop")
        self._items: list[JsonValue] = []
        self._open = ""
        self._call = ToolCall("", "")
        self._text: list[str] = []
        self._content: list[JsonValue] = []
        self._refused = False

    @property
    def sequence_number(self) -> int:
        """The number of the event that comes next."""
        return self._number

    def feed(self, event: Event) -> Iterator[JsonObject]:
        """The events that say it."""
        match event:
            case Begin(id_, model, created):
                self._answer = Answer(id_.removeprefix("resp_"), model, (), "stop", created=created)
                yield self._life("response.created", "in_progress")
                yield self._life("response.in_progress", "in_progress")
            case Said(text):
                yield from self._words("output_text", text)
            case Refused(text):
                self._refused = True
                yield from self._words("refusal", text)
            case Thought():
                yield from self._thought(event)
            case CallBegun(id_, name):
                yield from self._closed()
                self._open, self._call, self._text = "function_call", ToolCall(id_, name, ""), []
                yield self._added(call_item(self._base, self._index, self._call, "in_progress"))
            case CallPiece(arguments):
                self._text.append(arguments)
                yield self._about("response.function_call_arguments.delta", "fc", {"delta": arguments})
            case End(stop, tokens):
                yield from self._closed("incomplete" if stop == "length" else "completed")
                self._answer = Answer(self._base, self._answer.model, self._kept_refusal(), stop, tokens,
                                      created=self._answer.created)  # fmt: skip
                yield self._over()

    def failed(self, code: str, message: str) -> Iterator[JsonObject]:
        """The events that say that there is no more to come, since something went wrong."""
        yield self._event("error", {"code": code, "message": message, "param": None})
        over = envelope(self._answer, self._echo, "failed")
        over |= {"output": list(self._items), "error": {"code": "server_error", "message": message}}
        yield self._event("response.failed", {"response": over})

    def _kept_refusal(self) -> tuple[Part, ...]:
        return (Refusal(""),) if self._refused else ()

    # Events

    @property
    def _base(self) -> str:
        return self._answer.id

    @property
    def _index(self) -> int:
        return len(self._items)

    def _event(self, kind: str, members: JsonObject) -> JsonObject:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **members}

    def _life(self, kind: str, status: str) -> JsonObject:
        return self._event(kind, {"response": envelope(self._answer, self._echo, status)})

    def _over(self) -> JsonObject:
        response = envelope(self._answer, self._echo)
        response |= {"output": list(self._items), "usage": write_usage(self._answer.tokens)}
        kind = "response.incomplete" if response["status"] == "incomplete" else "response.completed"
        return self._event(kind, {"response": response})

    def _added(self, item: JsonObject) -> JsonObject:
        return self._event("response.output_item.added", {"output_index": self._index, "item": item})

    def _about(self, kind: str, prefix: str, members: JsonObject) -> JsonObject:
        where: JsonObject = {"item_id": f"{prefix}_{self._base}_{self._index}", "output_index": self._index}
        return self._event(kind, {**where, **members})

    # Messages

    def _words(self, kind: str, text: str) -> Iterator[JsonObject]:
        if self._open not in {"output_text", "refusal"}:
            yield from self._closed()
            self._content = []
            yield self._added(message_item(self._base, self._index, [], "in_progress"))
            yield from self._part_added(kind)
        elif self._open != kind:
            yield from self._part_done()
            yield from self._part_added(kind)
        self._text.append(text)
        more: JsonObject = {"logprobs": []} if kind == "output_text" else {}
        yield self._in_part(f"response.{kind}.delta", {"delta": text, **more})

    def _part_added(self, kind: str) -> Iterator[JsonObject]:
        self._open, self._text = kind, []
        yield self._in_part("response.content_part.added", {"part": self._part("")})

    def _part_done(self) -> Iterator[JsonObject]:
        text, kind = "".join(self._text), self._open
        whole: JsonObject = {"text": text, "logprobs": []} if kind == "output_text" else {"refusal": text}
        yield self._in_part(f"response.{kind}.done", whole)
        yield self._in_part("response.content_part.done", {"part": self._part(text)})
        self._content.append(self._part(text))

    def _part(self, text: str) -> JsonObject:
        return output_part(Text(text) if self._open == "output_text" else Refusal(text))

    def _in_part(self, kind: str, members: JsonObject) -> JsonObject:
        return self._about(kind, "msg", {"content_index": len(self._content), **members})

    # Thoughts

    def _thought(self, thought: Thought) -> Iterator[JsonObject]:
        if thought.redacted:
            yield from self._closed()
            item = thought_item(self._base, self._index, Thinking(redacted=thought.redacted))
            yield self._added(item)
            yield self._item_done(item)
            return
        if self._open != "reasoning":
            yield from self._closed()
            self._open, self._text = "reasoning", []
            yield self._added(thought_item(self._base, self._index, Thinking()))
            yield self._summary("part.added", {"part": {"type": "summary_text", "text": ""}})
        if thought.text:
            self._text.append(thought.text)
            yield self._summary("text.delta", {"delta": thought.text})
        if thought.signature:
            yield from self._thought_done(thought.signature)

    def _thought_done(self, signature: str = "") -> Iterator[JsonObject]:
        text = "".join(self._text)
        yield self._summary("text.done", {"text": text})
        yield self._summary("part.done", {"part": {"type": "summary_text", "text": text}})
        self._open = ""
        yield self._item_done(thought_item(self._base, self._index, Thinking(text, signature)))

    def _summary(self, kind: str, members: JsonObject) -> JsonObject:
        return self._about(f"response.reasoning_summary_{kind}", "rs", {"summary_index": 0, **members})

    # Ends of items

    def _closed(self, status: str = "completed") -> Iterator[JsonObject]:
        match self._open:
            case "output_text" | "refusal":
                yield from self._part_done()
                yield self._item_done(message_item(self._base, self._index, list(self._content), status))
            case "reasoning":
                yield from self._thought_done()
            case "function_call":
                call = ToolCall(self._call.id, self._call.name, "".join(self._text) or "{}")
                whole: JsonObject = {"name": call.name, "arguments": call.arguments}
                yield self._about("response.function_call_arguments.done", "fc", whole)
                yield self._item_done(call_item(self._base, self._index, call, status))
        self._open = ""

    def _item_done(self, item: JsonObject) -> JsonObject:
        event = self._event("response.output_item.done", {"output_index": self._index, "item": item})
        self._items.append(item)
        return event
