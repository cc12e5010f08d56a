"""One decision in the shape of OPA's decision log events, so that existing collectors and tools can read it.

https://www.openpolicyagent.org/docs/management-decision-logs. What OPA has no place for stands under `custom`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias, cast

from gateway.ports import Decided

Event: TypeAlias = dict[str, object]

PACKAGE: Final = "interlock"
DECISION: Final = f"{PACKAGE}/decision"
OURS: Final = "interlock"
"""The member of `custom` (and of `bundles`) that is ours."""
_NS: Final = 1_000_000_000
_TO_SECONDS: Final = len("2026-11-23T05:49:37")


def event_of(decided: Decided, labels: Mapping[str, str], now_ns: int) -> Event:
    """The event of one decision, unmasked. `now_ns` (wall clock) is its time where the question names none.

    It shares the question with the call that is under way: whoever wants to change it copies it first.
    """
    answer, question = decided.answer, decided.question
    event: Event = {
        "labels": labels,
        "decision_id": decided.decision_id,
        "bundles": {OURS: {"revision": answer.revision}} if answer is not None else {},
        "path": f"{PACKAGE}/{decided.entrypoint}",
        "input": question,
        "timestamp": timestamp(_asked_ns(question, now_ns)),
        "metrics": {"timer_rego_query_eval_ns": decided.took_ns},
    }
    known: dict[str, object] = {"replayable": answer is not None}
    if answer is None:
        code, _, words = decided.fault.partition(":")
        event["error"] = {"code": code, "message": words.strip()}
    else:
        event["result"] = answer.value
        known |= {"engine": answer.engine, "cached": answer.cached}
    event["custom"] = {OURS: known}
    sign(event)
    return event


def said_of(question: Mapping[str, object]) -> Mapping[str, object]:
    """As much of a question as an event says about it, beside the question itself."""
    context = {"trace_id": _at(question, ("context", "trace_id")), "time_ns": _at(question, ("context", "time_ns"))}
    return {"subject": {"id": _at(question, ("subject", "id"))}, "context": context}


def sign(event: Event) -> None:
    """Say who asked and in which trace, as far as the input tells."""
    question = event.get("input")
    for field, path in (("requested_by", ("subject", "id")), ("trace_id", ("context", "trace_id"))):
        value = _at(question, path)
        event.pop(field, None)
        if isinstance(value, str) and value:
            event[field] = value


def not_replayable(event: Event, why: str) -> None:
    """Mark an event whose input or result is not what policy was asked and answered."""
    custom = cast("dict[str, object]", event["custom"])
    custom[OURS] = {**cast("Mapping[str, object]", custom[OURS]), "replayable": False, "why": why}


def timestamp(time_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds, always of one width: the order of the texts is that of the times."""
    seconds, rest = divmod(time_ns, _NS)
    to_seconds = datetime.fromtimestamp(seconds, UTC).isoformat()[:_TO_SECONDS]
    return f"{to_seconds}.{rest:09}Z"


def _asked_ns(question: Mapping[str, object], now_ns: int) -> int:
    asked = _at(question, ("context", "time_ns"))
    return asked if type(asked) is int and 0 < asked < 1 << 62 else now_ns


def _at(value: object, path: tuple[str, ...]) -> object:
    for step in path:
        if not isinstance(value, (dict, Mapping)):  # nearly always a dict, which is known without asking the ABC
            return None
        value = value.get(step)
    return value
