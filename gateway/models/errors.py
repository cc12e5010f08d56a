"""Errors of the gateway in the shape that each model API's clients expect, and a provider's errors as the gateway's.

Nothing of what a provider writes in an error is repeated but its codes: its words may hold keys and prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from gateway import codec
from gateway.codec import JsonObject
from gateway.errors import (
    ApprovalPending,
    InterlockError,
    InvalidCall,
    QuotaExceeded,
    Unauthenticated,
    UnknownResource,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.models.neutral import Api

CONTEXT_EXCEEDED: Final = "context_length_exceeded"
MAX_RETRY_AFTER_S: Final = 86_400
_CODE: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}", re.ASCII)
_TOO_LONG: Final = ("prompt is too long", "maximum context length", "context window", "context_length")
_OPENAI_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error", 401: "invalid_request_error", 403: "permission_error", 404: "invalid_request_error",
    429: "rate_limit_error",
}  # fmt: skip
_ANTHROPIC_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


class ProviderRefused(InvalidCall):
    """The provider does not take the request as it is. `provider_code` is its own name for why, if it gave one."""

    code = "provider_refused"

    def __init__(self, message: str, *, provider_code: str = "") -> None:
        super().__init__(message)
        self.provider_code = provider_code

    @property
    def too_long(self) -> bool:
        """Whether the request does not fit the model: one with more room may take it."""
        return self.provider_code == CONTEXT_EXCEEDED


# To callers


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as an HTTP answer of one API."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: JsonObject


def error_answer(api: Api, error: InterlockError) -> ErrorAnswer:
    """What a client of this API expects when something went wrong."""
    # A call that is held is not done: clients of these APIs take any 2xx for an answer of the model.
    status = 403 if isinstance(error, ApprovalPending) else error.http_status
    headers: list[tuple[str, str]] = []
    retry_after_s = getattr(error, "retry_after_s", 0)
    if retry_after_s:
        headers.append(("retry-after", str(retry_after_s)))
    if isinstance(error, Unauthenticated) and error.challenge:
        headers.append(("www-authenticate", error.challenge))
    if 400 <= status < 500 and status != 429:
        headers.append(("x-should-retry", "false"))
    return ErrorAnswer(status, tuple(headers), error_body(api, error, status))


def error_body(api: Api, error: InterlockError, status: int = 0) -> JsonObject:
    """The error as JSON."""
    status = status or error.http_status
    if api == "messages":
        kind = _ANTHROPIC_TYPES.get(status, _other(status, "api_error"))
        return {"type": "error", "error": {"type": kind, "message": str(error), "code": error.code}}
    return {"error": _openai_error(error, status)}


def _openai_error(error: InterlockError, status: int) -> JsonObject:
    code = error.provider_code if isinstance(error, ProviderRefused) and error.provider_code else error.code
    kind = _OPENAI_TYPES.get(status, _other(status, "server_error"))
    return {"message": str(error), "type": kind, "param": None, "code": code}


def _other(status: int, failure: str) -> str:
    """The type of an error whose status has none of its own."""
    return "invalid_request_error" if 400 <= status < 500 else failure


def error_event(api: Api, error: InterlockError, sequence_number: int = 0) -> JsonObject:
    """The error as the last event of a stream that has begun."""
    if api == "responses":
        return {
            "type": "error", "code": error.code, "message": str(error), "param": None,
            "sequence_number": sequence_number,
        }  # fmt: skip
    return error_body(api, error)


# From providers


def provider_failure(label: str, status: int, headers: Mapping[str, str], body: bytes) -> InterlockError:
    """What an HTTP answer other than 200 means. `headers` have lower-case names."""
    told = _told(body)
    said = ", ".join(word for word in (str(status), told.code, told.param) if word)
    who = f"model provider {label!r}"
    if status == 429:
        return QuotaExceeded(f"{who} asks to wait ({said})", retry_after_s=retry_after(headers))
    if status in _MEANINGS:
        kind, words = _MEANINGS[status]
        return kind(f"{who} {words} ({said})")
    if 400 <= status < 500:
        return ProviderRefused(f"{who} refused the request ({said})", provider_code=told.code)
    if status >= 500:
        return UpstreamUnavailable(f"{who} failed ({said})")
    return UpstreamProtocolError(f"{who} answered with status {status}")


_BAD_KEY: Final = (UpstreamUnavailable, "does not accept the gateway's credentials")
_LATE: Final = (UpstreamTimeout, "did not answer in time")
_MEANINGS: Final[Mapping[int, tuple[type[InterlockError], str]]] = {
    401: _BAD_KEY, 402: _BAD_KEY, 403: _BAD_KEY, 407: _BAD_KEY, 408: _LATE, 504: _LATE, 524: _LATE,
    404: (UnknownResource, "knows no such model or API"),
}  # fmt: skip


def told_by_provider(error: object) -> InterlockError:
    """What an error in the middle of a stream means."""
    told = _read(error)
    said = f" ({told.code})" if told.code else ""
    if told.kind in {"rate_limit_error", "tokens", "requests"} or told.code in {"rate_limit_exceeded", "429"}:
        return QuotaExceeded(f"the model's provider asks to wait{said}")
    if told.kind == "invalid_request_error" or told.code in {CONTEXT_EXCEEDED, "invalid_prompt", "400"}:
        return ProviderRefused(f"the model's provider refused the request{said}", provider_code=told.code)
    if told.kind == "timeout_error":
        return UpstreamTimeout(f"the model's provider did not answer in time{said}")
    return UpstreamUnavailable(f"the model's provider failed during its answer{said}")


@dataclass(frozen=True, slots=True)
class _Told:
    kind: str = ""
    code: str = ""
    param: str = ""


def _told(body: bytes) -> _Told:
    try:
        value = codec.loads(body)
    except ValueError:
        return _Told()
    if isinstance(value, dict) and isinstance(value.get("error"), dict):
        return _read(value["error"])
    return _read(value)


def _read(error: object) -> _Told:
    if not isinstance(error, dict):
        return _Told()
    kind, code = _code(error.get("type")), _code(error.get("code"))
    message = error.get("message")
    if isinstance(message, str) and any(words in message.lower() for words in _TOO_LONG):
        code = CONTEXT_EXCEEDED
    return _Told(kind, code or kind, _code(error.get("param")))


def _code(value: object) -> str:
    """A name of a kind of error or of a field: what cannot be anything else is left out."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    looks_like_key = len(text) > 40 or text.startswith(("sk-", "sk_"))
    return text if _CODE.fullmatch(text) and not looks_like_key else ""


def retry_after(headers: Mapping[str, str]) -> int:
    """Whole seconds to wait, from 1: `Retry-After` in seconds or as a date, or OpenAI's own in milliseconds."""
    millis, value = headers.get("retry-after-ms", ""), headers.get("retry-after", "").strip()
    if millis.isdecimal() and len(millis) < 12:
        return _bounded(-(-int(millis) // 1000))
    if value.isascii() and value.replace(".", "", 1).isdecimal() and len(value) < 12:
        return _bounded(-int(-float(value) // 1))
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 1
    return _bounded(int((when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()) + 1)


def _bounded(seconds: int) -> int:
    return min(max(1, seconds), MAX_RETRY_AFTER_S)
