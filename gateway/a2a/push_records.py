"""Push notification configurations as the gateway keeps them: secrets sealed, addresses of its own webhook hashed.

A configuration is kept before the upstream hears of it, since notifications may overtake the answer to the request.
Until the upstream has said which task and id it has, it is *pending*: found by its relay alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, cast

import anyio

from gateway import codec
from gateway.errors import QuotaExceeded
from gateway.ports import PushRecord, TaskStore

PENDING_MS: Final = 24 * 3_600_000
"""How long a configuration may stay pending: a task that is not named within a day is not waited for."""
MAX_PENDING: Final = 256
"""How many of one maker's may be pending at an agent."""

_PENDING_TASK: Final = "\x1fpending"  # no id of a task: control characters are refused in those


class Sealing(Protocol):
    """Encrypts for one record (`gateway.identity.push_seal.PushSealer`)."""

    def seal(self, plain: bytes, bound: Sequence[str]) -> bytes: ...

    def open(self, sealed: bytes, bound: Sequence[str]) -> bytes:
        """Raises `ValueError` for what was changed, or sealed for another record."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where a caller wants its notifications, and what proves to it whom they are from."""

    url: str = field(repr=False)
    token: str = field(default="", repr=False)
    scheme: str = ""
    credentials: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Push:
    """One configuration, opened."""

    agent: str
    owner: str
    """`Identity.principal` of who made it."""
    relay: str
    """Hash of the secret part of our webhook's address."""
    receiver: Receiver
    proof: str = field(repr=False)
    """Hash of the token that the upstream has to show."""
    task_id: str = ""
    """Empty while a new task has no name yet."""
    config_id: str = ""
    version: str = "1.0"
    """The protocol version that its maker speaks."""
    subject: str = ""
    tenant: str = ""
    parent_id: str = ""
    """The call that made it."""
    chain: tuple[str, ...] = ()
    """The agents that the call came through."""
    guarded: bool = True
    """Its maker does not see all that the agent answers, so its receiver is told of states only."""
    pending: bool = True
    created_ms: int = 0

    def proven_by(self, token: str) -> bool:
        """Whether a token is the one that was handed to the upstream."""
        return bool(token) and hmac.compare_digest(digest(token), self.proof)


def digest(secret: str) -> str:
    """How a secret that we only have to recognise is kept."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class PushRecords:
    """The configurations in a `TaskStore`. One that does not open with our key is as good as none."""

    def __init__(self, store: TaskStore, sealer: Sealing, clock_ms: Callable[[], int]) -> None:
        self._store = store
        self._sealer = sealer
        self._clock_ms = clock_ms
        self._moving = anyio.Lock()
        self._on_the_move: set[str] = set()

    async def add(self, push: Push) -> None:
        """Keep a pending configuration. Raises `QuotaExceeded` when its maker has too many that came to nothing."""
        await self._make_room(push)
        await self._store.put_push(self._record(replace(push, pending=True, created_ms=self._clock_ms())))

    async def of_relay(self, agent: str, relay_id: str) -> Push | None:
        """The configuration that an address of our webhook was made for."""
        push = await self.of_digest(digest(relay_id))
        return push if push is not None and push.agent == agent else None

    async def of_digest(self, relay: str) -> Push | None:
        """The same, by the hash."""
        record = await self._store.push_of_relay(relay)
        if record is None and relay in self._on_the_move:
            async with self._moving:  # it was between its two places
                record = await self._store.push_of_relay(relay)
        return None if record is None else self._opened(record)

    async def of_task(self, agent: str, task_id: str) -> tuple[Push, ...]:
        """The configurations of a task, whoever made them."""
        opened = [self._opened(record) for record in await self._store.pushes(agent, task_id)]
        return tuple([push for push in opened if push is not None])

    async def complete(self, relay: str, task_id: str, config_id: str) -> Push | None:
        """Say which task and id a pending configuration has. `None` when it is gone, or known to be another's."""
        async with self._moving:
            record = await self._store.push_of_relay(relay)
            push = None if record is None else self._opened(record)
            if push is None or push.task_id not in ("", task_id):
                return None
            if not push.pending and push.config_id == config_id:
                return push
            return await self._moved(push, replace(push, task_id=task_id, config_id=config_id, pending=False))

    async def drop(self, push: Push) -> None:
        """Forget a configuration: what arrives at its relay is refused from now on."""
        await self._store.drop_push(push.agent, *_place(push))

    async def sweep(self, agent: str) -> int:
        """Drop the configurations of an agent that stayed pending for too long, and say how many."""
        kept = await self._store.pushes(agent, _PENDING_TASK)
        old = [record for record in kept if self._clock_ms() - record.created_ms > PENDING_MS]
        for record in old:
            await self._store.drop_push(agent, record.task_id, record.config_id)
        return len(old)

    async def _make_room(self, push: Push) -> None:
        kept = await self._store.pushes(push.agent, _PENDING_TASK)
        if kept and self._clock_ms() - kept[0].created_ms > PENDING_MS:  # the oldest comes first
            await self.sweep(push.agent)
            kept = await self._store.pushes(push.agent, _PENDING_TASK)
        if sum(record.owner == push.owner for record in kept) >= MAX_PENDING:
            words = f"{MAX_PENDING} of your push notification configurations have not come to a task yet: wait for them"
            raise QuotaExceeded(words, retry_after_s=60)

    async def _moved(self, old: Push, new: Push) -> Push:
        self._on_the_move.add(old.relay)
        try:
            with anyio.CancelScope(shield=True):  # the store keeps one record for a relay, so the old one goes first
                await self.drop(old)
                await self._store.put_push(self._record(new))
        finally:
            self._on_the_move.discard(old.relay)
        return new

    def _record(self, push: Push) -> PushRecord:
        task_id, config_id = _place(push)
        receiver = push.receiver
        plain = codec.dumps(
            {
                "url": receiver.url,
                "token": receiver.token,
                "scheme": receiver.scheme,
                "credentials": receiver.credentials,
                "proof": push.proof,
                "task": push.task_id,
                "config": push.config_id,
                "version": push.version,
                "subject": push.subject,
                "tenant": push.tenant,
                "parent": push.parent_id,
                "chain": list(push.chain),
                "guarded": push.guarded,
            }
        )
        bound = (push.agent, task_id, config_id, push.owner, push.relay)
        sealed = self._sealer.seal(plain, bound)
        return PushRecord(push.agent, task_id, config_id, push.owner, push.relay, sealed, push.created_ms)

    def _opened(self, record: PushRecord) -> Push | None:
        bound = (record.agent, record.task_id, record.config_id, record.owner, record.relay_id)
        try:
            kept = codec.loads(self._sealer.open(record.sealed, bound))
        except ValueError:
            return None
        if not isinstance(kept, dict):
            return None
        texts = {name: value for name, value in kept.items() if isinstance(value, str)}
        pending = record.task_id == _PENDING_TASK
        if pending and self._clock_ms() - record.created_ms > PENDING_MS:
            return None
        return Push(
            agent=record.agent,
            owner=record.owner,
            relay=record.relay_id,
            receiver=Receiver(texts["url"], texts["token"], texts["scheme"], texts["credentials"]),
            proof=texts["proof"],
            task_id=texts["task"],
            config_id=texts["config"],
            version=texts["version"],
            subject=texts["subject"],
            tenant=texts["tenant"],
            parent_id=texts["parent"],
            chain=tuple([link for link in cast("list[object]", kept["chain"]) if isinstance(link, str)]),
            guarded=kept.get("guarded") is not False,
            pending=pending,
            created_ms=record.created_ms,
        )


def _place(push: Push) -> tuple[str, str]:
    """Task and id that the store files it under."""
    return (_PENDING_TASK, push.relay) if push.pending else (push.task_id, push.config_id)
