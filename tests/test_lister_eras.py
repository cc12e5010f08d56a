"""What a list leaves out for clients that know less."""

from __future__ import annotations

from gateway import codec
from gateway.lister import legacy_tool


def test_output_schema_of_an_object_is_left_as_it_is() -> None:
    wire = b'{"name":"a","outputSchema":{"type":"object"}}'

    assert legacy_tool(wire) is wire


def test_output_schema_of_anything_else_is_left_out() -> None:
    wire = b'{"name":"a","outputSchema":{"type":"array"},"inputSchema":{"type":"object"}}'

    assert codec.loads(legacy_tool(wire)) == {"name": "a", "inputSchema": {"type": "object"}}


def test_mention_of_the_word_in_a_description_changes_nothing() -> None:
    wire = codec.dumps({"name": "a", "description": 'says "outputSchema" somewhere'})

    assert codec.loads(legacy_tool(wire)) == codec.loads(wire)
