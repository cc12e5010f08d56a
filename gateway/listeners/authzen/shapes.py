"""Requests of the AuthZEN Authorization API 1.0, read strictly: who wants to do what to which resource.

Members that the specification does not name are ignored, because it asks for that; the ones that it names have the
types that it gives them, or the request is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast, get_args

from gateway.a2a.strict import Malformed, parse_json
from gateway.errors import InvalidCall
from gateway.types import EMPTY, FrozenDict, freeze

Semantic: TypeAlias = Literal["execute_all", "deny_on_first_deny", "permit_on_first_permit"]

MAX_EVALUATIONS: Final = 128
MAX_TEXT: Final = 4_096
_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "subject": ("type", "id"),
    "action": ("name",),
    "resource": ("type", "id"),
}
_MAY_BE_EMPTY: Final = frozenset({"id"})
"""A subject without an id is nobody, which policy can name."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: `subject` and `resource` have type, id and properties, `action` has name and properties."""

    subject: FrozenDict
    action: FrozenDict
    resource: FrozenDict
    context: FrozenDict = EMPTY

    @property
    def params(self) -> FrozenDict:
        """The four as one object, as `asked_in` reads it."""
        four = {"subject": self.subject, "action": self.action, "resource": self.resource, "context": self.context}
        return FrozenDict(four)


@dataclass(frozen=True, slots=True)
class Batch:
    """Several questions, each with its defaults merged in and unread: a faulty one is a no of its own."""

    items: tuple[Mapping[str, object], ...]
    semantic: Semantic = "execute_all"


def members_of(body: bytes) -> Mapping[str, object]:
    """The object that a body is. Raises `InvalidCall` for anything that is not exactly one JSON object."""
    try:
        return parse_json(body)
    except Malformed as exc:
        words = "the body must be one JSON object" if exc.kind == "request" else str(exc)
        raise InvalidCall(words) from exc


def asked_in(members: Mapping[str, object]) -> Asked:
    """One question. Raises `InvalidCall` with the path of what is wrong, `InputTooLarge` for what is too much."""
    frozen = cast("FrozenDict", freeze({name: members[name] for name in (*_REQUIRED, "context") if name in members}))
    context = frozen.get("context", EMPTY)
    if not isinstance(context, FrozenDict):
        raise InvalidCall("context: must be an object")
    return Asked(_entity(frozen, "subject"), _entity(frozen, "action"), _entity(frozen, "resource"), context)


def _entity(members: Mapping[str, object], name: str) -> FrozenDict:
    entity = members.get(name)
    if not isinstance(entity, FrozenDict):
        raise InvalidCall(f"{name}: must be an object" if name in members else f"{name}: is missing")
    read: dict[str, object] = {field: _text(entity, name, field) for field in _REQUIRED[name]}
    properties = entity.get("properties", EMPTY)
    if not isinstance(properties, FrozenDict):
        raise InvalidCall(f"{name}.properties: must be an object")
    return FrozenDict({**read, "properties": properties})


def _text(entity: Mapping[str, object], name: str, field: str) -> str:
    value = entity.get(field)
    if not isinstance(value, str):
        raise InvalidCall(f"{name}.{field}: must be a string" if field in entity else f"{name}.{field}: is missing")
    if len(value) > MAX_TEXT or not (value or field in _MAY_BE_EMPTY):
        raise InvalidCall(f"{name}.{field}: must have 1 to {MAX_TEXT} characters")
    return value


def batch_in(members: Mapping[str, object]) -> Batch | None:
    """The questions of `/access/v1/evaluations`; `None` when the request is a single one (section 7.1).

    Raises `InvalidCall` for what concerns all of them.
    """
    evaluations = members.get("evaluations", [])
    if not isinstance(evaluations, list):
        raise InvalidCall("evaluations: must be a list")
    if len(evaluations) > MAX_EVALUATIONS:
        raise InvalidCall(f"evaluations: at most {MAX_EVALUATIONS} in one request; send more requests")
    semantic = _semantic(members)
    if not evaluations:
        return None
    return Batch(tuple(_merged(members, each) for each in evaluations), semantic)


def _semantic(members: Mapping[str, object]) -> Semantic:
    options = members.get("options", {})
    if not isinstance(options, dict):
        raise InvalidCall("options: must be an object")
    semantic = options.get("evaluations_semantic", "execute_all")
    if semantic not in get_args(Semantic):
        raise InvalidCall(f"options.evaluations_semantic: must be one of {', '.join(get_args(Semantic))}")
    return cast("Semantic", semantic)


def _merged(defaults: Mapping[str, object], item: object) -> Mapping[str, object]:
    """An item's own member takes the place of the default as a whole; only type, id and name are filled in."""
    if not isinstance(item, Mapping):
        return {"subject": item}  # which no subject is: a no of its own
    merged: dict[str, object] = {}
    for name in (*_REQUIRED, "context"):
        if name in item:
            merged[name] = _filled(name, item[name], defaults.get(name))
        elif name in defaults:
            merged[name] = defaults[name]
    return merged


def _filled(name: str, own: object, default: object) -> object:
    if not isinstance(own, Mapping) or not isinstance(default, Mapping) or name not in _REQUIRED:
        return own
    return {**{field: default[field] for field in _REQUIRED[name] if field in default}, **own}
