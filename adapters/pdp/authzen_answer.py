"""An AuthZEN response as an answer of ours (policy contract, "Answer"): strict about its shape, deaf to the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from gateway.errors import PolicyEngineUnavailable

MAX_REASONS: Final = 64
MAX_TEXT: Final = 2_048

_FIELDS: Final = frozenset({"decision", "context"})
_OF_A_PERMIT: Final = frozenset({"obligations", "labels"})
_HARMLESS: Final = frozenset({"cache_ttl_s", "id", "notice", "reason", "reason_admin", "reason_user", "reasons"})
"""What only explains a yes. `notice` is how this gateway says that obligations are to be carried out."""
_LIKE_A_CONDITION: Final = re.compile(
    "2fa|access.?request|acr.?val|advice|anonym|approv|condition|confirm|consent|constraint|deny|dry.?run|encrypt|exclu"
    "|expir|filter|limit|mask|max|mfa|must|only|oblig|pending|quota|redact|requir|restrict|review|sandbox|scope|step.?up"
    "|until|valid.?for",
    re.IGNORECASE,
)
_REASON: Final = {"code": str, "message": str, "rule": str, "public": bool, "remedy": str}


def answer_in(document: object) -> dict[str, object]:
    """What `data.interlock.decision` would be. Raises `PolicyEngineUnavailable` for what is no response."""
    if not isinstance(document, Mapping):
        raise _invalid("it is not an object")
    if "decision" not in document:
        raise PolicyEngineUnavailable("the decision point gave no decision", reason="undefined")
    if not _FIELDS.issuperset(document):
        raise _invalid("it has more than decision and context")
    context = document.get("context", {})
    if not isinstance(context, Mapping):
        raise _invalid("context is not an object")
    if document["decision"] is True:
        return _permit(context)
    if document["decision"] is not False:
        raise _invalid("decision is neither true nor false")
    return {"decision": False, "context": _denial(context)}


def shows(answer: object) -> bool:
    """Whether what was asked about belongs into a list: what is permitted, and what a person may still permit."""
    if not isinstance(answer, Mapping):
        return False
    context = answer["context"]
    return answer["decision"] is True or (isinstance(context, Mapping) and "access_request" in context)


def _permit(context: Mapping[str, object]) -> dict[str, object]:
    strange = sorted(name for name, value in context.items() if _restricts(name, value))
    if strange:
        words = "the decision point permits this under something that the gateway does not know"
        code = {"code": "obligation_unsupported", "message": words, "rule": "authzen", "public": True, "remedy": ""}
        named = {**code, "message": f"context has {', '.join(strange)}"[:MAX_TEXT], "public": False}
        return {"decision": False, "context": {"reasons": [code, named]}}
    kept = {name: value for name, value in context.items() if name in _OF_A_PERMIT}
    return {"decision": True, "context": kept}


def _restricts(name: str, value: object) -> bool:
    """Whether a member of a permit's context may be a condition of it."""
    if name in _OF_A_PERMIT or name in _HARMLESS:
        return False
    return bool(_LIKE_A_CONDITION.search(name)) or (isinstance(value, Mapping | list) and bool(value))


def _denial(context: Mapping[str, object]) -> dict[str, object]:
    read: dict[str, object] = {"reasons": _reasons(context)}
    request = context.get("access_request")
    if isinstance(request, Mapping) and isinstance(request.get("approvers"), str) and request["approvers"]:
        read["access_request"] = request
    return read


def _reasons(context: Mapping[str, object]) -> list[object]:
    reasons = context.get("reasons")
    if isinstance(reasons, list):
        return [read for each in reasons[:MAX_REASONS] if (read := _reason(each)) is not None]
    told = [
        {"code": "denied", "message": text, "rule": "authzen", "public": public, "remedy": ""}
        for name, public in (("reason_user", True), ("reason", True), ("reason_admin", False), ("error", False))
        if (text := _words(context.get(name)))
    ]
    return list(told)


def _reason(entry: object) -> Mapping[str, object] | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("code"), str) or not entry["code"]:
        return None
    return {name: entry[name] for name, kind in _REASON.items() if isinstance(entry.get(name), kind)}


def _words(value: object) -> str:
    """A text, or the first of a reason field: an object from language or code to text (AuthZEN 1.0, section 5.5.1)."""
    if isinstance(value, Mapping):
        value = value.get("en") or next((each for each in value.values() if isinstance(each, str)), "")
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def _invalid(what: str) -> PolicyEngineUnavailable:
    return PolicyEngineUnavailable(f"the decision point's answer is invalid: {what}", reason="policy_output_invalid")
