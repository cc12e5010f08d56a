"""How far a call has come on the governed path, and the record that is made of it, whatever happens."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from types import TracebackType

from gateway.errors import InterlockError, PolicyDenied
from gateway.ports import Budgets, CallRecord, Spending, Spent
from gateway.tickets import Approval
from gateway.types import Authorized, Call, Identity, Obligation, Permit, Reason, Result, Ruling


@dataclass(slots=True, eq=False)
class Progress:
    """How far one call has come; the record is made of it whatever happens."""

    call: Call
    started: int
    task: asyncio.Task[object] | None = None
    killed: Reason | None = None
    """Why a kill switch ended it in flight."""
    identity: Identity | None = None
    permit: Permit | None = None
    result: Result | None = None
    notes: dict[str, object] | None = None
    streamed: int = 0
    answering: bool = False
    """An event of its answer came, whatever became of it."""
    started_executing: bool = False
    agreed: list[Approval] = field(default_factory=list)
    """What people agreed to, to be used up before the effect."""
    approvals: list[Approval] = field(default_factory=list)
    """What people agreed to, used up for this call."""
    labels: set[str] = field(default_factory=set)
    """Of what came back from calls that this one caused, and of its streamed events."""
    identified: int = 0
    decided: int = 0
    executed: int = 0
    inspected: int = 0


def note(progress: Progress, name: str, value: object) -> None:
    if progress.notes is None:
        progress.notes = {}
    progress.notes[name] = value


def note_approval(progress: Progress, approval: Approval) -> None:
    """Keep one that was used up. Of a call that people edited, that of the edited one was used before: it is `then`."""
    then = [_named(each) for each in reversed(progress.approvals)]
    progress.approvals.append(approval)
    note(progress, "approval", {**_named(approval), **({"then": then} if then else {})})


def _named(approval: Approval) -> dict[str, object]:
    return {"id": approval.id, "approvers": list(approval.approvers)}


class Budgeted:
    """A block in which a call spends what was reserved for it; whatever happens in there is settled.

    Raises `QuotaExceeded` where there is too little, or no longer enough time. Without a budget it does nothing.
    """

    def __init__(self, budgets: Budgets | None, progress: Progress, authorized: Authorized) -> None:
        self._budgets = budgets
        self._progress = progress
        self._authorized = authorized
        self._spending: Spending | None = None

    async def __aenter__(self) -> None:
        if self._budgets is None:
            if any(item.type == "budget" for item in self._authorized.permit.obligations):
                raise PolicyDenied("policy sets a budget, and nothing here keeps one")
        elif (spending := await self._budgets.reserve(self._authorized)) is not None:
            self._spending = spending
            self._timed = self._spending.timed()
            self._timed.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._budgets is None or self._spending is None:
            return
        over = self._timed.__exit__(kind, error, trace) or isinstance(error, Exception)
        progress, late = self._progress, self._spending.out_of_time() if over else None
        refused = None if late is not None else error  # a call whose time is up was carried out until then
        spent = Spent(progress.started_executing, progress.answering, progress.result, refused)
        told = await self._budgets.settle(self._spending, spent)
        note(progress, "budget", {**told, "warnings": self._spending.warnings})
        if late is not None:
            raise late from error


def intent_of(authorized: Authorized, now_ns: int) -> CallRecord:
    permit = authorized.permit
    return CallRecord(
        call=authorized.call,
        identity=authorized.identity,
        outcome="intent",
        decision_id=permit.decision_id,
        revision=permit.ruling.revision,
        engine=permit.ruling.engine,
        obligations=tuple(obligation.type for obligation in permit.obligations),
        ended_ns=now_ns,
        keep_arguments=_keeps_arguments(permit.obligations),
    )


def record_of(progress: Progress, outcome: str, code: str, error: InterlockError | None, now_ns: int) -> CallRecord:
    end = time.perf_counter_ns()
    permit, result = progress.permit, progress.result
    # A refusal of its own ruling came later than the permit: policy judged the result, too.
    ruling = (error.ruling if error else None) or (permit.ruling if permit else Ruling(""))
    obligations = permit.obligations if permit else ()
    identified = progress.identified or end
    decided = progress.decided or (end if progress.identified else identified)
    executed = progress.executed or decided
    return CallRecord(
        call=progress.call,
        identity=progress.identity,
        outcome=outcome,
        error=code,
        decision_id=getattr(error, "decision_id", "") or (permit.decision_id if permit else ruling.decision_id),
        revision=ruling.revision,
        engine=ruling.engine,
        cached=ruling.cached,
        reasons=_reasons_of(error),
        obligations=tuple([obligation.type for obligation in obligations]),
        labels=permit.labels if permit else (),
        result_bytes=progress.streamed + (len(result.payload) if result else 0),
        ended_ns=now_ns,
        identify_ns=identified - progress.started,
        decide_ns=decided - identified,
        execute_ns=executed - decided,
        inspect_ns=progress.inspected - executed if progress.inspected else 0,
        total_ns=end - progress.started,
        keep_arguments=_keeps_arguments(obligations),
        notes=progress.notes,
    )


def _keeps_arguments(obligations: tuple[Obligation, ...]) -> bool:
    return any(item.type == "audit" and item.properties.get("arguments") is True for item in obligations)


def _reasons_of(error: InterlockError | None) -> tuple[str, ...]:
    if not isinstance(error, PolicyDenied):
        return ()
    return tuple([f"{reason.rule}:{reason.code}" if reason.rule else reason.code for reason in error.reasons])
