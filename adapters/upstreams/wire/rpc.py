"""JSON-RPC 2.0 with one peer over any stream of messages: who asked what, and who gets which answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import anyio
from anyio.abc import TaskGroup

from gateway.codec import JsonObject, JsonValue
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable

OnMessage: TypeAlias = Callable[[JsonObject], None]
OnNotification: TypeAlias = Callable[[JsonObject], Awaitable[None]]
OnRequest: TypeAlias = Callable[[JsonObject], Awaitable[JsonObject]]
RpcId: TypeAlias = "int | str"

_MAX_QUESTIONS: Final = 64
"""Requests of the peer that may be open at a time."""
_MAX_PROGRESS: Final = 64
"""Progress notifications that may wait for a slow taker; beyond it the oldest go, as each replaces the one before."""
_MAX_PROGRESS_TEXT: Final = 64 * 1024
"""Characters of the message in one; a longer one is dropped."""
_GOODBYE_S: Final = 1.0
"""How long telling the peer of a cancellation may take."""
_METHOD_NOT_FOUND: Final = -32601
_INVALID_REQUEST: Final = -32600
_INTERNAL_ERROR: Final = -32603


class MessageDuplex(Protocol):
    """What messages travel on: `JsonLines` is one. `receive` raises `Upstream*` at the end."""

    async def send(self, message: Mapping[str, object], *, deadline_s: float = 10.0) -> None: ...

    async def receive(self) -> JsonObject: ...


@dataclass(frozen=True, slots=True)
class RpcReply:
    """What the peer answered: `error` is its error object, or `None` when it gave a `result`."""

    result: JsonValue = None
    error: Mapping[str, JsonValue] | None = None


@dataclass(slots=True)
class RpcCounts:
    """What came in and was of no use."""

    late: int = 0
    """Answers to requests that were cancelled or had timed out."""
    unknown: int = 0
    """Answers to nothing: an id that was never used, or was answered before."""
    malformed: int = 0
    progress_dropped: int = 0


@dataclass(slots=True, eq=False)
class _Pending:
    """A request of ours that waits for its answer."""

    on_notification: OnNotification | None
    on_request: OnRequest | None
    may_ask: bool
    sent: bool = False
    news: anyio.Event = field(default_factory=anyio.Event)
    progress: deque[JsonObject] = field(default_factory=deque)
    answer: JsonObject | None = None
    questions: set[RpcId] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Ghost:
    """A request that we gave up and the peer may not have: until then, a question may be because of it."""

    until: float
    may_ask: bool


class RpcPeer:
    """One peer. `run` must be running for as long as `request` is used.

    `on_message` gets the notifications that belong to no request, in order, and must not block. `on_request` answers
    the peer's requests that belong to none of ours; without it they are refused.
    """

    def __init__(
        self,
        duplex: MessageDuplex,
        *,
        label: str,
        on_message: OnMessage,
        on_request: OnRequest | None = None,
        ghost_s: float = 5.0,
        first_id: int = 1,
    ) -> None:
        self._duplex = duplex
        self._label = repr(label)
        self._on_message = on_message
        self._on_request = on_request
        self._ghost_s = ghost_s
        self._next_id = first_id
        self._pending: dict[int, _Pending] = {}
        self._ghosts: dict[int, _Ghost] = {}
        self._questions: dict[RpcId, anyio.CancelScope] = {}
        self._tasks: TaskGroup | None = None
        self._pongs = 0
        self._end: InterlockError | None = None
        self.counts = RpcCounts()

    @property
    def closed(self) -> str:
        """Why the peer can no longer be asked; empty while it can."""
        return "" if self._end is None else str(self._end)

    @property
    def in_flight(self) -> int:
        """Requests that wait for an answer."""
        return len(self._pending)

    async def run(self) -> str:
        """Read until the transport ends; then fail whatever waits. Returns why it ended. Run it in a task group."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                await self._read()
                tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            self._fail_all(self._end or UpstreamUnavailable(f"upstream {self._label} is being disconnected"))
        return self.closed

    async def request(
        self,
        method: str,
        params: Mapping[str, object] | None,
        *,
        deadline_s: float,
        on_notification: OnNotification | None = None,
        on_request: OnRequest | None = None,
        may_ask: bool = True,
        on_number: Callable[[int], None] | None = None,
    ) -> RpcReply:
        """Ask the peer and wait for its answer. `on_number` is told the request's id before it is sent.

        With `on_notification`, progress is asked for under a token of ours and awaited here, in the caller's task. With
        `on_request`, the peer's questions come to it while this is the only request in flight that `may_ask`: a peer on
        one stream does not say which request its question belongs to, and it must not reach somebody else.

        Raises `UpstreamTimeout` (the peer is told to cancel, as it is when the caller is cancelled),
        `UpstreamUnavailable` when the transport is or goes down, `UpstreamProtocolError` for a malformed answer.
        """
        if self._end is not None:
            raise _again(self._end)
        number = self._next_id
        self._next_id += 1
        pending = _Pending(on_notification, on_request, may_ask)
        self._pending[number] = pending
        if on_number is not None:
            on_number(number)
        try:
            with anyio.move_on_after(deadline_s):
                await self._duplex.send(
                    _request(number, method, params, on_notification is not None), deadline_s=deadline_s
                )
                pending.sent = True
                return await self._answer_to(pending)
            raise UpstreamTimeout(f"upstream {self._label} did not answer {method} in {deadline_s:g} s")
        finally:
            del self._pending[number]
            self._drop_questions(pending)
            if pending.sent and pending.answer is None and self._end is None:
                await self._cancel(number, method, may_ask)

    async def notify(self, method: str, params: Mapping[str, object] | None, *, deadline_s: float = 10.0) -> None:
        """Send a notification. Raises `UpstreamUnavailable` or `UpstreamTimeout` when it cannot be handed over."""
        if self._end is not None:
            raise _again(self._end)
        message = {"jsonrpc": "2.0", "method": method}
        await self._duplex.send(message if params is None else {**message, "params": params}, deadline_s=deadline_s)

    # Requests of ours

    async def _answer_to(self, pending: _Pending) -> RpcReply:
        while True:
            await pending.news.wait()
            pending.news = anyio.Event()
            while pending.progress and pending.on_notification is not None:
                await pending.on_notification(pending.progress.popleft())
            if pending.answer is not None:
                return self._reply_in(pending.answer)
            if self._end is not None:
                raise _again(self._end)

    def _reply_in(self, answer: JsonObject) -> RpcReply:
        match answer:
            case {"jsonrpc": "2.0", "error": dict() as error} if "result" not in answer and _is_error(error):
                return RpcReply(error=error)
            case {"jsonrpc": "2.0", "result": result} if "error" not in answer:
                return RpcReply(result=result)
            case _:
                self.counts.malformed += 1
                raise UpstreamProtocolError(f"upstream {self._label} sent an answer that is neither result nor error")

    async def _cancel(self, number: int, method: str, may_ask: bool) -> None:
        """Tell the peer that nobody waits any more (MCP, basic/utilities/cancellation)."""
        self._lay_ghosts()
        self._ghosts[number] = _Ghost(anyio.current_time() + self._ghost_s, may_ask)
        if method == "initialize":  # the one request that must not be cancelled
            return
        with anyio.move_on_after(_GOODBYE_S, shield=True):
            try:
                await self.notify("notifications/cancelled", {"requestId": number}, deadline_s=_GOODBYE_S)
            except (UpstreamUnavailable, UpstreamTimeout):  # then it cannot be told, and need not be
                return

    def _fail_all(self, error: InterlockError) -> None:
        self._end = error
        for pending in self._pending.values():
            pending.news.set()

    # What comes in

    async def _read(self) -> None:
        try:
            while True:
                self._dispatch(await self._duplex.receive())
        except (UpstreamUnavailable, UpstreamProtocolError) as exc:
            self._end = exc

    def _dispatch(self, message: JsonObject) -> None:
        match message:
            case {"method": "ping", "id": int() | str() as question} if type(question) is not bool:
                self._pong(question)
            case {"method": str(), "id": int() | str() as question} if type(question) is not bool:
                self._question(question, message)
            case {"method": "notifications/progress", "params": {"progressToken": int() as token}} if (
                type(token) is int
            ):
                self._progress(token, message)
            case {"method": "notifications/cancelled", "params": {"requestId": int() | str() as question}}:
                self._withdraw(question)
            case {"method": "notifications/progress" | "notifications/cancelled"}:
                self.counts.malformed += 1
            case {"method": str()} if "id" not in message:
                self._on_message(message)
            case {"id": int() as number} if type(number) is int and "method" not in message:
                self._answered(number, message)
            case _:
                self.counts.malformed += 1

    def _answered(self, number: int, message: JsonObject) -> None:
        pending = self._pending.get(number)
        if pending is not None and pending.answer is None:
            pending.answer = message
            pending.news.set()
            return
        if self._ghosts.pop(number, None) is not None:
            self.counts.late += 1
            return
        self.counts.unknown += 1

    def _progress(self, token: int, message: JsonObject) -> None:
        pending = self._pending.get(token)
        wanted = pending is not None and pending.on_notification is not None and pending.answer is None
        if pending is None or not wanted or _text_size(message) > _MAX_PROGRESS_TEXT:
            self.counts.progress_dropped += 1
            return
        if len(pending.progress) >= _MAX_PROGRESS:
            pending.progress.popleft()
            self.counts.progress_dropped += 1
        pending.progress.append(message)
        pending.news.set()

    # Requests of the peer

    def _pong(self, question: RpcId) -> None:
        """That we are here can be said whoever asks (2025-11-25, basic/utilities/ping)."""
        if self._tasks is not None and self._pongs < _MAX_QUESTIONS:
            self._pongs += 1
            self._tasks.start_soon(self._reply_pong, question)

    async def _reply_pong(self, question: RpcId) -> None:
        try:
            await self._reply({"jsonrpc": "2.0", "id": question, "result": {}})
        finally:
            self._pongs -= 1

    def _question(self, question: RpcId, message: JsonObject) -> None:
        tasks = self._tasks
        if tasks is None:
            return
        if question in self._questions or len(self._questions) >= _MAX_QUESTIONS:
            tasks.start_soon(
                self._reply, _refusal(question, _INVALID_REQUEST, "too many open requests, or one id twice")
            )
            return
        owner = self._owner()
        answer = self._on_request if owner is None else owner.on_request
        if answer is None:
            reason = "no request in flight that this one could belong to beyond doubt"
            tasks.start_soon(self._reply, _refusal(question, _METHOD_NOT_FOUND, reason))
            return
        if owner is not None:
            owner.questions.add(question)
        self._questions[question] = anyio.CancelScope()
        tasks.start_soon(self._ask, question, message, answer)

    def _owner(self) -> _Pending | None:
        """The one request that a question can belong to.

        A request that was given up counts for a while, as its question may still be on the way.
        """
        self._lay_ghosts()
        haunted = any(ghost.may_ask for ghost in self._ghosts.values())
        askers = [pending for pending in self._pending.values() if pending.may_ask and pending.answer is None]
        if len(askers) != 1 or haunted or askers[0].on_request is None:
            return None
        return askers[0]

    def _lay_ghosts(self) -> None:
        now = anyio.current_time()
        self._ghosts = {number: ghost for number, ghost in self._ghosts.items() if ghost.until > now}

    async def _ask(self, question: RpcId, message: JsonObject, answer: OnRequest) -> None:
        reply: JsonObject | None = None
        try:
            with self._questions[question]:
                reply = await _answer_or_error(question, message, answer)
        finally:
            self._questions.pop(question, None)
        if reply is not None:
            await self._reply(reply)

    async def _reply(self, reply: JsonObject) -> None:
        try:
            await self._duplex.send(reply)
        except (UpstreamUnavailable, UpstreamTimeout):  # it asked and does not listen: the reader sees its end
            return

    def _withdraw(self, question: RpcId) -> None:
        scope = self._questions.get(question)
        if scope is not None:
            scope.cancel()

    def _drop_questions(self, pending: _Pending) -> None:
        for question in pending.questions:
            self._withdraw(question)


def _request(number: int, method: str, params: Mapping[str, object] | None, progress: bool) -> JsonObject:
    sent: dict[str, object] = dict(params or {})
    if progress:
        meta = sent.get("_meta")
        sent["_meta"] = {**(meta if isinstance(meta, Mapping) else {}), "progressToken": number}
    message: JsonObject = {"jsonrpc": "2.0", "id": number, "method": method}
    return {**message, "params": sent} if params is not None or progress else message  # type: ignore[dict-item]


async def _answer_or_error(question: RpcId, message: JsonObject, answer: OnRequest) -> JsonObject:
    try:
        reply = await answer(message)
    except InterlockError as exc:
        return _refusal(question, exc.rpc_code, str(exc))
    return {**reply, "jsonrpc": "2.0", "id": question}


def _text_size(message: JsonObject) -> int:
    params = message.get("params")
    text = params.get("message") if isinstance(params, dict) else None
    return len(text) if isinstance(text, str) else 0


def _is_error(error: JsonObject) -> bool:
    """Whether it is an error object (JSON-RPC 2.0, section 5.1)."""
    return type(error.get("code")) is int and isinstance(error.get("message"), str)


def _refusal(question: RpcId, code: int, why: str) -> JsonObject:
    return {"jsonrpc": "2.0", "id": question, "error": {"code": code, "message": why}}


def _again(error: InterlockError) -> InterlockError:
    """A fresh error of the same kind: one exception raised in several tasks would gather all their tracebacks."""
    return (
        UpstreamProtocolError(str(error))
        if isinstance(error, UpstreamProtocolError)
        else UpstreamUnavailable(str(error))
    )
