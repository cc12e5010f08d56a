"""Notifications on their way to their receivers: in order for each configuration, again when they fail, and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import anyio
from anyio.abc import TaskGroup

from gateway.errors import InterlockError

Outcome: TypeAlias = Literal["delivered", "retry", "refused"]
Fate: TypeAlias = Literal["delivered", "refused", "gave_up", "withdrawn", "lost"]
"""`withdrawn`: the configuration was deleted meanwhile. `lost`: the gateway went down before it was taken."""

MAX_WAIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Slip:
    """One notification as it waits; addresses and secrets are read when it is sent."""

    agent: str
    owner: str
    task_id: str
    config_id: str
    relay: str
    body: bytes = field(repr=False)
    content_type: bytes
    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class Letter:
    """One notification as it is sent."""

    url: str = field(repr=False)
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one try. `why` names no address and no secret."""

    outcome: Outcome
    status: int = 0
    why: str = ""
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a notification, for the record."""

    slip: Slip
    fate: Fate
    tries: int
    receipt: Receipt


Deliver: TypeAlias = Callable[[Letter], Awaitable[Receipt]]
"""One try. Never raises: what goes wrong is a `Receipt`."""
Addressed: TypeAlias = Callable[[Slip], Awaitable[Letter | None]]
"""The letter to send now; `None` when the configuration is gone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait, how often and how long is tried."""

    waiting: int = 10_000
    waiting_per_agent: int = 1_000
    waiting_per_config: int = 256
    waiting_bytes: int = 64 * 1024 * 1024
    waiting_bytes_per_agent: int = 16 * 1024 * 1024
    at_once: int = 64
    at_once_per_owner: int = 8
    """So that somebody's dead receivers hold up nobody else's."""
    tries: int = 5
    first_wait_s: float = 1.0
    drain_s: float = 5.0


@dataclass(slots=True)
class _Lane:
    """The notifications of one configuration. `failing`: the last one was given up, so the next gets one try."""

    slips: deque[Slip] = field(default_factory=deque)
    failing: bool = False


class Outbox:
    """Sends what is put into it while `run` runs. At least once within the life of the process: nothing is on disk."""

    def __init__(
        self,
        addressed: Addressed,
        deliver: Deliver,
        *,
        note: Callable[[Delivered], None],
        random: Callable[[], float],
        limits: Limits = Limits(),
        wait: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._addressed = addressed
        self._deliver = deliver
        self._note = note
        self._random = random
        self._limits = limits
        self._wait = wait
        self._lanes: dict[str, _Lane] = {}
        self._per_agent: dict[str, tuple[int, int]] = {}
        self._waiting = 0
        self._bytes = 0
        self._slots = anyio.CapacityLimiter(limits.at_once)
        self._owners: dict[str, tuple[anyio.CapacityLimiter, int]] = {}
        self._group: TaskGroup | None = None
        self._closing = anyio.Event()
        self._idle = anyio.Event()

    @property
    def waiting(self) -> int:
        """How many notifications are not settled."""
        return self._waiting

    def put(self, slip: Slip) -> bool:
        """Take a notification. `False` when there is no room, or the gateway is going down."""
        group, limits = self._group, self._limits
        lane = self._lanes.get(slip.relay)
        if group is None or self._closing.is_set() or not self._has_room(slip, lane, limits):
            return False
        self._waiting += 1
        self._bytes += len(slip.body)
        count, size = self._per_agent.get(slip.agent, (0, 0))
        self._per_agent[slip.agent] = (count + 1, size + len(slip.body))
        if lane is None:
            lane = self._lanes[slip.relay] = _Lane()
            group.start_soon(self._serve, slip.relay, lane)
        lane.slips.append(slip)
        return True

    async def run(self) -> None:
        """Send until closed or cancelled."""
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                await self._closing.wait()
                if self._waiting:
                    with anyio.move_on_after(self._limits.drain_s):
                        await self._idle.wait()
                group.cancel_scope.cancel()
            finally:
                self._group = None

    def close(self) -> None:
        """Take nothing more, give what waits one last try each, and have `run` end soon."""
        self._closing.set()

    def _has_room(self, slip: Slip, lane: _Lane | None, limits: Limits) -> bool:
        count, size = self._per_agent.get(slip.agent, (0, 0))
        return (
            self._waiting < limits.waiting
            and count < limits.waiting_per_agent
            and (not count or size + len(slip.body) <= limits.waiting_bytes_per_agent)
            and (lane is None or len(lane.slips) < limits.waiting_per_config)
            and self._bytes + len(slip.body) <= limits.waiting_bytes
        )

    async def _serve(self, relay: str, lane: _Lane) -> None:
        """One configuration, oldest notification first."""
        try:
            while lane.slips:
                await self._settle(lane, lane.slips[0])
        finally:
            del self._lanes[relay]
            for slip in lane.slips:
                self._settled(slip, Delivered(slip, "lost", 0, Receipt("retry", why="the gateway went down")))
            lane.slips.clear()

    async def _settle(self, lane: _Lane, slip: Slip) -> None:
        tries, receipt = 0, Receipt("retry")
        fate: Fate = "lost"
        try:
            fate, tries, receipt = await self._tried(lane, slip)
            lane.failing = fate == "gave_up"
        finally:
            lane.slips.popleft()
            self._settled(slip, Delivered(slip, fate, tries, receipt))

    async def _tried(self, lane: _Lane, slip: Slip) -> tuple[Fate, int, Receipt]:
        """Try until it is taken, refused, or was tried often enough."""
        most = 1 if lane.failing else self._limits.tries
        for tries in range(1, most + 1):
            last = tries == most or self._closing.is_set()
            receipt = await self._attempt(slip)
            if receipt is None:
                return "withdrawn", tries, Receipt("refused", why="the configuration was deleted")
            if receipt.outcome != "retry":
                return ("delivered" if receipt.outcome == "delivered" else "refused"), tries, receipt
            if last:
                return "gave_up", tries, receipt
            await self._pause(self._wait_s(tries, receipt))
        raise AssertionError("the last try returns")

    async def _attempt(self, slip: Slip) -> Receipt | None:
        limiter, users = self._owners.get(slip.owner) or (anyio.CapacityLimiter(self._limits.at_once_per_owner), 0)
        self._owners[slip.owner] = (limiter, users + 1)
        try:
            async with limiter, self._slots:
                letter = await self._addressed(slip)
                return None if letter is None else await self._deliver(letter)
        except InterlockError:  # the store cannot say where to: no reason to lose it
            return Receipt("retry", why="its configuration cannot be read")
        finally:
            limiter, users = self._owners[slip.owner]
            if users > 1:
                self._owners[slip.owner] = (limiter, users - 1)
            else:
                del self._owners[slip.owner]

    def _wait_s(self, tries: int, receipt: Receipt) -> float:
        """Doubling with jitter; what the receiver asked for where that is longer, within reason."""
        own = self._limits.first_wait_s * 2.0 ** (tries - 1) * (0.5 + 0.5 * self._random())
        return min(MAX_WAIT_S, max(own, receipt.retry_after_s))

    async def _pause(self, wait_s: float) -> None:
        """Wait, but not for longer than there is time."""
        async with anyio.create_task_group() as group:

            async def cut_short() -> None:
                await self._closing.wait()
                group.cancel_scope.cancel()

            group.start_soon(cut_short)
            await self._wait(wait_s)
            group.cancel_scope.cancel()

    def _settled(self, slip: Slip, delivered: Delivered) -> None:
        self._waiting -= 1
        self._bytes -= len(slip.body)
        count, size = self._per_agent[slip.agent]
        if count > 1:
            self._per_agent[slip.agent] = (count - 1, size - len(slip.body))
        else:
            del self._per_agent[slip.agent]
        if not self._waiting and self._closing.is_set():
            self._idle.set()
        self._note(delivered)
