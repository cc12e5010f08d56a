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
from gateway.a2a.as_tools_content import items, refused, state_of, text_in, tool_result, words_of
from gateway.a2a.directory import AgentEntry, Agents
from gateway.a2a.operations import INTERRUPTED
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
            if state_of(talk.value) not in INTERRUPTED:
                return tool_result(
                    talk.value, [*talk.artifacts.values()], task_id=talk.task_id, context_id=talk.context_id
                )
            answer = await relay.ask("elicitation/create", _question(talk))
            if answer.outcome == "input_required" or relay.era is Era.MODERN:
                return _asking(talk)
            parts = [{"text": _answer_in(codec.loads(answer.payload))}]
        raise UpstreamProtocolError(f"agent {self._name!r} asked for input {MAX_ROUNDS} times in one call")

    def _begun(self, call: Call) -> tuple[_Conversation, list[dict[str, object]]]:
        arguments = call.arguments
        talk = _Conversation(call, text_in(arguments, "context_id"), text_in(arguments, "task_id"))
        state = call.resume.get("state") if call.resume else None
        if not isinstance(state, Mapping) or not state:
            return talk, _parts_of(arguments)
        talk.context_id, talk.task_id = text_in(state, "context_id"), text_in(state, "task_id")
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
            return refused(result.payload)
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
        await relay.notify("notifications/progress", {"progress": talk.steps, "message": words_of(talk.value)})


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
            talk.task_id = text_in(found, "taskId") or talk.task_id
            talk.context_id = text_in(found, "contextId") or talk.context_id
    if talk.value.get("kind") == "task":
        talk.task_id = text_in(talk.value, "id") or talk.task_id
    talk.context_id = text_in(talk.value, "contextId") or talk.context_id


def _add_artifact(talk: _Conversation, update: Mapping[str, object]) -> None:
    artifact = update.get("artifact")
    if not isinstance(artifact, Mapping):
        return
    known = talk.artifacts.get(str(artifact.get("artifactId")))
    parts = list(items(artifact.get("parts")))
    if known is not None and update.get("append") is True:
        parts = [*items(known.get("parts")), *parts]
    talk.artifacts[str(artifact.get("artifactId"))] = {**artifact, "parts": parts}


def _question(talk: _Conversation) -> dict[str, object]:
    words = words_of(talk.value) or "The agent needs more to go on."
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
