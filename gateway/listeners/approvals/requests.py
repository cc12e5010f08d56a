"""One request to this API, read strictly: what it may hold, and how large it may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.requests import ClientDisconnect, Request

from gateway import codec
from gateway.errors import InvalidCall

MAX_BODY_BYTES: Final = 512 * 1024
MAX_REASON: Final = 2_000


class TooLarge(InvalidCall):
    """The body is longer than anything that is meant for here."""

    http_status = 413


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object whose members are known."""

    members: Mapping[str, object]


async def read_object(request: Request, allowed: frozenset[str], *, needed: frozenset[str] = frozenset()) -> Body:
    """The body, which may be empty where nothing is needed. Raises `InvalidCall`."""
    raw = await _raw(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if raw and media_type != "application/json":
        raise InvalidCall("send Content-Type: application/json")
    members = _parsed(raw) if raw else {}
    unknown = sorted(set(members) - allowed)
    if unknown:
        raise InvalidCall(f"unknown: {', '.join(unknown)[:200]}; known are {', '.join(sorted(allowed))}")
    missing = sorted(name for name in needed if not members.get(name))
    if missing:
        raise InvalidCall(f"missing: {', '.join(missing)}")
    _check_texts(members)
    return Body(members)


async def _raw(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise TooLarge(f"the body is longer than {MAX_BODY_BYTES} bytes")
            chunks.append(chunk)
    except ClientDisconnect as exc:
        raise InvalidCall("the client left before its request was complete") from exc
    return b"".join(chunks)


def _parsed(raw: bytes) -> Mapping[str, object]:
    try:
        value = codec.loads(raw)
    except ValueError as exc:
        raise InvalidCall("the body is not JSON") from exc
    if not isinstance(value, dict):
        raise InvalidCall("the body is to be a JSON object")
    return dict(value)


def _check_texts(members: Mapping[str, object]) -> None:
    for name in ("reason", "seen", "kind", "value"):
        value = members.get(name, "")
        if not isinstance(value, str) or len(value) > MAX_REASON:
            raise InvalidCall(f"`{name}` is a text of at most {MAX_REASON} characters")
