"""How the pool treats connections: reuse, staleness, waiting, cancelling, closing."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from asyncio import BaseTransport

import anyio
import pytest

from adapters.upstreams.wire import connection, tcpfacts
from adapters.upstreams.wire.http import HttpPool, Origin, Response
from adapters.upstreams.wire.tcpfacts import TcpFacts
from gateway.errors import InvalidCall, UpstreamTimeout, UpstreamUnavailable
from tests.wire.upstreams import OK, Conversation, Served, answer_all, upstream

HEADERS = [(b"content-type", b"application/json")]


def pool_for(served: Served, **options: float) -> HttpPool:
    return HttpPool(Origin.parse(served.url), **options)  # type: ignore[arg-type]  # each test knows which it sets


async def post(pool: HttpPool, body: bytes = b"{}", *, deadline_s: float = 5, target: str = "/mcp") -> Response:
    return await pool.post(target, HEADERS, body, deadline_s=deadline_s, max_bytes=1_000_000)


def optimistic(transport: BaseTransport) -> TcpFacts:
    """A probe that never finds a connection closed: what a race between its look and the peer's close amounts to."""
    return tcpfacts.probe(transport)._replace(open=True)


async def test_call_returns_status_headers_and_body() -> None:
    async with upstream(answer_all) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            response = await post(pool, b'{"id":1}')

    assert (response.status, response.headers[b"content-type"], response.body) == (200, b"application/json", b"{}")
    assert served.requests[0].body == b'{"id":1}'
    assert b"accept-encoding: identity\r\n" in served.requests[0].head


async def test_calls_in_a_row_share_one_connection_and_cause_one_request_each() -> None:
    async with upstream(answer_all) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            for _ in range(20):
                await post(pool)
            stats = pool.stats()

    assert (served.connections, len(served.requests)) == (1, 20)
    assert (stats.opened, stats.reused, stats.in_use, stats.idle) == (1, 19, 0, 1)


async def test_connection_used_last_is_reused_first() -> None:
    async with upstream(answer_all) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(post, pool)
            await post(pool)
            await post(pool)

    assert served.connections == 3
    assert served.requests[-1].connection == served.requests[-2].connection


@pytest.mark.parametrize("fresh_s", [0.0, 60.0], ids=["idle", "fresh"])
async def test_request_after_the_upstream_closed_an_idle_connection_arrives_once(
    fresh_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer_once(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(OK)

    monkeypatch.setattr(connection, "_FRESH_S", fresh_s)
    async with upstream(answer_once) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            for _ in range(5):
                served.closed = anyio.Event()
                await post(pool)
                await served.closed.wait()

    assert (served.connections, len(served.requests)) == (5, 5)
    assert fresh_s or not pool.stats().resent  # one that was idle for long is looked at before it is used


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="needs Linux: elsewhere nothing is ever sent again")
async def test_request_that_met_a_closed_connection_is_sent_again_exactly_once() -> None:
    bodies: list[bytes] = []
    close_now, closed = threading.Event(), threading.Event()

    def answer_and_close(listener: socket.socket) -> None:
        for _ in range(2):
            peer, _address = listener.accept()
            with peer:
                bodies.append(peer.recv(10_000)[-1:])
                peer.sendall(OK)
                close_now.wait(5)
            closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = threading.Thread(target=answer_and_close, args=(listener,))
        peer.start()
        async with HttpPool(Origin.parse(f"http://127.0.0.1:{listener.getsockname()[1]}"), probe=optimistic) as pool:
            with anyio.fail_after(5):
                await post(pool, b"1")
                close_now.set()
                closed.wait(5)  # blocks our loop too, so that it cannot have seen the end before it sends
                await post(pool, b"2")
        peer.join(5)

    assert bodies == [b"1", b"2"]
    assert (pool.stats().opened, pool.stats().resent) == (2, 1)


async def test_request_that_reached_the_upstream_is_never_sent_again() -> None:
    async def take_the_second_and_close(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(OK)
        await conversation.request()

    async with upstream(take_the_second_and_close) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            await post(pool)
            with pytest.raises(UpstreamUnavailable, match="before its answer was complete"):
                await post(pool)

    assert len(served.requests) == 2


async def test_cancelled_call_closes_its_connection_at_once() -> None:
    cancelled = anyio.Event()

    async def hang(conversation: Conversation) -> None:
        await conversation.request()
        arrived.set()
        try:
            await conversation.until_closed()
        finally:
            cancelled.set()

    arrived = anyio.Event()
    async with upstream(hang) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(post, pool)
                await arrived.wait()
                tasks.cancel_scope.cancel()
            await cancelled.wait()
            await anyio.lowlevel.checkpoint()

        assert pool.stats().in_use == 0


async def test_call_that_gets_no_answer_ends_at_its_deadline() -> None:
    async def hang(conversation: Conversation) -> None:
        await conversation.until_closed()

    async with upstream(hang) as served, pool_for(served) as pool:
        with anyio.fail_after(5), pytest.raises(UpstreamTimeout, match="did not answer in time"):
            await post(pool, deadline_s=0.05)


async def test_answer_that_trickles_in_ends_at_the_deadline_too() -> None:
    async def trickle(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
        while True:
            await conversation.send(b"x")
            with anyio.move_on_after(0.02):
                await conversation.until_closed()

    async with upstream(trickle) as served, pool_for(served) as pool:
        with anyio.fail_after(5), pytest.raises(UpstreamTimeout):
            await post(pool, deadline_s=0.15)


async def test_refused_connection_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async with HttpPool(Origin.parse(f"http://127.0.0.1:{port}"), label="gone") as pool:
        with anyio.fail_after(5), pytest.raises(UpstreamUnavailable, match=r"^upstream 'gone' cannot be reached: conn"):
            await post(pool)

    assert pool.stats().in_use == 0


async def test_unknown_host_is_unavailable() -> None:
    async with HttpPool(Origin.parse("http://no-such-host.invalid")) as pool:
        with anyio.fail_after(10), pytest.raises(UpstreamUnavailable, match="its host name has no address"):
            await post(pool)


async def test_reset_during_a_call_is_unavailable() -> None:
    async def reset(conversation: Conversation) -> None:
        await conversation.request()
        raw = conversation.stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with upstream(reset) as served, pool_for(served) as pool:
        with anyio.fail_after(5), pytest.raises(UpstreamUnavailable):
            await post(pool)


async def test_no_more_connections_than_allowed_and_first_come_first_served() -> None:
    async with upstream(answer_all) as served, pool_for(served, max_connections=2) as pool:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(post, pool, str(number).encode())

    assert served.connections == 2
    assert [int(request.body) for request in served.requests[2:]] == sorted(
        int(request.body) for request in served.requests[2:]
    )


async def test_waiting_for_a_connection_is_bounded_by_the_deadline() -> None:
    async def hang(conversation: Conversation) -> None:
        await conversation.until_closed()

    async with upstream(hang) as served, pool_for(served, max_connections=1) as pool:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(swallow_timeout, pool, 1.0)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(UpstreamTimeout, match="all 1 connections are in use"):
                    await post(pool, deadline_s=0.05)
                tasks.cancel_scope.cancel()


async def swallow_timeout(pool: HttpPool, deadline_s: float) -> None:
    with pytest.raises(UpstreamTimeout):
        await post(pool, deadline_s=deadline_s)


async def test_waiter_gets_its_turn_when_the_one_before_it_fails_or_gives_up() -> None:
    async def hang_on_first(conversation: Conversation) -> None:
        if conversation.number == 1:
            await conversation.until_closed()
        await answer_all(conversation)

    async with upstream(hang_on_first) as served, pool_for(served, max_connections=1) as pool:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(swallow_timeout, pool, 0.1)
                await anyio.wait_all_tasks_blocked()
                with anyio.move_on_after(0.01):
                    await post(pool)
                response = await post(pool)

    assert response.status == 200


async def test_two_hundred_tasks_cancelled_at_random_moments_leave_the_pool_whole() -> None:
    async with upstream(answer_all) as served, pool_for(served, max_connections=4) as pool:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for number in range(200):
                    tasks.start_soon(give_up_after, pool, number % 17 * 0.001)
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(post, pool)
        stats = pool.stats()

    assert (stats.in_use, stats.waiting) == (0, 0)
    assert 1 <= stats.idle <= 4


async def give_up_after(pool: HttpPool, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await post(pool)


async def test_connection_handed_to_a_waiter_that_just_gave_up_is_not_lost() -> None:
    async def first() -> None:
        await post(pool)
        scope.cancel()  # in the step in which the connection went to the waiter

    async def waiter() -> None:
        with scope:
            await post(pool)

    scope = anyio.CancelScope()
    async with upstream(answer_all) as served, pool_for(served, max_connections=1) as pool:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(first)
                tasks.start_soon(waiter)
            response = await post(pool)

    assert (scope.cancelled_caught, response.status) == (True, 200)


async def test_connection_that_is_closed_when_it_is_handed_over_is_replaced_in_its_place() -> None:
    def pessimistic(transport: BaseTransport) -> TcpFacts:
        return TcpFacts(open=False)

    async with upstream(answer_all) as served:
        pool = HttpPool(Origin.parse(served.url), max_connections=1, probe=pessimistic)
        with anyio.fail_after(5):
            async with pool, anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(post, pool)

    assert (pool.stats().opened, pool.stats().reused, len(served.requests)) == (5, 0, 5)


async def test_idle_connections_are_closed_after_a_while() -> None:
    async with upstream(answer_all) as served, pool_for(served, idle_s=0.05) as pool:
        with anyio.fail_after(5):
            await post(pool)
            await served.closed.wait()

        assert pool.stats().idle == 0


async def test_closing_lets_running_calls_end_within_the_grace() -> None:
    async def answer_late(conversation: Conversation) -> None:
        await conversation.request()
        arrived.set()
        await closing.wait()
        await conversation.send(OK)

    arrived, closing = anyio.Event(), anyio.Event()
    answers: list[int] = []

    async def call() -> None:
        answers.append((await post(pool)).status)

    async with upstream(answer_late) as served:
        pool = pool_for(served)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await arrived.wait()
                closing.set()
                await pool.aclose(grace_s=5)
            with pytest.raises(UpstreamUnavailable, match="being disconnected"):
                await post(pool)

    assert answers == [200]


async def test_closing_without_grace_fails_running_and_waiting_calls() -> None:
    async def hang(conversation: Conversation) -> None:
        await conversation.until_closed()

    async def call() -> None:
        with pytest.raises(UpstreamUnavailable, match="being disconnected"):
            await post(pool)

    async with upstream(hang) as served:
        pool = pool_for(served, max_connections=1)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                tasks.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                await pool.aclose()


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nevil: 1"),
        (b"x", b"a\nevil: 1"),
        (b"x", b"a\0"),
        (b"x\r\nevil", b"1"),
        (b"x: 1\r\nevil", b"1"),
        (b"", b"1"),
        (b"a b", b"1"),
        (b"Content-Length", b"0"),
        (b"transfer-encoding", b"chunked"),
        (b"HOST", b"elsewhere"),
        (b"connection", b"close"),
    ],
)
async def test_header_that_could_change_the_request_is_refused_unsent(header: tuple[bytes, bytes]) -> None:
    async with upstream(answer_all) as served, pool_for(served) as pool:
        with anyio.fail_after(5), pytest.raises(InvalidCall, match="cannot be sent"):
            await pool.post("/mcp", [*HEADERS, header], b"{}", deadline_s=5, max_bytes=100)

    assert served.connections == 0


@pytest.mark.parametrize("target", ["/a b", "/a\r\nx: y", "mcp", "", "/ü", "/\x7f"])
async def test_target_that_could_change_the_request_is_refused_unsent(target: str) -> None:
    async with upstream(answer_all) as served, pool_for(served) as pool:
        with anyio.fail_after(5), pytest.raises(InvalidCall, match="request target"):
            await post(pool, target=target)

    assert served.connections == 0


async def test_error_names_the_bad_header_and_keeps_its_value_to_itself() -> None:
    async with HttpPool(Origin.parse("http://127.0.0.1:9")) as pool:
        with pytest.raises(InvalidCall) as caught:
            await pool.post("/", [(b"authorization", b"Bearer s3cret\r\n")], b"", deadline_s=1, max_bytes=1)

    assert "authorization" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_calls_leave_nothing_to_the_cycle_collector() -> None:
    async with upstream(answer_all) as served, pool_for(served) as pool:
        with anyio.fail_after(20):
            await post(pool)
            gc.collect()
            gc.disable()
            try:
                for _ in range(300):
                    await post(pool)
                garbage = gc.collect()
            finally:
                gc.enable()

    assert garbage < 300


@pytest.mark.parametrize("first_ends", ["answered", "timed out"])
async def test_what_a_waiter_got_in_the_moment_it_was_cancelled_goes_to_the_next(first_ends: str) -> None:
    async def hang_once(conversation: Conversation) -> None:
        if first_ends == "timed out" and conversation.number == 1:
            await conversation.until_closed()
        await answer_all(conversation)

    async def first() -> None:
        if first_ends == "timed out":
            await swallow_timeout(pool, 0.05)
        else:
            await post(pool)
        waiter.cancel()  # asyncio's own cancelling: anyio's waits for a step that is already due

    async with upstream(hang_once) as served, pool_for(served, max_connections=1) as pool:
        with anyio.fail_after(5):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(first())
                waiter = tasks.create_task(post(pool))
                next_in_line = tasks.create_task(post(pool))

    assert waiter.cancelled()
    assert next_in_line.result().status == 200
    assert pool.stats().in_use == 0


async def test_pool_closed_while_a_connection_is_being_made_refuses_the_call() -> None:
    async def call() -> None:
        with pytest.raises(UpstreamUnavailable, match="being disconnected"):
            await post(pool)

    async with upstream(answer_all) as served:
        pool = pool_for(served)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await anyio.lowlevel.checkpoint()
                await pool.aclose()

    assert served.requests == []


async def test_upstream_that_never_accepts_ends_at_the_connect_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        pool = HttpPool(Origin.parse(f"http://127.0.0.1:{listener.getsockname()[1]}"), connect_timeout_s=0.1)
        with anyio.fail_after(5), pytest.raises(UpstreamTimeout, match=r"did not accept a connection in 0\.1 s"):
            await post(pool)
        for filler in fillers:
            filler.close()

    assert pool.stats().in_use == 0


async def test_kernel_watches_over_connections_that_are_silent_for_long() -> None:
    class Transport(BaseTransport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            return sock if name == "socket" else default

    with socket.socket() as sock:
        tcpfacts.watch_over(Transport())
        watched = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    tcpfacts.watch_over(Transport())
    tcpfacts.watch_over(BaseTransport())

    assert watched
