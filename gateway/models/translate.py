"""Requests and whole answers from one model API into another. In the same API everything unknown goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, cast

from gateway.codec import JsonObject
from gateway.models import chat, messages, responses
from gateway.models.errors import told_by_provider
from gateway.models.messages import DEFAULT_MAX_TOKENS
from gateway.models.neutral import Answer, Request, Talk, Tokens
from gateway.models.reading import plain

_READ: Final[Mapping[Talk, Callable[[Mapping[str, object]], Request]]] = {
    "chat.completions": chat.read_request,
    "responses": responses.read_request,
    "messages": messages.read_request,
}
_READ_ANSWER: Final[Mapping[Talk, Callable[[object], Answer]]] = {
    "chat.completions": chat.read_answer,
    "responses": responses.read_answer,
    "messages": messages.read_answer,
}
_READ_USAGE: Final[Mapping[Talk, Callable[[object], Tokens]]] = {
    "chat.completions": chat.read_usage,
    "responses": responses.read_usage,
    "messages": messages.read_usage,
}

_HOLDS_WORDS: Final[Mapping[Talk, str]] = {"chat.completions": "choices", "responses": "output", "messages": "content"}


def request_in(api: Talk, params: Mapping[str, object]) -> Request:
    """A caller's body in the neutral form. Raises `InvalidCall` that names what has none."""
    return _READ[api](params)


def request_for(
    provider: Talk,
    caller: Talk,
    params: Mapping[str, object],
    *,
    model: str,
    stream: bool,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    strict: bool = False,
) -> JsonObject:
    """The body for the provider. `max_tokens` is for an API that insists on a limit where the caller set none.

    `strict`: fields that are not understood may not go through even where both sides speak the same API. Raises
    `InvalidCall` that names the field where the provider's API has nothing like it.
    """
    if provider == caller and not strict:
        return _same(caller, params, model=model, stream=stream)
    request = replace(request_in(caller, params), model=model, stream=stream)
    match provider:
        case "chat.completions":
            return chat.write_request(request)
        case "responses":
            return responses.write_request(request)
        case "messages":
            return messages.write_request(request, max_tokens)


def _same(api: Talk, params: Mapping[str, object], *, model: str, stream: bool) -> JsonObject:
    body = cast("JsonObject", plain(dict(params))) | {"model": model}
    body.pop("stream", None)
    options = body.pop("stream_options", None)
    if stream:
        body["stream"] = True
        asked: JsonObject = options if isinstance(options, dict) else {}
        if api == "chat.completions":
            body["stream_options"] = {**asked, "include_usage": True}
        elif asked:
            body["stream_options"] = asked
    return body


def answer_for(
    provider: Talk, caller: Talk, answer: JsonObject, params: Mapping[str, object], *, strict: bool = False
) -> JsonObject:
    """A provider's answer as its caller, who asked with `params`, reads it."""
    if isinstance(answer.get("error"), dict) and _HOLDS_WORDS[provider] not in answer:
        raise told_by_provider(answer["error"])  # some servers send failures with status 200
    if provider == caller and not strict:
        return answer
    return write_answer(caller, _READ_ANSWER[provider](answer), params)


def write_answer(caller: Talk, answer: Answer, params: Mapping[str, object]) -> JsonObject:
    """A neutral answer in the caller's API."""
    match caller:
        case "chat.completions":
            return chat.write_answer(answer)
        case "responses":
            return responses.write_answer(answer, params)
        case "messages":
            return messages.write_answer(answer)


def read_answer(api: Talk, answer: object) -> Answer:
    """An answer in the neutral form. Raises `UpstreamProtocolError` where it has none."""
    return _READ_ANSWER[api](answer)


def tokens_in(api: Talk, answer: Mapping[str, object]) -> Tokens:
    """What an answer says that it cost."""
    return _READ_USAGE[api](answer.get("usage"))
