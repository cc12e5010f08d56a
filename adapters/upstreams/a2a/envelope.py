"""Takes the result out of a JSON-RPC response as the bytes that the agent wrote."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from gateway import codec
from gateway.codec import JsonValue
from gateway.errors import UpstreamProtocolError

# The orders in which agents write the three members. Were a member written twice, the piece in between would not be
# one JSON value, and the whole is then read the slow way.
_HEAD: Final = re.compile(
    rb'\s*\{\s*(?:(?:"jsonrpc"\s*:\s*"2\.0"|"id"\s*:\s*([0-9]{1,18}))\s*,\s*){0,2}"result"\s*:\s*'
)
_TAIL: Final = re.compile(rb'(?:\s*,\s*(?:"jsonrpc"\s*:\s*"2\.0"|"id"\s*:\s*([0-9]{1,18}))){1,2}\s*\}\s*\Z')
_TAIL_BYTES: Final = 96
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Opened:
    """What a response holds: its `result`, or its `error` (with `failed`); the bytes, and the decoded value."""

    raw: bytes
    value: JsonValue
    failed: bool = False


def opened(data: bytes, number: int, label: str) -> Opened:
    """The response to request `number`. Raises `UpstreamProtocolError` for anything else."""
    return _quickly(data, number) or _carefully(data, number, label)


def one_line(raw: bytes) -> bytes:
    """The same JSON without line ends, which would break the event that it travels in; strings hold none."""
    return raw.replace(b"\r", b" ").replace(b"\n", b" ") if b"\n" in raw or b"\r" in raw else raw


def _quickly(data: bytes, number: int) -> Opened | None:
    head = _HEAD.match(data)
    if head is None:
        return None
    named = head.group(1)
    tail = _TAIL.search(data, max(head.end(), len(data) - _TAIL_BYTES)) if named is None else None
    if tail is not None:
        named, raw = tail.group(1), data[head.end() : tail.start()]
    else:
        body = data.rstrip()
        raw = body[head.end() : -1].rstrip() if body.endswith(b"}") else b""
    if named is None or int(named) != number:
        return None
    try:
        return Opened(raw, codec.loads(raw))
    except ValueError:
        return None


def _carefully(data: bytes, number: int, label: str) -> Opened:
    try:
        message = codec.loads(data)
        spans = _spans(data.decode())
    except (ValueError, RecursionError) as exc:
        raise UpstreamProtocolError(f"agent {label!r} answered with what is not JSON, or nested too deeply") from exc
    if not isinstance(message, dict) or not spans:
        raise UpstreamProtocolError(f"agent {label!r} answered with what is no JSON-RPC response")
    failed = isinstance(message.get("error"), dict)
    # An error about what could not be read carries no id (JSON-RPC 2.0, section 5).
    mine = _is(message.get("id"), number) or (failed and message.get("id") is None)
    if not mine or (failed and "result" in message):
        raise UpstreamProtocolError(f"agent {label!r} answered with what is no response to the request")
    member = "error" if failed else "result"
    if member not in message:
        return Opened(b"null", None)  # some leave out a `null`
    return Opened(spans[member].encode(), message[member], failed)


def _is(value: object, number: int) -> bool:
    return type(value) is int and value == number


def _spans(text: str) -> dict[str, str]:
    """The members of a JSON object as written. Raises `ValueError` for a member that is there twice."""
    found: dict[str, str] = {}
    at = _after_space(text, 0)
    if text[at : at + 1] != "{":
        return found
    at = _after_space(text, at + 1)
    while text[at : at + 1] == '"':
        name, at = _DECODER.raw_decode(text, at)
        start = _after_space(text, _after_space(text, at) + 1)
        _, at = _DECODER.raw_decode(text, start)
        if name in found:
            raise ValueError(f"the member {name[:40]!r} is there twice")
        found[name] = text[start:at]
        at = _after_space(text, _after_space(text, at) + 1)
    return found


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match is not None else at
