"""What policy keeps out of the decision log: the rules of `data.system.log.mask`, carried out on one event.

As OPA's: a path (`"/input/resource/properties/arguments/password"`) removes what it names; an object
`{"op": "remove" | "upsert", "path": ..., "value": ...}` removes or replaces it. Here a step may also be written as in a
JSON pointer (RFC 6901, `~1` for `/`), and what several rules remove from one list goes at once, so that none of them
takes the wrong entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, cast
from urllib.parse import unquote

from gateway.decisions.event import Event, not_replayable, sign

Place: TypeAlias = "tuple[dict[str, object], str] | tuple[list[object], int]"

_PARTS: Final = frozenset({"input", "result", "nd_builtin_cache"})
WITHHELD: Final = ("/input", "/result")


class MaskingFailed(Exception):
    """What is to be masked cannot be told, so nothing of input and result may be written."""


class LogRules(Protocol):
    """`data.system.log` of one policy."""

    def about(self, event: bytes) -> Mapping[str, object]:
        """Its value with this event (JSON) as input. Raises `MaskingFailed`."""


@dataclass(frozen=True, slots=True)
class Mask:
    """One thing to be removed from an event or replaced in it."""

    op: Literal["remove", "upsert"]
    path: str
    value: object = None

    @property
    def steps(self) -> tuple[str, ...]:
        """The path, step by step; the first one is the part of the event."""
        return tuple(self.path[1:].split("/"))


def masks_in(value: object) -> tuple[Mask, ...]:
    """The rules of a `mask` value. Raises `MaskingFailed` for whatever is not one, rather than leave it out."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise MaskingFailed("system.log.mask is not a set or array of paths and objects")
    return tuple(_mask(entry) for entry in value)


def _mask(entry: object) -> Mask:
    if isinstance(entry, str):
        return _checked(Mask("remove", entry))
    if not isinstance(entry, Mapping):
        raise MaskingFailed("system.log.mask has an entry that is neither a path nor an object")
    op, path = entry.get("op"), entry.get("path")
    if op not in ("remove", "upsert") or not isinstance(path, str):
        raise MaskingFailed('system.log.mask has an object without op ("remove" or "upsert") and path')
    return _checked(Mask("remove" if op == "remove" else "upsert", path, entry.get("value")))


def _checked(mask: Mask) -> Mask:
    if not mask.path.startswith("/") or mask.steps[0] not in _PARTS:
        raise MaskingFailed("system.log.mask has a path that does not begin with /input or /result")
    return mask


_OF_ANOTHER: Final[Mapping[str, str]] = {
    "approvals.approve": "/input/resource/properties/arguments/arguments",
    "authzen.evaluate": "/input/resource/properties/arguments",
}
"""Action -> where its question holds that of another call, which has an event of its own."""


def nested_in(event: Event) -> tuple[Mask, ...]:
    """What a policy that masks anything need not name: its paths are those of the event that a question is put in."""
    question = event.get("input")
    action = question.get("action") if isinstance(question, Mapping) else None
    path = _OF_ANOTHER.get(str(action.get("name"))) if isinstance(action, Mapping) else None
    return (Mask("remove", path),) if path is not None else ()


def apply(event: Event, masks: Sequence[Mask]) -> None:
    """Mask `event`, which is changed in place, and note in it what was done."""
    replaced = [mask.path for mask in masks if mask.op == "upsert" and _upsert(event, mask)]
    found = [(mask.path, list(_places(event, mask.steps))) for mask in masks if mask.op == "remove"]
    _remove([place for _, places in found for place in places])
    erased = [path for path, places in found if places]
    if replaced:
        event["masked"] = replaced
    if erased:
        event["erased"] = erased
    if replaced or erased:
        not_replayable(event, "parts of it are masked")
    sign(event)


def withhold(event: Event, why: str) -> None:
    """Leave input and result out of `event`: what is to be masked in them is not known."""
    for path in WITHHELD:
        event.pop(path[1:], None)
    event["erased"] = list(WITHHELD)
    not_replayable(event, f"masking failed: {why}")
    sign(event)


def _upsert(event: Event, mask: Mask) -> bool:
    """Put a value in its place, with the objects that lead there. A path through something else names nothing."""
    if mask.steps[0] not in event:
        return False
    places = list(_places(event, mask.steps)) or _made(event, mask.steps)
    for place in places:
        _put(place, mask.value)
    return bool(places)


def _made(event: Event, steps: Sequence[str]) -> list[Place]:
    node: object = event
    for step in steps[:-1]:
        children = _children(node, step)
        if not children and isinstance(node, dict):
            children = [node.setdefault(step, {})]
        node = children[0] if children else None
    return [(node, steps[-1])] if isinstance(node, dict) else []


def _places(event: Event, steps: Sequence[str]) -> Iterator[Place]:
    """Where that path leads to: whatever the steps can be read as, for one reading too many only hides more."""
    nodes: list[object] = [event]
    for step in steps[:-1]:
        nodes = [child for node in nodes for child in _children(node, step)]
    for node in nodes:
        if isinstance(node, dict):
            yield from ((node, key) for key in _keys(node, steps[-1]))
        else:
            index = _index(node, steps[-1])
            if index is not None:
                yield cast("list[object]", node), index


def _children(node: object, step: str) -> list[object]:
    if isinstance(node, dict):
        return [node[key] for key in _keys(node, step)]
    index = _index(node, step)
    return [cast("list[object]", node)[index]] if index is not None else []


def _keys(node: Mapping[str, object], step: str) -> list[str]:
    readings = dict.fromkeys([step, step.replace("~1", "/").replace("~0", "~"), unquote(step)])
    return [reading for reading in readings if reading in node]


def _index(node: object, step: str) -> int | None:
    if isinstance(node, list) and step.isascii() and step.isdigit() and len(step) < 10 and int(step) < len(node):
        return int(step)
    return None


def _put(place: Place, value: object) -> None:
    node, key = place
    if isinstance(node, dict):
        node[str(key)] = value
    else:
        node[int(key)] = value


def _remove(places: Sequence[Place]) -> None:
    """Of a list the last first, so that those before it stay where they were found."""
    ordered = sorted(places, key=lambda place: place[1] if isinstance(place[1], int) else -1, reverse=True)
    done: set[tuple[int, str | int]] = set()
    for node, key in ordered:
        if (id(node), key) in done:
            continue
        done.add((id(node), key))
        if isinstance(node, dict):
            del node[str(key)]
        else:
            del node[int(key)]
