"""Moves bytes between a box and its destination until both have ended, or a limit is reached."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

import anyio

from sandboxes.egress.body import Body, CutOff
from sandboxes.egress.gate import Terms
from sandboxes.egress.limits import EgressLimits
from sandboxes.egress.request import Request
from sandboxes.egress.sni import SameServer
from sandboxes.egress.sockets import end_sending, receive, send

Direction: TypeAlias = Callable[[], Awaitable[None]]

CLOSED: Final = "closed"
RESET: Final = "reset"
IDLE: Final = "idle"
TOO_LONG: Final = "time limit"
TOO_MUCH: Final = "byte limit"

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Pump:
    """One run. `sent` and `received` count as it goes on; `ended` says why it is over, empty until then."""

    def __init__(self, client: socket.socket, upstream: socket.socket, terms: Terms, limits: EgressLimits) -> None:
        self._client = client
        self._upstream = upstream
        self._max_bytes = terms.max_bytes
        self._by = anyio.current_time() + terms.max_s
        self._quiet_s = limits.idle_s
        self._half_closed_s = limits.half_closed_s
        self._scope = anyio.CancelScope()
        self.sent = 0
        self.received = 0
        self.ended = ""

    async def run(self, request: Request, early: bytes) -> None:
        """Carry one request, of whose body or tunnel `early` came with its head."""
        self._moved()
        with self._scope:
            async with anyio.create_task_group() as group:
                for direction in self._directions(request, early):
                    group.start_soon(self._until_end, direction)
        if self._scope.cancelled_caught:
            self.ended = self.ended or (TOO_LONG if anyio.current_time() >= self._by else IDLE)
        self.ended = self.ended or CLOSED

    def _directions(self, request: Request, early: bytes) -> tuple[Direction, Direction]:
        if request.body is None:
            return partial(self._tunnel_up, SameServer(request.destination.host), early), self._tunnel_down
        return partial(self._request_up, request.head, request.body, early), self._answer_down

    async def _tunnel_up(self, body: Body, early: bytes) -> None:
        await self._upward(body, early)
        end_sending(self._upstream)
        self._half_closed()

    async def _tunnel_down(self) -> None:
        await send(self._client, _ESTABLISHED)
        await self._downward()
        end_sending(self._client)
        self._half_closed()

    async def _request_up(self, head: bytes, body: Body, early: bytes) -> None:
        await self._count_up(head)
        await self._upward(body, early)
        if not body.complete:
            raise CutOff("a body that is shorter than announced")
        if not await receive(self._client):  # what comes behind the request is for nobody
            self._half_closed()

    async def _answer_down(self) -> None:
        await self._downward()
        self._end(CLOSED)

    async def _upward(self, body: Body, data: bytes) -> None:
        """Send on what belongs to the request, until that is all or the client has ended."""
        await self._count_up(body.feed(data))
        while not body.complete and (data := await receive(self._client)):
            await self._count_up(body.feed(data))

    async def _downward(self) -> None:
        while data := await receive(self._upstream):
            self._allow(data)
            self.received += len(data)
            await send(self._client, data)
            self._moved()

    async def _count_up(self, data: bytes) -> None:
        self._allow(data)
        self.sent += len(data)
        await send(self._upstream, data)
        self._moved()

    async def _until_end(self, direction: Direction) -> None:
        try:
            await direction()
        except OSError:
            self._end(RESET)
        except CutOff as exc:
            self._end(str(exc))

    def _allow(self, data: bytes) -> None:
        if self.sent + self.received + len(data) > self._max_bytes:
            raise CutOff(TOO_MUCH)

    def _half_closed(self) -> None:
        self._quiet_s = self._half_closed_s
        self._moved()

    def _moved(self) -> None:
        self._scope.deadline = min(self._by, anyio.current_time() + self._quiet_s)

    def _end(self, why: str) -> None:
        self.ended = self.ended or why
        self._scope.cancel()
