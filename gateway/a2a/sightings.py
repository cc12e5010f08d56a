"""What a result or an event of an agent says of tasks: which one, in which context, in which state.

Agents are not trusted to speak well: a value that is no `SendMessageResponse`, `StreamResponse` or `Task`
(specification, sections 3.2, 4.1 and 4.2) is refused with what is wrong with it, and never with what it holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.errors import UpstreamProtocolError

MAX_ID_BYTES: Final = 1024
"""Longest id of a task or context, in UTF-8."""

_STATES: Final = (
    "",
    "TASK_STATE_SUBMITTED",
    "TASK_STATE_WORKING",
    "TASK_STATE_COMPLETED",
    "TASK_STATE_FAILED",
    "TASK_STATE_CANCELED",
    "TASK_STATE_INPUT_REQUIRED",
    "TASK_STATE_REJECTED",
    "TASK_STATE_AUTH_REQUIRED",
)
"""By their numbers in the protocol buffer: ProtoJSON allows those too."""

_ID: Final = re.compile("[^\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]{1,1024}")
_STATE: Final = re.compile("TASK_STATE_[A-Z0-9_]{1,48}")
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_MEMBERS: Final[Mapping[str, str]] = {
    "task": "id",
    "message": "taskId",
    "statusUpdate": "taskId",
    "artifactUpdate": "taskId",
}
"""The kinds of answers, each with the member that names its task."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was seen; a message may name neither task nor context. Empty is what was not said."""

    task_id: str = ""
    context_id: str = ""
    state: str = ""
    stamp_ms: int = 0
    """When the agent says that the state was reached."""


def sighted(value: Mapping[str, object]) -> Sighting:
    """Read a result or an event. Raises `UpstreamProtocolError` for what is none."""
    kind, content = _content(value)
    task_id = _id(content, _MEMBERS[kind], kind)
    if not task_id and kind != "message":
        raise _bad(f"a {kind} without `{_MEMBERS[kind]}`")
    state, stamp_ms = _status(content, kind)
    return Sighting(task_id, _id(content, "contextId", kind), state, stamp_ms)


def is_id(value: str) -> bool:
    """Whether a text can name a task or a context: not empty, not too long, nothing that cannot be written."""
    return _ID.fullmatch(value) is not None and (value.isascii() or len(value.encode()) <= MAX_ID_BYTES)


def state_of(value: object) -> str | None:
    """The name of a state that is given by name or number, empty for the unspecified one; `None` for no state."""
    if value is None or value == "TASK_STATE_UNSPECIFIED":
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return _STATES[value] if 0 <= value < len(_STATES) else None
    return value if isinstance(value, str) and _STATE.fullmatch(value) else None


def instant_ms(value: str) -> int | None:
    """An RFC 3339 time in ms since the epoch, rounded down and not before it; `None` for no such time."""
    if _RFC3339.fullmatch(value) is None:
        return None
    try:
        return max(0, (datetime.fromisoformat(value) - _EPOCH) // _MS)
    except (ValueError, OverflowError):
        return None


def _content(value: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
    if not isinstance(value, Mapping):
        raise _bad("something that is no object")
    present = [name for name in _MEMBERS if value.get(name) is not None]
    if not present and isinstance(value.get("id"), str) and isinstance(value.get("status"), Mapping):
        return "task", value  # the result of GetTask and CancelTask is a bare one
    if len(present) != 1:
        raise _bad("an answer that does not hold exactly one of task, message, statusUpdate and artifactUpdate")
    content = value[present[0]]
    if not isinstance(content, Mapping):
        raise _bad(f"a {present[0]} that is no object")
    return present[0], content


def _id(content: Mapping[str, object], member: str, kind: str) -> str:
    value = content.get(member)
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not is_id(value):
        raise _bad(f"a {kind} whose `{member}` is not a text of up to {MAX_ID_BYTES} bytes without control characters")
    return value


def _status(content: Mapping[str, object], kind: str) -> tuple[str, int]:
    status = content.get("status") if kind in {"task", "statusUpdate"} else None
    if status is None:
        return "", 0
    if not isinstance(status, Mapping):
        raise _bad(f"a {kind} whose `status` is no object")
    state, stamp = state_of(status.get("state")), status.get("timestamp")
    if state is None:
        raise _bad(f"a {kind} whose `status.state` is no state of a task")
    if stamp is not None and not isinstance(stamp, str):
        raise _bad(f"a {kind} whose `status.timestamp` is no text")
    return state, (instant_ms(stamp) or 0) if stamp else 0


def _bad(what: str) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"the agent answered with {what}")
