"""What can be told of an answer without a judge: it refuses, or is not in the form that was asked for.

Answers of the weak model are held against this (`gateway/routing/guard.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from gateway import codec
from gateway.errors import InterlockError
from gateway.models import Answer, Request, Talk, Tokens, read_answer, request_in
from gateway.models.chat_stream import Decoder as ChatDecoder
from gateway.models.messages_stream import Decoder as MessagesDecoder
from gateway.models.neutral import (
    CallBegun,
    CallPiece,
    End,
    Event,
    Format,
    Part,
    Refusal,
    Refused,
    Said,
    Stop,
    Text,
    ToolCall,
)
from gateway.models.responses_stream import Decoder as ResponsesDecoder
from gateway.models.streams import Decoder
from gateway.routing.guard import Signal
from gateway.types import Result

MAX_HEARD: Final = 1 << 20
"""Of a streamed answer; a longer one is not judged."""
_DECODERS: Final[Mapping[Talk, Callable[[], Decoder]]] = {
    "chat.completions": ChatDecoder,
    "messages": MessagesDecoder,
    "responses": ResponsesDecoder,
}


class Heard:
    """Reads a streamed answer along, to judge it and to count it once it is over."""

    def __init__(self, api: Talk) -> None:
        self._decoder = _DECODERS[api]()
        self._size = 0
        self._parts: list[Said | Refused | CallBegun | CallPiece] = []
        self._stop: Stop | None = None
        self._lost = False

    def feed(self, data: bytes) -> None:
        """One event. What cannot be read is the provider's own affair: the caller has it anyway."""
        self._size += len(data)
        try:
            event = codec.loads(data)
            if isinstance(event, dict):
                self._take(self._decoder.feed(event))
        except (InterlockError, ValueError):
            self._lost = True

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, End):
                self._stop = event.stop
            elif isinstance(event, Said | Refused | CallBegun | CallPiece) and self._size <= MAX_HEARD:
                self._parts.append(event)

    @property
    def answer(self) -> Answer | None:
        """What was heard; `None` where it is not over, or was not understood."""
        with suppress(InterlockError):
            self._take(self._decoder.end())
        if self._stop is None or self._lost or self._size > MAX_HEARD:
            return None
        text = "".join(part.text for part in self._parts if isinstance(part, Said))
        refusal = "".join(part.text for part in self._parts if isinstance(part, Refused))
        said: list[Part] = [*([Text(text)] if text else []), *([Refusal(refusal)] if refusal else [])]
        return Answer("", "", (*said, *self._calls()), self._stop, self._decoder.tokens)

    def _calls(self) -> list[ToolCall]:
        calls: list[tuple[CallBegun, list[str]]] = []
        for part in self._parts:
            if isinstance(part, CallBegun):
                calls.append((part, []))
            elif isinstance(part, CallPiece) and calls:
                calls[-1][1].append(part.arguments)
        return [ToolCall(begun.id, begun.name, "".join(pieces) or "{}") for begun, pieces in calls]

    @property
    def tokens(self) -> Tokens:
        """What the provider counted, if it did."""
        return self._decoder.tokens


def answer_in(api: Talk, result: Result, heard: Heard | None) -> Answer | None:
    """The answer to a call, streamed or whole; `None` where it cannot be read."""
    if heard is not None:
        return heard.answer
    try:
        return read_answer(api, codec.loads(result.payload))
    except (InterlockError, ValueError):
        return None


def asked_in(api: Talk, params: Mapping[str, object]) -> Request | None:
    """What was asked; `None` where it has no neutral form."""
    try:
        return request_in(api, params)
    except InterlockError:
        return None


def signals_of(request: Request | None, answer: Answer | None) -> Mapping[Signal, bool]:
    """What is wrong with an answer, of what can be told of it."""
    if request is None or answer is None:
        return {}
    refused = answer.stop == "refusal" or any(isinstance(part, Refusal) for part in answer.parts)
    found: dict[Signal, bool] = {"refusal": refused}
    calls = [part for part in answer.parts if isinstance(part, ToolCall)]
    if calls:
        schemas = {tool.name: tool.schema for tool in request.tools}
        good = all(each.name in schemas and _fits(each.arguments, schemas[each.name]) for each in calls)
        found["schema_failure"] = not good
    elif request.format is not None and not refused and answer.stop != "length":
        text = "".join(part.text for part in answer.parts if isinstance(part, Text))
        found["schema_failure"] = not _fits(text, _schema(request.format))
    return found


def _schema(wanted: Format) -> Mapping[str, object]:
    return wanted.schema if wanted.kind == "schema" else {"type": "object"}


def _fits(text: str, schema: Mapping[str, object]) -> bool:
    """Whether it is JSON of that form, as far as types, required members and enumerations say.

    References and combinations are passed over: to follow those of a schema that anybody may send has no bound.
    """
    try:
        return _is(codec.loads(text.encode()), schema)
    except ValueError:
        return False


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int,),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def _is(value: object, schema: object) -> bool:
    if not isinstance(schema, Mapping):
        return True
    named = schema.get("type")
    kinds = [named] if isinstance(named, str) else list(named) if isinstance(named, list | tuple) else []
    if kinds and not any(_of_type(value, str(kind)) for kind in kinds):
        return False
    choices = schema.get("enum")
    if isinstance(choices, list | tuple) and value not in choices:
        return False
    if isinstance(value, dict):
        required, inner = schema.get("required"), schema.get("properties")
        if isinstance(required, list | tuple) and not set(map(str, required)) <= value.keys():
            return False
        known = inner if isinstance(inner, Mapping) else {}
        return all(_is(member, known.get(name)) for name, member in value.items())
    return all(_is(item, schema.get("items")) for item in value) if isinstance(value, list) else True


def _of_type(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return kind not in _TYPES or isinstance(value, _TYPES[kind])
