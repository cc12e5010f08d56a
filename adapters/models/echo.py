"""A model that is built in: it repeats what it is told, offline and always the same, so that everything can be tried.

The last message decides. A line `/call NAME {json}` makes a call of that tool (several lines: several calls), `/fail
429|500|cut|slow` fails in that way, and `/refuse` makes it refuse. Anything else is repeated.
"""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Final

import anyio

from adapters.models.terms import Terms
from adapters.models.upstream import Backend, ModelUpstream
from gateway import codec
from gateway.codec import JsonObject, JsonValue
from gateway.errors import InvalidCall, QuotaExceeded, UpstreamTimeout, UpstreamUnavailable
from gateway.models import Answer, Api, Request, Talk, Tokens, estimate, request_in, text_tokens, write_answer
from gateway.models.chat_stream import Encoder
from gateway.models.embeddings import EmbeddingRequest
from gateway.models.embeddings import read_request as read_embeddings
from gateway.models.embeddings import write_answer as write_embeddings
from gateway.models.neutral import Message, Part, Refusal, Said, Stop, Text, ToolCall, ToolResult, events_of

DIMENSIONS: Final = 64
SMALLEST_NUMBER: Final = 4
"""Bytes of it in an answer."""
_CALL: Final = re.compile(r"^/call\s+([A-Za-z0-9_.:-]{1,128})[ \t]*(.*)$", re.MULTILINE)
_FAIL: Final = re.compile(r"^/fail\s+(429|500|cut|slow)\s*$", re.MULTILINE)
_REFUSE: Final = re.compile(r"^/refuse\b", re.MULTILINE)
_WORD: Final = re.compile(r"\A\s*\S+\s*|\S+\s*")
"""With the space around it. It is looked for once in text that is nothing but space, and not from every place."""


class Echo:
    """Answers chat completions, from which callers of the other APIs get theirs as from any provider."""

    strict = True

    def __init__(self, terms: Terms) -> None:
        self._terms = terms

    def speaks(self, caller: Talk) -> Talk:
        """See `Backend`."""
        return "chat.completions"

    def lacks(self, api: Talk) -> None:
        """See `Backend`."""

    async def whole(self, api: Api, body: JsonObject) -> JsonObject:
        """See `Backend`."""
        if api == "embeddings":
            return embedded(self._bounded(read_embeddings(body)))
        request = request_in("chat.completions", body)
        failure = await self._failure(request)
        if failure == "cut":
            raise UpstreamUnavailable(f"model provider {self._terms.name!r} dropped the connection during the call")
        return write_answer("chat.completions", answer_to(request, body), {})

    async def events(self, api: Api, body: JsonObject) -> AsyncGenerator[bytes, None]:
        """See `Backend`."""
        request = request_in("chat.completions", body)
        failure = await self._failure(request)
        writer = Encoder(include_usage=True)
        events = events_of(answer_to(request, body))
        for number, event in enumerate(events):
            if failure == "cut" and number == len(events) - 1:
                raise UpstreamUnavailable(f"model provider {self._terms.name!r} dropped the connection during the call")
            for piece in _words(event.text) if isinstance(event, Said) else ():
                for chunk in writer.feed(Said(piece)):
                    yield codec.dumps(chunk)
            if not isinstance(event, Said):
                for chunk in writer.feed(event):
                    yield codec.dumps(chunk)

    def _bounded(self, request: EmbeddingRequest) -> EmbeddingRequest:
        """Refuse a small request for so many numbers that the answer cannot but be too large."""
        if request.count * (request.dimensions or DIMENSIONS) * SMALLEST_NUMBER > self._terms.max_bytes:
            raise InvalidCall(
                f"input asks for vectors of more than {self._terms.max_bytes} bytes: ask for fewer at a time"
            )
        return request

    async def _failure(self, request: Request) -> str:
        """Fail as the last message wants it; gives `cut` where that comes later."""
        wanted = _FAIL.search(_last(request))
        match wanted[1] if wanted is not None else "":
            case "429":
                raise QuotaExceeded(f"model provider {self._terms.name!r} asks to wait (429)", retry_after_s=7)
            case "500":
                raise UpstreamUnavailable(f"model provider {self._terms.name!r} failed (500)")
            case "slow":
                await anyio.sleep(self._terms.timeout_s)
                raise UpstreamTimeout(f"model provider {self._terms.name!r} did not answer in time")
            case "cut":
                return "cut"
        return ""

    async def warm(self) -> None:
        """See `Backend`."""

    async def aclose(self) -> None:
        """See `Backend`."""


def answer_to(request: Request, body: JsonObject) -> Answer:
    """What is answered to a request: nothing else decides it."""
    digest = hashlib.sha256(codec.canonical(body)).hexdigest()[:24]
    parts, stop = _said(request, digest)
    parts, stop, sequence = _limited(request, parts, stop)
    wrote = sum(text_tokens(part.text if isinstance(part, Text | Refusal) else part.arguments) for part in parts)
    tokens = Tokens(estimate("chat.completions", body).input_tokens, wrote)
    return Answer(f"chatcmpl-{digest}", request.model, parts, stop, tokens, sequence)


_Spoken = Text | Refusal | ToolCall


def _said(request: Request, digest: str) -> tuple[tuple[_Spoken, ...], Stop]:
    text = _last(request)
    calls = tuple(_calls(request, text, digest))
    if calls:
        return calls, "tool_calls"
    if _REFUSE.search(text):
        return (Refusal("I will not do that."),), "refusal"
    if request.format is not None:
        schema = request.format.schema if request.format.kind == "schema" else {}
        return (Text(codec.dumps(sample(schema, text)).decode()),), "stop"
    return (Text(text or "(nothing was said)"),), "stop"


def _calls(request: Request, text: str, digest: str) -> Iterator[ToolCall]:
    """The calls that are asked for, of tools that were offered, unless none may be made."""
    offered = {tool.name for tool in request.tools}
    if request.choice is not None and request.choice.mode == "none":
        return
    for number, found in enumerate(_CALL.finditer(text)):
        if found[1] in offered and not (number and request.parallel is False):
            yield ToolCall(f"call_{digest[:16]}_{number}", found[1], found[2].strip() or "{}")


def _last(request: Request) -> str:
    """What the last message says; the results of tools as words."""
    last = request.messages[-1] if request.messages else Message("user")
    return "\n".join(word for part in last.parts if (word := _words_of(part)))


def _words_of(part: Part) -> str:
    match part:
        case Text(text):
            return text
        case ToolResult():
            return "The tool said: " + "".join(said.text for said in part.content if isinstance(said, Text))
    return ""


def _limited(request: Request, parts: tuple[_Spoken, ...], stop: Stop) -> tuple[tuple[_Spoken, ...], Stop, str]:
    """Cut the words at a stop sequence, and at the limit of tokens: one for each word."""
    match parts:
        case (Text(text),):
            pass
        case _:
            return parts, stop, ""
    met = [(text.index(mark), mark) for mark in request.stop if mark and mark in text]
    if met:
        place, mark = min(met)
        text, stop, sequence = text[:place], "stop_sequence", mark
    else:
        sequence = ""
    words = _words(text)
    if request.max_tokens is not None and len(words) > request.max_tokens:
        text, stop, sequence = "".join(words[: request.max_tokens]), "length", ""
    return (Text(text),), stop, sequence


def _words(text: str) -> list[str]:
    return _WORD.findall(text) or ([text] if text else [])


_SMALLEST: Final[Mapping[str, JsonValue]] = {"integer": 0, "number": 0, "boolean": False, "array": [], "null": None}


def sample(schema: Mapping[str, object], text: str) -> JsonValue:
    """The smallest value that common schemas allow; where a text may stand, `text`."""
    choices, kind = schema.get("enum"), schema.get("type")
    if isinstance(choices, list) and choices:
        first: JsonValue = choices[0]
        return first
    if kind == "string":
        return text
    if isinstance(kind, str) and kind in _SMALLEST:
        return _SMALLEST[kind]
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {} if schema else {"echo": text}
    return {name: sample(inner if isinstance(inner, dict) else {}, text) for name, inner in properties.items()}


# Vectors


def embedded(request: EmbeddingRequest) -> JsonObject:
    """Vectors of length 1 that texts with words in common point to similar directions with."""
    size = request.dimensions or DIMENSIONS
    texts = [*request.texts, *(" ".join(map(str, numbers)) for numbers in request.tokens)]
    vectors = [vector_of(text, size) for text in texts]
    tokens = sum(text_tokens(text) for text in texts)
    return write_embeddings(request.model, vectors, tokens, as_base64=request.as_base64)


def vector_of(text: str, size: int = DIMENSIONS) -> list[float]:
    """The sum of one fixed direction for each word, made as long as 1."""
    sums = [0.0] * size
    for word in re.findall(r"\w+", text.lower()) or [text]:
        for place, weight in _direction(word, size):
            sums[place] += weight
    length = math.sqrt(sum(value * value for value in sums)) or 1.0
    return array("f", [value / length for value in sums]).tolist()


def _direction(word: str, size: int) -> Iterator[tuple[int, float]]:
    digest = hashlib.sha256(word.encode("utf-8", "replace")).digest()
    for at in range(0, 16, 4):
        number = int.from_bytes(digest[at : at + 4])
        yield (number >> 1) % size, 1.0 if number & 1 else -1.0


def echo_upstream(terms: Terms) -> ModelUpstream:
    """An upstream of type `echo`."""
    return ModelUpstream(terms, Echo(terms))


_: type[Backend] = Echo
