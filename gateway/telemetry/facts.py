"""What a record says about its call, in the words of the conventions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gateway import errors
from gateway.errors import InterlockError
from gateway.ports import CallRecord
from gateway.types import Call

CALLBACKS: Final = frozenset({"mcp.elicitation.create", "mcp.sampling.create", "mcp.roots.list"})
"""Actions in which the gateway asks the client."""

_FORWARDED: Final = CALLBACKS | {
    *("mcp.tools.call", "mcp.prompts.get", "mcp.completion.complete"),
    *("mcp.resources.read", "mcp.resources.subscribe"),
    *("mcp.tasks.get", "mcp.tasks.update", "mcp.tasks.cancel"),
}
"""Actions that somebody else carries out; the others are answered from memory."""

_NO_POLICY: Final = frozenset({"unauthenticated", "unknown_resource", "audit_unavailable", "invalid_call"})
"""Errors that come before policy is asked."""


def _classes(root: type[InterlockError]) -> Iterator[type[InterlockError]]:
    yield root
    for child in root.__subclasses__():
        yield from _classes(child)


_RPC_CODES: Final[Mapping[str, int]] = {
    kind.code: kind.rpc_code for kind in _classes(InterlockError) if kind.__module__ == errors.__name__
}


def error_type(record: CallRecord) -> str:
    """The class of the error that the call ended with, or empty (`error.type`; `tool_error` is the convention's)."""
    if record.outcome in {"ok", "input_required", "intent"}:
        return ""
    return record.error or record.outcome


def rpc_code(record: CallRecord) -> str:
    """The JSON-RPC error code in the answer, or empty; a failed `tools/call` is answered by a result without one."""
    if not record.error or record.call.method == "tools/call":
        return ""
    code = _RPC_CODES.get(record.error)
    return str(code) if code is not None else ""


def tool_name(call: Call) -> str:
    """The tool's name, if it exists: what a caller invents must not become a series."""
    return call.resource.name if call.resource.type == "tool" and call.resource.known else ""


def prompt_name(call: Call) -> str:
    """The prompt's name, if it exists."""
    return call.resource.name if call.resource.type == "prompt" and call.resource.known else ""


def was_forwarded(record: CallRecord) -> bool:
    """Whether somebody else was asked. A refused call was, if there is a result that policy then refused."""
    if record.call.action not in _FORWARDED or record.execute_ns <= 0:
        return False
    return record.outcome != "denied" or record.result_bytes > 0


def verdict_of(record: CallRecord) -> str:
    """`permit`, `deny` or `hold`; empty when policy was not asked."""
    if record.error == "approval_pending":
        return "hold"
    if record.error in _NO_POLICY or record.decide_ns <= 0:
        return ""
    if record.outcome == "denied" or record.error == "pdp_unavailable":
        return "deny"
    return "permit" if record.decision_id else ""
