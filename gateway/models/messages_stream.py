"""Streams of Anthropic's Messages, to and from neutral events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gateway.codec import JsonObject
from gateway.models.errors import told_by_provider
from gateway.models.messages import REASONS, STOPS, message_id, read_usage, refusal_of, stop_details, write_usage
from gateway.models.neutral import Begin, CallBegun, CallPiece, End, Event, Refused, Said, Thought, Tokens
from gateway.models.reading import Fields, answered


class Decoder:
    """Events of Anthropic's in, neutral ones out; `ping` and unknown kinds of events mean nothing."""

    def __init__(self) -> None:
        self._end: End | None = None
        self._ended = False
        self._empty_call = False
        self.tokens = Tokens()

    def feed(self, event: JsonObject) -> list[Event]:
        """What one event says. Raises what the provider says went wrong, and `UpstreamProtocolError`."""
        return list(self._heard(answered(event), event))

    def _heard(self, fields: Fields, event: JsonObject) -> Iterator[Event]:
        match event.get("type"):
            case "error":
                raise told_by_provider(event.get("error"))
            case "message_start":
                yield self._start(fields.child("message") or answered({}))
            case "content_block_start":
                yield from self._block(fields.child("content_block") or answered({}))
            case "content_block_delta":
                yield from self._delta(fields.child("delta") or answered({}))
            case "content_block_stop" if self._empty_call:
                self._empty_call = False
                yield CallPiece("{}")
            case "message_delta":
                yield from self._last(fields)
            case "message_stop":
                yield from self.end()

    def _start(self, message: Fields) -> Begin:
        self.tokens = read_usage(message.raw("usage"))
        return Begin(message.words("id"), message.words("model"), 0, self.tokens)

    def _block(self, block: Fields) -> Iterator[Event]:
        match block.words("type"):
            case "text":
                text = block.words("text")
                if text:
                    yield Said(text)
            case "thinking":
                if block.words("thinking"):
                    yield Thought(block.words("thinking"))
            case "redacted_thinking":
                yield Thought(redacted=block.text("data"))
            case "tool_use":
                self._empty_call = True
                yield CallBegun(block.text("id"), block.text("name"))
            case _:
                raise block.wrong("type", "is of a kind that cannot be translated into the caller's API")

    def _delta(self, delta: Fields) -> Iterator[Event]:
        match delta.words("type"):
            case "text_delta":
                yield Said(delta.text("text"))
            case "thinking_delta":
                yield Thought(delta.text("thinking"))
            case "signature_delta":
                yield Thought(signature=delta.text("signature"))
            case "input_json_delta":
                piece = delta.text("partial_json")
                if piece:
                    self._empty_call = False
                    yield CallPiece(piece)

    def _last(self, fields: Fields) -> Iterator[Event]:
        delta = fields.child("delta") or answered({})
        self.tokens = _newest(self.tokens, fields)
        for refusal in refusal_of(delta):
            yield Refused(refusal.text)
        stop = STOPS.get(delta.words("stop_reason"), "stop")
        self._end = End(stop, self.tokens, delta.words("stop_sequence"))

    def end(self) -> list[Event]:
        """The last event, where the provider said all it had to say; nothing where its stream was cut."""
        if self._end is None or self._ended:
            return []
        self._ended = True
        return [replace(self._end, tokens=self.tokens)]


def _newest(known: Tokens, fields: Fields) -> Tokens:
    """The counts of `message_delta` are totals; those that it leaves out stand in `message_start`."""
    usage = fields.child("usage")
    if usage is None:
        return known
    said = read_usage(usage.value)
    if not usage.has("input_tokens"):
        return replace(known, output=said.output, reasoning=said.reasoning)
    cached = said.cached if usage.has("cache_read_input_tokens") else known.cached
    wrote = usage.has("cache_creation_input_tokens") or usage.has("cache_creation")
    written = said.cache_written if wrote else known.cache_written
    brief = said.cache_written_5m if usage.has("cache_creation") else known.cache_written_5m
    fresh = said.input - said.cached - said.cache_written
    return Tokens(fresh + cached + written, said.output, cached, written, said.reasoning, brief)


class Encoder:
    """Neutral events in, Anthropic's out."""

    def __init__(self) -> None:
        self._index = -1
        self._open = ""
        self._refusal: list[str] = []

    def feed(self, event: Event) -> Iterator[JsonObject]:
        """The events that say it."""
        match event:
            case Begin():
                yield {"type": "message_start", "message": _message(event)}
            case Said(text):
                yield from self._opened("text", {"type": "text", "text": "", "citations": None})
                yield self._delta({"type": "text_delta", "text": text})
            case Refused(text):
                self._refusal.append(text)
            case Thought():
                yield from self._thought(event)
            case CallBegun(id_, name):
                yield from self._closed()
                yield from self._opened("tool_use", {"type": "tool_use", "id": id_, "name": name, "input": {}})
            case CallPiece(arguments):
                yield self._delta({"type": "input_json_delta", "partial_json": arguments})
            case End():
                yield from self._closed()
                yield self._last(event)
                yield {"type": "message_stop"}

    def _thought(self, thought: Thought) -> Iterator[JsonObject]:
        if thought.redacted:
            yield from self._closed()
            yield from self._opened("redacted", {"type": "redacted_thinking", "data": thought.redacted})
            yield from self._closed()
            return
        yield from self._opened("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        if thought.text:
            yield self._delta({"type": "thinking_delta", "thinking": thought.text})
        if thought.signature:
            yield self._delta({"type": "signature_delta", "signature": thought.signature})
            yield from self._closed()

    def _opened(self, kind: str, block: JsonObject) -> Iterator[JsonObject]:
        if self._open == kind and kind != "tool_use":
            return
        yield from self._closed()
        self._open = kind
        self._index += 1
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _closed(self) -> Iterator[JsonObject]:
        if self._open:
            self._open = ""
            yield {"type": "content_block_stop", "index": self._index}

    def _delta(self, delta: JsonObject) -> JsonObject:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _last(self, end: End) -> JsonObject:
        refusal = "".join(self._refusal)
        delta: JsonObject = {
            "stop_reason": "refusal" if refusal else REASONS[end.stop],
            "stop_sequence": end.stop_sequence or None,
            "stop_details": stop_details(refusal),
        }
        return {"type": "message_delta", "delta": delta, "usage": write_usage(end.tokens)}


def _message(begin: Begin) -> JsonObject:
    return {
        "id": message_id(begin.id), "type": "message", "role": "assistant", "model": begin.model, "content": [],
        "stop_reason": None, "stop_sequence": None, "stop_details": None, "usage": write_usage(begin.tokens),
    }  # fmt: skip
