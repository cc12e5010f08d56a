"""An MCP server as an A2A agent: its tools are the skills, and a data part `{tool, arguments}` calls one of them.

No model reads the message: what is called is what the part says. The answer is a message, so nothing has to be kept.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway import codec
from gateway.a2a.directory import AgentEntry
from gateway.a2a.errors import CONTENT_TYPE_NOT_SUPPORTED, UNSUPPORTED_OPERATION, Fault
from gateway.ports import Relay
from gateway.types import Authorized, FrozenDict, Resource, Result, freeze

_HOW: Final = 'send one data part {"tool": NAME, "arguments": {...}}; the skills of the card are the tools'
MAX_SKILLS: Final = 1_000


def entry_of(
    name: str, tools: Sequence[Mapping[str, object]], *, description: str = "", version: str = ""
) -> AgentEntry:
    """The agent that a server's tools make. Its card is ours, so there is nothing to pin."""
    skills = [_skill(tool) for tool in tools[:MAX_SKILLS]]
    card = freeze(
        {
            "name": name,
            "description": f"{description or f'The tools of the MCP server {name}'}. Deterministic: {_HOW}."[:4_096],
            "version": version or "1",
            "capabilities": {"streaming": True, "pushNotifications": False, "extendedAgentCard": False},
            "defaultInputModes": ["application/json"],
            "defaultOutputModes": ["application/json", "text/plain"],
            "skills": skills or [_NO_TOOLS],
        }
    )
    digest = "sha256:" + hashlib.sha256(codec.canonical(card)).hexdigest()
    return AgentEntry(name, card if isinstance(card, FrozenDict) else FrozenDict(), digest=digest, pinned=True)


_NO_TOOLS: Final = {"id": "none", "name": "none", "description": "This server has no tools now.", "tags": ["mcp"]}


def _skill(tool: Mapping[str, object]) -> dict[str, object]:
    name = str(tool.get("name", ""))
    words = tool.get("description")
    title = tool.get("title")
    return {
        "id": name,
        "name": title if isinstance(title, str) and title else name,
        "description": words if isinstance(words, str) and words else f"The tool {name}.",
        "tags": ["mcp", "tool"],
        "inputModes": ["application/json"],
    }


class ToolAgent:
    """Carries out messages to the agent that an MCP server is."""

    def __init__(self, name: str, resolve_tool: Callable[[str, str], Resource]) -> None:
        self._name = name
        self._resolve_tool = resolve_tool

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Call the tool that the message names, as a call of its own. What else A2A has, such an agent does not."""
        call = authorized.call
        if call.method not in ("SendMessage", "SendStreamingMessage"):
            return _error(UNSUPPORTED_OPERATION, "this agent answers messages at once and keeps no tasks")
        message = call.params.get("message")
        wanted = _wanted(message) if isinstance(message, Mapping) else None
        if wanted is None:
            return _error(CONTENT_TYPE_NOT_SUPPORTED, _HOW)
        tool, arguments = wanted
        resource = self._resolve_tool(self._name, tool)
        params = {"name": resource.name, "arguments": arguments}  # what is called is what policy was asked about
        result = await relay.act("mcp.tools.call", "tools/call", resource, params)
        answer = _answer(result, message if isinstance(message, Mapping) else {})
        if call.method == "SendStreamingMessage":
            await relay.emit(answer)
            return Result(b"{}")
        return Result(answer)


def _wanted(message: Mapping[str, object]) -> tuple[str, Mapping[str, object]] | None:
    """Tool and arguments of a message that is exactly one such data part."""
    parts = message.get("parts")
    if not isinstance(parts, Sequence) or len(parts) != 1 or not isinstance(parts[0], Mapping):
        return None
    data = parts[0].get("data")
    if not isinstance(data, Mapping) or not set(data) <= {"tool", "arguments"}:
        return None
    tool, arguments = data.get("tool"), data.get("arguments", {})
    if not isinstance(tool, str) or not isinstance(arguments, Mapping):
        return None
    return tool, arguments


def _answer(result: Result, asked: Mapping[str, object]) -> bytes:
    value = codec.loads(result.payload)
    found = value if isinstance(value, dict) else {}
    failed = result.outcome != "ok"
    parts = [part for block in _list(found.get("content")) if isinstance(block, Mapping) for part in [_part(block)]]
    if isinstance(structured := found.get("structuredContent"), Mapping):
        parts.append({"data": structured, "mediaType": "application/json"})
    if not parts:
        parts.append({"data": found, "mediaType": "application/json"})
    message: dict[str, object] = {
        "messageId": secrets.token_hex(16),
        "role": "ROLE_AGENT",
        "parts": parts,
        "metadata": {"isError": failed},
    }
    if isinstance(context := asked.get("contextId"), str):
        message["contextId"] = context
    return codec.dumps({"message": message})


def _part(block: Mapping[str, object]) -> dict[str, object]:
    """One block of MCP content as a part."""
    kind = block.get("type")
    if kind == "text":
        return {"text": str(block.get("text", ""))}
    if kind in ("image", "audio"):
        return {"raw": str(block.get("data", "")), "mediaType": str(block.get("mimeType", ""))}
    if kind == "resource_link":
        return {"url": str(block.get("uri", "")), "mediaType": str(block.get("mimeType", ""))}
    return {"data": dict(block), "mediaType": "application/json"}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _error(fault: Fault, message: str) -> Result:
    details = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": fault.reason,
            "domain": "a2a-protocol.org",
        }
    ]
    return Result(codec.dumps({"code": fault.code, "message": message, "data": details}), "rpc_error")
