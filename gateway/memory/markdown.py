"""Memory as people read it: one version as Markdown, all that is known of it in its front matter.

The front matter is YAML of the simplest kind, `name: JSON`, so that every reader of YAML takes it and nothing of a
text can be mistaken for it. What was written comes back exactly.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from gateway import codec
from gateway.errors import InvalidCall
from gateway.memory.exchange import from_line
from gateway.memory.records import Version

_FENCE: Final = "---\n"


def to_markdown(version: Version) -> str:
    """The version, its text below."""
    facts = asdict(version)
    text = facts.pop("text")
    lines = [f"{name}: {codec.dumps(value).decode()}\n" for name, value in facts.items()]
    return f"{_FENCE}{''.join(lines)}{_FENCE}\n{text}\n"


def from_markdown(document: str) -> Version:
    """The same version again. Raises `InvalidCall` for anything else."""
    head, fence, body = document.removeprefix(_FENCE).partition(f"\n{_FENCE}\n")
    if not document.startswith(_FENCE) or not fence or not body.endswith("\n"):
        raise InvalidCall("the memory document: there is no front matter between two lines of ---")
    facts: dict[str, object] = {"text": body[:-1]}
    for line in head.split("\n"):
        name, colon, value = line.partition(": ")
        if not colon or name in facts:
            raise InvalidCall("the memory document: a line of its front matter is not `name: value`")
        facts[name] = _value(name, value)
    return from_line(codec.dumps(facts))


def file_name(version: Version) -> str:
    """What its file is called: safe in every file system, and the same for no other version."""
    return f"{version.record}.{version.number:06d}.md"


def _value(name: str, value: str) -> object:
    try:
        return codec.loads(value.encode())
    except ValueError as exc:
        raise InvalidCall(f"the memory document: the value of {name[:40]!r} is not JSON") from exc
