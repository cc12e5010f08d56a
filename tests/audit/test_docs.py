"""Every field of an entry and every event is documented."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import gateway.audit.log
from gateway.audit.entry import encode
from gateway.boxes import BoxFacts, Level
from tests.audit.records import a_call, a_record

README = (Path(gateway.audit.log.__file__).parent / "README.md").read_text()


def names_in(content: object) -> set[str]:
    if not isinstance(content, dict):
        return set()
    return set(content) | {name for value in content.values() for name in names_in(value)}


def test_every_field_is_documented() -> None:
    long = a_record(call=a_call(1, {"text": "x" * 9_000}), keep_arguments=True, notes={"a": 1})
    kept = a_record(keep_arguments=True)
    odd = replace(a_record(), notes={"a": object()})

    names = {name for record in (long, kept, odd) for body in encode(record, 0) for name in names_in(json.loads(body))}

    assert {name for name in names if f"`{name}`" not in README} == set()


def test_every_fact_of_a_sandbox_is_documented() -> None:
    facts = BoxFacts("b-1", "gvisor", "1", Level.GVISOR).note()

    assert {name for name in facts if f"`{name}`" not in README} == set()


def test_every_marker_is_documented() -> None:
    sources = "".join(path.read_text() for path in Path(gateway.audit.log.__file__).parent.glob("*.py"))
    events = set(re.findall(r'(?:marker|mark)\("([a-z]+)"', sources))

    assert events == {"segment", "expired", "resumed", "padding"}
    assert {event for event in events if f"`{event}`" not in README} == set()
