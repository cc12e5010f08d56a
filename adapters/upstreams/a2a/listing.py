"""Answers `ListTasks`: the caller's own tasks by our index, each as the agent knows it now.

Each is asked for as a call of its own, so that what is listed is what the caller may get, and as the caller may get it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import anyio

from adapters.upstreams.a2a.view import state_of
from gateway import codec
from gateway.a2a.errors import TASK_NOT_FOUND
from gateway.a2a.pages import TaskPage
from gateway.codec import JsonObject
from gateway.errors import ApprovalPending, InterlockError, PolicyDenied, UpstreamProtocolError
from gateway.ports import TaskRecord
from gateway.types import Result

AT_A_TIME: Final = 8
Get = Callable[[TaskRecord, JsonObject], Awaitable[Result]]
"""`GetTask` of this task, with these parameters."""


async def listed(page: TaskPage, params: Mapping[str, object], get: Get) -> Result:
    """The page, without tasks that the agent no longer knows or policy keeps back. Any other error is the answer."""
    tasks: list[bytes] = []
    for result in await _got(page.records, params, get):
        if result is None or (result.outcome == "rpc_error" and _is_gone(result)):
            continue
        if result.outcome == "rpc_error":
            return result
        task = codec.loads(result.payload)
        if not isinstance(task, dict):
            raise UpstreamProtocolError("the agent answered GetTask with something that is no task")
        if _fits(task, params):
            tasks.append(_shown(result, task, params))
    rest = {"nextPageToken": page.next_page_token, "pageSize": page.page_size, "totalSize": page.total_size}
    return Result(b'{"tasks":[' + b",".join(tasks) + b"]," + codec.dumps(rest)[1:])


async def _got(records: Sequence[TaskRecord], params: Mapping[str, object], get: Get) -> list[Result | None]:
    """What became of each; `None` for one that policy keeps back."""
    found: dict[str, Result | None] = {}
    failures: list[InterlockError] = []
    room = anyio.CapacityLimiter(AT_A_TIME)
    history = params.get("historyLength")
    extra: JsonObject = {"historyLength": history} if isinstance(history, int) else {}

    async def ask(record: TaskRecord) -> None:
        async with room:
            try:
                found[record.task_id] = await get(record, {"id": record.task_id, **extra})
            except (PolicyDenied, ApprovalPending):
                found[record.task_id] = None
            except InterlockError as exc:  # carried out of the group, which would wrap it
                failures.append(exc)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for record in records:
            group.start_soon(ask, record)
    if failures:
        raise failures[0]
    return [found[record.task_id] for record in records]


def _is_gone(error: Result) -> bool:
    value = codec.loads(error.payload)
    return isinstance(value, dict) and value.get("code") == TASK_NOT_FOUND.code


def _fits(task: JsonObject, params: Mapping[str, object]) -> bool:
    """Whether it is still in the state that was asked for: the index knows what was seen last."""
    wanted = params.get("status")
    return not wanted or wanted == "TASK_STATE_UNSPECIFIED" or state_of(task) == wanted


def _shown(result: Result, task: JsonObject, params: Mapping[str, object]) -> bytes:
    """The task; its artifacts only where they are asked for (section 3.1.4)."""
    if params.get("includeArtifacts") is True or "artifacts" not in task:
        return result.payload
    return codec.dumps({name: value for name, value in task.items() if name != "artifacts"})
