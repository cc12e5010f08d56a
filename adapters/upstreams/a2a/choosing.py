"""Which of an agent's interfaces is used, and what its card says that it does not offer."""

from __future__ import annotations

from typing import Final

from gateway.a2a.directory import AgentEntry, Binding, Interface
from gateway.a2a.errors import PUSH_NOT_SUPPORTED, UNSUPPORTED_OPERATION, A2aError
from gateway.a2a.operations import LEGACY_VERSION, VERSION, Operation
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable

_PREFERENCE: Final[tuple[tuple[Binding, str], ...]] = (
    ("JSONRPC", VERSION),
    ("HTTP+JSON", VERSION),
    ("GRPC", VERSION),
    ("JSONRPC", LEGACY_VERSION),
)


def chosen(entry: AgentEntry, *, grpc: bool) -> Interface:
    """The best interface; of equal ones, the card's first. Raises `UpstreamProtocolError` when none can be used."""
    if entry.quarantine:
        raise UpstreamUnavailable(f"agent {entry.name!r} is quarantined: its card is not the one that was accepted")
    usable = _PREFERENCE if grpc else tuple(kind for kind in _PREFERENCE if kind[0] != "GRPC")
    for kind in usable:
        for interface in entry.interfaces:
            if (interface.binding, interface.version) == kind:
                return interface
    offered = ", ".join(f"{one.binding} {one.version}" for one in entry.interfaces) or "none"
    words = f"agent {entry.name!r} has no interface that can be used here (it offers {offered})"
    raise UpstreamProtocolError(words)


def check_offered(entry: AgentEntry, operation: Operation) -> None:
    """Raise `A2aError` for an operation that needs a capability that the card lacks (section 3.3.4)."""
    if operation.streams and not entry.has("streaming"):
        raise A2aError(UNSUPPORTED_OPERATION, f"agent {entry.name!r} does not offer streaming")
    if operation.push and not entry.has("pushNotifications"):
        raise A2aError(PUSH_NOT_SUPPORTED, f"agent {entry.name!r} does not offer push notifications")
    if operation.name == "GetExtendedAgentCard" and not entry.has("extendedAgentCard"):
        raise A2aError(UNSUPPORTED_OPERATION, f"agent {entry.name!r} has no extended card")
