"""Narrowing the arguments of a call, which is all that a `transform` obligation may do.

An argument is removed, set to what policy says, capped (`max`), or held to a list (`allow`). Where that cannot be
done to what the caller sent, the call is refused: nothing is guessed into a wider one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway import codec
from gateway.authz.paths import parse_path
from gateway.authz.reading import UnsupportedObligation, fields_of, flag

_FIELDS: Final = frozenset({"path", "remove", "value", "max", "allow"})


class CannotNarrow(Exception):
    """The caller's arguments cannot be brought within what policy permits; the message names the path."""


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What is to be done at one path of the arguments. `value` holds one value or none; `None` is no limit."""

    path: tuple[str, ...]
    remove: bool = False
    value: tuple[object, ...] = ()
    most: int | float | None = None
    allowed: frozenset[bytes] | None = None


def narrowing_of(properties: object) -> Narrowing:
    """Read the properties of one `transform` obligation. Raises `UnsupportedObligation`."""
    fields = fields_of(properties, _FIELDS, "transform")
    if len(fields) != 2 or "path" not in fields:
        raise UnsupportedObligation("transform: give path and one of remove, value, max, allow")
    path = _named(fields["path"])
    if "value" in fields:
        return Narrowing(path, value=(fields["value"],))
    if "max" in fields:
        return Narrowing(path, most=_number(fields["max"]))
    if "allow" in fields:
        return Narrowing(path, allowed=_encoded(fields["allow"]))
    if not flag(fields["remove"], "transform: remove"):
        raise UnsupportedObligation("transform: remove must be true")
    return Narrowing(path, remove=True)


def _named(text: object) -> tuple[str, ...]:
    """The names that the path goes through. An index would mean another item after a removal, so there is none."""
    try:
        steps = parse_path(text).steps if isinstance(text, str) else ()
    except ValueError as exc:
        raise UnsupportedObligation(f"transform: {exc}") from exc
    names = tuple([step for step in steps if isinstance(step, str)])
    if not names or len(names) != len(steps):
        raise UnsupportedObligation("transform: path must be a text made of names, without index or wildcard")
    return names


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnsupportedObligation("transform: max must be a number")
    return value


def _encoded(values: object) -> frozenset[bytes]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UnsupportedObligation("transform: allow must be a list")
    return frozenset([codec.canonical(value) for value in values])


def merge_narrowings(narrowings: Iterable[Narrowing]) -> tuple[Narrowing, ...]:
    """One narrowing per path, the strictest. Raises `UnsupportedObligation` where two contradict each other."""
    merged: dict[tuple[str, ...], Narrowing] = {}
    for narrowing in narrowings:
        known = merged.get(narrowing.path)
        merged[narrowing.path] = narrowing if known is None else _stricter(known, narrowing)
    if any(path[:length] in merged for path in merged for length in range(1, len(path))):
        raise UnsupportedObligation("transform: one path lies inside another")
    return tuple(merged.values())


def _stricter(one: Narrowing, other: Narrowing) -> Narrowing:
    if one.value and other.value and codec.canonical(one.value) != codec.canonical(other.value):
        raise UnsupportedObligation("transform: two values for one path")
    limits = [most for most in (one.most, other.most) if most is not None]
    lists = [allowed for allowed in (one.allowed, other.allowed) if allowed is not None]
    return replace(
        one,
        remove=one.remove or other.remove,
        value=one.value or other.value,
        most=min(limits, default=None),
        allowed=frozenset.intersection(*lists) if lists else None,
    )


def narrow(arguments: Mapping[str, object], narrowings: Iterable[Narrowing]) -> dict[str, object]:
    """A narrowed copy of the arguments. Raises `CannotNarrow`."""
    copy = codec.loads(codec.dumps(arguments))
    if not isinstance(copy, dict):
        raise CannotNarrow("there are no arguments to narrow")
    narrowed: dict[str, object] = {**copy}
    for narrowing in narrowings:
        _narrow_at(narrowed, narrowing)
    return narrowed


def _narrow_at(arguments: dict[str, object], narrowing: Narrowing) -> None:
    holder = arguments
    *parents, last = narrowing.path
    for name in parents:
        if narrowing.remove and name not in holder:
            return
        child = holder.setdefault(name, {})
        if not isinstance(child, dict):
            raise _cannot(narrowing)
        holder = child
    if narrowing.remove:
        holder.pop(last, None)
        return
    holder[last] = _narrowed([holder[last]] if last in holder else [], narrowing)


def _narrowed(given: Sequence[object], narrowing: Narrowing) -> object:
    """The new value for what was given, which is one value or none."""
    known = narrowing.value or tuple(given)
    if narrowing.most is not None:
        # What a tool does without the argument is not known, so then it is given the limit itself.
        known = (_capped(known[0], narrowing.most, narrowing) if known else narrowing.most,)
    if not known:
        raise _cannot(narrowing)
    return known[0] if narrowing.allowed is None else _held(known[0], narrowing.allowed, narrowing)


def _capped(value: object, most: int | float, narrowing: Narrowing) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _cannot(narrowing)
    return min(value, most)


def _held(value: object, allowed: frozenset[bytes], narrowing: Narrowing) -> object:
    if isinstance(value, list):
        return [item for item in value if codec.canonical(item) in allowed]
    if codec.canonical(value) not in allowed:
        raise _cannot(narrowing)
    return value


def _cannot(narrowing: Narrowing) -> CannotNarrow:
    path = ".".join(("$", *narrowing.path))
    return CannotNarrow(f"the argument {path} is missing or not within what policy permits here")
