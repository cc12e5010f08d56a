"""The authorization stage: asks policy about a call, its result or a list, and holds the call to the answer.

Whatever happens, a yes comes only from an answer that says yes and can be carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Concatenate, Final, ParamSpec

from anyio import to_thread

from gateway.authz.answer import judge, judge_visible, unsupported
from gateway.authz.boxed import check_kept, check_places
from gateway.authz.budgeting import BudgetFacts
from gateway.authz.caching import check_caching
from gateway.authz.caps import TooLarge, Volumes, capped
from gateway.authz.detection import Detection
from gateway.authz.modelling import check_model
from gateway.authz.narrowing import CannotNarrow, narrow
from gateway.authz.obligations import Cap, Rate, Redact, Supported, Transform, merge_redactions
from gateway.authz.question import Question, Questions
from gateway.authz.rate import RateLimiter
from gateway.authz.reading import UnsupportedObligation
from gateway.authz.redaction import CannotRedact, redacted
from gateway.authz.refusals import Held, OverRate, Refused, failed_closed, refused
from gateway.authz.sessions import Sessions
from gateway.errors import InputTooLarge, PolicyEngineUnavailable, QuotaExceeded
from gateway.ports import Answer, Decided, DecisionTap, Entrypoint, PolicyDecisionPoint
from gateway.tickets import Approval
from gateway.types import (
    Authorized,
    Call,
    Decision,
    Deny,
    Identity,
    NeedsApproval,
    Obligation,
    Permit,
    Reason,
    Resource,
    Result,
    Ruling,
)

CANDIDATES_AT_ONCE: Final = 32
"""A list is asked about in parts: each stays far within the deadline, and OPA's cost grows with the square."""
LONG_PAYLOAD: Final = 64 << 10
"""From here on a result is redacted or cut in a thread, so that other calls do not wait for it."""
_WITH_ARGUMENTS: Final = frozenset({"mcp.tools.call", "mcp.prompts.get"})


class Authz:
    """Decides, narrows, inspects and filters.

    `env` is `context.env` of every question. `response_differs()` says whether the active policy reads anything that
    only a result brings: where it does not, its answer is known and it is not asked a second time.
    `detection` finds what rules may want to know of arguments and results; without one, nothing is ever looked at, and
    the question says so.
    """

    def __init__(
        self,
        pdp: PolicyDecisionPoint,
        *,
        env: str,
        clock_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
        new_id: Callable[[], str],
        response_differs: Callable[[], bool],
        tap: DecisionTap | None = None,
        detection: Detection | None = None,
    ) -> None:
        self.budgets = BudgetFacts()
        """How budgets stand, for policies that read it."""
        self._pdp = pdp
        self._detection = detection or Detection()
        self._volumes = Volumes()
        self._tap = tap
        self._questions = Questions(env=env, clock_ns=clock_ns)
        self._sessions = Sessions(monotonic_ns)
        self._rates = RateLimiter(monotonic_ns)
        self._monotonic_ns = monotonic_ns
        self._new_id = new_id
        self._response_differs = response_differs

    async def decide(self, call: Call, identity: Identity, approval: Approval | None = None) -> Permit:
        """The permit for a call, to which people may have agreed.

        Raises `PolicyDenied`, `ApprovalPending` or `QuotaExceeded`.
        """
        found = await self._detection.in_call(call)
        spent = await self.budgets.of_call(call, identity)
        session = self._sessions.of(call, identity)
        decision = await self._decision(
            lambda: self._questions.about_call(call, identity, session, approval, found, spent), call
        )
        if isinstance(decision, NeedsApproval):
            decision = replace(decision, labels=session.labels)
        permit = _permit_of(decision)
        if permit.obligations:
            self._check_possible(call, permit)
        session.calls += 1
        if permit.obligations:
            self._charge(call, identity, permit)
        return permit if approval is None else replace(permit, approved=approval.question)

    def carry_out(self, call: Call, permit: Permit) -> tuple[Call, Permit]:
        """The call as narrowed by the permit's `transform`, and the permit for exactly that call.

        Raises `PolicyDenied` when the arguments cannot be narrowed.
        """
        if not permit.obligations:
            return call, permit
        narrowings = [
            narrowing
            for item in _supported(permit.obligations, permit.ruling)
            if isinstance(item, Transform)
            for narrowing in item.narrowings
        ]
        if not narrowings:
            return call, permit
        if call.action not in _WITH_ARGUMENTS:
            raise failed_closed("obligation_unsupported", permit.ruling, "transform: this action has no arguments")
        try:
            narrowed = call.with_arguments(narrow(call.arguments, narrowings))
        except CannotNarrow as exc:
            raise Refused((_not_permitted(str(exc)),), permit.ruling) from exc
        except InputTooLarge as exc:
            raise failed_closed("input_too_large", permit.ruling, str(exc)) from exc
        return narrowed, replace(permit, call_digest=narrowed.digest)

    async def inspect(self, authorized: Authorized, result: Result) -> Result:
        """The result as the caller may have it: judged, redacted, labelled. Raises `PolicyDenied` to withhold it."""
        permit, differs = authorized.permit, self._response_differs()
        if not (differs or permit.obligations or permit.labels or result.labels):
            return result  # every event of a stream comes by here
        permits = [permit]
        if differs:
            permits.append(await self._result_permit(authorized, result))
        result = await self._held_to(permits, authorized.call, result)
        labels = tuple(dict.fromkeys([*result.labels, *(label for permit in permits for label in permit.labels)]))
        if len(labels) > len(result.labels):
            result = replace(result, labels=labels)
        if labels:
            self._sessions.add_labels(authorized.call, authorized.identity, labels)
        return result

    def labels_of(self, call: Call, identity: Identity) -> Sequence[str]:
        """The labels of the session that a call belongs to."""
        return self._sessions.of(call, identity).labels

    async def visible(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]:
        """The indexes of the candidates that the caller may use. Raises `PolicyDenied` rather than guess."""
        seen: set[int] = set()
        for start in range(0, len(candidates), CANDIDATES_AT_ONCE):
            part = candidates[start : start + CANDIDATES_AT_ONCE]
            seen.update([start + index for index in await self._visible_part(call, identity, part)])
        return frozenset(seen)

    async def _visible_part(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]:
        spent = await self.budgets.of_call(call, identity)
        session = self._sessions.of(call, identity)
        try:
            found = self._detection.in_list()
            question = self._questions.about_list(call, identity, session, candidates, found, spent)
        except InputTooLarge:
            return await self._visible_halves(call, identity, candidates)
        ruling = Ruling(self._new_id())
        try:
            answer = await self._asked("visible", question, ruling.decision_id)
            return judge_visible(answer.value, len(candidates))
        except PolicyEngineUnavailable as exc:
            raise failed_closed(exc.reason, ruling, str(exc)) from exc

    async def _visible_halves(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]:
        """What policy can be asked about; a single thing that is too large for a question is not shown."""
        middle = len(candidates) // 2
        if middle == 0:
            return frozenset()
        first = await self._visible_part(call, identity, candidates[:middle])
        second = await self._visible_part(call, identity, candidates[middle:])
        return first | {middle + index for index in second}

    async def _result_permit(self, authorized: Authorized, result: Result) -> Permit:
        call, identity = authorized.call, authorized.identity
        found = await self._detection.in_result(call, result)
        spent = await self.budgets.of_result(call, identity)
        session = self._sessions.of(call, identity)
        approved = authorized.permit.approved
        decision = await self._decision(
            lambda: self._questions.about_result(call, identity, session, result, found, approved, spent), call
        )
        if isinstance(decision, NeedsApproval):
            # The effect has happened, so there is nothing left to hold but the result.
            reason = Reason("result_withheld", "policy holds the result of this call back", "interlock", public=True)
            raise Refused((reason,), decision.ruling)
        permit = _permit_of(decision)
        if permit.obligations:
            check_kept(authorized.permit, permit)
        return permit

    async def _held_to(self, permits: Sequence[Permit], call: Call, result: Result) -> Result:
        """The result without what any of the permits takes out, and no larger than the least of their caps."""
        every = [item for permit in permits for item in _supported(permit.obligations, permit.ruling)]
        ruling = permits[-1].ruling
        redactions = [item for item in every if isinstance(item, Redact)]
        if redactions:
            result = await self._redacted(result, merge_redactions(redactions), ruling)
        caps = [item.max_bytes for item in every if isinstance(item, Cap)]
        return await self._capped(result, call, min(caps), ruling) if caps else result

    async def _redacted(self, result: Result, redaction: Redact, ruling: Ruling) -> Result:
        try:
            return replace(result, payload=await _aside(redacted, result, redaction, self._detection.detectors))
        except CannotRedact as exc:
            raise failed_closed("obligation_unsupported", ruling, str(exc)) from exc

    async def _capped(self, result: Result, call: Call, most: int, ruling: Ruling) -> Result:
        try:
            payload = await _aside(capped, result, self._volumes.left(call.id, most), most)
        except TooLarge as exc:
            raise Refused((_too_large(most),), ruling) from exc
        self._volumes.add(call.id, len(payload))
        return replace(result, payload=payload)

    async def _decision(self, worded: Callable[[], Question], call: Call) -> Decision:
        started = self._monotonic_ns()
        decision_id = self._new_id()
        ruling = Ruling(decision_id)
        try:
            answer = await self._asked("decision", worded(), decision_id)
            ruling = _ruling(decision_id, answer, self._monotonic_ns() - started)
            return judge(answer.value, call_digest=call.digest, ruling=ruling)
        except PolicyEngineUnavailable as exc:
            raise failed_closed(exc.reason, ruling, str(exc)) from exc
        except InputTooLarge as exc:
            raise failed_closed("input_too_large", ruling, str(exc)) from exc

    async def _asked(self, entrypoint: Entrypoint, question: Question, decision_id: str) -> Answer:
        """What policy answers; whoever keeps decisions is told of it, whatever the answer is."""
        if self._tap is None:
            return await self._pdp.evaluate(entrypoint, question)
        started = self._monotonic_ns()
        try:
            answer = await self._pdp.evaluate(entrypoint, question)
        except PolicyEngineUnavailable as exc:
            took_ns = self._monotonic_ns() - started
            self._tap.decided(Decided(decision_id, entrypoint, question, None, f"{exc.reason}: {exc}", took_ns=took_ns))
            raise
        took_ns = self._monotonic_ns() - started
        self._tap.decided(Decided(decision_id, entrypoint, question, answer, took_ns=took_ns))
        return answer

    def _check_possible(self, call: Call, permit: Permit) -> None:
        """Refuse before the effect what could not be carried out after it."""
        try:
            check_places(call.action, permit.obligations)
            check_caching(call.action, permit.obligations)
            if why := check_model(call, permit.obligations):
                raise Refused((_other_model(why),), permit.ruling)
            for item in permit.obligations:
                if isinstance(item, Redact) and not self._detection.kinds.issuperset(item.detectors):
                    raise UnsupportedObligation(f"redact: no detector here finds {', '.join(item.detectors)}")
        except UnsupportedObligation as exc:
            raise refused(Deny(permit.decision_id, (unsupported(str(exc)),), permit.ruling)) from exc

    def _charge(self, call: Call, identity: Identity, permit: Permit) -> None:
        rates = [item for item in permit.obligations if isinstance(item, Rate)]
        if not rates:
            return
        try:
            self._rates.charge(rates, identity.principal, call.resource.id)
        except QuotaExceeded as exc:
            raise OverRate(exc, permit.ruling) from exc


def _ruling(decision_id: str, answer: Answer, took_ns: int) -> Ruling:
    return Ruling(decision_id, answer.revision, answer.engine, answer.cached, took_ns)


def _permit_of(decision: Decision) -> Permit:
    if isinstance(decision, Permit):
        return decision
    if isinstance(decision, NeedsApproval):
        raise Held(decision)
    raise refused(decision)


def _supported(obligations: Sequence[Obligation], ruling: Ruling) -> list[Supported]:
    """The obligations as types. A permit that `judge` did not make may hold others, and is then worth nothing."""
    supported: list[Supported] = []
    for obligation in obligations:
        if not isinstance(obligation, Supported):
            raise failed_closed("obligation_unsupported", ruling, f"{obligation.type}: not one that was read")
        supported.append(obligation)
    return supported


def _not_permitted(message: str) -> Reason:
    remedy = "give the argument as the message says, or leave it out"
    return Reason("argument_not_permitted", message, rule="interlock", public=True, remedy=remedy)


def _other_model(message: str) -> Reason:
    return Reason("model_not_permitted", message, "interlock", public=True, remedy="name another model, or a route")


def _too_large(most: int) -> Reason:
    message = f"the result is larger than the {most} bytes that policy allows, and what makes it so cannot be cut"
    return Reason("result_too_large", message, "interlock", public=True, remedy="ask for less in one call")


P = ParamSpec("P")


async def _aside(
    change: Callable[Concatenate[bytes, P], bytes], result: Result, *args: P.args, **kwargs: P.kwargs
) -> bytes:
    """The changed payload; a long one is changed in a thread."""
    changed = partial(change, result.payload, *args, **kwargs)
    return changed() if len(result.payload) < LONG_PAYLOAD else await to_thread.run_sync(changed)
