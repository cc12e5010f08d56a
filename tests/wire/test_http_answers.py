"""What upstreams may answer over HTTP, and what becomes of everything else."""

from __future__ import annotations

import anyio
import pytest

from adapters.upstreams.wire.http import HttpPool, Origin, StreamingResponse
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from tests.wire.test_http_pool import pool_for, post
from tests.wire.upstreams import OK, Conversation, answer_all, answering, upstream

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (CHUNKED + b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\ntrailer: x\r\n\r\n", 200, b"abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + OK, 200, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n", 202, b""),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone", 404, b"gone"),
        (b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", 307, b""),
    ],
    ids=["chunked", "interim", "no-content", "accepted", "error", "redirect-not-followed"],
)
async def test_answer_is_understood_and_its_connection_reused(answer: bytes, status: int, body: bytes) -> None:
    async with upstream(answering(answer)) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            response = await post(pool)
            await post(pool)

    assert (response.status, response.body) == (status, body)
    assert served.connections == 1


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\n\r\nto the end", b"HTTP/1.0 200 OK\r\n\r\nto the end"],
)
async def test_body_may_end_with_the_connection(answer: bytes) -> None:
    async with upstream(answering(answer, close=True)) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            response = await post(pool)

    assert response.body == b"to the end"
    assert pool.stats().idle == 0


async def test_repeated_headers_are_joined_and_names_lower_cased() -> None:
    answer = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\ncontent-length: 0\r\n\r\n"
    async with upstream(answering(answer)) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            response = await post(pool)

    assert response.headers[b"x-a"] == b"1, 2"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0\xff\xfe" * 100,
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\ncontent-length: 0\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"ffffffffffffffffff\r\n",
    ],
)
async def test_garbage_is_a_protocol_error_and_its_connection_is_closed(answer: bytes) -> None:
    async with upstream(answering(answer)) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            with pytest.raises(UpstreamProtocolError, match="cannot be used"):
                await post(pool)
            await served.closed.wait()

        assert pool.stats().idle == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        CHUNKED + b"5\r\nab",
        CHUNKED + b"2\r\nab\r\n",
    ],
)
async def test_answer_that_is_cut_off_is_unavailable(answer: bytes) -> None:
    async with upstream(answering(answer, close=True)) as served, pool_for(served) as pool:
        with anyio.fail_after(5), pytest.raises(UpstreamUnavailable):
            await post(pool)


async def endless(conversation: Conversation, first: bytes, piece: bytes) -> None:
    await conversation.request()
    await conversation.send(first)
    while True:
        await conversation.send(piece)


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"x-flood: 1\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nx: ", b"a" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
        (CHUNKED + b"2\r\nab\r\n1;x=", b"a" * 1000),
        (CHUNKED + b"2\r\nab\r\n0\r\n", b"x-flood: 1\r\n" * 100),
    ],
    ids=["many headers", "long header", "interim answers", "chunk extension", "trailers"],
)
async def test_flood_of_anything_but_body_is_cut_short(first: bytes, piece: bytes) -> None:
    async with upstream(lambda peer: endless(peer, first, piece)) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            with pytest.raises(UpstreamProtocolError, match="headers exceed the limit of 65536 bytes"):
                await post(pool)
            await served.closed.wait()


@pytest.mark.parametrize(
    "first",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n", CHUNKED, b"HTTP/1.1 200 OK\r\n\r\n"],
    ids=["announced", "chunked", "to the end"],
)
async def test_answer_of_100_mb_is_refused_at_the_limit(first: bytes) -> None:
    sent = 0

    async def flood(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.request()
        await conversation.send(first)
        for _ in range(1600):
            await conversation.send(chunk(b"x" * 65536) if first is CHUNKED else b"x" * 65536)
            sent += 65536

    async with upstream(flood) as served, pool_for(served) as pool:
        with anyio.fail_after(10):
            with pytest.raises(UpstreamProtocolError, match="exceeds the limit of 1000000 bytes"):
                await post(pool)
            await served.closed.wait()

    assert sent < 20_000_000


async def test_second_answer_to_one_request_never_reaches_the_next_call() -> None:
    lie = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlie!"
    async with upstream(answering(OK + lie)) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            bodies = [(await post(pool)).body for _ in range(3)]

    assert bodies == [b"{}"] * 3
    assert served.connections == 3


async def test_bytes_nobody_asked_for_close_the_idle_connection() -> None:
    async def chatter(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(OK)
        await idle.wait()
        await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlie!")
        await conversation.until_closed()

    idle = anyio.Event()
    async with upstream(chatter) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            await post(pool)
            idle.set()
            await served.closed.wait()

        assert pool.stats().idle == 0


async def test_answer_that_comes_before_the_request_is_read_does_not_leave_a_half_sent_request_behind() -> None:
    async def refuse_unread(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await enough.wait()

    enough = anyio.Event()
    async with upstream(refuse_unread) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            response = await post(pool, b"x" * 30_000_000)
            enough.set()

        assert (response.status, pool.stats().idle) == (413, 0)


async def test_small_answer_is_whole_when_open_returns_and_its_connection_free() -> None:
    async with upstream(answer_all) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            async with await pool.open("POST", "/mcp", [], b"{}", deadline_s=5) as response:
                complete, idle = response.complete, pool.stats().idle
                body = await response.read(100)

    assert (complete, idle, body) == (True, 1, b"{}")


async def test_chunks_arrive_while_the_upstream_is_still_sending() -> None:
    async def say_two_things(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(EVENTS + chunk(b"one"))
        await heard.wait()
        await conversation.send(chunk(b"two") + b"0\r\n\r\n")
        await conversation.until_closed()

    heard = anyio.Event()
    got: list[bytes] = []
    async with upstream(say_two_things) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            async with await pool.open("POST", "/mcp", [], b"{}", deadline_s=5) as response:
                async for piece in response.chunks():
                    got.append(piece)
                    heard.set()

        assert got == [b"one", b"two"]
        assert pool.stats().idle == 1


async def test_leaving_a_stream_before_its_end_closes_the_connection() -> None:
    async def never_end(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(EVENTS + chunk(b"one"))
        await conversation.until_closed()

    async with upstream(never_end) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            async with await pool.open("POST", "/mcp", [], b"{}", deadline_s=5):
                pass
            await served.closed.wait()

        assert pool.stats().in_use == 0


async def test_reader_cancelled_in_a_stream_closes_the_connection() -> None:
    async def never_end(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(EVENTS)
        await conversation.until_closed()

    async with upstream(never_end) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            response = await pool.open("GET", "/mcp", [], None, deadline_s=5)
            with anyio.move_on_after(0.02):
                async for _ in response.chunks():
                    pass
            await served.closed.wait()


async def test_upstream_that_outruns_its_reader_is_made_to_wait() -> None:
    sent = 0

    async def flood(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.request()
        await conversation.send(EVENTS)
        while True:
            await conversation.send(chunk(b"x" * 65536))
            sent += 65536

    async with upstream(flood) as served, pool_for(served) as pool:
        with anyio.fail_after(10):
            async with await pool.open("POST", "/mcp", [], b"{}", deadline_s=9) as response:
                await anyio.wait_all_tasks_blocked()
                first = sent
                reader = response.chunks()
                taken = 0
                while taken < 50_000_000:
                    taken += len(await anext(reader))

    assert first < 20_000_000
    assert sent < taken + 20_000_000


async def test_deadline_covers_the_stream_and_can_be_moved() -> None:
    async def slowly(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(EVENTS)
        for _ in range(4):
            with anyio.move_on_after(0.1):
                await conversation.until_closed()
            await conversation.send(chunk(b"tick"))
        await conversation.until_closed()

    ticks = 0

    async def count_ticks(response: StreamingResponse) -> None:
        nonlocal ticks
        async for _ in response.chunks():
            ticks += 1
            response.expect_within(0.25)

    async with upstream(slowly) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            async with await pool.open("POST", "/mcp", [], b"{}", deadline_s=0.25) as response:
                with pytest.raises(UpstreamTimeout):
                    await count_ticks(response)

    assert ticks == 4


async def test_read_of_a_stream_enforces_its_limit() -> None:
    answer = CHUNKED + chunk(b"x" * 3000) + b"0\r\n\r\n"
    async with upstream(answering(answer)) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            async with await pool.open("POST", "/mcp", [], b"{}", deadline_s=5) as response:
                with pytest.raises(UpstreamProtocolError, match="limit of 1000 bytes"):
                    await response.read(1000)


async def test_read_of_a_large_stream_returns_all_of_it() -> None:
    body = bytes(range(256)) * 20_000
    answer = CHUNKED + b"".join(chunk(body[at : at + 100_000]) for at in range(0, len(body), 100_000)) + b"0\r\n\r\n"
    async with upstream(answering(answer)) as served, pool_for(served) as pool:
        with anyio.fail_after(5):
            async with await pool.open("POST", "/mcp", [], b"{}", deadline_s=5) as response:
                read = await response.read(10_000_000)

        assert read == body
        assert pool.stats().idle == 1


@pytest.mark.slow
async def test_500_mb_stream_through_in_bounded_memory() -> None:
    async def flood(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(CHUNKED)
        piece = chunk(b"x" * 1_000_000)
        for _ in range(500):
            await conversation.send(piece)
        await conversation.send(b"0\r\n\r\n")

    async with upstream(flood) as served, pool_for(served) as pool:
        with anyio.fail_after(60):
            async with await pool.open("POST", "/mcp", [], b"{}", deadline_s=60) as response:
                total = 0
                before = resident_bytes()
                peak = before
                async for piece in response.chunks():
                    total += len(piece)
                    peak = max(peak, resident_bytes())

    assert total == 500_000_000
    assert peak - before < 16_000_000


def resident_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * 4096
    except FileNotFoundError:
        pytest.skip("needs Linux: memory in use is read from /proc")


async def test_errors_name_the_upstream_and_no_url() -> None:
    answer = answering(b"garbage")
    async with upstream(answer) as served, HttpPool(Origin.parse(served.url), label="files") as pool:
        with anyio.fail_after(5), pytest.raises(InterlockError) as caught:
            await post(pool, target="/mcp?key=s3cret")

    assert str(caught.value) == "the answer of upstream 'files' cannot be used: it is not HTTP/1.1"
