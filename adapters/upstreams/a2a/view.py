"""What a task looks like after the events so far, for those who join late and to see what a cut made us miss."""

from __future__ import annotations

from typing import Final, cast

from gateway.a2a.operations import INTERRUPTED, TERMINAL
from gateway.a2a.sightings import state_of as named_state
from gateway.codec import JsonObject, JsonValue

KINDS: Final = ("task", "message", "statusUpdate", "artifactUpdate")


class View:
    """A task, merged from its stream. Holds at most `max_bytes` of events; beyond that it knows the state only."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = self._left = max_bytes
        self._task: JsonObject | None = None
        self.task_id = ""
        self.state = ""
        self.said = False
        """The agent answered with a message in place of a task."""

    @property
    def task(self) -> JsonObject | None:
        """The task as it is now, or `None` where that is not known in full."""
        return self._task

    @property
    def over(self) -> bool:
        """Whether the stream may end here: in a terminal or interrupted state, or after a message."""
        return self.said or self.state in TERMINAL or self.state in INTERRUPTED

    def take(self, event: JsonObject, size: int) -> None:
        """Merge one event."""
        task, status, artifact = event.get("task"), event.get("statusUpdate"), event.get("artifactUpdate")
        if isinstance(task, dict):
            self.start(task, size)
        elif isinstance(status, dict):
            self._status(status, size)
        elif isinstance(artifact, dict):
            self._artifact(artifact, size)
        elif "message" in event:
            self.said = True

    def start(self, task: JsonObject, size: int) -> None:
        """The task as the agent says it is."""
        self.state = state_of(task)
        self._left = self._max_bytes
        self._task = dict(task)
        self._spend(size)

    def _status(self, update: JsonObject, size: int) -> None:
        self.state = state_of(update)
        self._spend(size)
        if self._task is None:
            return
        former = _part(self._task, "status").get("message")
        if isinstance(former, dict):
            self._task["history"] = [*_items(self._task.get("history")), former]
        self._task["status"] = update.get("status")

    def _artifact(self, update: JsonObject, size: int) -> None:
        self._spend(size)
        fresh = update.get("artifact")
        if self._task is None or not isinstance(fresh, dict):
            return
        held = self._task.get("artifacts")
        artifacts = held if isinstance(held, list) else []
        self._task["artifacts"] = artifacts
        at = _index_of(artifacts, fresh.get("artifactId"))
        if at is None:
            artifacts.append(dict(fresh))
        elif update.get("append") is True:
            known = cast("JsonObject", artifacts[at])
            parts = known.get("parts")
            if isinstance(parts, list):
                parts.extend(_items(fresh.get("parts")))
            else:
                known["parts"] = _items(fresh.get("parts"))
        else:
            artifacts[at] = dict(fresh)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            self._task = None


def missed(view: View, task: JsonObject) -> list[JsonObject]:
    """The events that turn what was seen into `task`: changed artifacts as a whole, then the status.

    Whole ones, as nothing tells which pieces of an artifact were seen (events have no ids, section 3.5.2).
    """
    known = view.task or {}
    names: JsonObject = {"taskId": task.get("id"), "contextId": task.get("contextId")}
    events: list[JsonObject] = []
    before = _items(known.get("artifacts"))
    for artifact in _items(task.get("artifacts")):
        if artifact not in before:
            events.append({"artifactUpdate": {**names, "artifact": artifact, "append": False, "lastChunk": True}})
    status = task.get("status")
    if status != known.get("status") and (view.task is not None or state_of(task) != view.state):
        events.append({"statusUpdate": {**names, "status": status}})
    return events


def state_of(holder: JsonObject) -> str:
    """The state in a task or a status update; empty where it has none."""
    return named_state(_part(holder, "status").get("state")) or ""


def task_id_of(event: JsonObject) -> str:
    """The task that an event belongs to; empty for none."""
    for kind in KINDS:
        body = event.get(kind)
        if isinstance(body, dict):
            named = body.get("id" if kind == "task" else "taskId")
            return named if isinstance(named, str) else ""
    return ""


def _part(holder: JsonObject, name: str) -> JsonObject:
    part = holder.get(name)
    return part if isinstance(part, dict) else {}


def _items(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _index_of(artifacts: list[JsonValue], artifact_id: JsonValue) -> int | None:
    for at, artifact in enumerate(artifacts):
        if isinstance(artifact, dict) and artifact.get("artifactId") == artifact_id:
            return at
    return None
