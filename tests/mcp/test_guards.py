"""What a request must satisfy before anything of it is read, and who it may be from."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from gateway.listeners.guards import MAX_CHAIN_BYTES, Guards, credentials_of
from gateway.listeners.http import headers_of
from tests.mcp.asgi import LOCAL, Header, fetch
from tests.mcp.worlds import World, call, headers_for, request

REMOTE = ("192.0.2.9", 4_000)
NOBODY = (b"authorization", b"-")


@pytest.mark.requirement("mcp:2026-07-28:host")
@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"127.0.0.1:8080", 200),
        (b"localhost", 200),
        (b"LOCALHOST:1", 200),
        (b"[::1]:8080", 200),
        (b"gate.example.org", 200),
        (b"gate.example.org:8443", 200),
        (b"exact.example.org:8443", 200),
        (b"exact.example.org", 421),
        (b"evil.example.org", 421),
        (b"127.0.0.1.evil.example.org", 421),
        (b"localhost.evil.example.org", 421),
        (b"[::1", 200),
        (b"[::2]", 421),
        (b"\xff\xfe", 421),
        (b"", 421),
        (b"-", 421),
    ],
)
async def test_only_hosts_that_are_served_here_get_an_answer(host: bytes, status: int) -> None:
    hosts = frozenset({"gate.example.org", "exact.example.org:8443"})
    world = World(guards=Guards(10_000, hosts))

    answer = await world.post(request("tools/list"), (b"host", host))

    assert answer.status == status


async def test_two_hosts_are_one_too_many() -> None:
    local = (b"host", b"localhost")

    answer = await World().post(request("tools/list"), local, local)

    assert answer.status == 421


@pytest.mark.requirement("mcp:2026-07-28:origin", "mcp:2025-11-25:origin")
@pytest.mark.parametrize(
    ("origins", "status"),
    [
        ([], 200),
        ([b"http://localhost:3000"], 200),
        ([b"https://127.0.0.1"], 200),
        ([b"http://[::1]:5"], 200),
        ([b"https://APP.example.org"], 200),
        ([b"https://app.example.org:444"], 403),
        ([b"http://app.example.org"], 403),
        ([b"https://evil.example.org"], 403),
        ([b"http://localhost.evil.example.org"], 403),
        ([b"file://localhost"], 403),
        ([b"null"], 403),
        ([b""], 403),
        ([b"http://[::1"], 403),
        ([b"\xff"], 403),
        ([b"http://localhost", b"https://evil.example.org"], 403),
        ([b"http://localhost", b"http://localhost"], 403),
    ],
)
async def test_only_origins_that_are_served_here_get_an_answer(origins: list[bytes], status: int) -> None:
    world = World(guards=Guards(10_000, origins=frozenset({"https://app.example.org"})))

    answer = await world.post(request("tools/list"), *[(b"origin", origin) for origin in origins])

    assert answer.status == status
    assert (answer.status == 200) is bool(world.decider.asked)


async def test_public_listener_takes_no_loopback_name_on_trust() -> None:
    world = World(guards=Guards(10_000, frozenset({"gate.example.org"}), loopback=False))
    public = (b"host", b"gate.example.org")

    served, by_name, by_origin = [
        await world.post(request("tools/list"), *headers)
        for headers in ([public], [(b"host", b"localhost")], [public, (b"origin", b"http://localhost")])
    ]

    assert (served.status, by_name.status, by_origin.status) == (200, 421, 403)


@pytest.mark.requirement("mcp:2026-07-28:get-delete-405")
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"])
async def test_other_methods_than_post_are_not_allowed_without_a_session(method: str) -> None:
    world = World()

    answer = await fetch(world.front, headers=headers_for(request("tools/list")).items(), method=method)

    assert (answer.status, answer.header("allow")) == (405, "POST")


@pytest.mark.parametrize("kind", [b"-", b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"])
async def test_body_that_a_web_form_could_send_is_refused(kind: bytes) -> None:
    answer = await World().post(request("tools/list"), (b"content-type", kind))

    assert (answer.status, answer.error["code"]) == (415, -32600)


async def test_content_type_may_carry_parameters() -> None:
    answer = await World().post(request("tools/list"), (b"content-type", b"Application/JSON; charset=utf-8"))

    assert answer.status == 200


@pytest.mark.requirement("mcp:2026-07-28:one-message", "mcp:2025-11-25:no-batch", "mcp:2026-07-28:id-not-null")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe{}", -32700),
        (b'{"a": NaN}', -32700),
        (b'{"a": "\\ud800"}', -32700),
        (b"[" * 5_000, -32700),
        (b'{"a":' * 5_000, -32700),
        (b"1" * 5_000, -32700),
        (json.dumps([call(), call()]).encode(), -32600),
        (b"[]", -32600),
        (b"null", -32600),
        (b'"x"', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":null}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":[],"method":"ping"}', -32600),
    ],
)
async def test_body_that_is_not_one_message_is_refused(body: bytes, code: int) -> None:
    world = World()

    answer = await world.post(body)

    assert (answer.status, answer.error["code"], answer.message["id"]) == (400, code, None)
    assert world.trail.records == []


async def test_body_beyond_the_limit_is_refused_while_it_comes() -> None:
    world = World(guards=Guards(1_000))
    chunks, sent = [b"x" * 600] * 10, list[MutableMapping[str, Any]]()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": chunks.pop(), "more_body": True}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = list(headers_for(call()).items())
    await world.front({"type": "http", "method": "POST", "path": "/mcp", "headers": headers}, receive, send)

    assert sent[0]["status"] == 413
    assert b"listen.max_body_bytes" in sent[1]["body"]
    assert len(chunks) == 8


async def test_body_may_come_in_pieces_and_be_as_long_as_the_limit() -> None:
    raw = json.dumps(request("tools/list")).encode()
    world = World(guards=Guards(len(raw)))
    pieces = [raw[at : at + 7] for at in range(0, len(raw), 7)]
    sent = list[MutableMapping[str, Any]]()

    async def receive() -> MutableMapping[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = list(headers_for(request("tools/list")).items())
    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": headers, "client": LOCAL}
    await world.front(scope, receive, send)

    assert sent[0]["status"] == 200


async def test_client_that_leaves_while_sending_gets_nothing() -> None:
    world, sent = World(), list[object]()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = list(headers_for(call()).items())
    await world.front({"type": "http", "method": "POST", "path": "/mcp", "headers": headers}, receive, send)

    assert sent == []


async def test_caller_on_this_machine_may_be_anonymous() -> None:
    world = World()

    answer = await world.post(request("tools/list"), NOBODY)

    assert answer.status == 200
    assert world.trail.records[0].identity is world.identifier.anonymous


@pytest.mark.parametrize(
    "header",
    [
        (b"x-forwarded-for", b"203.0.113.5"),
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-forwarded-host", b"gate.example.org"),
        (b"x-forwarded-proto", b"https"),
        (b"forwarded", b"for=127.0.0.1"),
        (b"x-real-ip", b"127.0.0.1"),
        (b"via", b"1.1 proxy"),
        (b"cf-connecting-ip", b"203.0.113.5"),
    ],
)
async def test_proxied_request_is_never_anonymous_by_loopback(header: Header) -> None:
    world = World()

    answer = await world.post(request("tools/list"), NOBODY, header)

    assert answer.status == 401


@pytest.mark.parametrize("client", [REMOTE, ("::ffff:192.0.2.1", 1), ("unix", 0), None])
async def test_caller_from_elsewhere_is_never_anonymous(client: tuple[str, int] | None) -> None:
    answer = await World().post(request("tools/list"), NOBODY, client=client)

    assert answer.status == 401


@pytest.mark.parametrize(
    "value", [b"Basic YTpi", b"Bearer", b"Bearer ", b"bearer\tana", b"", b"ana", b"Digest x", b"Bearer \xff"]
)
async def test_credential_that_does_not_hold_is_not_taken_for_none(value: bytes) -> None:
    answer = await World().post(request("tools/list"), (b"authorization", value))

    assert answer.status == 401


async def test_two_credentials_are_none() -> None:
    good = (b"authorization", b"Bearer ana")

    answer = await World().post(request("tools/list"), good, good)

    assert answer.status == 401
    assert b"more than one Authorization header" in answer.body


@pytest.mark.parametrize("value", [b"Bearer ana", b"bearer ana", b"BEARER  ana  "])
def test_bearer_is_read_in_any_case(value: bytes) -> None:
    scope: dict[str, Any] = {"headers": [(b"authorization", value)], "client": REMOTE}

    credentials = credentials_of(scope, headers_of(scope))

    assert (credentials.bearer, credentials.client_ip, credentials.on_loopback) == ("ana", "192.0.2.9", False)
    assert "ana" not in repr(credentials)


def test_credential_that_cannot_be_read_is_nobodys_even_on_this_machine() -> None:
    scope: dict[str, Any] = {"headers": [(b"authorization", b"Basic YTpi")], "client": ("127.0.0.1", 1)}

    credentials = credentials_of(scope, headers_of(scope))

    assert (credentials.bearer, credentials.on_loopback) == ("", False)
    assert "is not `Bearer" in credentials.fault


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([b"t" * MAX_CHAIN_BYTES], ""),
        ([b"t" * (MAX_CHAIN_BYTES + 1)], "longer than 8192 bytes"),
        ([b"one", b"two"], "more than one Interlock-Chain header"),
        ([], ""),
    ],
)
def test_chain_of_delegation_is_one_header_of_some_length(values: list[bytes], fault: str) -> None:
    headers = [(b"authorization", b"Bearer ana"), *((b"interlock-chain", value) for value in values)]
    scope: dict[str, Any] = {"headers": headers, "client": ("127.0.0.1", 1)}

    credentials = credentials_of(scope, headers_of(scope))

    if fault:
        assert fault in credentials.fault
        assert (credentials.bearer, credentials.chain, credentials.on_loopback) == ("", "", False)
    else:
        assert (credentials.bearer, credentials.fault) == ("ana", "")
        assert credentials.chain == b"".join(values).decode()


async def test_what_is_no_endpoint_goes_to_the_rest_of_the_application() -> None:
    world = World()

    paths = ["/servers/nothing/mcp", "/mcp/x", "/healthz"]
    answers = [await fetch(world.front, headers=[(b"host", b"localhost")], method="GET", path=path) for path in paths]

    assert [answer.status for answer in answers] == [404, 404, 200]
