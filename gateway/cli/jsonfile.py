"""Reads JSON that people edit by hand, and writes it back only where nothing of theirs would be lost."""

from __future__ import annotations

import json
import re
from typing import TypeAlias

from gateway.cli.main import CommandFailed

Object: TypeAlias = dict[str, object]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/|,(?=(?:\s|//[^\n]*|/\*.*?\*/)*[}\]])', re.DOTALL)


class _Repeated(ValueError):
    """A key that stands twice in one object: a rewrite would silently drop one."""


def read_exactly(text: str, where: str) -> Object:
    """The object, provided that writing it again loses nothing. Raises `CommandFailed` otherwise."""
    try:
        value = json.loads(text, object_pairs_hook=_once) if text.strip() else {}
    except _Repeated as exc:
        raise CommandFailed(f"{where}: {exc}; mend it first") from exc
    except ValueError as exc:
        raise CommandFailed(_why_not(text, where, exc)) from exc
    return _object(value, where)


def read_leniently(text: str, where: str) -> Object:
    """The object, comments and trailing commas allowed: for files that are only read."""
    try:
        return _object(json.loads(_TOKEN.sub(_plain, text)), where)
    except (ValueError, RecursionError) as exc:
        raise CommandFailed(f"{where} is not JSON: {exc}") from exc


def write_like(value: Object, text: str) -> str:
    """`value` as JSON, indented as `text` is."""
    found = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    return json.dumps(value, indent=found[1] if found else "  ", ensure_ascii=False) + "\n"


def _why_not(text: str, where: str, error: ValueError) -> str:
    try:
        json.loads(_TOKEN.sub(_plain, text))
    except ValueError:
        return f"{where} is not JSON: {error}"
    by_hand = "add the entry by hand (leave out --write to see it)"
    return f"{where} has comments or trailing commas, which a rewrite would lose; {by_hand}"


def _plain(match: re.Match[str]) -> str:
    return match[0] if match[0].startswith('"') else " "


def _once(pairs: list[tuple[str, object]]) -> Object:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Repeated(
            f"the key {next(key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1)!r} stands twice"
        )
    return value


def _object(value: object, where: str) -> Object:
    if not isinstance(value, dict):
        raise CommandFailed(f"{where} does not hold a JSON object")
    return value
