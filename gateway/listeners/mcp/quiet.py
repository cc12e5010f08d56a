"""A client that is told nothing and asked nothing: for calls that no client is waiting at the other end of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.errors import InvalidCall, UpstreamProtocolError
from gateway.ports import Exchange
from gateway.types import EMPTY, Call, Credentials, Era, Identity, Result


class Handler(Protocol):
    """The governed path, as a listener sees it."""

    async def handle(self, call: Call, credentials: Credentials | Identity, exchange: Exchange) -> Result: ...


class QuietExchange:
    """Takes no notification and answers no question."""

    era = Era.MODERN
    capabilities: Mapping[str, object] = EMPTY
    log_level = ""
    wants_progress = False

    def __init__(self, owner: str) -> None:
        self.owner = owner

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        return

    async def emit(self, event: bytes) -> None:
        raise UpstreamProtocolError("MCP has no streamed results")

    async def ask(self, call: Call) -> Result:
        raise InvalidCall(f"nobody can answer {call.method} here")
