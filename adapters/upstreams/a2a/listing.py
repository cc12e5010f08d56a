"""Answers `ListTasks`: the caller's own tasks by our index, each as the agent knows it now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import anyio

from adapters.upstreams.a2a.caller import Reply
from adapters.upstreams.a2a.view import state_of
from gateway import codec
from gateway.a2a.errors import TASK_NOT_FOUND
from gateway.a2a.pages import TaskPage
from gateway.codec import JsonObject
from gateway.errors import InterlockError
from gateway.types import Result

AT_A_TIME: Final = 8
Fetch = Callable[[JsonObject], Awaitable[Reply]]
"""`GetTask` with these parameters."""


async def listed(page: TaskPage, params: Mapping[str, object], fetch: Fetch) -> Result:
    """The page, without the tasks that the agent no longer knows. An error that is another one is the answer."""
    replies = await _fetched([record.task_id for record in page.records], params, fetch)
    tasks: list[bytes] = []
    for reply in replies:
        if reply.value is None:
            if not _is_gone(reply.result):
                return reply.result
        elif _fits(reply.value, params):
            tasks.append(_shown(reply, reply.value, params))
    rest = {"nextPageToken": page.next_page_token, "pageSize": page.page_size, "totalSize": page.total_size}
    return Result(b'{"tasks":[' + b",".join(tasks) + b"]," + codec.dumps(rest)[1:])


async def _fetched(task_ids: Sequence[str], params: Mapping[str, object], fetch: Fetch) -> list[Reply]:
    found: dict[str, Reply] = {}
    failures: list[InterlockError] = []
    room = anyio.CapacityLimiter(AT_A_TIME)
    history = params.get("historyLength")
    extra: JsonObject = {"historyLength": history} if isinstance(history, int) else {}

    async def get(task_id: str) -> None:
        async with room:
            try:
                found[task_id] = await fetch({"id": task_id, **extra})
            except InterlockError as exc:  # carried out of the group, which would wrap it
                failures.append(exc)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for task_id in task_ids:
            group.start_soon(get, task_id)
    if failures:
        raise failures[0]
    return [found[task_id] for task_id in task_ids]


def _is_gone(error: Result) -> bool:
    value = codec.loads(error.payload)
    return isinstance(value, dict) and value.get("code") == TASK_NOT_FOUND.code


def _fits(task: JsonObject, params: Mapping[str, object]) -> bool:
    """Whether it is still in the state that was asked for: the index knows what was seen last."""
    wanted = params.get("status")
    return not wanted or wanted == "TASK_STATE_UNSPECIFIED" or state_of(task) == wanted


def _shown(reply: Reply, task: JsonObject, params: Mapping[str, object]) -> bytes:
    """The task; its artifacts only where they are asked for (section 3.1.4)."""
    if params.get("includeArtifacts") is True or "artifacts" not in task:
        return reply.result.payload
    return codec.dumps({name: value for name, value in task.items() if name != "artifacts"})
