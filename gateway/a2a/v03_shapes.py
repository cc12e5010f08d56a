"""Tables that say how an object of A2A 0.3 and one of 1.0 turn into each other, member by member.

A table is read in both directions. Strict reading (requests) refuses what it does not know, because policy reads the
converted form; lenient reading (results, cards) keeps it. Values of free form are handed on as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeAlias

Convert: TypeAlias = Callable[[object, str, bool], object]
"""Value, where it stands, whether strictly. Gives the converted value; `None` leaves the member out."""

MAX_COUNT: Final = 2**31 - 1
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_CAPITAL = re.compile(r"(?<!^)([A-Z])")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")


class NotConvertible(Exception):
    """The value has no counterpart in the other version. The message names the member, and never holds its value."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a value goes up (0.3 to 1.0) and down (1.0 to 0.3)."""

    up: Convert
    down: Convert


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its name in 0.3, the one in 1.0 (the same when empty), and how its value converts."""

    old: str
    kind: Kind
    new: str = ""
    need: bool = False
    """Without it the object is refused."""
    fill: Callable[[], object] | None = None
    """What 0.3 needs where a 1.0 peer leaves out an empty value; not used for strict reading."""
    also: tuple[str, ...] = ()
    """Other names that 0.3 peers give it."""


@dataclass(frozen=True, slots=True)
class Side:
    """One direction of a table, ready to use."""

    members: Mapping[str, tuple[str, Convert]]
    ignored: Mapping[str, Convert]
    """Members that the other version has no place for: checked, and left out."""
    needed: Mapping[str, str]
    """Members that must be there, as name to be written and name as read."""
    fills: Mapping[str, Callable[[], object]]
    reserved: frozenset[str]
    """Names that the reader of the result would take for its own, so an unknown member may not bear them."""
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """An object that both versions have. `tag` is the value of `kind` in 0.3."""

    members: tuple[Member, ...]
    tag: str = ""
    only_old: Mapping[str, Convert] = field(default_factory=dict)
    only_new: Mapping[str, Convert] = field(default_factory=dict)
    snake: bool = False
    """Whether 0.3 peers may write snake_case (bodies that their libraries make of protobuf messages)."""
    _up: Side = field(init=False)
    _down: Side = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_up", _upward(self))
        object.__setattr__(self, "_down", _downward(self))

    def up(self, value: object, where: str, strict: bool) -> dict[str, object]:
        """The object of 1.0 for one of 0.3."""
        return _convert(self._up, value, where, strict)

    @property
    def reserved(self) -> frozenset[str]:
        """What readers of the 1.0 object take for members of it."""
        return self._up.reserved

    def down(self, value: object, where: str, strict: bool) -> dict[str, object]:
        """The object of 0.3 for one of 1.0."""
        return _convert(self._down, value, where, strict)


def _upward(shape: Shape) -> Side:
    members: dict[str, tuple[str, Convert]] = {}
    for member in shape.members:
        for name in (member.old, *member.also):
            spellings = {name, snake_case(name)} if shape.snake else {name}
            members.update(dict.fromkeys(spellings, (member.new or member.old, member.kind.up)))
    ignored = {**shape.only_old, **({"kind": _exactly(shape.tag)} if shape.tag else {})}
    written = {member.new or member.old for member in shape.members} | shape.only_new.keys()
    needed = {member.new or member.old: member.old for member in shape.members if member.need}
    return Side(members, ignored, needed, {}, _spellings(written))


def _downward(shape: Shape) -> Side:
    members = {member.new or member.old: (member.old, member.kind.down) for member in shape.members}
    needed = {member.old: member.new or member.old for member in shape.members if member.need}
    fills = {member.old: member.fill for member in shape.members if member.fill is not None}
    also = {name for member in shape.members for name in member.also}
    written = {member.old for member in shape.members} | shape.only_old.keys() | also | {"kind"}
    return Side(members, shape.only_new, needed, fills, _spellings(written), shape.tag)


def _spellings(names: set[str]) -> frozenset[str]:
    return frozenset(names | {snake_case(name) for name in names})


def _convert(side: Side, value: object, where: str, strict: bool) -> dict[str, object]:
    out: dict[str, object] = {"kind": side.tag} if side.tag else {}
    kept: dict[str, object] = {}
    for name, item in entries(value, where).items():
        if item is None and (name in side.members or name in side.ignored):
            continue  # `null` is an unset member, in both versions
        if name in side.members:
            _put(out, side.members[name], item, below(where, name), strict)
        elif name in side.ignored:
            side.ignored[name](item, below(where, name), strict)
        elif strict:
            raise NotConvertible(f"{below(where, name)}: is not a member of this object")
        elif name not in side.reserved:
            kept[name] = item
    if not strict:
        out.update({name: fill() for name, fill in side.fills.items() if name not in out})
    for written, read in side.needed.items():
        if written not in out:
            raise NotConvertible(f"{below(where, read)}: is required")
    return {**kept, **out}


def _put(out: dict[str, object], target: tuple[str, Convert], item: object, where: str, strict: bool) -> None:
    name, convert = target
    if name in out:
        raise NotConvertible(f"{where}: is given twice, under two names")
    converted = convert(item, where, strict)
    if converted is not None:
        out[name] = converted


def below(where: str, name: str) -> str:
    """The path of a member; a name of the peer's own making is shortened and made plain."""
    plain = name.encode("ascii", "backslashreplace").decode("ascii")[:64]
    return f"{where}.{plain}" if where else plain


def snake_case(name: str) -> str:
    """The other spelling that readers of ProtoJSON take for the same member."""
    return _CAPITAL.sub(r"_\1", name).lower()


def entries(value: object, where: str) -> Mapping[str, object]:
    """The members of a JSON object."""
    if not isinstance(value, Mapping):
        raise NotConvertible(f"{where or 'the value'}: must be an object")
    return value


def items(value: object, where: str) -> list[object]:
    """The items of a JSON array."""
    if not isinstance(value, (list, tuple)):
        raise NotConvertible(f"{where or 'the value'}: must be an array")
    return list(value)


def same(check: Convert) -> Kind:
    """A value that is the same in both versions."""
    return Kind(check, check)


def listed(kind: Kind) -> Kind:
    """An array of such values."""

    def up(value: object, where: str, strict: bool) -> object:
        return [kind.up(item, f"{where}[{index}]", strict) for index, item in enumerate(items(value, where))]

    def down(value: object, where: str, strict: bool) -> object:
        return [kind.down(item, f"{where}[{index}]", strict) for index, item in enumerate(items(value, where))]

    return Kind(up, down)


def mapped(kind: Kind) -> Kind:
    """An object whose members are such values, under names of the peer's choice."""

    def up(value: object, where: str, strict: bool) -> object:
        return {name: kind.up(item, below(where, name), strict) for name, item in entries(value, where).items()}

    def down(value: object, where: str, strict: bool) -> object:
        return {name: kind.down(item, below(where, name), strict) for name, item in entries(value, where).items()}

    return Kind(up, down)


def named(names: Mapping[str, str], otherwise: str = "") -> Kind:
    """A value of an enumeration, by its names in 0.3 and 1.0. Unknown ones of 1.0 results become `otherwise`."""
    back = {new: old for old, new in names.items()}

    def up(value: object, where: str, _strict: bool) -> object:
        return _one_of(names, value, where)

    def down(value: object, where: str, strict: bool) -> object:
        if otherwise and not strict and isinstance(value, str):
            return back.get(value, otherwise)
        return _one_of(back, value, where)

    return Kind(up, down)


def _one_of(names: Mapping[str, str], value: object, where: str) -> str:
    if not isinstance(value, str) or value not in names:
        raise NotConvertible(f"{where}: must be one of {', '.join(names)}")
    return names[value]


def _exactly(expected: str) -> Convert:
    def check(value: object, where: str, _strict: bool) -> object:
        if value != expected:
            raise NotConvertible(f"{where}: must be {expected!r} here")
        return None

    return check


def _text(value: object, where: str, _strict: bool) -> object:
    if not isinstance(value, str):
        raise NotConvertible(f"{where}: must be a string")
    return value


def _truth(value: object, where: str, _strict: bool) -> object:
    if not isinstance(value, bool):
        raise NotConvertible(f"{where}: must be true or false")
    return value


def _opposite(value: object, where: str, strict: bool) -> object:
    return not _truth(value, where, strict)


def count(value: object, where: str, _strict: bool) -> object:
    """A whole number that is not negative (and neither `true` nor `5.0`)."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise NotConvertible(f"{where}: must be a whole number from 0 to {MAX_COUNT}")
    return value


def _history(value: object, where: str, strict: bool) -> object:
    return count(value, where, strict) or None  # 0 is no limit in 0.3, and no message in 1.0


def _base64(value: object, where: str, _strict: bool) -> object:
    if not isinstance(value, str) or not _BASE64.fullmatch(value):
        raise NotConvertible(f"{where}: must be Base64")
    return value


def _utc(value: object, where: str, _strict: bool) -> object:
    """A time of 1.0: RFC 3339 in UTC. 0.3 takes any ISO 8601; one without a zone is taken for UTC."""
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
        if isinstance(value, str) and _UTC.fullmatch(value):
            return value
        moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise NotConvertible(f"{where}: must be a time of ISO 8601") from exc
    return moment.isoformat().replace("+00:00", "Z")


def _free(value: object, where: str, _strict: bool) -> object:
    return entries(value, where)


def anything(value: object, _where: str, _strict: bool) -> object:
    """Whatever it is, unread."""
    return value


TEXT: Final = same(_text)
TEXTS: Final = listed(TEXT)
TRUTH: Final = same(_truth)
OPPOSITE: Final = same(_opposite)
COUNT: Final = same(count)
HISTORY: Final = Kind(_history, count)
BASE64: Final = same(_base64)
TIME: Final = Kind(_utc, _text)
FREE: Final = same(_free)
"""An object of free form (`metadata`, extension parameters): checked to be one, and not looked into."""
ANYTHING: Final = same(anything)
