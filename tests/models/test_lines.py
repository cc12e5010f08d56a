"""The connection to a provider: closed ones, answers that are endless, packed or elsewhere, and wrong headers."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from anyio.abc import SocketStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.errors import QuotaExceeded, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from tests.models.front import ask, running
from tests.models.kits import KITS
from tests.servers.models import Say, chat, chat_frames, frame, provider, serving

pytestmark = pytest.mark.anyio

CHAT = "chat.completions"
BODY: dict[str, Any] = KITS[0].body()
WHOLE = web.json_response(chat(Say())).body
GOOD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


@dataclass
class Wire:
    """A server of bare bytes: `says` is what each of its connections answers to each request; b"" hangs up."""

    says: list[list[bytes]]
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def serve(self, stream: SocketStream) -> None:
        answers = self.says[min(self.connections, len(self.says) - 1)]
        self.connections += 1
        async with stream:
            for answer in answers:
                self.requests.append(await _request(stream))
                if answer:
                    await stream.send(answer)


async def _request(stream: SocketStream) -> bytes:
    read = b""
    while b"\r\n\r\n" not in read:
        read += await stream.receive()
    head, _, body = read.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < size:
        body += await stream.receive()
    return body


@asynccontextmanager
async def wired(*says: list[bytes]) -> AsyncIterator[tuple[Wire, str]]:
    """Such a server, and its address."""
    wire = Wire(list(says))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, wire.serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        yield wire, f"http://127.0.0.1:{port}/v1"
        tasks.cancel_scope.cancel()


def good() -> bytes:
    body = bytes(WHOLE)  # type: ignore[arg-type]  # of an answer that is whole it is bytes
    return GOOD % (len(body), body)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_call_that_met_a_closed_connection_is_made_on_another(stream: bool) -> None:
    events = b"".join(frame(*each) for each in chat_frames(Say(), {}))
    answer = GOOD.replace(b"application/json", b"text/event-stream") % (len(events), events) if stream else good()

    async with wired([answer, b""], [answer]) as (wire, url), running("openai", url) as upstream:
        first = await ask(upstream, CHAT, {**BODY, "stream": stream})
        second = await ask(upstream, CHAT, {**BODY, "stream": stream})

    assert (first.error, second.error) == (None, None)
    assert wire.connections == 2
    assert len(wire.requests) == 3


async def test_a_call_that_a_new_connection_loses_is_not_made_again() -> None:
    async with wired([b""]) as (wire, url), running("openai", url) as upstream:
        asked = await ask(upstream, CHAT, BODY)

    assert isinstance(asked.error, UpstreamUnavailable)
    assert len(wire.requests) == 1


async def test_a_call_whose_answer_has_begun_is_not_made_again() -> None:
    async with wired([good(), b"HTTP/1.1 200 OK\r\ncontent-"], [good()]) as (wire, url), running("openai", url) as ours:
        await ask(ours, CHAT, BODY)
        asked = await ask(ours, CHAT, BODY)

    assert isinstance(asked.error, UpstreamUnavailable | UpstreamProtocolError)
    assert len(wire.requests) == 2


async def test_a_request_of_megabytes_reaches_the_provider_without_a_warning() -> None:
    long = {**BODY, "messages": [{"role": "user", "content": "x" * 3_000_000}]}

    async with provider() as (state, url), running("openai", url) as upstream:
        asked = await ask(upstream, CHAT, long)

    assert asked.error is None
    assert state.body["messages"] == long["messages"]


async def test_a_head_that_trickles_in_is_given_up() -> None:
    async def trickle(stream: SocketStream) -> None:
        async with stream:
            while True:
                await stream.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                await anyio.wait_all_tasks_blocked()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, trickle)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with running("openai", f"http://127.0.0.1:{port}/v1", timeout_s=0.5) as upstream:
            asked = await ask(upstream, CHAT, {**BODY, "stream": True}, within_s=10)
        tasks.cancel_scope.cancel()

    assert isinstance(asked.error, UpstreamTimeout)


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def answered_by(answer: Answer, *, stream: bool = False, **terms: Any) -> Any:
    async with serving(answer, "/v1/chat/completions") as url, running("openai", url, **terms) as upstream:
        return await ask(upstream, CHAT, {**BODY, "stream": stream}, within_s=10)


async def begun(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    return answer


async def test_a_stream_of_nothing_but_comments_ends_at_last() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        answer = await begun(request)
        while request.transport is not None:
            await answer.write(b": still here\n\n")
            await anyio.wait_all_tasks_blocked()
        return answer

    asked = await answered_by(drip, stream=True, max_stream_s=0.3, max_bytes=2**31)

    assert isinstance(asked.error, UpstreamTimeout)


async def test_a_stream_that_has_said_all_is_whole_however_its_connection_ends() -> None:
    async def abrupt(request: web.Request) -> web.StreamResponse:
        answer = await begun(request)
        for name, data in chat_frames(Say(), await request.json()):
            await answer.write(frame(name, data))
        assert request.transport is not None
        request.transport.abort()
        return answer

    asked = await answered_by(abrupt, stream=True)

    assert asked.error is None
    assert asked.result.outcome == "ok"
    assert all("error" not in event for event in asked.events)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_redirect_is_not_followed(stream: bool) -> None:
    async with provider() as (elsewhere, url):

        async def redirect(_: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"location": f"{url}/chat/completions"})

        asked = await answered_by(redirect, stream=stream)

    assert isinstance(asked.error, UpstreamProtocolError)
    assert url not in str(asked.error)
    assert elsewhere.seen == []


REFUSED = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 33\r\ncontent-length: 300\r\n%b\r\nabc"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("answer", [REFUSED % b"", (REFUSED % b"content-encoding: gzip\r\n") + b"0" * 297])
async def test_a_status_is_understood_however_its_words_come(answer: bytes, stream: bool) -> None:
    async with wired([answer]) as (_, url), running("openai", url) as upstream:
        asked = await ask(upstream, CHAT, {**BODY, "stream": stream})

    assert isinstance(asked.error, QuotaExceeded)
    assert asked.error.retry_after_s == 33


@pytest.mark.parametrize("given", ["/v1?api-version=1", "/v1/?api-version=1#here"])
async def test_the_path_of_an_api_stands_before_the_query_of_an_address(given: str) -> None:
    seen: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append(str(request.rel_url))
        return web.json_response(chat(Say()))

    async with serving(note, "/v1/chat/completions") as url, running("openai", url[:-3] + given) as upstream:
        asked = await ask(upstream, CHAT, BODY)

    assert asked.error is None
    assert seen == ["/v1/chat/completions?api-version=1"]


def vouched_for_by_itself(place: Path) -> ssl.SSLContext:
    """TLS of a server whose certificate it signed itself."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    also = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = made.add_extension(also, critical=True).sign(key, hashes.SHA256())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    place.write_bytes(key.private_bytes(*form) + signed.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place)
    return context


async def test_a_certificate_that_is_not_trusted_is_told_as_that(tmp_path: Path) -> None:
    seen: list[web.Request] = []

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.json_response(chat(Say()))

    tls = vouched_for_by_itself(tmp_path / "provider.pem")
    async with serving(note, "/v1/chat/completions", tls=tls) as url, running("openai", url) as upstream:
        asked = await ask(upstream, CHAT, BODY)

    assert type(asked.error) is UpstreamUnavailable
    assert "look at its certificate, and at url in [upstreams.p]" in str(asked.error)
    assert seen == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_answer_that_is_packed_is_not_unpacked(stream: bool) -> None:
    async def packed(request: web.Request) -> web.StreamResponse:
        assert request.headers["accept-encoding"] == "identity"
        return web.Response(body=b"\x1f\x8b" + b"0" * 99, headers={"content-encoding": "gzip"})

    asked = await answered_by(packed, stream=stream)

    assert isinstance(asked.error, UpstreamProtocolError)


async def test_headers_that_http_does_not_allow_are_the_gateway_s_fault_and_stay_unread() -> None:
    secret = (("Authorization", "Bearer sk-ours\r\nx-injected: 1"),)

    async with provider() as (state, url), running("openai", url, headers=secret) as upstream:
        asked = await ask(upstream, CHAT, BODY)

    assert type(asked.error) is UpstreamUnavailable
    assert "[upstreams.p]" in str(asked.error)
    assert "sk-ours" not in str(asked.error)
    assert state.seen == []


async def test_a_provider_that_was_taken_away_makes_no_connections_any_more() -> None:
    async with provider() as (state, url):
        async with running("openai", url) as upstream:
            await ask(upstream, CHAT, BODY)
        asked = await ask(upstream, CHAT, BODY)

    assert isinstance(asked.error, UpstreamUnavailable)
    assert len(state.seen) == 1
