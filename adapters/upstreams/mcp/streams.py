"""An answer that comes as events: notifications, questions of a legacy server, and in the end the response."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import anyio
from anyio.abc import TaskGroup

from adapters.upstreams.mcp.body import messages_in
from adapters.upstreams.mcp.clock import Clock
from adapters.upstreams.mcp.http import ACCEPT, Post, Site, is_event_stream, notify
from adapters.upstreams.mcp.link import MAX_NOTICE_BYTES, PROGRESS, Asked, Object, Reply, Told, params_of, reply_in
from adapters.upstreams.wire.http import StreamingResponse
from adapters.upstreams.wire.sse import SseParser
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Era

MAX_RESUMES: Final = 8
"""Reconnects in a row that brought nothing."""
MAX_RETRY_S: Final = 10.0
MAX_QUESTIONS: Final = 64
ANSWER_S: Final = 10.0
"""How long the server may take to accept an answer to its question."""


async def events(site: Site, answer: StreamingResponse, parser: SseParser) -> AsyncGenerator[tuple[Object, int], None]:
    """The JSON-RPC messages of a stream, each with the size of its event. Close it (`aclosing`) to end the stream."""
    async for chunk in answer.chunks():
        for event in parser.feed(chunk):
            if not event.data:
                continue
            messages = messages_in(event.data)
            if not messages:
                raise UpstreamProtocolError(f"upstream {site.label!r} sent an event that is no JSON-RPC message")
            for message in messages:
                yield message, len(event.data)


class AnswerStream:
    """The streamed answer to one POST."""

    def __init__(self, site: Site, post: Post, told: Told, asked: Asked) -> None:
        self._site = site
        self._post = post
        self._told = told
        self._asked = asked
        self._parser = SseParser(max_event_bytes=post.max_bytes)
        self._answer: StreamingResponse | None = None
        self._questions: dict[str | int, anyio.CancelScope] = {}
        self._failure: InterlockError | None = None
        self._clock = Clock(post.timeout_s, anyio.current_time, self._moved)

    def _moved(self, deadline: float) -> None:
        if self._answer is not None:
            left = deadline - anyio.current_time()
            self._answer.expect_within(None if left == float("inf") else max(0.0, left))

    async def reply(self, answer: StreamingResponse) -> Reply:
        """Follow the stream to the response. Raises the `Upstream*` errors."""
        if self._post.era is Era.MODERN:  # no questions and no resumption: nothing runs beside it
            found = await self._followed(answer, None)
            if found is None:
                raise self._cut()
            return found
        reply: Reply | None = None
        async with anyio.create_task_group() as group:
            try:
                reply = await self._resumed(answer, group)
            except InterlockError as exc:  # carried out of the group, which would wrap it
                self._failure = exc
            group.cancel_scope.cancel()
        if reply is not None:
            return reply
        raise self._failure or self._cut()

    def _cut(self) -> UpstreamUnavailable:
        return UpstreamUnavailable(f"upstream {self._site.label!r} ended its stream before the answer")

    async def _resumed(self, answer: StreamingResponse, group: TaskGroup) -> Reply:
        """Follow over reconnects (2025-11-25, basic/transports, "Resumability and Redelivery")."""
        reply = await self._until_cut(answer, group)
        seen, tries = self._parser.last_id, 0
        while reply is None:
            if not _can_be_sent(self._parser.last_id) or tries >= MAX_RESUMES:
                raise self._cut()
            await anyio.sleep(min((self._parser.retry_ms or 1_000) / 1_000, MAX_RETRY_S, self._clock.left_s))
            reply = await self._resume(group)
            tries = tries + 1 if self._parser.last_id == seen else 0
            seen = self._parser.last_id
        return reply

    async def _resume(self, group: TaskGroup) -> Reply | None:
        """One reconnect; `None` when it did not bring the response."""
        site, left_s = self._site, self._clock.left_s
        if left_s <= 0:
            words = f"upstream {site.label!r} was silent for {self._post.timeout_s:g} s"
            raise UpstreamTimeout(words)
        last_id = self._parser.last_id.encode()
        headers = [ACCEPT[1], *self._post.headers, *site.credentials, (b"last-event-id", last_id)]
        try:
            opened = await site.pool.open(
                "GET", site.target, headers, None, deadline_s=min(left_s, self._post.timeout_s)
            )
        except UpstreamUnavailable:  # it may be restarting
            return None
        async with opened as answer:
            if not is_event_stream(answer):
                raise UpstreamUnavailable(f"upstream {site.label!r} would not go on with its stream")
            self._parser = _successor(self._parser, self._post.max_bytes)
            return await self._until_cut(answer, group)

    async def _until_cut(self, answer: StreamingResponse, group: TaskGroup) -> Reply | None:
        try:
            return await self._followed(answer, group)
        except UpstreamUnavailable:
            if not self._parser.last_id:
                raise
            return None  # an answer cut off in its middle can be taken up where it ended

    async def _followed(self, answer: StreamingResponse, group: TaskGroup | None) -> Reply | None:
        self._answer = answer
        self._moved(self._clock.deadline)
        async with aclosing(events(self._site, answer, self._parser)) as stream:
            async for message, size in stream:
                method = message.get("method")
                if not isinstance(method, str):
                    if message.get("id") == self._post.number:
                        return reply_in(message, self._post.number, self._site.label)
                elif "id" in message:
                    self._question(message, group)
                else:
                    await self._notification(method, message, size)
        return None

    async def _notification(self, method: str, message: Object, size: int) -> None:
        params = params_of(message)
        if method == "notifications/cancelled":
            self._withdraw(params.get("requestId"))
        elif size > MAX_NOTICE_BYTES or (method == PROGRESS and params.get("progressToken") != self._post.number):
            return
        else:
            if method == PROGRESS:
                self._clock.restart()
            with self._clock.held():  # a client that reads slowly is not the upstream's silence
                await self._told(method, params)

    # Questions of a legacy server (2025-11-25, basic/transports: requests on the stream relate to the client's own)

    def _question(self, message: Object, group: TaskGroup | None) -> None:
        question = message["id"]
        if group is None or not isinstance(question, str | int) or question in self._questions:
            return  # a modern server must not ask this way, and may not be answered (streamable-http, "Sending")
        if len(self._questions) >= MAX_QUESTIONS:
            self._fail(UpstreamProtocolError(f"upstream {self._site.label!r} asked too many questions at once"), group)
            return
        self._clock.restart()
        self._questions[question] = anyio.CancelScope()
        group.start_soon(self._put, question, message, group)

    async def _put(self, question: str | int, message: Object, group: TaskGroup) -> None:
        """Put one question while the stream is read on: its end, or the question's, is then seen at once."""
        try:
            with self._questions[question], self._clock.held():
                answer = await answered(str(message["method"]), params_of(message), self._asked)
                reply = {"jsonrpc": "2.0", "id": question, **answer}
                await notify(self._site, reply, self._post.headers, ANSWER_S)
        except InterlockError as exc:
            self._fail(exc, group)
        finally:
            self._questions.pop(question, None)

    def _fail(self, error: InterlockError, group: TaskGroup) -> None:
        self._failure = self._failure or error
        group.cancel_scope.cancel()

    def _withdraw(self, question: object) -> None:
        scope = self._questions.get(question) if isinstance(question, str | int) else None
        if scope is not None:
            scope.cancel()


async def answered(method: str, params: Object, asked: Asked) -> Object:
    """The answer to a question; a `ping` is ours to answer, whoever may be asked."""
    return {"result": {}} if method == "ping" else await asked(method, params)


def _can_be_sent(event_id: str) -> bool:
    return bool(event_id) and event_id.isprintable() and len(event_id) <= 4_096


def _successor(parser: SseParser, max_bytes: int) -> SseParser:
    """A parser for the next piece of the stream, without the half of an event that the cut left."""
    fresh = SseParser(max_event_bytes=max_bytes)
    fresh.last_id, fresh.retry_ms = parser.last_id, parser.retry_ms
    return fresh
