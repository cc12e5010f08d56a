"""Malformed requests in great number: always an answer of the protocol, never a word of the gateway's inside."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any, Final

import pytest

from gateway.headers import encode_value
from tests.fakes import ANA
from tests.mcp.asgi import Answer, Header, fetch
from tests.mcp.sessions import begun
from tests.mcp.worlds import ANONYMOUS, LEGACY, MODERN, PREFIX, World, call, headers_for, request

REQUESTS: Final = 4_000
"""Of each era."""
INSIDE: Final = re.compile(
    rb"Traceback|File \"|line \d+, in|gateway[./]|\.py\b|object at 0x|KeyError|TypeError|ValueError|AttributeError|"
    rb"RecursionError|UnicodeDecodeError|NoneType|Internal error"
)
"""What a client must never read; `Internal error` is what a fault that nobody thought of becomes."""

NOT_TEXT: Final = ("\ud800", "\udfff\ud800", {"\ud800": 1}, ["\udbff"])
STRANGE: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1.5, -0.0, 1e308, 2**63, 2**64, -(2**200), 10**400, "", " ", "\x00", "a\x00b",
    "é", "世界",  "﷽" * 300, "x" * 70_000, "../../etc/passwd", "%00",
    "'; DROP TABLE calls; --", "${jndi:x}", [], [[]], [None] * 50, {}, {"": ""}, {"__proto__": 1},
    {"$ref": "#"}, {"name": {"name": 1}}, list(range(3_000)), "files__read", "note://one", "note://\n",
    "=?base64?!?=", "=?base64?/w==?=", MODERN, LEGACY, "2.0",
)  # fmt: skip
HEADERS: Final = (
    b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"mcp-session-id", b"mcp-param-region", b"accept",
    b"content-type", b"authorization", b"origin", b"host", b"traceparent", b"tracestate", b"last-event-id",
    b"x-forwarded-for",
)  # fmt: skip
GARBAGE: Final = (
    b"", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"x" * 20_000, b"a\tb", b"=?base64?/w==?=", b"=?base64??=",
    b"null", b"[::1", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00", b"Bearer", b"Bearer ana", b"Bearer \x00",
    b"application/json;;;", b"tools/call", b"2026-07-28", b"2025-11-25", b"*/*;q=x", b"http://[",
    b"127.0.0.1:99999999", b"files__read",
)  # fmt: skip
METHODS: Final = (
    "initialize", "server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list",
    "tools/call", "prompts/get", "resources/read", "completion/complete", "resources/subscribe",
    "resources/unsubscribe", "logging/setLevel", "ping", "notifications/cancelled", "notifications/initialized",
    "", "\x00", "x" * 5_000,
)  # fmt: skip
KEYS: Final = (
    "name", "uri", "arguments", "cursor", "ref", "argument", "_meta", "requestState", "inputResponses",
    "protocolVersion", "capabilities", "clientInfo", "level", "requestId", "notifications", "id", "method",
    "jsonrpc", "params", "result", "error", "progressToken", PREFIX + "protocolVersion",
    PREFIX + "clientCapabilities", PREFIX + "clientInfo", PREFIX + "logLevel",
)  # fmt: skip


def value(rng: random.Random, depth: int = 0) -> Any:
    """Anything that JSON can say, and some that it cannot."""
    if depth < 3 and rng.random() < 0.25:
        inner = [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        return inner if rng.random() < 0.4 else {rng.choice(KEYS): item for item in inner}
    return deepcopy(rng.choice(STRANGE if rng.random() < 0.95 else NOT_TEXT))


def wrong_values(rng: random.Random, body: dict[str, Any]) -> bytes:
    """The message with some members of it, of its parameters or of their `_meta` replaced, in place."""
    for _ in range(rng.randrange(1, 4)):
        params = body.get("params")
        inner = params.get("_meta") if isinstance(params, dict) else None
        places = [place for place in (body, params, params, params, inner) if isinstance(place, dict)]
        place = rng.choice(places)
        place[rng.choice([*place, rng.choice(KEYS)])] = value(rng)
    return json.dumps(body).encode()


def fitting(body: dict[str, Any]) -> list[Header]:
    """The headers that say what the body says, as far as headers can."""
    params = body["params"] if isinstance(body.get("params"), dict) else {}
    meta = params["_meta"] if isinstance(params.get("_meta"), dict) else {}
    named = params.get("uri") if body.get("method") == "resources/read" else params.get("name")
    headers = headers_for({})
    headers[b"mcp-method"] = str(body.get("method")).encode("utf-8", "replace")
    headers[b"mcp-protocol-version"] = str(meta.get(PREFIX + "protocolVersion")).encode("utf-8", "replace")[:100]
    headers[b"mcp-name"] = encode_value(str(named).encode("utf-8", "replace").decode()).encode()
    return list(headers.items())


def wrong_bytes(rng: random.Random, body: dict[str, Any]) -> bytes:
    """The message with bytes of it changed, cut or repeated."""
    raw = bytearray(json.dumps(body).encode())
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(raw) + 1)
        match rng.randrange(4):
            case 0:
                raw[at:at] = rng.randbytes(rng.randrange(1, 5))
            case 1:
                del raw[at : at + rng.randrange(1, 20)]
            case 2:
                raw[at:at] = rng.choice(
                    [b"\x00", b"\\ud800", b"\xed\xa0\x80", b"NaN", b"1e999", b"9" * 5_000, b"\xef\xbb\xbf"]
                )
            case _:
                raw = raw[:at] + raw
        raw = raw or bytearray(b"{")
    return bytes(raw)


def deep(rng: random.Random, body: dict[str, Any]) -> bytes:
    """The message with something deep in it."""
    levels = rng.choice([31, 32, 33, 500, 1_000, 1_023, 1_025, 20_000])
    opened, closed = rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"b":[', b"]}]")])
    inside = opened * levels + b"1" + closed * levels
    key = rng.choice(["arguments", "cursor", "_meta", "id", "capabilities", "x"])
    raw = json.dumps(body).encode()
    return raw[:-1] + b',"params":{"' + key.encode() + b'":' + inside + b"}}" if rng.random() < 0.8 else inside


def no_message(rng: random.Random, body: dict[str, Any]) -> bytes:
    """Something that is no message at all."""
    return rng.choice(
        [b"", b"null", b"[]", b"{}", b"\x00" * 10, json.dumps([body, body]).encode(), rng.randbytes(200), b'"x"', b"1"]
    )


DAMAGES: Final[tuple[Callable[[random.Random, dict[str, Any]], bytes], ...]] = (
    *[wrong_values] * 9, wrong_bytes, deep, no_message,
)  # fmt: skip


def a_message(rng: random.Random) -> dict[str, Any]:
    params: dict[str, Any] = {"name": "files__read", "uri": "note://one", "arguments": {"a": 1}}
    wanted = {key: params[key] for key in rng.sample(sorted(params), rng.randrange(4))}
    return request(rng.choice([*METHODS, *["tools/call"] * 10, "subscriptions/listen"]), wanted)


def damaged_headers(rng: random.Random, headers: list[Header]) -> list[Header]:
    """Headers of which some are garbage, gone or doubled."""
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        name = rng.choice(HEADERS)
        kept = [header for header in headers if header[0] != name or rng.random() < 0.3]
        headers = [*kept, (name, rng.choice([*GARBAGE, rng.randbytes(12)]))]
        rng.shuffle(headers)
    return headers


def check(answer: Answer, seed: object) -> None:
    """An answer as the protocol allows it."""
    assert answer.complete, seed
    assert answer.status in {200, 202, 204, 400, 401, 403, 404, 405, 406, 413, 415, 421}, (seed, answer.status)
    assert not INSIDE.search(answer.body), (seed, answer.body)
    if not answer.body:
        return
    for message in answer.messages:
        assert message["jsonrpc"] == "2.0", seed
        assert ("method" in message) + ("result" in message) + ("error" in message) == 1, seed
        if "error" in message:
            assert isinstance(message["error"]["code"], int), seed
            assert isinstance(message["error"]["message"], str), seed


@pytest.mark.parametrize("part", range(4))
async def test_modern_requests_that_are_malformed_get_an_answer_of_the_protocol(
    part: int, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.events.close()  # so that listening ends at once

    for number in range(part * REQUESTS // 4, (part + 1) * REQUESTS // 4):
        rng = random.Random(f"modern {number}")
        body = a_message(rng)
        raw = rng.choice(DAMAGES)(rng, body)
        headers = damaged_headers(rng, fitting(body))
        check(await fetch(world.front, raw, headers, path=rng.choice(["/mcp", "/servers/files/mcp"])), number)

    assert caplog.records == []
    assert {executed.identity for executed in world.upstream.executed} <= {ANA, ANONYMOUS}


@pytest.mark.parametrize("part", range(4))
async def test_legacy_requests_that_are_malformed_get_an_answer_of_the_protocol(
    part: int, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    client = await begun(world)

    for number in range(part * REQUESTS // 4, (part + 1) * REQUESTS // 4):
        rng = random.Random(f"legacy {number}")
        body = a_message(rng)
        body["params"].pop("_meta")
        headers = damaged_headers(rng, client.headers())
        method = rng.choice(["POST"] * 20 + ["DELETE", "PUT"])
        raw = rng.choice(DAMAGES)(rng, body)
        check(await fetch(world.front, raw, headers, method=method), number)
        if method == "DELETE":
            client = await begun(world)

    assert caplog.records == []


async def test_request_that_is_sound_is_served_after_all_that() -> None:
    world = World()
    for number in range(50):
        rng = random.Random(number)
        await fetch(world.front, wrong_bytes(rng, call()), list(headers_for(call()).items()))

    answer = await world.post(call())

    assert answer.result["resultType"] == "complete"
