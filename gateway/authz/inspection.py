"""What policy may know of a result (phase `response`): its size, its kinds and, where they fit, its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway import codec
from gateway.errors import InputTooLarge
from gateway.types import Result, freeze

MAX_STRUCTURED_BYTES: Final = 64 << 10
MAX_READ_BYTES: Final = 4 << 20
MAX_KINDS: Final = 32
_PART_KINDS: Final = frozenset({"text", "raw", "url", "data"})
_HOLDS_PARTS: Final = frozenset(
    {
        "task",
        "message",
        "statusUpdate",
        "artifactUpdate",
        "status",
        "artifact",
        "artifacts",
        "history",
        "parts",
        "tasks",
    }
)


def result_facts(result: Result, protocol: str = "mcp") -> dict[str, object]:
    """`resource.properties.result`; `truncated` where `structured_content` or `content_kinds` are not all there is.

    What is structured is `structuredContent` in MCP, and all of a result or event in A2A.
    """
    facts: dict[str, object] = {
        "size": len(result.payload),
        "outcome": result.outcome,
        "is_error": result.outcome in {"tool_error", "rpc_error"},
        "labels": result.labels,
        "content_kinds": [],
        "truncated": True,
    }
    if len(result.payload) > MAX_READ_BYTES:
        return facts
    try:
        value = codec.loads(result.payload)
    except ValueError:
        return facts
    if not isinstance(value, dict):
        return facts
    kinds = _kinds(value) if protocol == "mcp" else _part_kinds(value)
    facts["content_kinds"] = kinds[:MAX_KINDS]
    structured = value.get("structuredContent") if protocol == "mcp" else value
    fits = structured is None or _fits(structured)
    if fits and structured is not None:
        facts["structured_content"] = structured
    facts["truncated"] = not fits or len(kinds) > MAX_KINDS
    return facts


def _kinds(value: Mapping[str, object]) -> list[str]:
    """The types of the content blocks (tools), or `resource` for contents and `message` for prompts."""
    blocks = value.get("content")
    listed = blocks if isinstance(blocks, list) else []
    kinds = {block["type"] for block in listed if isinstance(block, dict) and isinstance(block.get("type"), str)}
    kinds |= {kind for member, kind in (("contents", "resource"), ("messages", "message")) if value.get(member)}
    return sorted(kinds)


def _part_kinds(value: Mapping[str, object]) -> list[str]:
    """Which of `text`, `raw`, `url` and `data` the parts of an A2A result or event are (specification, 4.1.6)."""
    kinds: set[str] = set()
    waiting: list[object] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            kinds.update(_PART_KINDS.intersection(item))
            waiting.extend(item[member] for member in _HOLDS_PARTS.intersection(item))
    return sorted(kinds)


def _fits(structured: object) -> bool:
    """Whether a value is within what policy is asked about: 64 KiB, and the depth and count of arguments."""
    if len(codec.dumps(structured)) > MAX_STRUCTURED_BYTES:
        return False
    try:
        freeze(structured)
    except InputTooLarge:
        return False
    return True
