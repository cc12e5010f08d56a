"""What MCP servers that are built in share: how a tool is described, and what policy left of its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from gateway import codec
from gateway.errors import UpstreamProtocolError
from gateway.types import Result

Schema: TypeAlias = Mapping[str, object]


def tool_definition(  # as MCP has it ("Tool")
    name: str,
    title: str,
    description: str,
    arguments: Schema,
    required: Sequence[str],
    result: Schema,
    annotations: Schema,
) -> Schema:
    """A tool that takes these arguments and no others, and gives all members of this result."""
    return {
        "name": name,
        "title": title,
        "description": description,
        "inputSchema": {
            "type": "object",
            "properties": arguments,
            "required": required,
            "additionalProperties": False,
        },
        "outputSchema": {"type": "object", "properties": result, "required": list(result)},
        "annotations": annotations,
    }


def payload_of(result: Result, whose: str) -> Mapping[str, object]:
    """An operation's answer, which policy may have redacted. Raises `UpstreamProtocolError` if it is none any more."""
    try:
        value = codec.loads(result.payload)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UpstreamProtocolError(f"what policy left of the {whose}'s answer is no answer any more")
    return value
