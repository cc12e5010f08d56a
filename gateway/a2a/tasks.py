"""Whose a task is: learned from all that agents answer, asked before anything is asked of them.

Agents see one caller, the gateway, so they cannot keep tasks apart; this index can. A task or a context belongs to
the principal (delegation included: what somebody made through one agent is not theirs through another) that first
came to know of it, for good. It is kept in the store before an answer is handed out, so nothing that a caller holds
is forgotten; what was read is cached, because owners never change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Generic, TypeVar

from gateway.a2a.operations import OPERATIONS, TERMINAL
from gateway.a2a.pages import Cursors, TaskPage, page_of, query_of
from gateway.a2a.sightings import Sighting, is_id, sighted
from gateway.a2a.strict import TaskRefs
from gateway.errors import InvalidCall, UpstreamProtocolError
from gateway.ports import TaskRecord, TaskStore
from gateway.types import Call, Identity

CACHED: Final = 10_000
MAX_REFERENCES: Final = 100
"""Most tasks that one message may refer to."""
REFRESH_MS: Final = 1_000
"""How much younger a state has to be than the same one that is kept, for its time to be kept instead."""
SKEW_MS: Final = 300_000
"""How far an agent's clock may be ahead of ours."""

_TELLING: Final = frozenset({"SendMessage", "SendStreamingMessage", "GetTask", "CancelTask", "SubscribeToTask"})
"""The operations whose answers are tasks, messages and events."""

_Key = tuple[str, str]
_T = TypeVar("_T")


class TaskIndex:
    """The owners of tasks and contexts. Raises what the store raises when it cannot answer: that is never a yes."""

    def __init__(
        self, store: TaskStore, clock_ms: Callable[[], int], cursors: Cursors, *, cached: int = CACHED
    ) -> None:
        self._store = store
        self._clock_ms = clock_ms
        self._cursors = cursors
        self._tasks: _Recent[TaskRecord] = _Recent(cached)
        self._contexts: _Recent[str] = _Recent(cached)

    async def find(self, agent: str, task_id: str, identity: Identity) -> TaskRecord | None:
        """The caller's task; `None` for a missing one as for somebody else's."""
        record = await self._record(agent, task_id)
        return record if record is not None and record.owner == identity.principal else None

    async def admits(self, agent: str, refs: TaskRefs, identity: Identity) -> bool:
        """Whether all that a request names is the caller's. An unknown context is free, an unknown task is not."""
        if len(refs.reference_task_ids) > MAX_REFERENCES:
            raise InvalidCall(f"message.referenceTaskIds holds more than {MAX_REFERENCES} tasks: name fewer")
        for task_id in dict.fromkeys((refs.task_id, *refs.reference_task_ids)):
            if task_id and await self.find(agent, task_id, identity) is None:
                return False
        return not refs.context_id or await self._context_owner(agent, refs.context_id) in {"", identity.principal}

    async def reserve(self, agent: str, context_id: str, identity: Identity) -> bool:
        """Make a context the caller's before the agent sees it; `False` when it is somebody else's.

        Without it, two who use a free context at once would both be in it before either of them owns it.
        """
        if not context_id:
            return True
        _check_sent(context_id)
        return await self._claim_context(agent, context_id, identity.principal) == identity.principal

    async def learn(self, agent: str, identity: Identity, call: Call, value: Mapping[str, object]) -> None:
        """Take in a result or an event of the caller's call; return once it is kept.

        Raises `UpstreamProtocolError` for a value that is none, and for one of somebody else's task or context,
        which must then not be handed out.
        """
        if call.method not in _TELLING:
            return
        seen = sighted(value)
        _check_asked_for(call, seen)
        owner = identity.principal
        if not seen.task_id:
            await self._check_context(agent, seen.context_id, owner)
            return
        record = await self._claim(agent, identity, call, seen)
        if record.owner != owner:
            raise _foreign(agent, "task")
        await self._follow(record, seen)

    async def notice(self, agent: str, owner: str, task_id: str, value: Mapping[str, object]) -> TaskRecord:
        """Take in a push notification about that owner's task, and give its record.

        Raises `UpstreamProtocolError` when it is about anything else.
        """
        seen = sighted(value)
        record = await self._record(agent, task_id)
        if record is None or record.owner != owner or seen.task_id not in {"", task_id}:
            raise _foreign(agent, "task")
        return await self._follow(record, seen)

    async def page(self, agent: str, identity: Identity, params: Mapping[str, object]) -> TaskPage:
        """The caller's tasks that a canonical `ListTasksRequest` asks for. Raises `InvalidCall` for a bad one."""
        query = query_of(agent, identity.principal, params)
        return await page_of(self._store, self._cursors, query, params, now_s=self._clock_ms() // 1000)

    async def forget(self, agent: str, task_id: str) -> None:
        """Drop a task and its push configurations."""
        await self._store.drop_task(agent, task_id)
        self._tasks.drop((agent, task_id))

    async def _record(self, agent: str, task_id: str) -> TaskRecord | None:
        cached = self._tasks.get((agent, task_id))
        if cached is not None:
            return cached
        if not is_id(task_id):
            return None
        record = await self._store.task(agent, task_id)
        return self._keep(record) if record is not None else None

    async def _claim(self, agent: str, identity: Identity, call: Call, seen: Sighting) -> TaskRecord:
        cached = self._tasks.get((agent, seen.task_id))
        if cached is not None:
            return cached
        now_ms = self._clock_ms()
        new = TaskRecord(
            agent,
            seen.task_id,
            seen.context_id,
            owner=identity.principal,
            subject=identity.subject.id,
            tenant=identity.tenant,
            state=seen.state,
            parent_id=call.id,
            chain=identity.delegation,
            created_ms=now_ms,
            updated_ms=_stamp(seen, now_ms),
        )
        held = await self._store.claim_task(new)
        if held is None:
            raise _foreign(agent, "context")
        return self._keep(held)

    async def _follow(self, record: TaskRecord, seen: Sighting) -> TaskRecord:
        if seen.context_id != record.context_id:  # its own context was claimed with it
            await self._check_context(record.agent, seen.context_id, record.owner)
        now_ms = self._clock_ms()
        if not _is_news(record, seen, now_ms):
            return record
        updated_ms = _stamp(seen, now_ms)
        await self._store.update_task(record.agent, record.task_id, state=seen.state, updated_ms=updated_ms)
        return self._keep(replace(record, state=seen.state, updated_ms=updated_ms))

    async def _check_context(self, agent: str, context_id: str, owner: str) -> None:
        if context_id and await self._claim_context(agent, context_id, owner) != owner:
            raise _foreign(agent, "context")

    async def _claim_context(self, agent: str, context_id: str, owner: str) -> str:
        known = self._contexts.get((agent, context_id))
        if known is not None:
            return known
        holder = await self._store.claim_context(agent, context_id, owner, self._clock_ms())
        self._contexts.put((agent, context_id), holder)
        return holder

    async def _context_owner(self, agent: str, context_id: str) -> str:
        known = self._contexts.get((agent, context_id))
        if known is not None:
            return known
        _check_sent(context_id)
        owner = await self._store.context_owner(agent, context_id)
        if owner:
            self._contexts.put((agent, context_id), owner)
        return owner

    def _keep(self, record: TaskRecord) -> TaskRecord:
        """Cache a record, unless another event of its task, taken in meanwhile, ended it."""
        key = (record.agent, record.task_id)
        known = self._tasks.get(key)
        if known is not None and known.state in TERMINAL:
            return known
        self._tasks.put(key, record)
        return record


def facts(record: TaskRecord) -> Mapping[str, object]:
    """What policy sees of a task (`resource.properties.catalog.task`)."""
    return {
        "owner": record.subject,
        "context": record.context_id,
        "state": record.state,
        "tenant": record.tenant,
    }


def _is_news(record: TaskRecord, seen: Sighting, now_ms: int) -> bool:
    if not seen.state or record.state in TERMINAL:
        return False
    if seen.state != record.state:
        return True
    return bool(seen.stamp_ms) and _stamp(seen, now_ms) - record.updated_ms >= REFRESH_MS


def _stamp(seen: Sighting, now_ms: int) -> int:
    """Pages are in the order of the agents' own times, as callers see them; ours stands in where there is none."""
    return min(seen.stamp_ms, now_ms + SKEW_MS) if seen.stamp_ms else now_ms


def _check_asked_for(call: Call, seen: Sighting) -> None:
    if OPERATIONS[call.method].target == "task" and seen.task_id not in {"", call.params.get("id")}:
        raise UpstreamProtocolError(f"the agent answered {call.method} with another task than the one asked for")


def _check_sent(context_id: str) -> None:
    if not is_id(context_id):
        raise InvalidCall("message.contextId is too long or holds control characters: use another context")


def _foreign(agent: str, what: str) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"agent {agent!r} answered with a {what} that is not the caller's: it is withheld")


class _Recent(Generic[_T]):
    """The values that were used last, so many of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[_Key, _T] = OrderedDict()

    def get(self, key: _Key) -> _T | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: _Key, value: _T) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._size:
            self._values.popitem(last=False)

    def drop(self, key: _Key) -> None:
        self._values.pop(key, None)
