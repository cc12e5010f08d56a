"""The question that policy is asked (policy contract, "Question"): facts of ours about a call, beside its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias, cast

from gateway.authz.detection import NOT_LOOKED, Found
from gateway.authz.inspection import result_facts
from gateway.authz.obligations import SUPPORTED_OBLIGATIONS
from gateway.authz.particulars import PARTICULARS
from gateway.authz.sessions import SessionFacts
from gateway.authz.truncation import check_size, digested, fits, outlined, sprawls
from gateway.tickets import Approval
from gateway.types import EMPTY, Call, Identity, Resource, Result

SCHEMA: Final = "interlock.input/1"

Question: TypeAlias = dict[str, object]


class Questions:
    """Words questions for one environment. `clock_ns` is the wall clock, in nanoseconds since the epoch.

    Raises `InputTooLarge` for a question that is over 256 KiB even with digests in place of its long texts.
    """

    def __init__(self, *, env: str, clock_ns: Callable[[], int]) -> None:
        self._env = env
        self._clock_ns = clock_ns

    def about_call(
        self,
        call: Call,
        identity: Identity,
        session: SessionFacts,
        approval: Approval | None = None,
        found: Found = NOT_LOOKED,
        budget: Mapping[str, object] | None = None,
    ) -> Question:
        """May this be done? `approval` says which people agreed to it, `found` what detectors see in it."""
        question = _spending(self._fitted("request", call, identity, session, _properties(call), found), budget)
        return question if approval is None else _agreed_to(question, approval.question)

    def about_result(
        self,
        call: Call,
        identity: Identity,
        session: SessionFacts,
        result: Result,
        found: Found = NOT_LOOKED,
        approved: Mapping[str, object] = EMPTY,
        budget: Mapping[str, object] | None = None,
    ) -> Question:
        """May this be handed out? `approved` is what people agreed to before the call was carried out."""
        properties = _properties(call)
        facts = result_facts(result, call.protocol)
        if found.result is not None:
            facts["findings"] = found.result
        if "structured_content" in facts and not fits(properties, facts):
            del facts["structured_content"]
            facts["truncated"] = True
        properties["result"] = facts
        question = _spending(self._fitted("response", call, identity, session, properties, found), budget)
        return _agreed_to(question, approved) if approved else question

    def about_list(
        self,
        call: Call,
        identity: Identity,
        session: SessionFacts,
        candidates: Sequence[Resource],
        found: Found = NOT_LOOKED,
        budget: Mapping[str, object] | None = None,
    ) -> Question:
        """Which of these may be used?"""
        properties: dict[str, object] = {
            "upstream": call.resource.upstream,
            "name": call.resource.name,
            "candidates": [_candidate(resource) for resource in candidates],
        }
        question = _spending(self._asked("list", call, identity, session, properties, found), budget)
        check_size(question)
        return question

    def _fitted(
        self,
        phase: str,
        call: Call,
        identity: Identity,
        session: SessionFacts,
        properties: dict[str, object],
        found: Found,
    ) -> Question:
        """The question; over the limit, with digests for long texts, and a mark that rules have to accept."""
        sprawling = call.protocol == "model" and sprawls(call.arguments)
        if fits(properties) and not sprawling:
            return self._asked(phase, call, identity, session, properties, found)
        shorter = {key: digested(value) for key, value in properties.items()}
        if sprawling or (call.protocol == "model" and not fits(shorter)):  # conversations may be as long as books
            shorter["arguments"] = outlined(call.arguments)
        question = self._asked(phase, call, identity, session, {**shorter, "truncated": True}, found)
        check_size(question)
        return question

    def _asked(
        self,
        phase: str,
        call: Call,
        identity: Identity,
        session: SessionFacts,
        properties: Mapping[str, object],
        found: Found,
    ) -> Question:
        resource = call.resource
        return {
            "schema": SCHEMA,
            "phase": phase,
            "subject": identity.question,
            "action": {
                "name": call.action,
                "properties": {
                    "protocol": call.protocol,
                    "protocol_version": call.protocol_version,
                    "method": call.method,
                },
            },
            "resource": {"type": resource.type, "id": resource.id, "properties": properties},
            "context": {
                "time_ns": self._clock_ns(),
                "request_id": call.id,
                "trace_id": call.traceparent[3:35],
                "session": {"id": call.session_id, "calls": session.calls, "labels": session.labels},
                "env": self._env,
                "supported_obligations": SUPPORTED_OBLIGATIONS,
                **found.in_context,
            },
        }


def _spending(question: Question, budget: Mapping[str, object] | None) -> Question:
    if budget is not None:
        question["context"] = {**cast("Question", question["context"]), "budget": budget}
    return question


def _agreed_to(question: Question, approval: Mapping[str, object]) -> Question:
    question["context"] = {**cast("Question", question["context"]), "approval": approval}
    check_size(question)
    return question


def _properties(call: Call) -> dict[str, object]:
    resource = call.resource
    properties: dict[str, object] = {
        "upstream": resource.upstream,
        "name": resource.name,
        "arguments": call.arguments,
        "arguments_digest": call.arguments_digest,
        "truncated": bool(call.facts.get("unseen")),  # what a provider adds to a call of a model
        "catalog": resource.catalog,
        "hints": resource.hints,
    }
    particulars = PARTICULARS.get(call.action)
    if particulars is not None:
        properties |= particulars(call)
    if call.facts:
        properties = {**call.facts, **properties}
    return properties


def _candidate(resource: Resource) -> dict[str, object]:
    properties = {
        "upstream": resource.upstream,
        "name": resource.name,
        "catalog": resource.catalog,
        "hints": resource.hints,
    }
    return {"type": resource.type, "id": resource.id, "properties": properties}
