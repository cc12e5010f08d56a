"""A way to call one upstream agent, whatever binding and version it speaks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from gateway.a2a.operations import Operation
from gateway.codec import JsonObject
from gateway.types import Result

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

KEPT_HEADERS: Final = (b"a2a-extensions", b"retry-after")
"""Of an upstream's answer: what A2A wants handed on."""
READS: Final = frozenset(
    {
        "GetTask",
        "GetTaskPushNotificationConfig",
        "ListTaskPushNotificationConfigs",
        "GetExtendedAgentCard",
    }
)
"""May be asked again when the connection was lost: nothing comes of them."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What configuration says of one agent. Times are seconds, sizes bytes."""

    timeout_s: float = 60.0
    """For a unary answer, and for the head of a stream."""
    max_bytes: int = 16 * 1024 * 1024
    headers: Headers = ()
    """The gateway's own credentials for this agent."""
    home: str = ""
    """The URL of the card: credentials go to its host only, whatever addresses the card names. Empty: to all."""
    reach: Callable[[str], bool] | None = None
    """Whether an interface on another host than the card's may be at an address; `None`: at any."""
    stream_idle_s: float | None = None
    """The longest silence on a stream, keep-alive comments counted as sound; `None` for no limit."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: the canonical parameters of A2A 1.0, and what goes with them on this hop."""

    operation: Operation
    params: Mapping[str, object]
    headers: Headers = ()
    """Trace context and chain; version, extensions and credentials are the caller's to write."""
    extensions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """A JSON object of A2A 1.0 that the agent sent: its own bytes (on one line, in a stream), and a decoded copy."""

    raw: bytes
    value: JsonObject


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a unary request; `value` is `None` for an error."""

    result: Result
    value: JsonObject | None


class Refused(Exception):
    """The agent answered a request for a stream with an error of its own."""

    def __init__(self, result: Result) -> None:
        super().__init__("the agent refused")
        self.result = result


class Caller(Protocol):
    """Carries requests to one interface of an agent. Raises the `Upstream*` errors."""

    async def unary(self, ask: Ask) -> Reply:
        """One request, one answer; an error of the agent is a `Result` with the outcome `rpc_error`."""

    def stream(self, ask: Ask) -> AsyncGenerator[Heard, None]:
        """The events of one stream. Raises `Refused` before the first; close it (`aclosing`) to end the stream."""

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Close all connections, once what runs has ended or that many seconds are over."""
