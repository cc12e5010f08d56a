"""What an agent answered as the result of an MCP tool: artifacts and messages become content, a refusal an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway import codec
from gateway.a2a.operations import TERMINAL
from gateway.types import Result


def tool_result(value: Mapping[str, object], artifacts: Sequence[object], *, task_id: str, context_id: str) -> Result:
    """What a task or message that came last makes of a call, with the artifacts that came one by one."""
    state = state_of(value)
    found = [*items(value.get("artifacts")), *artifacts]
    parts = [part for artifact in found if isinstance(artifact, Mapping) for part in items(artifact.get("parts"))]
    if value.get("kind") == "message":
        parts.extend(items(value.get("parts")))
    content = [block for part in parts if isinstance(part, Mapping) for block in _blocks(part)]
    words = words_of(value)
    if words and value.get("kind") == "task":
        content.append({"type": "text", "text": words})
    is_error = state in TERMINAL and state != "TASK_STATE_COMPLETED"
    result: dict[str, object] = {
        "resultType": "complete",
        "content": content or [{"type": "text", "text": state or "the agent answered nothing"}],
        "isError": is_error,
        "_meta": {"a2a": {"taskId": task_id, "contextId": context_id, "state": state}},
    }
    structured = [part["data"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("data"), Mapping)]
    if len(structured) == 1:
        result["structuredContent"] = structured[0]
    return Result(codec.dumps(result), "tool_error" if is_error else "ok")


def refused(error: bytes) -> Result:
    """The result of a call that the agent answered with an error."""
    value = codec.loads(error)
    words = value.get("message") if isinstance(value, dict) else None
    text = words if isinstance(words, str) else "the agent refused"
    content = [{"type": "text", "text": text}]
    return Result(codec.dumps({"resultType": "complete", "content": content, "isError": True}), "tool_error")


def state_of(value: Mapping[str, object]) -> str:
    """The state of a task; empty for what is none."""
    status = value.get("status")
    state = status.get("state") if isinstance(status, Mapping) else None
    return state if isinstance(state, str) else ""


def words_of(value: Mapping[str, object]) -> str:
    """What the status of a task says in text."""
    status = value.get("status")
    message = status.get("message") if isinstance(status, Mapping) else None
    parts = items(message.get("parts")) if isinstance(message, Mapping) else ()
    return "\n".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def items(value: object) -> Sequence[object]:
    """The items of an array; none of what is no array."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def text_in(value: Mapping[str, object], member: str) -> str:
    """A member that is a text; empty where it is none."""
    found = value.get(member)
    return found if isinstance(found, str) else ""


def _blocks(part: Mapping[str, object]) -> list[dict[str, object]]:
    """The MCP content of one part (specification, section 4.1.6)."""
    media_type = text_in(part, "mediaType") or "application/octet-stream"
    if isinstance(text := part.get("text"), str):
        return [{"type": "text", "text": text}]
    if isinstance(raw := part.get("raw"), str):
        kind = media_type.partition("/")[0]
        if kind in ("image", "audio"):
            return [{"type": kind, "data": raw, "mimeType": media_type}]
        uri = f"a2a:{text_in(part, 'filename') or 'file'}"
        return [{"type": "resource", "resource": {"uri": uri, "mimeType": media_type, "blob": raw}}]
    if isinstance(url := part.get("url"), str):
        return [{"type": "resource_link", "uri": url, "name": text_in(part, "filename") or url, "mimeType": media_type}]
    if "data" in part:
        return [{"type": "text", "text": codec.dumps(part["data"]).decode()}]
    return []
