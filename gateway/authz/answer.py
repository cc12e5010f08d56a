"""Judging the answer of policy: a permit that can be carried out, a hold, a denial; anything else is no answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.authz.obligations import Label, labels_in, obligations_in
from gateway.authz.reading import UnsupportedObligation
from gateway.errors import InputTooLarge, PolicyEngineUnavailable
from gateway.types import Decision, Deny, FrozenDict, NeedsApproval, Permit, Reason, Ruling, freeze

MAX_REASONS: Final = 64
MAX_TEXT: Final = 2_048

_NOTHING: Final[Mapping[str, object]] = {}
_ANSWER_FIELDS: Final = frozenset({"decision", "context"})
_PERMIT_FIELDS: Final = frozenset({"obligations", "labels", "reasons", "cache_ttl_s", "id"})
_REASON_FIELDS: Final = frozenset({"code", "message", "rule", "public", "remedy"})


def judge(value: object, *, call_digest: str, ruling: Ruling) -> Decision:
    """Read the value of `data.interlock.decision` (policy contract, "Answer").

    An obligation that cannot be carried out makes it a `Deny`. Raises `PolicyEngineUnavailable` with the reason
    `policy_output_invalid` for whatever is not exactly an answer.
    """
    if not isinstance(value, Mapping) or not _ANSWER_FIELDS.issuperset(value):
        raise _invalid("it is not an object with decision and context")
    context = value.get("context", _NOTHING)
    if not isinstance(context, Mapping):
        raise _invalid("context is not an object")
    decision = value.get("decision")
    if decision is True:
        return _permit(context, call_digest, ruling)
    if decision is not False:
        raise _invalid("decision is neither true nor false")
    if "access_request" in context:
        return NeedsApproval(ruling.decision_id, _request(context["access_request"]), ruling)
    return Deny(ruling.decision_id, _reasons(context.get("reasons", ())), ruling)


def _permit(context: Mapping[str, object], call_digest: str, ruling: Ruling) -> Permit | Deny:
    if not _PERMIT_FIELDS.issuperset(context):
        # Above all an access_request beside a yes, or obligations under a name that nobody would read.
        raise _invalid("a permit has fields that no permit has")
    obligations = context.get("obligations", ())
    labels = context.get("labels", ())
    if obligations == [] and labels == []:
        return Permit(ruling.decision_id, call_digest, ruling=ruling)
    try:
        supported = obligations_in(obligations)
        put = [label for item in supported if isinstance(item, Label) for label in item.labels]
        named = labels_in([*labels_in(labels), *put])
    except UnsupportedObligation as exc:
        return Deny(ruling.decision_id, (unsupported(str(exc)),), ruling)
    return Permit(ruling.decision_id, call_digest, supported, named, ruling)


def unsupported(detail: str) -> Reason:
    """The reason for refusing a permit whose obligation cannot be carried out."""
    remedy = "the owner of the rule can correct the obligation"
    return Reason("obligation_unsupported", detail, rule="interlock", public=True, remedy=remedy)


def _request(request: object) -> Mapping[str, object]:
    try:
        frozen = freeze(request)
    except InputTooLarge as exc:
        raise _invalid("access_request is too large") from exc
    if not isinstance(frozen, FrozenDict) or not isinstance(frozen.get("approvers"), str) or not frozen["approvers"]:
        raise _invalid("access_request names no approvers")
    return frozen


def _reasons(entries: object) -> tuple[Reason, ...]:
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise _invalid("reasons is not a list")
    return tuple([_reason(entry) for entry in entries[:MAX_REASONS]])


def _reason(entry: object) -> Reason:
    if not isinstance(entry, Mapping) or not _REASON_FIELDS.issuperset(entry):
        raise _invalid("a reason is not an object with code, message, rule, public and remedy")
    code, message, rule, remedy = (_text(entry.get(field, "")) for field in ("code", "message", "rule", "remedy"))
    public = entry.get("public", False)
    if not code or not isinstance(public, bool):
        raise _invalid("a reason has no code, or its public is neither true nor false")
    return Reason(code, message, rule, public, remedy)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _invalid("a field of a reason is not a text")
    return value[:MAX_TEXT]


def _invalid(what: str) -> PolicyEngineUnavailable:
    return PolicyEngineUnavailable(f"the answer of policy is invalid: {what}", reason="policy_output_invalid")


def judge_visible(value: object, count: int) -> frozenset[int]:
    """Read the value of `data.interlock.visible`: indexes into a list of `count`. Raises as `judge` does."""
    if not isinstance(value, list | tuple | set | frozenset):
        raise _invalid("visible is not a set")
    for index in value:
        if type(index) is not int or not 0 <= index < count:
            raise _invalid("visible holds something that is no index of the list")
    return frozenset(value)
