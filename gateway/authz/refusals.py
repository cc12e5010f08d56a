"""Refusals as errors: to the caller, which rule, why and what would help; to the record, everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.errors import ApprovalPending, PolicyDenied, QuotaExceeded
from gateway.types import Deny, NeedsApproval, Reason, Ruling

MAX_SHOWN: Final = 5

_OPERATOR: Final = "an operator finds the cause under this decision id"
RESERVED: Final[Mapping[str, tuple[str, str]]] = {
    "pdp_unavailable": ("the policy engine gave no answer", "try again later"),
    "timeout": ("the policy engine did not answer in time", "try again later"),
    "undefined": ("policy has no answer to this", _OPERATOR),
    "policy_output_invalid": ("the answer of policy makes no sense", _OPERATOR),
    "obligation_unsupported": ("policy asks for something that this gateway cannot carry out", _OPERATOR),
    "input_too_large": ("the call is too large for policy to judge", "send less in one call"),
    "engine_panic": ("the policy engine failed", _OPERATOR),
}
"""Reserved reason codes (policy contract, "Fail closed") -> what the caller is told: why, and what would help."""


class Refused(PolicyDenied):
    """`PolicyDenied` that knows the ruling it comes from, for the record."""

    ruling: Ruling

    def __init__(self, reasons: Sequence[Reason], ruling: Ruling) -> None:
        message = _told(reasons, ruling.decision_id)
        super().__init__(message, decision_id=ruling.decision_id, reasons=reasons)
        self.ruling = ruling


class Held(ApprovalPending):
    """`ApprovalPending` that knows the ruling it comes from, for the record."""

    ruling: Ruling

    def __init__(self, held: NeedsApproval) -> None:
        message = f"held until a person agrees (decision {held.decision_id})"
        super().__init__(message, decision_id=held.decision_id, needs=held)
        self.ruling = held.ruling


class OverRate(QuotaExceeded):
    """`QuotaExceeded` that knows the ruling whose `rate` obligation set the limit, for the record."""

    ruling: Ruling

    def __init__(self, exceeded: QuotaExceeded, ruling: Ruling) -> None:
        super().__init__(f"{exceeded} (decision {ruling.decision_id})", retry_after_s=exceeded.retry_after_s)
        self.ruling = ruling


def refused(denial: Deny) -> Refused:
    """The error for a denial."""
    return Refused(denial.reasons, denial.ruling)


def failed_closed(code: str, ruling: Ruling, detail: str) -> Refused:
    """The error for a permit that could not be given, with its reserved code; `detail` is for the record only."""
    known = code if code in RESERVED else "pdp_unavailable"
    message, remedy = RESERVED[known]
    told = Reason(known, message, rule="interlock", public=True, remedy=remedy)
    return Refused((told, Reason(known, detail, rule="interlock")), ruling)


def _told(reasons: Sequence[Reason], decision_id: str) -> str:
    shown = [_sentence(reason) for reason in reasons if reason.public][:MAX_SHOWN]
    if not shown:
        return f"denied by policy (decision {decision_id})"
    return f"denied by policy: {' '.join(shown)} (decision {decision_id})"


def _sentence(reason: Reason) -> str:
    why = f"{reason.message} ({reason.code})" if reason.message else reason.code
    rule = f"{reason.rule} says " if reason.rule else ""
    helps = f" What would help: {reason.remedy}." if reason.remedy else ""
    return f"{rule}{why}.{helps}"
