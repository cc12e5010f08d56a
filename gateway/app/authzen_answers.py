"""What policy said, as an AuthZEN response: a decision, and in its context why and under which obligations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from gateway.authz.refusals import RESERVED
from gateway.types import Decision, Deny, NeedsApproval, Reason, Ruling

NOTICE: Final = "carry out every obligation; whoever cannot carry out one of them has to treat this as decision false"
_HELD: Final = "held until a person agrees"
_DENIED: Final = "denied by policy"


def answer_of(decision: Decision, said: Mapping[str, object], supported: Collection[str]) -> dict[str, object]:
    """The response. `said` is the answer that the decision was read from, `supported` what its asker carries out.

    A permit under an obligation that is not among these is a no: whoever knows nothing of them would pass it by.
    """
    if isinstance(decision, NeedsApproval):
        held = (Reason("approval_needed", _HELD, "interlock", public=True),)
        return _no(held, decision.ruling, access_request=decision.request)
    if isinstance(decision, Deny):
        return _no(decision.reasons, decision.ruling)
    if said.get("decision") is not True:
        return failed_closed("policy_output_invalid", decision.decision_id)
    obligations = _obligations(said)
    unknown = _unknown(obligations, supported)
    if unknown:
        return _no(_unsupported(unknown), decision.ruling)
    return _yes(decision.decision_id, obligations, decision.labels)


def _obligations(said: Mapping[str, object]) -> list[object]:
    """Those of a permit as policy worded them; that they can be read was found before."""
    context = said.get("context")
    found = context.get("obligations", ()) if isinstance(context, Mapping) else ()
    return list(found) if isinstance(found, list | tuple) else []


def failed_closed(code: str, decision_id: str) -> dict[str, object]:
    """The response where policy could not say: a no with its reserved code."""
    known = code if code in RESERVED else "pdp_unavailable"
    message, remedy = RESERVED[known]
    return _no((Reason(known, message, "interlock", public=True, remedy=remedy),), Ruling(decision_id))


def refused(reason: Reason, decision_id: str) -> dict[str, object]:
    """The response where something other than policy says no: a kill switch, a quarantine."""
    return _no((reason,), Ruling(decision_id))


def _yes(decision_id: str, obligations: Sequence[object], labels: Sequence[str]) -> dict[str, object]:
    context: dict[str, object] = {"id": decision_id}
    if obligations:
        context |= {"obligations": obligations, "notice": NOTICE}
    if labels:
        context["labels"] = labels
    return {"decision": True, "context": context}


def _no(reasons: Sequence[Reason], ruling: Ruling, **more: object) -> dict[str, object]:
    public = [reason for reason in reasons if reason.public]
    policy = f" by policy {ruling.revision}" if ruling.revision else ""
    kept_back = len(reasons) - len(public)
    admin = f"decision {ruling.decision_id}{policy}; the record has {kept_back} more reasons that are not public"
    context: dict[str, object] = {
        "id": ruling.decision_id,
        "reasons": [_shown(reason) for reason in public],
        "reason_user": {"en": "; ".join(reason.message or reason.code for reason in public) or _DENIED},
        "reason_admin": {"en": admin if kept_back else f"decision {ruling.decision_id}{policy}"},
    }
    return {"decision": False, "context": context | more}


def _shown(reason: Reason) -> Mapping[str, object]:
    return {
        "code": reason.code,
        "message": reason.message,
        "rule": reason.rule,
        "public": True,
        "remedy": reason.remedy,
    }


def _unknown(obligations: Sequence[object], supported: Collection[str]) -> list[str]:
    types = [str(each.get("type", "")) if isinstance(each, Mapping) else "" for each in obligations]
    return sorted({each for each in types if each not in supported})


def _unsupported(types: Sequence[str]) -> tuple[Reason, ...]:
    words = f"policy permits this only under {', '.join(types)}, which the asker does not say it carries out"
    remedy = "name what you carry out in context.supported_obligations"
    return (Reason("obligation_unsupported", words, "interlock", public=True, remedy=remedy),)
