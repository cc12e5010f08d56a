"""An A2A agent as MCP tools: one for each of its skills, or `ask` where it names none.

Each call of such a tool becomes a message to the agent, which is a call of its own on the governed path. A task that
waits for input asks the MCP client a question (a form with one text); artifacts become content, progress progress.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway import codec
from gateway.a2a.directory import AgentEntry, Agents
from gateway.a2a.operations import INTERRUPTED, TERMINAL
from gateway.errors import InvalidCall, UnknownResource, UpstreamProtocolError
from gateway.ports import Relay
from gateway.types import Authorized, Call, Era, Result

ASK: Final = "ask"
QUESTION: Final = "answer"
"""The key of the one question, and the member of the form."""
MAX_ROUNDS: Final = 10
MAX_DESCRIPTION: Final = 4_096
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_FORM: Final = {
    "type": "object",
    "properties": {QUESTION: {"type": "string", "title": "Answer"}},
    "required": [QUESTION],
}
_INPUT: Final = {
    "type": "object",
    "properties": {
        "message": {"type": "string", "description": "What the agent is asked or told."},
        "data": {"type": "object", "description": "Structured input, beside the message or in its place."},
        "context_id": {
            "type": "string",
            "description": "To go on in an earlier conversation: the id that came with it.",
        },
        "task_id": {"type": "string", "description": "To follow up a task that has not ended."},
    },
    "additionalProperties": False,
}


def tools_of(entry: AgentEntry) -> list[dict[str, object]]:
    """The definitions of an agent's tools; the card's words in them are the upstream's."""
    found = {name: _tool(name, skill) for name, skill in _skills(entry).items()}
    return list(found.values()) or [_tool(ASK, entry.card)]


def _skills(entry: AgentEntry) -> dict[str, Mapping[str, object]]:
    listed = entry.card.get("skills")
    skills = [skill for skill in listed if isinstance(skill, Mapping)] if isinstance(listed, Sequence) else []
    offered = [skill for skill in skills if not entry.skills or skill.get("id") in entry.skills]
    return {_name_of(skill): skill for skill in offered if _name_of(skill)}


def _name_of(skill: Mapping[str, object]) -> str:
    return _NOT_IN_NAMES.sub("_", str(skill.get("id", "")))[:128]


def _tool(name: str, described: Mapping[str, object]) -> dict[str, object]:
    words = described.get("description")
    title = described.get("name")
    return {
        "name": name,
        **({"title": title[:128]} if isinstance(title, str) and title else {}),
        "description": words[:MAX_DESCRIPTION] if isinstance(words, str) else "",
        "inputSchema": _INPUT,
    }


@dataclass(slots=True)
class _Conversation:
    """One call of a tool, over the messages that it takes."""

    call: Call
    context_id: str = ""
    task_id: str = ""
    value: Mapping[str, object] = field(default_factory=dict)
    """The task or message that came last."""
    artifacts: dict[str, dict[str, object]] = field(default_factory=dict)
    steps: int = 0


class AgentTools:
    """Carries out calls of the tools of one agent."""

    def __init__(self, name: str, agents: Agents) -> None:
        self._name = name
        self._agents = agents

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Ask the agent, and give its answer as a tool result. Raises what the call to the agent raises."""
        call = authorized.call
        if call.method != "tools/call":
            raise UnknownResource(f"agent {self._name!r} has tools and nothing else of MCP")
        talk, parts = self._begun(call)
        for _ in range(MAX_ROUNDS):
            refusal = await self._send(talk, parts, relay)
            if refusal is not None:
                return refusal
            if _state_of(talk.value) not in INTERRUPTED:
                return _tool_result(talk)
            answer = await relay.ask("elicitation/create", _question(talk))
            if answer.outcome == "input_required" or relay.era is Era.MODERN:
                return _asking(talk)
            parts = [{"text": _answer_in(codec.loads(answer.payload))}]
        raise UpstreamProtocolError(f"agent {self._name!r} asked for input {MAX_ROUNDS} times in one call")

    def _begun(self, call: Call) -> tuple[_Conversation, list[dict[str, object]]]:
        arguments = call.arguments
        talk = _Conversation(call, _text(arguments, "context_id"), _text(arguments, "task_id"))
        state = call.resume.get("state") if call.resume else None
        if not isinstance(state, Mapping) or not state:
            return talk, _parts_of(arguments)
        talk.context_id, talk.task_id = _text(state, "context_id"), _text(state, "task_id")
        responses = call.resume.get("responses") if call.resume else None
        return talk, [{"text": _answer_in(responses.get(QUESTION) if isinstance(responses, Mapping) else None)}]

    async def _send(self, talk: _Conversation, parts: list[dict[str, object]], relay: Relay) -> Result | None:
        """Send one message and take what comes. Gives the tool result of an agent that refuses, else nothing."""
        entry = self._agents.get(self._name)
        streams = entry is not None and entry.has("streaming") and relay.wants_progress
        operation = "SendStreamingMessage" if streams else "SendMessage"
        action = "a2a.message.stream" if streams else "a2a.message.send"

        async def take(event: bytes) -> None:
            await _taken(talk, event, relay)

        result = await relay.act(
            action, operation, self._agents.resource(self._name), {"message": _message(talk, parts)}, sink=take
        )
        if result.outcome == "rpc_error":
            return _failed(result.payload)
        if not streams:
            await _taken(talk, result.payload, relay)
        return None


def _parts_of(arguments: Mapping[str, object]) -> list[dict[str, object]]:
    message, data = arguments.get("message"), arguments.get("data")
    parts: list[dict[str, object]] = []
    if isinstance(message, str) and message:
        parts.append({"text": message})
    if isinstance(data, Mapping):
        parts.append({"data": data})
    if not parts:
        raise InvalidCall("give `message` (a text), `data` (an object), or both")
    return parts


def _message(talk: _Conversation, parts: list[dict[str, object]]) -> dict[str, object]:
    message: dict[str, object] = {"messageId": secrets.token_hex(16), "role": "ROLE_USER", "parts": parts}
    if talk.context_id:
        message["contextId"] = talk.context_id
    if talk.task_id:
        message["taskId"] = talk.task_id
    return message


async def _taken(talk: _Conversation, payload: bytes, relay: Relay) -> None:
    """Keep what a result or an event says, and tell its progress."""
    value = codec.loads(payload)
    if not isinstance(value, dict):
        raise UpstreamProtocolError("the agent answered something that is not A2A")
    update = value.get("artifactUpdate")
    if isinstance(update, Mapping):
        _add_artifact(talk, update)
    else:
        talk.value = _merged(talk.value, value)
    talk.steps += 1
    _learn_ids(talk, value)
    if relay.wants_progress:
        await relay.notify("notifications/progress", {"progress": talk.steps, "message": _words(talk.value)})


def _merged(known: Mapping[str, object], value: Mapping[str, object]) -> Mapping[str, object]:
    for member in ("task", "message"):
        if isinstance(found := value.get(member), Mapping):
            return {"kind": member, **found}
    update = value.get("statusUpdate")
    if isinstance(update, Mapping):
        return {**known, "kind": "task", "status": update.get("status")}
    return {"kind": "task", **value} if "status" in value else known


def _learn_ids(talk: _Conversation, value: Mapping[str, object]) -> None:
    for member in ("statusUpdate", "artifactUpdate", "message"):
        if isinstance(found := value.get(member), Mapping):
            talk.task_id = _text(found, "taskId") or talk.task_id
            talk.context_id = _text(found, "contextId") or talk.context_id
    if talk.value.get("kind") == "task":
        talk.task_id = _text(talk.value, "id") or talk.task_id
    talk.context_id = _text(talk.value, "contextId") or talk.context_id


def _add_artifact(talk: _Conversation, update: Mapping[str, object]) -> None:
    artifact = update.get("artifact")
    if not isinstance(artifact, Mapping):
        return
    known = talk.artifacts.get(str(artifact.get("artifactId")))
    parts = list(_list(artifact.get("parts")))
    if known is not None and update.get("append") is True:
        parts = [*_list(known.get("parts")), *parts]
    talk.artifacts[str(artifact.get("artifactId"))] = {**artifact, "parts": parts}


def _state_of(value: Mapping[str, object]) -> str:
    status = value.get("status")
    state = status.get("state") if isinstance(status, Mapping) else None
    return state if isinstance(state, str) else ""


def _question(talk: _Conversation) -> dict[str, object]:
    words = _words(talk.value) or "The agent needs more to go on."
    return {"mode": "form", "message": words, "requestedSchema": _FORM}


def _asking(talk: _Conversation) -> Result:
    """The question, for a client that takes it along (MCP 2026-07-28, patterns/mrtr)."""
    question = {"method": "elicitation/create", "params": _question(talk)}
    payload = codec.dumps({"resultType": "input_required", "inputRequests": {QUESTION: question}})
    return Result(payload, "input_required", state={"task_id": talk.task_id, "context_id": talk.context_id})


def _answer_in(response: object) -> str:
    content = response.get("content") if isinstance(response, Mapping) else None
    answer = content.get(QUESTION) if isinstance(content, Mapping) else None
    if not isinstance(response, Mapping) or response.get("action") != "accept" or not isinstance(answer, str):
        raise InvalidCall("the agent's question was not answered, so the call cannot go on")
    return answer


def _tool_result(talk: _Conversation) -> Result:
    value = talk.value
    state = _state_of(value)
    artifacts = [*_list(value.get("artifacts")), *talk.artifacts.values()]
    parts = [part for artifact in artifacts if isinstance(artifact, Mapping) for part in _list(artifact.get("parts"))]
    if value.get("kind") == "message":
        parts.extend(_list(value.get("parts")))
    content = [block for part in parts if isinstance(part, Mapping) for block in _blocks(part)]
    words = _words(value)
    if words and value.get("kind") == "task":
        content.append({"type": "text", "text": words})
    is_error = state in TERMINAL and state != "TASK_STATE_COMPLETED"
    result: dict[str, object] = {
        "resultType": "complete",
        "content": content or [{"type": "text", "text": state or "the agent answered nothing"}],
        "isError": is_error,
        "_meta": {"a2a": {"taskId": talk.task_id, "contextId": talk.context_id, "state": state}},
    }
    structured = [part["data"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("data"), Mapping)]
    if len(structured) == 1:
        result["structuredContent"] = structured[0]
    return Result(codec.dumps(result), "tool_error" if is_error else "ok")


def _blocks(part: Mapping[str, object]) -> list[dict[str, object]]:
    """The MCP content of one part (specification, section 4.1.6)."""
    media_type = _text(part, "mediaType") or "application/octet-stream"
    if isinstance(text := part.get("text"), str):
        return [{"type": "text", "text": text}]
    if isinstance(raw := part.get("raw"), str):
        kind = media_type.partition("/")[0]
        if kind in ("image", "audio"):
            return [{"type": kind, "data": raw, "mimeType": media_type}]
        uri = f"a2a:{_text(part, 'filename') or 'file'}"
        return [{"type": "resource", "resource": {"uri": uri, "mimeType": media_type, "blob": raw}}]
    if isinstance(url := part.get("url"), str):
        return [{"type": "resource_link", "uri": url, "name": _text(part, "filename") or url, "mimeType": media_type}]
    if "data" in part:
        return [{"type": "text", "text": codec.dumps(part["data"]).decode()}]
    return []


def _failed(error: bytes) -> Result:
    value = codec.loads(error)
    words = value.get("message") if isinstance(value, dict) else None
    text = words if isinstance(words, str) else "the agent refused"
    content = [{"type": "text", "text": text}]
    return Result(codec.dumps({"resultType": "complete", "content": content, "isError": True}), "tool_error")


def _words(value: Mapping[str, object]) -> str:
    """What the status of a task says in text."""
    status = value.get("status")
    message = status.get("message") if isinstance(status, Mapping) else None
    parts = _list(message.get("parts")) if isinstance(message, Mapping) else ()
    return "\n".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _text(value: Mapping[str, object], member: str) -> str:
    found = value.get(member)
    return found if isinstance(found, str) else ""
