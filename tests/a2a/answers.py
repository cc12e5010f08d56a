"""What agents answer, in the shapes of A2A 1.0, and an index to take it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.a2a.tasks import TaskIndex
from gateway.identity.seal import Sealer
from gateway.ports import TaskStore
from gateway.types import Call, FrozenDict, Resource

NOW_MS = 1_800_000_000_000
SEALER = Sealer([b"k" * 32], "interlock")
SEND = Call("call-1", "a2a.message.send", "SendMessage", Resource("agent", "planner"), protocol="a2a")
STREAM = replace(SEND, method="SendStreamingMessage")

Json = Mapping[str, object]


def index_on(store: TaskStore, now_ms: int = NOW_MS, cached: int = 10_000) -> TaskIndex:
    return TaskIndex(store, lambda: now_ms, SEALER, cached=cached)


def get(task_id: str) -> Call:
    return replace(SEND, method="GetTask", params=FrozenDict(id=task_id))


def task(task_id: str = "t1", context_id: str = "c1", state: str = "WORKING", **status: object) -> Json:
    return {"id": task_id, "contextId": context_id, "status": {"state": f"TASK_STATE_{state}", **status}}


def status(task_id: str = "t1", context_id: str = "c1", state: str = "WORKING", **more: object) -> Json:
    update = {"taskId": task_id, "contextId": context_id, "status": {"state": f"TASK_STATE_{state}", **more}}
    return {"statusUpdate": update}


def artifact(task_id: str = "t1", context_id: str = "c1") -> Json:
    return {"artifactUpdate": {"taskId": task_id, "contextId": context_id, "artifact": {"artifactId": "a"}}}


def message(task_id: str = "t1", context_id: str = "c1") -> Json:
    return {"message": {"messageId": "m", "taskId": task_id, "contextId": context_id, "role": "ROLE_AGENT"}}
