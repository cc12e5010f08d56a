"""Values and doubles that the tests of the authorization stage share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from gateway.authz.authz import Authz
from gateway.authz.detection import Detection
from gateway.ports import Answer, DecisionTap, Detector, Entrypoint, Spotted
from gateway.types import Authorized, Call, Entity, FrozenDict, Identity, Permit, Resource, Result, freeze

IDENTITY = Identity(Entity("agent", "agent:bot"), tenant="acme", roles=("developer",), method="api_key")
TOOL = Resource(
    "tool",
    "files/read",
    "files",
    "read",
    catalog=FrozenDict({"risk": "medium", "labels": ()}),
    hints=FrozenDict({"readOnlyHint": True}),
)
YES: Mapping[str, object] = {"decision": True, "context": {"obligations": [], "labels": []}}


def permit_with(*obligations: Mapping[str, object], labels: tuple[str, ...] = ()) -> Mapping[str, object]:
    """An answer that permits under obligations."""
    return {"decision": True, "context": {"obligations": list(obligations), "labels": list(labels)}}


def obligation(kind: str, **properties: object) -> Mapping[str, object]:
    """One obligation as policy writes it."""
    return {"type": kind, "properties": properties}


def denial(*reasons: Mapping[str, object]) -> Mapping[str, object]:
    """An answer that denies for reasons."""
    return {"decision": False, "context": {"reasons": list(reasons)}}


def call_of(
    arguments: Mapping[str, object] | None = None,
    *,
    action: str = "mcp.tools.call",
    resource: Resource = TOOL,
    params: Mapping[str, object] | None = None,
    session_id: str = "",
) -> Call:
    """A call, of a tool unless told otherwise."""
    frozen = freeze(params if params is not None else {"name": "read", "arguments": arguments or {}})
    assert isinstance(frozen, FrozenDict)
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    return Call("c1", action, "tools/call", resource, frozen, traceparent=traceparent, session_id=session_id)


@dataclass
class ScriptedPdp:
    """A decision point that gives the answers it was made with and remembers the questions."""

    answers: Mapping[str, object | Exception] = field(default_factory=lambda: {"decision": YES})
    questions: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
        self.questions.append((entrypoint, question))
        phase = question["phase"]
        answer = self.answers.get(str(phase), self.answers.get(entrypoint))
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer(question)
        return Answer(answer, revision="r1", engine="scripted", cached=False)


@dataclass
class WordDetector:
    """A detector that finds a word, and remembers the texts it was shown."""

    word: str = "hushed"
    kind: str = "secret"
    shown: list[str] = field(default_factory=list)

    def find(self, text: str, name: str = "") -> Sequence[Spotted]:
        self.shown.append(text)
        found = [Spotted(*match.span(), "word") for match in re.finditer(re.escape(self.word), text)]
        return [*found, Spotted(0, len(text), "name")] if name == "hidden" and text != "[redacted]" else found


_: type[Detector] = WordDetector


@dataclass
class Clock:
    """A monotonic clock that moves when told to; nanoseconds."""

    now: int = 0

    def __call__(self) -> int:
        return self.now

    def advance_s(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000_000)


def authz_of(
    answers: Mapping[str, object | Exception] | None = None,
    *,
    pdp: ScriptedPdp | None = None,
    clock: Clock | None = None,
    response_differs: Callable[[], bool] = lambda: False,
    detection: Detection | None = None,
    tap: DecisionTap | None = None,
) -> Authz:
    """The stage over scripted answers, with a clock that stands still and ids d1, d2 and so on."""
    numbers = count(1)
    return Authz(
        pdp or ScriptedPdp(answers or {"decision": YES}),
        env="test",
        clock_ns=lambda: 1_700_000_000_000_000_000,
        monotonic_ns=clock or Clock(),
        new_id=lambda: f"d{next(numbers)}",
        response_differs=response_differs,
        detection=detection,
        tap=tap,
    )


def authorized(call: Call, permit: Permit) -> Authorized:
    """The call with its permit."""
    return Authorized(call, IDENTITY, permit)


def result_of(payload: bytes) -> Result:
    """What an upstream gave back."""
    return Result(payload)
