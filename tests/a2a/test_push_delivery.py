"""Notifications go to public addresses, to the very one that was judged, and no further."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams.a2a.push_addresses import Receivers
from adapters.upstreams.a2a.push_delivery import PushSender, receipt_of
from gateway.a2a.push_outbox import Letter, Receipt
from gateway.addresses import Network
from gateway.errors import InvalidCall, PolicyDenied
from gateway.lookups import Lookups
from tests.wire.upstreams import Conversation, Handler, answering, upstream

LOOPBACK: Sequence[Network] = (ip_network("127.0.0.0/8"), ip_network("::1"))
DONE = b"HTTP/1.1 204 No Content\r\n\r\n"
HEADERS = ((b"content-type", b"application/a2a+json"), (b"authorization", b"Bearer s3cr"))


class Names:
    """A name server that gives the next answer each time it is asked, and the last one for ever."""

    def __init__(self, *answers: str | Sequence[str]) -> None:
        self.answers = [[answer] if isinstance(answer, str) else list(answer) for answer in answers]
        self.asked: list[str] = []

    def resolve(self, host: str, port: int) -> Iterable[str]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            raise OSError("unknown name")
        return answer


def receivers(
    *answers: str | Sequence[str], ranges: Sequence[Network] = (), plain_http: bool = False, own: str = ""
) -> Receivers:
    names = Names(*(answers or ("93.184.216.34",)))
    return Receivers(Lookups(names.resolve, 2), ranges, plain_http, own=lambda address: address == own)


def local(*answers: str | Sequence[str]) -> Receivers:
    return receivers(*(answers or ("127.0.0.1",)), ranges=LOOPBACK, plain_http=True)


async def sent(url: str, via: Receivers, *, timeout_s: float = 5.0, body: bytes = b"{}") -> Receipt:
    with anyio.fail_after(20):
        return await PushSender(via, timeout_s=timeout_s).deliver(Letter(url, HEADERS, body))


# Which URLs are taken


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example",
        "https://hooks.example:8443/a?b=c&d=%20",
        "https://93.184.216.34/x",
        "HTTPS://Hooks.Example/",
    ],
)
async def test_public_https_receiver_is_taken(url: str) -> None:
    await receivers().check(url)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "100.100.100.200",
        "0.0.0.0",
        "168.63.129.16",
        "224.0.0.1", "255.255.255.255", "[::1]", "[::]", "[fd00:ec2::254]", "[fe80::1]", "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]", "[2001:0:4136:e378:8000:63bf:5601:5601]", "[::169.254.169.254]",
    ],
)  # fmt: skip
async def test_address_that_is_not_public_is_refused(host: str) -> None:
    with pytest.raises(PolicyDenied, match="not public"):
        await receivers().check(f"https://{host}/latest/meta-data")


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example", "//hooks.example", "http://hooks.example", "ftp://hooks.example", "file:///etc/passwd",
        "https://", "https:///x", "https://user@hooks.example", "https://user:pass@hooks.example",
        "https://@hooks.example",
        "https://2852039166/", "https://0xa9fea9fe/", "https://0251.0376.0251.0376/", "https://169.254.43518/",
        "https://127.1/",
        "https://0x7f.0.0.1/", "https://017700000001", "https://[::ffff:169.254.169.254]/", "https://[::ffff:7f00:1]/",
        "https://[fe80::1%25eth0]/", "https://[::1", "https://hooks.example\\@evil.example/",
        "https://hooks.example#@evil.example",
        "https://hooks.example/\r\nx: y", "https://hooks.example/\tx", " https://hooks.example",
        "https://hooks.example/ x",
        "https://hooks.exa\u3002mple/", "https://①27.0.0.1/", "https://hooks.example.:443/", "https://hooks.example:0/",
        "https://hooks.example:99999/", "https://hooks.example:http/", "https://-x.example/", "https://a..b/",
        "https://%31%32%37.1/",
        "https://hooks.example/" + "a" * 2_048, "unix:///run/x.sock", "https://[v1.x]/",
        "https://localhost\x00.example/",
    ],
)  # fmt: skip
async def test_url_that_two_readers_could_read_differently_is_refused(url: str) -> None:
    via = receivers("127.0.0.1")

    with pytest.raises(InvalidCall):
        await via.check(url)


@given(st.text(max_size=60) | st.from_regex(r"https?://[^ ]{0,30}", fullmatch=True))
def test_any_url_is_judged_or_refused_and_none_leads_inside(url: str) -> None:
    async def main() -> None:
        with pytest.raises((InvalidCall, PolicyDenied)):
            await receivers("10.0.0.1").check(url)

    anyio.run(main)


@pytest.mark.parametrize(
    "answers",
    [
        ["10.0.0.1"],
        ["93.184.216.34", "127.0.0.1"],
        ["::ffff:169.254.169.254"],
        ["fe80::1%eth0"],
        ["93.184.216.34", "fd00::1"],
    ],
)
async def test_name_with_one_address_that_is_not_public_is_refused(answers: list[str]) -> None:
    with pytest.raises(PolicyDenied, match="not public"):
        await receivers(answers).check("https://rebind.example/")


async def test_unknown_name_is_told_as_such() -> None:
    with pytest.raises(InvalidCall, match="not known"):
        await receivers([]).check("https://gone.example/")


async def test_unknown_name_may_be_permitted_and_is_judged_when_it_is_known() -> None:
    names: list[str] = []
    via = Receivers(Lookups(lambda host, port: names, 2), unknown_names=True)

    await via.check("https://later.example/")
    names.append("10.0.0.1")

    with pytest.raises(PolicyDenied, match="not public"):
        await via.check("https://later.example/")
    with pytest.raises(PolicyDenied, match="not public"):
        await via.pinned("https://later.example/")


async def test_name_server_that_hangs_is_given_up_and_others_are_still_asked() -> None:
    release = anyio.from_thread.run  # the thread waits for the event loop, which sets the event at the end
    done = anyio.Event()

    def resolve(host: str, port: int) -> Iterable[str]:
        if host == "slow.example":
            release(done.wait)
        return ["93.184.216.34"]

    via = Receivers(Lookups(resolve, 2), resolve_s=0.05)
    with anyio.fail_after(5):
        with pytest.raises(InvalidCall, match="in time"):
            await via.check("https://slow.example/")
        await via.check("https://hooks.example/")
        done.set()


async def test_public_address_of_this_machine_is_refused_unless_it_is_named() -> None:
    own = "93.184.216.34"

    with pytest.raises(PolicyDenied):
        await receivers(own=own).check("https://me.example/")
    await receivers(own=own, ranges=[ip_network(own)]).check("https://me.example/")


async def test_metadata_address_is_refused_even_within_a_granted_range() -> None:
    with pytest.raises(PolicyDenied):
        await receivers(ranges=[ip_network("169.254.0.0/16")]).check("https://169.254.169.254/")


# Sending


async def test_notification_arrives_with_its_headers_and_body() -> None:
    async with upstream(answering(DONE)) as served:
        receipt = await sent(f"{served.url}/hook?x=1", local(), body=b'{"task":{}}')

    head = served.requests[0].head.lower()
    assert receipt == Receipt("delivered", 204)
    assert head.startswith(b"post /hook?x=1 http/1.1\r\n")
    assert b"\r\nauthorization: bearer s3cr\r\n" in head
    assert served.requests[0].body == b'{"task":{}}'


async def test_name_that_changes_its_address_after_the_check_is_not_followed_inside() -> None:
    async with upstream(answering(DONE)) as served:
        via = receivers("93.184.216.34", "127.0.0.1", plain_http=True)
        url = f"http://rebind.example:{served.port}/"
        await via.check(url)
        receipt = await sent(url, via)

    assert receipt.outcome == "refused"
    assert "not public" in receipt.why
    assert served.connections == 0


async def test_connection_goes_to_the_address_that_was_judged_without_asking_again() -> None:
    async with upstream(answering(DONE)) as served:
        names = Names("127.0.0.1", "127.0.0.99")
        via = Receivers(Lookups(names.resolve, 2), LOOPBACK, plain_http=True)
        receipt = await sent(f"http://pinned.example:{served.port}/", via)

    assert receipt.outcome == "delivered"
    assert names.asked == ["pinned.example"]
    assert b"host: pinned.example:" in served.requests[0].head


async def test_next_address_is_tried_when_one_does_not_listen() -> None:
    async with upstream(answering(DONE)) as served:
        receipt = await sent(f"http://two.example:{served.port}/", local(["127.0.0.2", "127.0.0.1"]))

    assert receipt.outcome == "delivered"


async def test_redirect_is_not_followed() -> None:
    async with upstream(answering(DONE)) as target:
        away = f"HTTP/1.1 307 Temporary Redirect\r\nlocation: {target.url}/\r\ncontent-length: 0\r\n\r\n".encode()
        async with upstream(answering(away)) as served:
            receipt = await sent(served.url, local())

    assert (receipt.outcome, receipt.status) == ("refused", 307)
    assert target.connections == 0


async def _silent(conversation: Conversation) -> None:
    await conversation.request()
    await conversation.until_closed()


async def _hangs_up(conversation: Conversation) -> None:
    await conversation.request()


async def _endless(conversation: Conversation) -> None:
    await conversation.request()
    await conversation.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await conversation.send(b"x-more: more\r\n" * 1_000)


@pytest.mark.parametrize("handler", [_silent, _hangs_up, _endless, answering(b"SSH-2.0-OpenSSH\r\n\r\n")])
async def test_receiver_that_misbehaves_is_tried_again_later(handler: Handler) -> None:
    async with upstream(handler) as served:
        receipt = await sent(served.url, local(), timeout_s=0.5)

    assert (receipt.outcome, receipt.status) == ("retry", 0)
    assert len(served.requests) == 1


async def test_receiver_that_is_gone_is_tried_again_later() -> None:
    async with upstream(answering(DONE)) as served:
        port = served.port

    receipt = await sent(f"http://127.0.0.1:{port}/", local())

    assert receipt == Receipt("retry", why="the receiver cannot be reached, or went away")


async def test_endless_answer_is_not_read() -> None:
    async def flood(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await conversation.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")

    async with upstream(flood) as served:
        receipt = await sent(served.url, local())

    assert receipt.outcome == "delivered"


async def test_what_cannot_stand_in_a_request_is_refused_and_not_sent() -> None:
    async with upstream(answering(DONE)) as served:
        letter = Letter(served.url, ((b"authorization", b"x\r\ny: z"),), b"{}")
        receipt = await PushSender(local()).deliver(letter)

    assert receipt.outcome == "refused"
    assert served.requests == []


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "delivered"), (204, "delivered"), (299, "delivered"), (301, "refused"), (304, "refused"), (400, "refused"),
     (401, "refused"), (404, "refused"), (410, "refused"), (408, "retry"), (425, "retry"), (429, "retry"),
     (500, "retry"),
     (503, "retry"), (599, "retry")],
)  # fmt: skip
def test_only_what_may_change_by_itself_is_tried_again(status: int, outcome: str) -> None:
    assert receipt_of(status, "").outcome == outcome


def test_retry_after_is_read_as_seconds_or_a_date() -> None:
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")

    assert receipt_of(503, "7").retry_after_s == 7
    assert 80 < receipt_of(429, soon).retry_after_s <= 90
    for odd in (
        "-1",
        "soon",
        "1e9",
        "Mon, 01 Jan 1990 00:00:00 GMT",
        "Mon, 99 Jan 99999999999999999999 00:00:00",
        "9" * 40,
    ):
        assert receipt_of(503, odd).retry_after_s == 0


# TLS


def _certificate(directory: Path, name: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "receiver.pem"
    plain, pem = serialization.NoEncryption(), serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(secret + certificate.public_bytes(pem))
    return path


@pytest.mark.parametrize(("name", "outcome"), [("hooks.example", "delivered"), ("evil.example", "retry")])
async def test_pinned_receiver_still_proves_its_name(tmp_path: Path, name: str, outcome: str) -> None:
    path = _certificate(tmp_path, "hooks.example")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    trusting = ssl.create_default_context(cafile=str(path))

    async with upstream(answering(DONE), tls=server) as served:
        sender = PushSender(local(), tls=trusting)
        with anyio.fail_after(10):
            receipt = await sender.deliver(Letter(f"https://{name}:{served.port}/", HEADERS, b"{}"))

    assert receipt.outcome == outcome
    assert len(served.requests) == (1 if outcome == "delivered" else 0)
