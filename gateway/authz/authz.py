"""The authorization stage: asks policy about a call, its result or a list, and holds the call to the answer.

Whatever happens, a yes comes only from an answer that says yes and can be carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from anyio import to_thread

from gateway.authz.answer import judge, judge_visible, unsupported
from gateway.authz.boxed import check_kept, check_places
from gateway.authz.narrowing import CannotNarrow, narrow
from gateway.authz.obligations import Rate, Redact, Supported, Transform, merge_obligations
from gateway.authz.question import Question, Questions
from gateway.authz.rate import RateLimiter
from gateway.authz.reading import UnsupportedObligation
from gateway.authz.redaction import CannotRedact, redacted
from gateway.authz.refusals import Held, OverRate, Refused, failed_closed, refused
from gateway.authz.sessions import Sessions
from gateway.errors import InputTooLarge, PolicyEngineUnavailable, QuotaExceeded
from gateway.ports import Answer, PolicyDecisionPoint
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
"""From here on a result is redacted in a thread, so that other calls do not wait for it."""
_WITH_ARGUMENTS: Final = frozenset({"mcp.tools.call", "mcp.prompts.get"})


class Authz:
    """Decides, narrows, inspects and filters.

    `env` is `context.env` of every question. `response_differs()` says whether the active policy reads anything that
    only a result brings: where it does not, its answer is known and it is not asked a second time.
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
    ) -> None:
        self._pdp = pdp
        self._questions = Questions(env=env, clock_ns=clock_ns)
        self._sessions = Sessions(monotonic_ns)
        self._rates = RateLimiter(monotonic_ns)
        self._monotonic_ns = monotonic_ns
        self._new_id = new_id
        self._response_differs = response_differs

    async def decide(self, call: Call, identity: Identity) -> Permit:
        """The permit for a call. Raises `PolicyDenied`, `ApprovalPending` or `QuotaExceeded`."""
        session = self._sessions.of(call, identity)
        permit = _permit_of(await self._decision(lambda: self._questions.about_call(call, identity, session), call))
        if permit.obligations:
            _check_places(call, permit)
        session.calls += 1
        if permit.obligations:
            self._charge(call, identity, permit)
        return permit

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
        redactions = [item for permit in permits for item in _redactions(permit)]
        labels = tuple(dict.fromkeys([*result.labels, *(label for permit in permits for label in permit.labels)]))
        if redactions:
            result = await _redacted(result, redactions, permits[-1].ruling)
        if len(labels) > len(result.labels):
            result = replace(result, labels=labels)
        if labels:
            self._sessions.add_labels(authorized.call, authorized.identity, labels)
        return result

    async def visible(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]:
        """The indexes of the candidates that the caller may use. Raises `PolicyDenied` rather than guess."""
        seen: set[int] = set()
        for start in range(0, len(candidates), CANDIDATES_AT_ONCE):
            part = candidates[start : start + CANDIDATES_AT_ONCE]
            seen.update([start + index for index in await self._visible_part(call, identity, part)])
        return frozenset(seen)

    async def _visible_part(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]:
        session = self._sessions.of(call, identity)
        try:
            question = self._questions.about_list(call, identity, session, candidates)
        except InputTooLarge:
            return await self._visible_halves(call, identity, candidates)
        ruling = Ruling(self._new_id())
        try:
            answer = await self._pdp.evaluate("visible", question)
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
        session = self._sessions.of(call, identity)
        decision = await self._decision(lambda: self._questions.about_result(call, identity, session, result), call)
        if isinstance(decision, NeedsApproval):
            # The effect has happened, so there is nothing left to hold but the result.
            reason = Reason("result_withheld", "policy holds the result of this call back", "interlock", public=True)
            raise Refused((reason,), decision.ruling)
        permit = _permit_of(decision)
        if permit.obligations:
            check_kept(authorized.permit, permit)
        return permit

    async def _decision(self, worded: Callable[[], Question], call: Call) -> Decision:
        started = self._monotonic_ns()
        decision_id = self._new_id()
        ruling = Ruling(decision_id)
        try:
            answer = await self._pdp.evaluate("decision", worded())
            ruling = _ruling(decision_id, answer, self._monotonic_ns() - started)
            return judge(answer.value, call_digest=call.digest, ruling=ruling)
        except PolicyEngineUnavailable as exc:
            raise failed_closed(exc.reason, ruling, str(exc)) from exc
        except InputTooLarge as exc:
            raise failed_closed("input_too_large", ruling, str(exc)) from exc

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


def _check_places(call: Call, permit: Permit) -> None:
    try:
        check_places(call.action, permit.obligations)
    except UnsupportedObligation as exc:
        raise refused(Deny(permit.decision_id, (unsupported(str(exc)),), permit.ruling)) from exc


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


def _redactions(permit: Permit) -> list[Redact]:
    return [item for item in _supported(permit.obligations, permit.ruling) if isinstance(item, Redact)]


async def _redacted(result: Result, redactions: Sequence[Redact], ruling: Ruling) -> Result:
    merged = [item for item in merge_obligations(redactions) if isinstance(item, Redact)]
    try:
        if len(result.payload) < LONG_PAYLOAD:
            return replace(result, payload=redacted(result.payload, merged[0]))
        return replace(result, payload=await to_thread.run_sync(redacted, result.payload, merged[0]))
    except CannotRedact as exc:
        raise failed_closed("obligation_unsupported", ruling, str(exc)) from exc
