"""Streams of Chat Completions, to and from neutral events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.codec import JsonObject
from gateway.errors import UpstreamProtocolError
from gateway.models.chat import FINISHES, STOPS, read_usage, write_usage
from gateway.models.errors import told_by_provider
from gateway.models.neutral import Begin, CallBegun, CallPiece, End, Event, Refused, Said, Stop, Thought, Tokens
from gateway.models.reading import Fields, answered


class Decoder:
    """Chunks in, neutral events out. The last event comes with `end`, since usage follows the end of the words."""

    def __init__(self) -> None:
        self._begun = False
        self._ended = False
        self._stop: Stop | None = None
        self._index = -1
        self._call_id = ""
        self.tokens = Tokens()

    def feed(self, chunk: JsonObject) -> list[Event]:
        """What one chunk says. Raises what the provider says went wrong, and `UpstreamProtocolError`."""
        if chunk.get("error"):
            raise told_by_provider(chunk["error"])
        fields = answered(chunk)
        events: list[Event] = []
        if fields.has("usage"):
            self.tokens = read_usage(fields.raw("usage"))
        choice = next(fields.children("choices"), None)
        if not self._begun:
            self._begun = True
            events.append(Begin(fields.words("id"), fields.words("model"), fields.count("created") or 0))
        if choice is not None:
            delta = choice.child("delta")
            events += self._delta(delta) if delta is not None else ()
            reason = choice.words("finish_reason")
            self._stop = STOPS.get(reason, "stop") if reason else self._stop
        return events

    def _delta(self, delta: Fields) -> Iterator[Event]:
        thought, text, refusal = delta.words("reasoning_content"), delta.words("content"), delta.words("refusal")
        if thought:
            yield Thought(thought)
        if text:
            yield Said(text)
        if refusal:
            yield Refused(refusal)
        for call in delta.children("tool_calls"):
            yield from self._call(call)

    def _call(self, call: Fields) -> Iterator[Event]:
        index, id_ = call.count("index") or 0, call.words("id")
        function = call.child("function") or answered({})
        if index > self._index or (id_ and id_ != self._call_id):  # some servers give every call the index 0
            self._index, self._call_id = max(index, self._index), id_ or f"call_{index}"
            yield CallBegun(self._call_id, function.text("name"))
        elif index != self._index:
            raise UpstreamProtocolError("the provider's answer cannot be read: it mixes the pieces of two tool calls")
        arguments = function.words("arguments")
        if arguments:
            yield CallPiece(arguments)

    def end(self) -> list[Event]:
        """The last event, where the provider said all it had to say; nothing where its stream was cut."""
        if self._stop is None or self._ended:
            return []
        self._ended = True
        stop = "tool_calls" if self._index >= 0 and self._stop == "stop" else self._stop
        return [End(stop, self.tokens)]


class Encoder:
    """Neutral events in, chunks out. `include_usage`: the caller asked for it (`stream_options`)."""

    def __init__(self, *, include_usage: bool = False) -> None:
        self._include_usage = include_usage
        self._head: JsonObject = {}
        self._calls = -1

    def feed(self, event: Event) -> Iterator[JsonObject]:
        """The chunks that say it."""
        match event:
            case Begin(id_, model, created):
                self._head = {"id": id_, "object": "chat.completion.chunk", "created": created, "model": model}
                yield self._chunk({"role": "assistant", "content": ""})
            case Said(text):
                yield self._chunk({"content": text})
            case Refused(text):
                yield self._chunk({"refusal": text})
            case Thought(text):
                if text:
                    yield self._chunk({"reasoning_content": text})
            case CallBegun(id_, name):
                self._calls += 1
                yield self._piece({"id": id_, "type": "function", "function": {"name": name, "arguments": ""}})
            case CallPiece(arguments):
                yield self._piece({"function": {"arguments": arguments}})
            case End(stop, tokens):
                yield self._chunk({}, FINISHES[stop])
                if self._include_usage:
                    yield {**self._head, "choices": [], "usage": write_usage(tokens)}

    def _piece(self, call: JsonObject) -> JsonObject:
        return self._chunk({"tool_calls": [{"index": self._calls, **call}]})

    def _chunk(self, delta: JsonObject, finish: str | None = None) -> JsonObject:
        choice: JsonObject = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk: JsonObject = {**self._head, "choices": [choice]}
        return {**chunk, "usage": None} if self._include_usage else chunk


def wants_usage(params: Mapping[str, object]) -> bool:
    """Whether a caller of Chat Completions asked for usage at the end of its stream."""
    options = params.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
