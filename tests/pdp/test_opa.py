"""A server that is slow, broken or hostile never makes a yes, and never holds a call up."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import anyio
import pytest

from adapters.pdp.bundle import PolicyRefused, bundle_of
from adapters.pdp.opa import OpaPdp
from adapters.pdp.opa_http import Endpoint, OpaHttp
from adapters.pdp.opa_publish import OpaServer
from gateway.errors import PolicyEngineUnavailable
from tests.pdp.opaserver import HOW_TO, mortal_opa, opa_program, running_opa
from tests.pdp.policies import alone

Behaviour: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
YES = b'{"result":{"decision":true,"context":{}}}'


def http_reply(body: bytes, status: str = "200 OK", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head and the body of one request; empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


class Peer:
    """A server whose connections do as `behave` says, and are all over when it ends."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self._writers: set[asyncio.StreamWriter] = set()
        self._over = anyio.Event()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._behave(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            if not self._writers:
                self._over.set()

    async def end(self, server: asyncio.Server) -> None:
        server.close()
        while self._writers:
            self._over = anyio.Event()
            for writer in tuple(self._writers):
                writer.transport.abort()
            await self._over.wait()


@asynccontextmanager
async def serving(
    behave: Behaviour, *, timeout_s: float = 1.0, max_reply_bytes: int = 1 << 20, token: str = ""
) -> AsyncIterator[OpaPdp]:
    """A decision point that talks to a server which treats each connection as `behave` says."""
    peer = Peer(behave)
    server = await asyncio.start_server(peer.connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    headers = (("Authorization", f"Bearer {token}"),) if token else ()
    http = OpaHttp(Endpoint("127.0.0.1", port), headers=headers, connect_timeout_s=2.0, max_reply_bytes=max_reply_bytes)
    pdp = OpaPdp(http, timeout_s=timeout_s)
    with anyio.fail_after(20):
        try:
            yield pdp
        finally:
            pdp.close()
            await peer.end(server)


def always(reply: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(reply)

    return behave


async def refusal(pdp: OpaPdp) -> PolicyEngineUnavailable:
    with pytest.raises(PolicyEngineUnavailable) as caught:
        await pdp.evaluate("decision", {})
    return caught.value


async def test_a_request_says_what_it_asks_and_who_asks() -> None:
    seen: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            seen.append(request)
            writer.write(http_reply(YES))

    async with serving(behave, token="t0ken") as pdp:
        answer = await pdp.evaluate("decision", {"subject": {"id": "é"}})
        await pdp.evaluate("visible", {})

    first = b"POST /v1/data/interlock/decision?strict-builtin-errors=true&provenance=true HTTP/1.1\r\n"
    assert seen[0].startswith(first)
    assert b"\r\nAuthorization: Bearer t0ken\r\n" in seen[0]
    assert seen[0].endswith('{"input":{"subject":{"id":"é"}}}'.encode())
    assert seen[1].startswith(b"POST /v1/data/interlock/visible?")
    assert answer.value == {"decision": True, "context": {}}
    assert answer.engine == "opa"


async def test_one_connection_serves_many_questions() -> None:
    connections: list[object] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await always(http_reply(YES))(reader, writer)

    async with serving(behave) as pdp:
        for _ in range(5):
            await pdp.evaluate("decision", {})

    assert len(connections) == 1


async def test_the_revision_of_the_servers_bundles_is_the_answers() -> None:
    body = b'{"result":{},"provenance":{"version":"1","bundles":{"b":{"revision":"7"},"a":{"revision":"x"}}}}'

    async with serving(always(http_reply(body))) as pdp:
        answer = await pdp.evaluate("decision", {})

    assert answer.revision == "a=x,b=7"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (http_reply(b"{}"), "undefined"),
        (http_reply(b'{"warning":{"code":"x"}}'), "undefined"),
        (http_reply(b"[]"), "policy_output_invalid"),
        (http_reply(b"true"), "policy_output_invalid"),
        (http_reply(b"<html>"), "policy_output_invalid"),
        (http_reply(b""), "policy_output_invalid"),
        (http_reply(b'{"result":'), "policy_output_invalid"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "policy_output_invalid"),
        (b"\x00\xff" * 50, "policy_output_invalid"),
        (http_reply(YES, "500 Internal Server Error"), "pdp_unavailable"),
        (http_reply(b'{"code":"internal_error","message":"s3cret"}', "500 Internal Server Error"), "pdp_unavailable"),
        (http_reply(b"oops", "500 Internal Server Error"), "pdp_unavailable"),
        (http_reply(YES, "503 Service Unavailable"), "pdp_unavailable"),
        (http_reply(b'{"code":"unauthorized"}', "401 Unauthorized"), "pdp_unavailable"),
        (http_reply(YES, "302 Found", "Location: http://x/"), "pdp_unavailable"),
        (http_reply(YES, "204 No Content"), "pdp_unavailable"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "policy_output_invalid"),
    ],
)
async def test_anything_but_a_result_is_a_refusal(reply: bytes, reason: str) -> None:
    async with serving(always(reply), timeout_s=0.5) as pdp:
        error = await refusal(pdp)

    assert error.reason in {reason, "timeout"} if reply.startswith(b"HTTP/1.1 101") else error.reason == reason
    assert "s3cret" not in str(error)


async def test_a_wrong_type_of_decision_is_handed_on_for_authz_to_refuse() -> None:
    async with serving(always(http_reply(b'{"result":"yes"}'))) as pdp:
        answer = await pdp.evaluate("decision", {})

    assert answer.value == "yes"


async def test_an_http_status_is_never_asked_for_again() -> None:
    requests = 0

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        while await read_request(reader):
            requests += 1
            writer.write(http_reply(b'{"code":"internal_error"}', "500 Internal Server Error"))

    async with serving(behave) as pdp:
        await refusal(pdp)

    assert requests == 1


async def test_a_server_that_hangs_is_given_up_on_in_time() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await reader.read()

    async with serving(behave, timeout_s=0.1) as pdp:
        with anyio.fail_after(10):
            error = await refusal(pdp)

    assert error.reason == "timeout"


async def test_a_server_that_drips_is_given_up_on_in_time() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in http_reply(YES):
            writer.write(bytes([byte]))
            await anyio.sleep(0.02)

    async with serving(behave, timeout_s=0.1) as pdp:
        with anyio.fail_after(10):
            error = await refusal(pdp)

    assert error.reason == "timeout"


async def test_an_answer_that_came_too_late_is_never_taken_for_the_next() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            if b"slow" in request:
                await anyio.sleep(0.2)
                writer.write(http_reply(YES))
            else:
                writer.write(http_reply(b'{"result":{"decision":false}}'))

    async with serving(behave, timeout_s=0.1) as pdp:
        with pytest.raises(PolicyEngineUnavailable):
            await pdp.evaluate("decision", {"slow": 1})
        answer = await pdp.evaluate("decision", {})

    assert answer.value == {"decision": False}


@pytest.mark.parametrize("declared", [True, False])
async def test_a_hundred_megabytes_are_not_taken_in(declared: bool) -> None:
    written = 0

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 104857600\r\n\r\n" if declared else b"\r\n"))
        for _ in range(100):
            writer.write(b" " * (1 << 20))
            await writer.drain()
            written += 1 << 20

    async with serving(behave, timeout_s=5) as pdp:
        error = await refusal(pdp)

    assert error.reason == "policy_output_invalid"
    assert written < 50 << 20


async def test_a_kept_connection_that_was_closed_is_replaced_once() -> None:
    connections = 0

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(http_reply(YES))
        if connections == 1:
            await read_request(reader)  # the second request is read, and the connection closed without a byte
            return
        await always(http_reply(YES))(reader, writer)

    async with serving(behave) as pdp:
        await pdp.evaluate("decision", {})
        answer = await pdp.evaluate("decision", {})

    assert answer.value == {"decision": True, "context": {}}
    assert connections == 2


async def test_a_new_connection_that_breaks_is_not_tried_again() -> None:
    connections = 0

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)

    async with serving(behave) as pdp:
        error = await refusal(pdp)

    assert error.reason == "pdp_unavailable"
    assert connections == 1


async def test_an_answer_that_breaks_off_is_not_asked_for_again() -> None:
    requests = 0

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        while await read_request(reader):
            requests += 1
            writer.write(http_reply(YES) if requests == 1 else http_reply(YES)[:-5])
            if requests > 1:
                await writer.drain()
                return

    async with serving(behave) as pdp:
        await pdp.evaluate("decision", {})
        error = await refusal(pdp)

    assert error.reason == "pdp_unavailable"
    assert requests == 2


async def test_a_server_that_is_not_there_opens_the_breaker() -> None:
    async with serving(always(b"")) as pdp:
        pass
    with anyio.fail_after(5):
        errors = [str(await refusal(pdp)) for _ in range(6)]

    assert "no connection" in errors[4]
    assert "not asked" in errors[5]
    assert pdp.breaker.state == "open"


async def test_errors_of_the_policy_do_not_open_the_breaker() -> None:
    reply = http_reply(b'{"code":"internal_error"}', "500 Internal Server Error")

    async with serving(always(reply)) as pdp:
        for _ in range(30):
            await refusal(pdp)

        assert pdp.breaker.state == "closed"


@pytest.mark.parametrize("address", ["ftp://x", "http://", "x:8181", "unix://", "http://u:p@h", "http://h/?q=1"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="OPA address"):
        Endpoint.parse(address)


def test_addresses_are_read() -> None:
    assert Endpoint.parse("http://h/") == Endpoint("h", 80)
    assert Endpoint.parse("https://h:8443/opa/") == Endpoint("h", 8443, "/opa", tls=True)
    assert Endpoint.parse("http://[::1]:8181").authority == "[::1]:8181"
    assert Endpoint.parse("unix:///run/opa.sock").socket_path == "/run/opa.sock"


def test_a_token_with_a_line_break_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        OpaHttp(Endpoint("h"), headers=(("Authorization", "Bearer x\r\nX: y"),))


async def test_a_unix_socket_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "opa.sock"
    peer = Peer(always(http_reply(YES)))
    server = await asyncio.start_unix_server(peer.connected, path)
    pdp = OpaPdp(OpaHttp(Endpoint.parse(f"unix://{path}"), connect_timeout_s=2.0), timeout_s=5)

    with anyio.fail_after(10):
        answer = await pdp.evaluate("decision", {})
        pdp.close()
        await peer.end(server)

    assert answer.value == {"decision": True, "context": {}}


async def test_a_server_with_an_unknown_certificate_is_not_asked(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    await anyio.run_process([*command, *more])
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate, key)

    peer = Peer(always(http_reply(YES)))
    server = await asyncio.start_server(peer.connected, "127.0.0.1", 0, ssl=own)
    endpoint = Endpoint("localhost", server.sockets[0].getsockname()[1], tls=True)
    trusting = ssl.create_default_context(cafile=str(certificate))
    stranger = OpaPdp(OpaHttp(endpoint, connect_timeout_s=2.0), timeout_s=5)
    friend = OpaPdp(OpaHttp(endpoint, tls=trusting, connect_timeout_s=2.0), timeout_s=5)
    with anyio.fail_after(15):
        error = await refusal(stranger)
        answer = await friend.evaluate("decision", {})
        friend.close()
        await peer.end(server)

    assert error.reason == "pdp_unavailable"
    assert answer.value == {"decision": True, "context": {}}


needs_opa = pytest.mark.skipif(not opa_program(), reason=HOW_TO)


@needs_opa
@pytest.mark.slow
async def test_publishing_replaces_what_was_there() -> None:
    with running_opa() as url:
        server = OpaServer(Endpoint.parse(url))
        pdp = OpaPdp(OpaHttp(Endpoint.parse(url), connect_timeout_s=2.0), timeout_s=5)
        first = bundle_of({"a.rego": "package interlock\n\ndecision := data.k\n", "b.rego": "package b\n"}, {"k": 1})
        with anyio.fail_after(30):
            await server.publish(first)
            before = (await pdp.evaluate("decision", {})).value, await server.revision()
            await server.publish(alone("decision := 2"))
            after = (await pdp.evaluate("decision", {})).value
            healthy = await server.is_healthy()
        pdp.close()

    assert before == (1, first.revision)
    assert after == 2
    assert healthy


@needs_opa
@pytest.mark.slow
async def test_modules_that_need_each_other_are_published_in_any_order() -> None:
    files = {
        "1.rego": "package interlock\n\nimport data.z\n\ndecision := z.f(1)\n",
        "2.rego": "package z\n\nf(x) := data.y.g(x)\n",
        "3.rego": "package y\n\ng(x) := x + 1\n",
    }
    with running_opa() as url:
        pdp = OpaPdp(OpaHttp(Endpoint.parse(url), connect_timeout_s=2.0), timeout_s=5)
        with anyio.fail_after(30):
            await OpaServer(Endpoint.parse(url)).publish(bundle_of(files))
            answer = await pdp.evaluate("decision", {})
        pdp.close()

    assert answer.value == 2


@needs_opa
@pytest.mark.slow
async def test_a_module_that_opa_refuses_is_named() -> None:
    with running_opa() as url, anyio.fail_after(30), pytest.raises(PolicyRefused) as caught:
        await OpaServer(Endpoint.parse(url)).publish(bundle_of({"bad.rego": "package a\n\nx := nope(1)\n"}))

    assert caught.value.faults[0].file == "bad.rego"
    assert caught.value.faults[0].line == 3


@needs_opa
@pytest.mark.slow
async def test_opa_killed_during_a_question_is_a_no() -> None:
    slow = "decision := count([1 | some a in numbers.range(1, 5000); some b in numbers.range(1, 5000); a == b + 9000])"
    with mortal_opa() as (url, process):
        pdp = OpaPdp(OpaHttp(Endpoint.parse(url), connect_timeout_s=2.0), timeout_s=20)
        with anyio.fail_after(30):
            await OpaServer(Endpoint.parse(url)).publish(alone(slow))
            errors: list[PolicyEngineUnavailable] = []

            async def ask() -> None:
                errors.append(await refusal(pdp))

            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                process.kill()
        pdp.close()

    assert [error.reason for error in errors] == ["pdp_unavailable"]


@needs_opa
async def test_a_server_that_is_not_there_is_not_healthy() -> None:
    server = OpaServer(Endpoint("127.0.0.1", 1), timeout_s=1)

    with anyio.fail_after(10):
        assert not await server.is_healthy()
        with pytest.raises(PolicyEngineUnavailable):
            await server.publish(alone("decision := 1"))
        with pytest.raises(PolicyEngineUnavailable):
            await server.revision()


@pytest.mark.parametrize("body", [b'["result"]', b'"result"', b"null", b"[" * 100_000, b"<html>", b'{"result": []'])
async def test_what_only_looks_like_opa_is_a_server_that_cannot_be_given_anything(body: bytes) -> None:
    peer = Peer(always(http_reply(body)))
    listening = await asyncio.start_server(peer.connected, "127.0.0.1", 0)
    server = OpaServer(Endpoint("127.0.0.1", listening.sockets[0].getsockname()[1]))

    with anyio.fail_after(20):
        with pytest.raises(PolicyEngineUnavailable):
            await server.revision()
        with pytest.raises(PolicyEngineUnavailable):
            await server.publish(alone("decision := 1"))
        await peer.end(listening)
