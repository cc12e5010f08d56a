"""One request as both legs receive it, and what either may do with its client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.errors import InvalidCall
from gateway.listeners.http import Headers, Receive, Send
from gateway.listeners.mcp.calls import Tracing
from gateway.listeners.mcp.envelope import Message
from gateway.listeners.mcp.methods import LOG_LEVELS
from gateway.types import Call, Credentials

CAPABILITY_OF: Final = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}


@dataclass(frozen=True, slots=True)
class Inbound:
    """One request with all that came with it."""

    message: Message
    headers: Headers
    credentials: Credentials
    tracing: Tracing
    receive: Receive
    send: Send


class MissingCapability(InvalidCall):
    """The upstream asks for something that the client did not say it can do."""

    code = "missing_client_capability"

    def __init__(self, required: Mapping[str, object]) -> None:
        super().__init__(f"the call needs a capability that the client did not declare: {', '.join(required)}")
        self.required = required


def require_capability(capabilities: Mapping[str, object], call: Call) -> None:
    """Raise unless the client declared what this question needs (2026-07-28, patterns/mrtr, server requirement 7)."""
    name = CAPABILITY_OF[call.method]
    declared = capabilities.get(name)
    if not isinstance(declared, Mapping):
        raise MissingCapability({name: {}})
    if name == "elicitation" and call.params.get("mode") == "url" and "url" not in declared:
        raise MissingCapability({"elicitation": {"url": {}}})


def accepts_events(headers: Headers) -> bool:
    """Whether the client takes Server-Sent Events as an answer."""
    return any(
        b"text/event-stream" in accept or b"*/*" in accept or b"text/*" in accept
        for accept in map(bytes.lower, headers.get(b"accept", ()))
    )


def reaches(wanted: str, level: object) -> bool:
    """Whether a log message of this level is one that the client wants; with nothing wanted, none is."""
    if wanted not in LOG_LEVELS or level not in LOG_LEVELS:
        return False
    return LOG_LEVELS.index(str(level)) >= LOG_LEVELS.index(wanted)
