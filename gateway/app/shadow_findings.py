"""Reads the answers of an active policy and a candidate, and what `monitor` rules found, as things to count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from gateway.authz.answer import judge, judge_visible
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer, Decided
from gateway.shadow import compared, compared_lists
from gateway.types import Decision, Ruling

Finding: TypeAlias = tuple[str, str, str]
"""(rule, what it would do, code)."""

MAX_FINDINGS: Final = 64
"""Of one question."""
_EFFECTS: Final = frozenset({"allow", "deny", "hold"})


@dataclass(frozen=True, slots=True)
class About:
    """What a question is about, as counts name it."""

    action: str
    resource: str
    tenant: str

    @classmethod
    def of(cls, question: Mapping[str, object]) -> About:
        """Those parts of a question."""
        subject = _part(_part(question, "subject"), "properties")
        return cls(
            _text(_part(question, "action"), "name"), _text(_part(question, "resource"), "id"), _text(subject, "tenant")
        )


def differences(decided: Decided, answer: Answer | None) -> Iterator[tuple[str, str]]:
    """Each kind of difference between what was decided and a candidate's answer, and the resource that it is about."""
    resource = About.of(decided.question).resource
    if decided.entrypoint == "decision":
        kinds = compared(judged(decided.decision_id, decided.answer), judged(decided.decision_id, answer))
        yield from ((kind, resource) for kind in kinds)
        return
    candidates = _candidates(decided.question)
    lists = compared_lists(_visible(decided.answer, len(candidates)), _visible(answer, len(candidates)))
    for kind, indexes in lists.items():
        yield from ((kind, candidates[index]) for index in indexes)
        if not indexes:
            yield kind, resource


def judged(decision_id: str, answer: Answer | None) -> Decision | None:
    """The decision that an answer is, as the gateway would read it; `None` for none or an invalid one."""
    if answer is None:
        return None
    try:
        return judge(answer.value, call_digest="", ruling=Ruling(decision_id))
    except PolicyEngineUnavailable:
        return None


def findings_in(value: object) -> Mapping[Finding, str]:
    """What `data.interlock.monitored` says, each finding once, with its message."""
    if not isinstance(value, list):
        return {}
    found: dict[Finding, str] = {}
    for entry in value[:MAX_FINDINGS]:
        if isinstance(entry, dict):
            would = _text(entry, "would")
            finding = (_text(entry, "rule"), would if would in _EFFECTS else "invalid", _text(entry, "code"))
            found[finding] = _text(entry, "message")
    return found


def is_milestone(times: int) -> bool:
    """Whether this is the first time, the tenth, the hundredth ...: when it is worth a line in the log."""
    return str(times).rstrip("0") == "1"


def _visible(answer: Answer | None, count: int) -> frozenset[int] | None:
    try:
        return judge_visible(answer.value, count) if answer is not None else None
    except PolicyEngineUnavailable:
        return None


def _candidates(question: Mapping[str, object]) -> Sequence[str]:
    listed = _part(_part(question, "resource"), "properties").get("candidates")
    return [_text(each, "id") for each in listed] if isinstance(listed, list) else []


def _part(value: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = value.get(key)
    return cast("Mapping[str, object]", found) if isinstance(found, Mapping) else {}


def _text(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""
