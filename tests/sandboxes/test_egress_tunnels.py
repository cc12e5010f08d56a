"""How connections through the egress proxy end: by themselves, by their limits, and with the call they belong to."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, SocketStream

from gateway.errors import PolicyDenied
from sandboxes.egress.gate import Carry, Destination
from sandboxes.egress.limits import EgressLimits
from tests.sandboxes.egress_world import (
    LOOPBACK,
    ListGate,
    Names,
    all_of,
    answering,
    ask,
    echo,
    origin,
    send_until_refused,
    serving,
    status_of,
    tunnel,
)

MIB = 1024 * 1024


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def until_hung_up(stream: ByteStream) -> bytes:
    """What still came before the other side ended."""
    with anyio.fail_after(5):
        return await all_of(stream)


async def test_grant_that_is_taken_back_closes_its_tunnel_at_once(tmp_path: Path) -> None:
    over = anyio.Event()

    async def watched(stream: SocketStream) -> None:
        try:
            await echo(stream)
        finally:
            over.set()

    async with origin(watched) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate) as path, tunnel(path, f"127.0.0.1:{port}") as stream:
            await stream.send(b"ping")
            assert await stream.receive() == b"ping"

            gate.scopes[0].cancel()

            assert await until_hung_up(stream) == b""
            with anyio.fail_after(5):
                await over.wait()

    (traffic,) = gate.carried
    assert (traffic.address, traffic.sent, traffic.received, traffic.ended) == ("127.0.0.1", 4, 4, "cancelled")


async def test_grant_that_is_taken_back_ends_the_tunnel_even_if_the_gate_is_slow_to_return(tmp_path: Path) -> None:
    slow = anyio.Event()

    class Slow(ListGate):
        async def connect(self, box_id: str, destination: Destination, carry: Carry) -> None:
            try:
                await super().connect(box_id, destination, carry)
            finally:
                with anyio.CancelScope(shield=True):
                    await slow.wait()

    async with origin(echo) as port:
        gate = Slow({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate) as path, tunnel(path, f"127.0.0.1:{port}") as stream:
            gate.scopes[0].cancel()

            assert await until_hung_up(stream) == b""
            slow.set()


async def test_grant_that_is_taken_back_before_the_connection_is_there_is_a_refusal(tmp_path: Path) -> None:
    dialling = anyio.Event()

    async def endless(address: str, port: int) -> socket.socket:
        dialling.set()
        await anyio.sleep_forever()
        raise AssertionError

    gate = ListGate({"127.0.0.1:80": LOOPBACK})
    async with serving(tmp_path, gate, dial=endless) as path, await anyio.connect_unix(path) as stream:
        await stream.send(b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n")
        with anyio.fail_after(5):
            await dialling.wait()

        gate.scopes[0].cancel()

        assert status_of(await until_hung_up(stream)) == 403


async def test_grant_that_is_taken_back_before_the_answer_says_so(tmp_path: Path) -> None:
    arrived = anyio.Event()

    async def silent(stream: SocketStream) -> None:
        await stream.receive()
        arrived.set()
        await stream.receive()

    async with origin(silent) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate) as path, await anyio.connect_unix(path) as stream:
            await stream.send(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
            with anyio.fail_after(5):
                await arrived.wait()

            gate.scopes[0].cancel()

            assert (await until_hung_up(stream)).endswith(b"the permit ended\n")


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_bytes_of_both_directions_count_and_end_the_connection(tmp_path: Path, direction: str) -> None:
    async def flood(stream: SocketStream) -> None:
        while True:
            await stream.send(bytes(10_000))

    async def swallow(stream: SocketStream) -> None:
        async for _ in stream:
            pass

    async with origin(flood if direction == "down" else swallow) as port:
        gate = ListGate({f"127.0.0.1:{port}": replace(LOOPBACK, max_bytes=100_000)})
        async with serving(tmp_path, gate) as path, tunnel(path, f"127.0.0.1:{port}") as stream:
            if direction == "up":
                await send_until_refused(stream, bytes(10_000))
            assert len(await until_hung_up(stream)) <= 100_000
            (traffic,) = await gate.until_carried()

    assert traffic.ended == "byte limit"
    assert 0 < traffic.sent + traffic.received <= 100_000


async def test_request_larger_than_the_permit_is_answered(tmp_path: Path) -> None:
    async def swallow(stream: SocketStream) -> None:
        async for _ in stream:
            pass

    async with origin(swallow) as port:
        gate = ListGate({f"127.0.0.1:{port}": replace(LOOPBACK, max_bytes=1000)})
        async with serving(tmp_path, gate) as path:
            head = f"PUT http://127.0.0.1:{port}/ HTTP/1.1\r\nContent-Length: 2000\r\n\r\n".encode()

            answer = await ask(path, head + bytes(2000))

    assert status_of(answer) == 413


@pytest.mark.parametrize(
    ("max_s", "limits", "ended"),
    [
        (0.5, EgressLimits(), "time limit"),
        (60.0, EgressLimits(idle_s=0.5), "idle"),
        (60.0, EgressLimits(half_closed_s=0.1), "idle"),
    ],
)
async def test_time_ends_a_tunnel(tmp_path: Path, max_s: float, limits: EgressLimits, ended: str) -> None:
    async def deaf(stream: SocketStream) -> None:
        await anyio.sleep_forever()

    async with origin(deaf) as port:
        gate = ListGate({f"127.0.0.1:{port}": replace(LOOPBACK, max_s=max_s)})
        async with serving(tmp_path, gate, limits=limits) as path, tunnel(path, f"127.0.0.1:{port}") as stream:
            if limits.half_closed_s < 1:
                await stream.send_eof()

            assert await until_hung_up(stream) == b""
            (traffic,) = await gate.until_carried()

    assert traffic.ended == ended


async def test_plain_request_that_comes_to_nothing_is_answered(tmp_path: Path) -> None:
    async def close(stream: SocketStream) -> None:
        await stream.receive()

    async def deaf(stream: SocketStream) -> None:
        await anyio.sleep_forever()

    async def to(port: int, rest: str, idle_s: float = 60) -> bytes:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate, limits=EgressLimits(idle_s=idle_s)) as path:
            return await ask(path, f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\n{rest}".encode())

    async with origin(close) as closing, origin(deaf) as silent:
        answers = [
            await to(closing, "\r\n"),
            await to(silent, "\r\n", idle_s=0.1),
            await to(silent, "Transfer-Encoding: chunked\r\n\r\nnonsense\r\n"),
        ]

    assert [status_of(answer) for answer in answers] == [502, 504, 400]
    assert answers[2].endswith(b"the request holds a chunk size that is none\n")


async def test_body_is_sent_on_to_its_end_and_not_further(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def collect(stream: SocketStream) -> None:
        received = b""
        while not received.endswith(b"last"):
            received += await stream.receive()
        seen.append(received.partition(b"\r\n\r\n")[2])
        await stream.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with origin(collect) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate) as path, await anyio.connect_unix(path) as stream:
            await stream.send(f"PUT http://127.0.0.1:{port}/ HTTP/1.1\r\nContent-Length: 10\r\n\r\nfirst".encode())
            await stream.send(b"-lastGET / HTTP/1.1\r\nHost: smuggled.test\r\n\r\n")

            answer = await until_hung_up(stream)

    assert status_of(answer) == 204
    assert seen == [b"first-last"]
    assert gate.carried[0].ended == "closed"


async def test_body_that_ends_early_is_reset_and_not_passed_off_as_whole(tmp_path: Path) -> None:
    ends: list[str] = []

    async def collect(stream: SocketStream) -> None:
        try:
            async for _ in stream:
                pass
            ends.append("clean")
        except anyio.BrokenResourceError:
            ends.append("reset")

    async with origin(collect) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate) as path, await anyio.connect_unix(path) as stream:
            await stream.send(f"PUT http://127.0.0.1:{port}/ HTTP/1.1\r\nContent-Length: 10\r\n\r\nfirst".encode())
            await stream.send_eof()

            answer = await until_hung_up(stream)

    assert status_of(answer) == 400
    assert ends == ["reset"]


async def test_client_that_ends_after_its_request_still_gets_the_answer(tmp_path: Path) -> None:
    asked, ended = anyio.Event(), anyio.Event()

    async def late(stream: SocketStream) -> None:
        await stream.receive()
        asked.set()
        await ended.wait()
        await stream.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with origin(late) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate) as path, await anyio.connect_unix(path) as stream:
            await stream.send(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
            await asked.wait()
            await stream.send_eof()
            ended.set()

            assert status_of(await until_hung_up(stream)) == 204


async def test_tls_for_another_server_ends_the_tunnel_before_a_byte_went_there(tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def listen_only(stream: SocketStream) -> None:
        async for data in stream:
            heard.append(data)

    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="fronted.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    async with origin(listen_only) as port:
        gate = ListGate({f"cdn.test:{port}": LOOPBACK})
        names = Names({"cdn.test": ["127.0.0.1"]})
        async with serving(tmp_path, gate, names=names) as path, tunnel(path, f"cdn.test:{port}") as stream:
            await stream.send(out.read())

            assert await until_hung_up(stream) == b""

    assert gate.carried[0].ended == "TLS for another server than the tunnel's"
    assert heard == []


@pytest.mark.parametrize("who", ["client", "origin"])
async def test_peer_that_vanishes_ends_the_connection(tmp_path: Path, who: str) -> None:
    async def flood(stream: SocketStream) -> None:
        await stream.receive()
        if who == "client":
            while True:
                await stream.send(bytes(10_000))
        raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    async with origin(flood) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate) as path:
            async with tunnel(path, f"127.0.0.1:{port}") as stream:
                await stream.send(b"go")
                if who == "origin":
                    await until_hung_up(stream)
            (traffic,) = await gate.until_carried()

    assert traffic.ended == "reset"


async def test_client_that_does_not_wait_for_its_refusal_harms_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path, ListGate()) as path:
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as rude:
                rude.connect(str(path))
                rude.sendall(b"CONNECT a.test:1 HTTP/1.1\r\n\r\n")

        assert status_of(await ask(path, b"CONNECT a.test:1 HTTP/1.1\r\n\r\n")) == 403


async def test_client_that_sends_on_after_its_refusal_is_read_for_a_while_only(tmp_path: Path) -> None:
    async with serving(tmp_path, ListGate()) as path, await anyio.connect_unix(path) as stream:
        await stream.send(b"CONNECT a.test:1 HTTP/1.1\r\n\r\n")

        await send_until_refused(stream, bytes(64 * 1024))

        assert status_of(await until_hung_up(stream)) == 403


async def test_slow_reader_makes_the_sender_wait(tmp_path: Path) -> None:
    pushed = 0

    async def push(stream: SocketStream) -> None:
        nonlocal pushed
        for _ in range(640):
            await stream.send(bytes(100_000))
            pushed += 100_000

    async with origin(push) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate) as path, tunnel(path, f"127.0.0.1:{port}") as stream:
            before = -1
            with anyio.fail_after(20):
                while before != pushed:  # until nothing moves any more
                    before = pushed
                    for _ in range(2000):
                        await anyio.lowlevel.checkpoint()
            held = pushed

            total = len(await until_hung_up(stream))

    assert held < 32 * MIB  # what kernels buffer
    assert total == 64_000_000


async def test_box_of_one_has_its_gate_asked_for_no_other(tmp_path: Path) -> None:
    class Both(ListGate):
        async def connect(self, box_id: str, destination: Destination, carry: Carry) -> None:
            self.asked.append((box_id, destination))
            raise PolicyDenied("no")

    gate = Both()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with serving(tmp_path / "a", gate, box_id="a") as first, serving(tmp_path / "b", gate, box_id="b") as second:
        await ask(second, b"CONNECT a.test:1 HTTP/1.1\r\n\r\n")
        await ask(first, b"CONNECT a.test:1 HTTP/1.1\r\n\r\n")

    assert [box_id for box_id, _ in gate.asked] == ["b", "a"]


async def test_answers_are_read_through_a_stream_that_gives_little_at_a_time(tmp_path: Path) -> None:
    body = os.urandom(3_000_000)
    async with origin(answering(body)) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate) as path, await anyio.connect_unix(path) as stream:
            await stream.send(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())

            answer = await until_hung_up(stream)

    assert answer.partition(b"\r\n\r\n")[2] == body
