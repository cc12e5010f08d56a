"""Questions of every kind that the gateway asks, to see whether a policy can be evaluated at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from gateway.ports import Entrypoint

Sample: TypeAlias = tuple[str, Entrypoint, Mapping[str, object]]

_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "mcp_server": (
        "mcp.initialize",
        "mcp.discover",
        "mcp.tools.list",
        "mcp.prompts.list",
        "mcp.resources.list",
        "mcp.templates.list",
    ),
    "tool": ("mcp.tools.call",),
    "prompt": ("mcp.prompts.get", "mcp.completion.complete"),
    "mcp_resource": ("mcp.resources.read", "mcp.resources.subscribe", "mcp.subscriptions.listen"),
    "model": ("mcp.sampling.create", "model.call", "model.list"),
    "elicitation": ("mcp.elicitation.create",),
    "mcp_task": ("mcp.tasks.get",),
    "agent": ("a2a.card.read", "a2a.message.send"),
    "a2a_task": ("a2a.tasks.get", "a2a.tasks.list", "a2a.push.create"),
    "memory": ("memory.read", "memory.write", "memory.delete"),
    "budget": ("budgets.list", "budgets.read", "budgets.reset"),
    "sandbox": ("sandbox.exec",),
    "endpoint": ("egress.connect",),
}

_PHASES: Final[tuple[tuple[str, Entrypoint], ...]] = (
    ("request", "decision"),
    ("response", "decision"),
    ("list", "visible"),
)


_CATALOG: Final[Mapping[str, object]] = {"labels": ["pii"], "risk": "high", "pinned": True}


def question(action: str, kind: str, phase: str, *, known: bool) -> dict[str, object]:
    """One question (policy contract, "Question"); `known` says whether anything is known of caller and call."""
    properties: dict[str, object] = {"upstream": "sample", "name": "sample", "arguments": {}, "truncated": False}
    if known:
        properties |= {
            "arguments": {"path": "a/b", "sql": "SELECT 1", "limit": 3, "list": ["a"], "nested": {"a": None}}
        }
        properties |= {"catalog": _CATALOG, "hints": {"readOnlyHint": True}}
    properties |= _of_agents(kind, known=known) or _particulars(kind, known=known)
    if phase == "response":
        properties["result"] = {"bytes": 12, "kinds": ["text"], "labels": [], "is_error": False}
    if phase == "list":
        properties["candidates"] = [{"type": kind, "id": "sample/sample", "properties": dict(properties)}]
    return {
        "schema": "interlock.input/1",
        "phase": phase,
        "subject": _subject(known=known),
        "action": {"name": action, "properties": {**_protocol(action), "method": "x"}},
        "resource": {"type": kind, "id": "sample/sample", "properties": properties},
        "context": _context(known=known),
    }


def _particulars(kind: str, *, known: bool) -> dict[str, object]:
    """What only questions about boxes say (policy contract, "Resource"); a box may connect when no call runs in it."""
    caller = {"action": "mcp.tools.call", "type": "tool", "id": "sample/sample", "upstream": "sample", "name": "sample"}
    caller |= {"call": "c", "arguments_digest": f"sha256:{64 * '0'}"}
    facts: dict[str, object] = {"caller": {**caller, "catalog": {"risk": "high"}} if known else {}}
    if kind == "endpoint":
        facts |= {"host": "api.example.org", "port": 443, "scheme": "tunnel", "granted": known}
        facts |= {"box": {"driver": "bubblewrap", "level": "process"}}
    if known and kind == "memory":
        memory = {"namespace": "default", "scope": "org", "kind": "procedural", "residency": "eu", "whole": False}
        memory |= {"source": "tool", "person": False, "sources": 1, "trust": 30, "findings": ["directive"]}
        return {
            "catalog": {**_CATALOG, "memory": {**memory, "of": {"source": "user", "trust": 90, "subject": "user:ana"}}}
        }
    if known and kind == "model":
        return {"region": "eu", "estimate": {"input_tokens": 9, "output_tokens": 9}, "stream": True, "images": False}
    return facts if kind in {"endpoint", "sandbox"} else {}


def _protocol(action: str) -> dict[str, object]:
    a2a = action.startswith("a2a.")
    return {"protocol": "a2a" if a2a else "mcp", "protocol_version": "1.0" if a2a else "2026-07-28"}


def _of_agents(kind: str, *, known: bool) -> dict[str, object]:
    """What only questions of A2A say (policies/README.md, "Agents")."""
    ids: dict[str, object] = {"task_id": "t", "context_id": "c", "history_length": -1}
    push: dict[str, object] = {"push": known, "push_scheme": "https", "push_host": "client.example.org"}
    catalog: dict[str, object] = {"labels": [], "risk": "medium", "pinned": True, "signed_by": ""}
    if kind == "a2a_task" and known:
        task = {"owner": "user:ana", "context": "c", "state": "TASK_STATE_WORKING", "tenant": "acme"}
        return {**ids, **push, "catalog": {**catalog, "task": task}}
    if kind != "agent" or not known:
        return {}
    parts = {"parts": 1, "part_kinds": ["text"], "media_types": ["text/plain"], "bytes": 5}
    urls = {"has_url_parts": True, "url_hosts": ["files.example.org"]}
    wanted = {"reference_task_ids": ["t2"], "accepted_output_modes": ["text/plain"], "return_immediately": False}
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    facts = {**ids, **push, **parts, **urls, **wanted, "role": "ROLE_USER"}
    return {**facts, "catalog": catalog, "arguments": {"message": message}}


def _subject(*, known: bool) -> dict[str, object]:
    if not known:
        return {
            "type": "anonymous",
            "id": "",
            "properties": {"tenant": "", "roles": [], "scopes": [], "delegation": []},
        }
    facts = {"tenant": "acme", "roles": ["analyst", "admin"], "scopes": ["mcp:tools"], "delegation": ["user:ana"]}
    return {
        "type": "agent",
        "id": "agent:a",
        "properties": {**facts, "on_behalf_of": {"type": "user", "id": "user:ana"}},
    }


def _context(*, known: bool) -> dict[str, object]:
    facts: dict[str, object] = {"time_ns": 1_700_000_000_000_000_000, "request_id": "r", "trace_id": "t", "env": "dev"}
    if known:
        facts |= {"session": {"id": "s", "calls": 7, "labels": ["untrusted"]}, "rate": {"calls_1m": 7}, "findings": []}
        facts |= {"budget": _budget(), "network": {"ip": "127.0.0.1"}}
        facts |= {"supported_obligations": ["redact"], "approval": {"id": "a", "approvers": ["user:bo"]}}
    return facts


def _budget() -> dict[str, object]:
    spent = {"spent_usd": 1.25, "tokens": 1200, "calls": 7, "seconds": 3.5, "used": 0.25, "warns": False}
    account = {**spent, "scope": "subject", "name": "daily", "window_s": 86400, "limits": {"usd": 5.0}}
    return {**spent, "accounts": [account]}


def _samples() -> Iterator[Sample]:
    for kind, actions in _KINDS.items():
        for action in actions:
            for phase, entrypoint in _PHASES:
                for known in (True, False):
                    yield f"{action}, phase {phase}", entrypoint, question(action, kind, phase, known=known)


SAMPLES: Final = tuple(_samples())
