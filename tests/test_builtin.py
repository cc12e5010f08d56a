"""Built-in servers describe their tools as MCP has them, and answer with nothing that policy made no answer of."""

from __future__ import annotations

import pytest

from gateway.builtin import payload_of, tool_definition
from gateway.errors import UpstreamProtocolError
from gateway.types import Result


def test_tool_takes_what_is_named_and_gives_all_that_is_named() -> None:
    text = {"type": "string"}

    tool = tool_definition("x", "X", "Does x.", {"a": text, "b": text}, ["a"], {"c": text}, {})

    assert (tool["name"], tool["title"], tool["description"], tool["annotations"]) == ("x", "X", "Does x.", {})
    assert tool["inputSchema"] == {
        "type": "object",
        "properties": {"a": text, "b": text},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert tool["outputSchema"] == {"type": "object", "properties": {"c": text}, "required": ["c"]}


@pytest.mark.parametrize("left", [b"", b"null", b"[1]", b'"text"', b"{", b"\xff"])
def test_answer_that_policy_left_no_object_of_is_an_error(left: bytes) -> None:
    assert payload_of(Result(b'{"a": 1}'), "memory") == {"a": 1}
    with pytest.raises(UpstreamProtocolError, match="of the memory's answer is no answer any more"):
        payload_of(Result(left), "memory")
