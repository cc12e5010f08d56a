"""Pages of a caller's tasks: what `ListTasks` asks for, and where its next page begins (specification, 3.1.4).

A page token is sealed state: it says after which task to go on, and holds for the principal, agent and filters that
it was made for. Tasks made while somebody turns the pages come before the first one and shift nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from gateway import codec
from gateway.a2a.sightings import instant_ms, is_id, state_of
from gateway.errors import InvalidCall
from gateway.ports import TaskQuery, TaskRecord, TaskStore

DEFAULT_SIZE: Final = 50
MAX_SIZE: Final = 100
TOKEN_TTL_S: Final = 3_600

_PURPOSE: Final = "page token"


class Cursors(Protocol):
    """Seals the position in a list."""

    def seal(self, purpose: str, value: Mapping[str, object], *, principal: str, ttl_s: int, now_s: int) -> str: ...

    def open(self, purpose: str, token: str, *, principal: str, now_s: int) -> object: ...


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Some of the caller's tasks, newest first. `next_page_token` is empty on the last page."""

    records: tuple[TaskRecord, ...]
    next_page_token: str
    total_size: int
    page_size: int


async def page_of(
    store: TaskStore, cursors: Cursors, query: TaskQuery, params: Mapping[str, object], *, now_s: int
) -> TaskPage:
    """The page that `params` names, of the tasks that `query` matches. Raises `InvalidCall` for a foreign token."""
    size = query.limit
    before = _position(cursors, query, _text(params, "pageToken"), now_s)
    found = await store.tasks(replace(query, before=before, limit=size + 1))
    records = tuple(found[:size])
    token = ""
    if len(found) > size:
        at = {"f": _filters(query), "t": records[-1].updated_ms, "i": records[-1].task_id}
        token = cursors.seal(_PURPOSE, at, principal=query.owner, ttl_s=TOKEN_TTL_S, now_s=now_s)
    return TaskPage(records, token, await store.count_tasks(query), size)


def query_of(agent: str, owner: str, params: Mapping[str, object]) -> TaskQuery:
    """What a canonical `ListTasksRequest` asks for. Raises `InvalidCall` with the member that is wrong."""
    context_id = _text(params, "contextId")
    if context_id and not is_id(context_id):
        raise InvalidCall("contextId is too long or holds control characters")
    state = state_of(params.get("status"))
    if state is None:
        raise InvalidCall("status must be the name of a task state, such as TASK_STATE_WORKING")
    return TaskQuery(agent, owner, context_id, state, _since(params), limit=_size(params))


def _size(params: Mapping[str, object]) -> int:
    size = params.get("pageSize")
    if size is None:
        return DEFAULT_SIZE
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_SIZE:
        raise InvalidCall(f"pageSize must be a number from 1 to {MAX_SIZE}")
    return size


def _since(params: Mapping[str, object]) -> int:
    text = _text(params, "statusTimestampAfter")
    if not text:
        return 0
    since = instant_ms(text)
    if since is None:
        raise InvalidCall("statusTimestampAfter must be a time like 2026-03-12T10:00:00Z (RFC 3339)")
    return since


def _text(params: Mapping[str, object], member: str) -> str:
    value = params.get(member)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidCall(f"{member} must be a text")
    return value


def _position(cursors: Cursors, query: TaskQuery, token: str, now_s: int) -> tuple[int, str] | None:
    if not token:
        return None
    match cursors.open(_PURPOSE, token, principal=query.owner, now_s=now_s):
        case {"f": filters, "t": int(updated_ms), "i": str(task_id)} if filters == _filters(query):
            return updated_ms, task_id
        case _:
            raise InvalidCall("pageToken was given for another agent or other filters: start again without it")


def _filters(query: TaskQuery) -> str:
    parts: Sequence[object] = (query.agent, query.context_id, query.state, query.updated_after_ms)
    return hashlib.sha256(codec.dumps(parts)).hexdigest()[:32]
