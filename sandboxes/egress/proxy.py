"""One listening unix socket per box: whoever connects there *is* that box, and gets nothing without asking policy."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

import anyio

from gateway.errors import InterlockError, PolicyDenied, SandboxFailure
from gateway.lookups import Lookups, Resolve, is_own, system_resolve
from sandboxes.egress import sockets
from sandboxes.egress.answer import Answer, failed, give, refused, unanswered
from sandboxes.egress.carriage import Carriage
from sandboxes.egress.gate import Gate
from sandboxes.egress.hosts import BadRequest
from sandboxes.egress.limits import EgressLimits, Pace
from sandboxes.egress.request import Request, read_head, read_request
from sandboxes.egress.route import Dial, Router

log = logging.getLogger("interlock.egress")

_TURNED_AWAY: Final = 16
"""How many of a box's connections may be told at the same time that they are too many; more wait to be accepted."""


class EgressProxy:
    """Serves the egress sockets of all boxes. Nothing is kept of a box that is not served any more."""

    def __init__(
        self,
        gate: Gate,
        *,
        resolve: Resolve = system_resolve,
        dial: Dial = sockets.connect,
        limits: EgressLimits = EgressLimits(),  # noqa: B008  # frozen
        own: Callable[[str], bool] = is_own,
    ) -> None:
        self._gate = gate
        self._resolve = resolve
        self._router = Router(dial, limits, own)
        self._total = _Count(limits.total_connections)

    @asynccontextmanager
    async def serving(self, box_id: str, path: Path, uid: int | None) -> AsyncIterator[None]:
        """Listen at `path` for one box, which runs as `uid` of the host (`None`: as the gateway's own user).

        Only that user and the gateway's own are listened to. Leaving ends every connection at once; it has to be left
        by the task that entered it. Raises `SandboxFailure`.
        """
        try:
            listener = sockets.listen(path)
        except OSError as exc:
            raise SandboxFailure(f"the egress socket of box {box_id!r} cannot be made: {exc.strerror}") from exc
        users = frozenset({os.geteuid(), os.geteuid() if uid is None else uid})
        door = _Door(box_id, users, self._gate, self._router, self._resolve, self._total)
        try:
            with closing(listener):
                async with anyio.create_task_group() as group:
                    group.start_soon(door.keep, listener)
                    yield
                    group.cancel_scope.cancel()
        except ExceptionGroup as group_of_one:  # what was raised by whom we serve, wrapped by our task group
            raise group_of_one.exceptions[0] from group_of_one.exceptions[0].__cause__
        finally:
            sockets.forget(path)


class _Count:
    """Counts up to a limit."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = 0

    @property
    def full(self) -> bool:
        return self.now >= self.most


class _Door:
    """The connections of one box."""

    def __init__(
        self, box_id: str, users: frozenset[int], gate: Gate, router: Router, resolve: Resolve, total: _Count
    ) -> None:
        limits = router.limits
        self._box_id = box_id
        self._users = users
        self._gate = gate
        self._router = router
        self._limits = limits
        self._lookups = Lookups(resolve, limits.lookups)
        self._counts = (_Count(limits.connections), total)
        self._room = anyio.Semaphore(limits.connections + _TURNED_AWAY)
        self._clients: set[socket.socket] = set()
        self._pace = Pace(limits.rate_per_s, limits.burst, anyio.current_time)

    async def keep(self, listener: socket.socket) -> None:
        """Accept until cancelled. Whatever happens to one connection, the others go on."""
        try:
            async with anyio.create_task_group() as group:
                while True:
                    await self._room.acquire()
                    await anyio.sleep(self._pace.delay_s())
                    client = await sockets.accept(listener)
                    self._clients.add(client)
                    group.start_soon(self._attend, client)
        finally:
            for client in self._clients:  # those whose task was cancelled before it began
                client.close()

    async def _attend(self, client: socket.socket) -> None:
        try:
            if sockets.user_of(client) in self._users:
                await self._counted(client)
        except Exception:  # a fault in the handling of one connection ends that one, and not the box's way out
            log.exception("egress of box %r: a connection failed", self._box_id)
        finally:
            client.close()
        self._clients.discard(client)
        self._room.release()

    async def _counted(self, client: socket.socket) -> None:
        if any(count.full for count in self._counts):
            await give(client, _TOO_MANY, self._limits.linger_s)
            return
        for count in self._counts:
            count.now += 1
        try:
            answer = await self._exchange(client)
        finally:
            for count in self._counts:
                count.now -= 1
        if answer is not None:
            await give(client, answer, self._limits.linger_s)

    async def _exchange(self, client: socket.socket) -> Answer | None:
        """Carry what the client asks for, or say what it is told instead."""
        try:
            with anyio.fail_after(self._limits.head_s):
                head, early = await read_head(client, self._limits.head_bytes)
            request = read_request(head)
        except BadRequest as exc:
            return Answer(exc.status, str(exc))
        except TimeoutError:
            return Answer(408, "the request did not arrive in time")
        except OSError:  # it is gone
            return None
        return await self._governed(client, request, early)

    async def _governed(self, client: socket.socket, request: Request, early: bytes) -> Answer | None:
        carriage = Carriage(client, request, early, self._router, self._lookups)
        error: InterlockError = PolicyDenied("no permit was given")
        try:
            await self._gate.connect(self._box_id, request.destination, carriage)
        except InterlockError as exc:
            error = exc
        finally:
            carriage.void()
        if carriage.answered:
            return None
        if carriage.failure is not None:
            return failed(carriage.failure)
        if carriage.connected:
            return unanswered(request.destination, carriage.traffic)
        self._pace.charge(self._limits.refused_counts - 1)
        return refused(request.destination, error)


_TOO_MANY: Final = Answer(503, "too many connections are open: close some, or try again later", ("Retry-After: 1",))
