"""What the model APIs have in common, as frozen values: every pair of them is translated by way of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from gateway.types import EMPTY

Api: TypeAlias = Literal["chat.completions", "responses", "messages", "embeddings"]
Talk: TypeAlias = Literal["chat.completions", "responses", "messages"]
"""Those in which one talks with a model."""
TALKS: Final[tuple[Talk, ...]] = ("chat.completions", "responses", "messages")
APIS: Final[tuple[Api, ...]] = (*TALKS, "embeddings")

Role: TypeAlias = Literal["system", "user", "assistant"]
Stop: TypeAlias = Literal["stop", "stop_sequence", "length", "tool_calls", "refusal"]
"""Why the model ended: it was done, met a stop sequence, had no more tokens, wants tools run, or will not."""


@dataclass(frozen=True, slots=True)
class Text:
    """Words."""

    text: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Words in which a model says that it will not."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """What a model thought. `signature` proves to Anthropic that it did; `redacted` is such a thought, encrypted."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: at a `url`, or its base64 `data` with its `media_type`."""

    url: str = ""
    media_type: str = ""
    data: str = ""
    detail: str = ""

    @property
    def address(self) -> str:
        """The URL, or a `data:` URL that holds it."""
        return self.url or f"data:{self.media_type};base64,{self.data}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants run. `arguments` is JSON text, as it was written."""

    id: str
    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a tool call."""

    call_id: str
    content: tuple[Text | Image, ...] = ()
    failed: bool = False


Part: TypeAlias = Text | Refusal | Thinking | Image | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Message:
    """What one side said."""

    role: Role
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that is offered to the model."""

    name: str
    description: str = ""
    schema: Mapping[str, object] = EMPTY
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether tools may, must or must not be called; `name` is the one that must be."""

    mode: Literal["auto", "none", "required", "tool"]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Format:
    """The form that the answer must have."""

    kind: Literal["json", "schema"]
    name: str = ""
    schema: Mapping[str, object] = EMPTY
    strict: bool | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked. `api` is the API it was asked in: refusals name that API's fields."""

    api: Talk
    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    choice: Choice | None = None
    parallel: bool | None = None
    format: Format | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    effort: str = ""
    verbosity: str = ""
    user: str = ""
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """What was read and written. `input` includes what came from a cache, `output` what was only thought."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_written: int = 0
    reasoning: int = 0
    cache_written_5m: int = 0
    """What of `cache_written` is kept for five minutes only; the rest may be kept, and cost, longer."""

    @property
    def total(self) -> int:
        """In and out."""
        return self.input + self.output


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said."""

    id: str
    model: str
    parts: tuple[Part, ...]
    stop: Stop
    tokens: Tokens = Tokens()
    stop_sequence: str = ""
    created: int = 0


# Of streams


@dataclass(frozen=True, slots=True)
class Begin:
    """The answer begins. Providers tell what was read now, or at the end."""

    id: str
    model: str
    created: int = 0
    tokens: Tokens = Tokens()


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of a text."""

    text: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A piece of a refusal."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of a thought; one with `signature` or `redacted` is the last of its thought."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A tool call begins; what was open before it is closed."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of the arguments of the tool call that was begun last."""

    arguments: str


@dataclass(frozen=True, slots=True)
class End:
    """The answer is whole."""

    stop: Stop
    tokens: Tokens = Tokens()
    stop_sequence: str = ""


Event: TypeAlias = Begin | Said | Refused | Thought | CallBegun | CallPiece | End


def events_of(answer: Answer) -> list[Event]:
    """A whole answer as the stream that it could have been."""
    begun = replace(answer.tokens, output=0, reasoning=0)
    events: list[Event] = [Begin(answer.id, answer.model, answer.created, begun)]
    for part in answer.parts:
        match part:
            case Text(text):
                events.append(Said(text))
            case Refusal(text):
                events.append(Refused(text))
            case Thinking(text, signature, redacted):
                events.append(Thought(text, signature, redacted))
            case ToolCall(id_, name, arguments):
                events += [CallBegun(id_, name), CallPiece(arguments)]
            case _:  # models send no pictures in these APIs
                pass
    events.append(End(answer.stop, answer.tokens, answer.stop_sequence))
    return events


_FIELDS: Final[Mapping[Talk, Mapping[str, str]]] = {
    "chat.completions": {"format": "response_format", "effort": "reasoning_effort", "choice": "tool_choice"},
    "responses": {"format": "text.format", "effort": "reasoning.effort", "verbosity": "text.verbosity"},
    "messages": {"format": "output_config.format", "effort": "output_config.effort", "stop": "stop_sequences"},
}


def field_of(request: Request, name: str) -> str:
    """What the API that the request came in calls a field."""
    return _FIELDS[request.api].get(name, name)
