"""Reads JSON objects of the model APIs member by member, so that what is not understood is named and never dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar, cast

from gateway import codec
from gateway.codec import JsonObject, JsonValue
from gateway.errors import InterlockError, InvalidCall, UpstreamProtocolError
from gateway.models.neutral import Image, Part, Text

T = TypeVar("T")

MAX_NAME: Final = 64
"""Of a name that is repeated to the caller."""


class Fields:
    """One object and where it stands. What is asked for counts as read; `done` refuses what nobody asked for."""

    __slots__ = ("_fault", "_read", "path", "value")

    def __init__(self, value: object, path: str = "", fault: type[InterlockError] = InvalidCall) -> None:
        self.path = path
        self._fault = fault
        self._read: set[str] = set()
        if not isinstance(value, dict):
            raise self.wrong("", "is not an object")
        self.value: dict[str, object] = value

    def wrong(self, name: str, what: str) -> InterlockError:
        """The refusal of a member: in words that hold no value of it."""
        where = ".".join(part for part in (self.path, name[:MAX_NAME]) if part)
        if self._fault is UpstreamProtocolError:
            return UpstreamProtocolError(f"the provider's answer cannot be read: {where or 'it'} {what}")
        return self._fault(f"{where or 'the body'} {what}")

    def raw(self, name: str) -> object:
        """Whatever stands there; `None` where nothing does."""
        self._read.add(name)
        return self.value.get(name)

    def has(self, name: str) -> bool:
        """Whether anything but null stands there."""
        return self.value.get(name) is not None

    def text(self, name: str) -> str:
        """A string that must be there."""
        value = self.raw(name)
        if not isinstance(value, str):
            raise self.wrong(name, "is not a string")
        return value

    def words(self, name: str) -> str:
        """A string, empty where there is none."""
        return self.text(name) if self.has(name) else (self.raw(name), "")[1]

    def number(self, name: str) -> float | None:
        """A number, if there is one."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "is not a number")
        return value

    def count(self, name: str) -> int | None:
        """A whole number from 0, if there is one."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.wrong(name, "is not a whole number")
        return value

    def flag(self, name: str) -> bool | None:
        """True or false, if either is there."""
        value = self.raw(name)
        if value is None or isinstance(value, bool):
            return value
        raise self.wrong(name, "is neither true nor false")

    def child(self, name: str) -> Fields | None:
        """The object that stands there, if one does."""
        value = self.raw(name)
        return None if value is None else Fields(value, self._at(name), self._fault)

    def record(self, name: str) -> dict[str, object]:
        """An object as it is, empty where there is none."""
        found = self.child(name)
        return found.value if found is not None else {}

    def array(self, name: str) -> list[object]:
        """The values of an array, none where there is no array."""
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise self.wrong(name, "is not an array")
        return list(value)

    def children(self, name: str) -> Iterator[Fields]:
        """The objects of an array."""
        for index, value in enumerate(self.array(name)):
            yield Fields(value, f"{self._at(name)}[{index}]", self._fault)

    def some(self, name: str, found: Sequence[T]) -> tuple[T, ...]:
        """What was read of a member; it has to be something."""
        if not found:
            raise self.wrong(name, "is missing or empty")
        return tuple(found)

    def texts(self, name: str) -> list[str]:
        """The strings of an array."""
        return [value if isinstance(value, str) else self._not_text(name) for value in self.array(name)]

    def one_of(self, name: str, allowed: Iterable[str], default: str = "") -> str:
        """One of these strings; `default` where there is none."""
        value = self.words(name) or default
        if value not in allowed:
            raise self.wrong(name, f"is none of {', '.join(allowed)}, which are what can be translated here")
        return value

    def only(self, name: str, *values: object) -> None:
        """Take note of a member that may be left out of the translation where it says one of these, or nothing."""
        value = self.raw(name)
        if value is not None and value not in values:
            raise self.untranslatable(name)

    def skip(self, *names: str) -> None:
        """Leave these out of the translation: nothing that the model says depends on them."""
        self._read.update(names)

    def done(self) -> None:
        """Refuse whatever is there and was not read; providers may say more than is understood here."""
        if self._fault is UpstreamProtocolError:
            return
        for name, value in self.value.items():
            if name not in self._read and value is not None:
                raise self.untranslatable(name)

    def untranslatable(self, name: str) -> InterlockError:
        """The refusal of a member that only the caller's own API knows."""
        return self.wrong(name, "cannot be translated into the API of this model's provider; leave it out")

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _not_text(self, name: str) -> str:
        raise self.wrong(name, "is not an array of strings")


def answered(value: object) -> Fields:
    """An object that a provider sent."""
    return Fields(value, "", UpstreamProtocolError)


def shown_in(fields: Fields, name: str, parts: Sequence[Part]) -> tuple[Text | Image, ...]:
    """What a tool gave back: texts and pictures. Raises the refusal of whatever else stands there."""
    shown = tuple([part for part in parts if isinstance(part, Text | Image)])
    if len(shown) != len(parts):
        raise fields.wrong(name, "holds something else than texts and images")
    return shown


def arguments_object(arguments: str, fault: InterlockError) -> JsonObject:
    """The arguments of a tool call as the object that Anthropic's API wants. Raises `fault` where they are none."""
    try:
        value = codec.loads(arguments.encode("utf-8", "strict")) if arguments.strip() else {}
    except (ValueError, UnicodeError):
        raise fault from None
    if not isinstance(value, dict):
        raise fault
    return value


def plain(value: object) -> JsonValue:
    """A frozen JSON value as one that may be changed."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return cast("JsonValue", value)
