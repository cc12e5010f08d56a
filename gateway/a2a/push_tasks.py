"""What push notifications teach about whose a task is."""

from __future__ import annotations

from collections.abc import Callable

from gateway.a2a.push_inbox import Learn
from gateway.a2a.push_records import Push
from gateway.a2a.sightings import sighted
from gateway.a2a.tasks import TaskIndex
from gateway.codec import JsonObject
from gateway.errors import UpstreamProtocolError
from gateway.ports import TaskRecord, TaskStore


class PushedTasks:
    """Takes notifications into the index of tasks (`gateway.a2a.push_inbox.Learn`)."""

    def __init__(self, index: TaskIndex, store: TaskStore, clock_ms: Callable[[], int]) -> None:
        self._index = index
        self._store = store
        self._clock_ms = clock_ms

    async def learn(self, push: Push, event: JsonObject) -> None:
        """Keep what an event says. A new task becomes its whose call asked to be told of it.

        Raises `UpstreamProtocolError` when the task or its context is somebody else's.
        """
        task_id = push.task_id or sighted(event).task_id
        if not push.task_id:
            await self._claim(push, task_id, sighted(event).context_id)
        await self._index.notice(push.agent, push.owner, task_id, event)

    async def _claim(self, push: Push, task_id: str, context_id: str) -> None:
        now_ms = self._clock_ms()
        record = TaskRecord(
            push.agent,
            task_id,
            context_id,
            owner=push.owner,
            subject=push.subject,
            tenant=push.tenant,
            parent_id=push.parent_id,
            chain=push.chain,
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        held = await self._store.claim_task(record)
        if held is None or held.owner != push.owner:
            raise UpstreamProtocolError(f"agent {push.agent!r} notified of a task or context that is somebody else's")


def _fits(tasks: PushedTasks) -> Learn:
    return tasks.learn
