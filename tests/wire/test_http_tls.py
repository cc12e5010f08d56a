"""HTTPS upstreams: who they are is checked."""

from __future__ import annotations

import datetime
import ssl
from ipaddress import ip_address
from pathlib import Path

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from adapters.upstreams.wire.http import HttpPool, Origin
from adapters.upstreams.wire.origin import shared_tls_context
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from tests.wire.test_http_pool import post
from tests.wire.upstreams import OK, Conversation, answer_all, upstream


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test upstream")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "upstream.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_trusted_upstream_is_called_over_one_reused_connection(
    certificate: Path, server_tls: ssl.SSLContext
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with upstream(answer_all, tls=server_tls) as served, HttpPool(Origin.parse(served.url), tls=trusting) as pool:
        with anyio.fail_after(10):
            statuses = [(await post(pool)).status for _ in range(5)]
            stats = pool.stats()

    assert statuses == [200] * 5
    assert (stats.opened, stats.reused) == (1, 4)


async def test_upstream_of_unknown_authority_is_unavailable_and_gets_no_request(server_tls: ssl.SSLContext) -> None:
    async with upstream(answer_all, tls=server_tls) as served, HttpPool(Origin.parse(served.url)) as pool:
        with anyio.fail_after(10), pytest.raises(UpstreamUnavailable, match="no TLS connection: self-signed"):
            await post(pool)

    assert served.requests == []


async def test_upstream_that_speaks_no_tls_is_unavailable() -> None:
    async def speak_plainly(conversation: Conversation) -> None:
        await conversation.send(OK)

    async with upstream(speak_plainly) as served, HttpPool(Origin.parse(served.url.replace("http:", "https:"))) as pool:
        with anyio.fail_after(10), pytest.raises(UpstreamUnavailable):
            await post(pool)


async def test_connection_closed_by_the_upstream_over_tls_is_replaced(
    certificate: Path, server_tls: ssl.SSLContext
) -> None:
    async def answer_once(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(OK)

    trusting = ssl.create_default_context(cafile=str(certificate))
    async with (
        upstream(answer_once, tls=server_tls) as served,
        HttpPool(Origin.parse(served.url), tls=trusting) as pool,
    ):
        with anyio.fail_after(10):
            await post(pool)
            await served.closed.wait()
            response = await post(pool)

    assert response.status == 200
    assert len(served.requests) == 2


async def test_large_answer_over_tls_is_refused_at_the_limit(certificate: Path, server_tls: ssl.SSLContext) -> None:
    async def flood(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await conversation.send(b"x" * 65536)

    trusting = ssl.create_default_context(cafile=str(certificate))
    async with upstream(flood, tls=server_tls) as served, HttpPool(Origin.parse(served.url), tls=trusting) as pool:
        with anyio.fail_after(10), pytest.raises(UpstreamProtocolError, match="limit of 1000000 bytes"):
            await post(pool)


def test_tls_context_is_made_once() -> None:
    assert shared_tls_context() is shared_tls_context()
