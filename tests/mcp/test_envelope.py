"""What a modern request must say of itself, and that its headers say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import (
    InboundLadderRejection,
    classify_inbound_request,
)

from gateway.listeners.mcp.envelope import Message, open_envelope
from gateway.listeners.mcp.wire import RpcError
from tests.mcp.asgi import Header
from tests.mcp.worlds import MODERN, PREFIX, World, call, request


@pytest.mark.requirement("mcp:2026-07-28:meta-required")
@pytest.mark.parametrize(
    "meta",
    [None, {}, [], {PREFIX + "protocolVersion": MODERN}, {PREFIX + "clientCapabilities": {}}],
)
async def test_request_without_its_envelope_is_refused(meta: object) -> None:
    world, body = World(), request("tools/list")
    body["params"] = {"_meta": meta} if meta is not None else {}

    answer = await world.post(body)

    assert (answer.status, answer.error["code"], answer.message["id"]) == (400, -32602, 1)
    assert world.trail.records == []


@pytest.mark.parametrize(
    "wrong", [{"clientCapabilities": []}, {"clientInfo": "me"}, {"logLevel": 7}, {"clientCapabilities": None}]
)
async def test_envelope_of_wrong_shapes_is_refused(wrong: Mapping[str, object]) -> None:
    answer = await World().post(request("tools/list", None, **wrong))

    assert (answer.status, answer.error["code"]) == (400, -32602)


MISMATCHES: list[tuple[dict[str, Any], list[Header]]] = [
    (call(), [(b"mcp-method", b"-")]),
    (call(), [(b"mcp-method", b"tools/list")]),
    (call(), [(b"mcp-method", b"TOOLS/CALL")]),
    (call(), [(b"mcp-name", b"-")]),
    (call(), [(b"mcp-name", b"files__write")]),
    (call(), [(b"mcp-name", b"FILES__READ")]),
    (call(), [(b"mcp-name", b"=?base64?ZmlsZXNfX3dyaXRl?=")]),
    (call(), [(b"mcp-name", b"=?base64?ZmlsZXNfX3JlYWQ?=")]),  # not canonical
    (call(), [(b"mcp-name", b"=?base64?!!?=")]),
    (call(), [(b"mcp-name", b"=?base64?/w==?=")]),  # not UTF-8
    (call("é"), [(b"mcp-name", "é".encode("latin-1"))]),
    (call("é"), [(b"mcp-name", "é".encode())]),
    (call("a\x01b"), [(b"mcp-name", b"a\x01b")]),
    (call(), [(b"mcp-name", b"files__read"), (b"mcp-name", b"files__read")]),
    (call(), [(b"mcp-method", b"tools/call"), (b"mcp-method", b"tools/call")]),
    (call(), [(b"mcp-protocol-version", MODERN.encode()), (b"mcp-protocol-version", MODERN.encode())]),
    (request("resources/read", {"uri": "note://one"}), [(b"mcp-name", b"note://two")]),
    (request("prompts/get", {"name": "files__ask"}), [(b"mcp-name", b"files__other")]),
    (request("tools/list", protocolVersion="2025-11-25"), []),
    (request("tools/list", protocolVersion=7), []),
    (request("tools/list"), [(b"mcp-protocol-version", b"-")]),
]


@pytest.mark.requirement(
    "mcp:2026-07-28:header-mismatch", "mcp:2026-07-28:header-duplicate", "mcp:2026-07-28:header-version"
)
@pytest.mark.parametrize(("body", "headers"), MISMATCHES)
async def test_headers_that_disagree_with_the_body_are_refused_before_anything_is_decided(
    body: dict[str, Any], headers: list[Header]
) -> None:
    world = World()

    answer = await world.post(body, *headers)

    assert (answer.status, answer.error["code"], answer.message["id"]) == (400, -32020, 1)
    assert world.decider.asked == []


@pytest.mark.requirement("mcp:2026-07-28:header-base64", "mcp:2026-07-28:header-whitespace")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("files__read", b"files__read"),
        ("files__read", b"files__read  \t"),
        ("files__read", b"=?base64?ZmlsZXNfX3JlYWQ=?="),
        ("Hello, 世界", b"=?base64?SGVsbG8sIOS4lueVjA==?="),
        ("=?base64?literal?=", b"=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ("a\tb", b"a\tb"),
    ],
)
async def test_name_is_compared_decoded(name: str, value: bytes) -> None:
    answer = await World().post(call(name), (b"mcp-name", value))

    assert answer.message.get("error", {}).get("code") != -32020


@pytest.mark.requirement("mcp:2026-07-28:unsupported-version", "mcp:2026-07-28:negotiation")
async def test_version_that_is_not_spoken_is_answered_with_those_that_are() -> None:
    answer = await World().post(
        request("tools/list", protocolVersion="2027-01-01"), (b"mcp-protocol-version", b"2027-01-01")
    )

    assert (answer.status, answer.error["code"]) == (400, -32022)
    assert answer.error["data"]["requested"] == "2027-01-01"
    assert {MODERN, "2025-11-25", "2024-11-05"} <= set(answer.error["data"]["supported"])


@pytest.mark.requirement("mcp:2026-07-28:unknown-method", "mcp:2026-07-28:initialize-refused")
@pytest.mark.parametrize("method", ["tools/unknown", "initialize", "resources/subscribe", "logging/setLevel", "ping"])
async def test_method_of_no_or_another_revision_is_not_found(method: str) -> None:
    world = World()

    answer = await world.post(request(method))

    assert (answer.status, answer.error["code"]) == (404, -32601)
    assert world.decider.asked == []


PARAM_FAULTS: list[tuple[dict[str, object], list[Header]]] = [
    ({"region": "eu"}, []),
    ({"region": "eu"}, [(b"mcp-param-region", b"us")]),
    ({"region": "eu"}, [(b"mcp-param-region", b"EU")]),
    ({"region": "eu"}, [(b"mcp-param-region", b"=?base64?dXM=?=")]),
    ({"region": "é"}, [(b"mcp-param-region", "é".encode("latin-1"))]),
    ({"region": "eu"}, [(b"mcp-param-region", b"eu"), (b"mcp-param-region", b"eu")]),
    ({}, [(b"mcp-param-region", b"eu")]),
    ({"region": None}, [(b"mcp-param-region", b"null")]),
]


@pytest.mark.requirement("mcp:2026-07-28:param-headers")
@pytest.mark.parametrize(("arguments", "headers"), PARAM_FAULTS)
async def test_parameter_headers_must_say_what_the_arguments_say(
    arguments: dict[str, object], headers: list[Header]
) -> None:
    world = World()

    answer = await world.post(call("files__locate", arguments), *headers)

    assert (answer.status, answer.error["code"]) == (400, -32020)
    assert world.upstream.executed == []


@pytest.mark.requirement("mcp:2026-07-28:param-headers")
@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({"region": "eu"}, [(b"mcp-param-region", b"eu")]),
        ({"region": "é"}, [(b"mcp-param-region", b"=?base64?w6k=?=")]),
        ({"region": None}, []),
        ({}, [(b"mcp-param-unknown", b"x"), (b"mcp-param-unknown", b"y")][:1]),
    ],
)
async def test_parameter_headers_that_agree_let_the_call_through(
    arguments: dict[str, object], headers: list[Header]
) -> None:
    world = World()

    answer = await world.post(call("files__locate", arguments), *headers)

    assert answer.status == 200
    assert len(world.upstream.executed) == 1


async def test_stranger_does_not_learn_from_headers_which_tools_there_are() -> None:
    world, stranger = World(), (b"authorization", b"Bearer stranger")

    known, unknown = [
        await world.post(call(name, {"region": "eu"}), stranger) for name in ("files__locate", "files__nothing")
    ]

    assert known.status == unknown.status == 401
    assert known.body == unknown.body


# -- against the protocol's own library --

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
VERSIONS = st.sampled_from([MODERN, "2025-11-25", "2027-01-01", "", "x"])
METHODS = st.sampled_from(["tools/call", "resources/read", "prompts/get", "tools/list", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(
    meta=st.dictionaries(
        st.sampled_from([PREFIX + "protocolVersion", PREFIX + "clientCapabilities", "x"]),
        VERSIONS | st.just({}) | JSON,
        max_size=3,
    )
    | st.fixed_dictionaries({PREFIX + "protocolVersion": VERSIONS, PREFIX + "clientCapabilities": st.just({})}),
    method=METHODS,
    name=st.sampled_from(["a", "b", "é", " a", None, 5]),
    headers=st.fixed_dictionaries(
        {},
        optional={
            "mcp-protocol-version": VERSIONS,
            "mcp-method": METHODS,
            "mcp-name": st.sampled_from(["a", "b", "=?base64?w6k=?=", "=?base64?IGE=?=", "=?base64?!?="]),
        },
    ),
)
def test_envelope_is_judged_as_the_library_does(
    meta: dict[str, Any], method: str, name: object, headers: dict[str, str]
) -> None:
    params: dict[str, object] = {"_meta": meta, "uri" if method == "resources/read" else "name": name}
    expected = classify_inbound_request({"method": method, "params": params}, headers=headers)

    found = judged(method, params, headers)

    if name is None and method in {"tools/call", "resources/read", "prompts/get"} and found == -32020:
        return  # we ask for the header even where the body lacks the name; the library leaves that to dispatch
    if isinstance(expected, InboundLadderRejection):
        assert found == expected.code
    else:
        assert found == (0 if isinstance(meta[PREFIX + "clientCapabilities"], dict) else -32602)


def judged(method: str, params: dict[str, object], headers: Mapping[str, str]) -> int:
    """The error code of our judgement; 0 for none."""
    message = Message({}, method, params, request_id=1, is_request=True)
    try:
        open_envelope(message, {name.encode(): [value.encode("latin-1")] for name, value in headers.items()})
    except RpcError as error:
        return error.code
    return 0
