"""`Idempotency-Key`: the same request again gets the answer that it got before, and nothing is asked of a model.

It is still a call: policy decides it, and it leaves its record.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from gateway.listeners.models.refusals import BadRequest
from gateway.types import Result

KEPT_S: Final = 600
MAX_ANSWERS: Final = 10_000
MAX_BYTES: Final = 32 << 20
MAX_ANSWER_BYTES: Final = 1 << 20
AGAIN: Final = ((b"retry-after", b"1"),)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to one request, and which request that was."""

    request: str
    result: Result
    events: tuple[bytes, ...]
    expires_s: float

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.result.payload) + sum(map(len, self.events))


class Replays:
    """The answers of the last ten minutes, as far as there is room for them: the oldest go first."""

    def __init__(self, now_s: Callable[[], float], *, max_bytes: int = MAX_BYTES) -> None:
        self._now_s = now_s
        self._max_bytes = max_bytes
        self._answers: OrderedDict[tuple[str, str], Answer] = OrderedDict()
        self._bytes = 0
        self._flying: dict[tuple[str, str], str] = {}

    def slot(self, principal: str, key: str, request: str) -> Slot:
        """A block for one request of that key. Raises `BadRequest`: 422 for another request, 409 for one under way."""
        if not key:
            return Slot(self, None, request)
        place = (principal, key)
        known = self._answer(place)
        flying = self._flying.get(place)
        if (known.request if known else flying or request) != request:
            raise BadRequest(422, "Idempotency-Key came with another request before: every request needs its own")
        if flying is not None:
            raise BadRequest(409, "the request with this Idempotency-Key is still being answered", AGAIN)
        return Slot(self, place, request, known)

    def _answer(self, place: tuple[str, str]) -> Answer | None:
        now = self._now_s()
        while self._answers and next(iter(self._answers.values())).expires_s <= now:
            self._bytes -= self._answers.popitem(last=False)[1].size
        return self._answers.get(place)

    def begin(self, place: tuple[str, str], request: str) -> None:
        """The request is being answered."""
        self._flying[place] = request

    def end(self, place: tuple[str, str], request: str, result: Result | None, events: tuple[bytes, ...]) -> None:
        """It is no longer; keep what it got, if that is an answer and not too long."""
        del self._flying[place]
        if result is None or result.outcome != "ok":
            return
        answer = Answer(request, result, events, self._now_s() + KEPT_S)
        if answer.size > MAX_ANSWER_BYTES:
            return
        self._answers[place] = answer
        self._bytes += answer.size
        while self._bytes > self._max_bytes or len(self._answers) > MAX_ANSWERS:
            self._bytes -= self._answers.popitem(last=False)[1].size


@dataclass(slots=True)
class Slot:
    """One request while it is answered. `kept` is the answer that it got before, or `None`."""

    replays: Replays
    place: tuple[str, str] | None
    request: str
    kept: Answer | None = None
    result: Result | None = None
    events: list[bytes] = field(default_factory=list)
    size: int = 0

    def heard(self, event: bytes) -> None:
        """Remember an event of the answer, up to what is kept."""
        if self.place is not None and self.size <= MAX_ANSWER_BYTES:
            self.size += len(event)
            self.events.append(event)

    def __enter__(self) -> Slot:
        if self.place is not None and self.kept is None:
            self.replays.begin(self.place, self.request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.place is not None and self.kept is None:
            whole = self.result if self.size <= MAX_ANSWER_BYTES else None
            self.replays.end(self.place, self.request, whole, tuple(self.events))
