"""What policy, budgets and routes are told of a call of a model, whoever makes it: `Call.facts`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from gateway.errors import InvalidCall
from gateway.models.estimate import estimate
from gateway.models.facts import facts_of
from gateway.models.neutral import APIS
from gateway.types import EMPTY, FrozenDict, Permit, Resource, freeze

ACTION = "model.call"
MAX_TOOLS: Final = 1_000
"""Names that policy is shown: all of them, or the call is none."""
_WHOLE_ONLY: Final = frozenset({"redact", "cap"})
"""Obligations that need all of an answer before any of it is shown."""


def call_facts(method: str, resource: Resource, params: Mapping[str, object]) -> FrozenDict:
    """`model`, `provider`, `region`, `estimate`, and what `facts_of` reads. Raises `InvalidCall` for too many tools."""
    if method not in APIS:
        return EMPTY
    offered = facts_of(method, params)
    if len(cast("list[object]", offered["tools"])) > MAX_TOOLS:
        raise InvalidCall(f"tools: policy can be shown the names of {MAX_TOOLS} at most; offer fewer")
    known = resource.catalog.get("max_output_tokens")
    tokens = estimate(method, params, max_output_tokens=known if isinstance(known, int) else 0)
    facts = {
        "model": resource.id,
        "provider": resource.upstream,
        "region": resource.catalog.get("region", ""),
        "estimate": {"input_tokens": tokens.input_tokens, "output_tokens": tokens.output_tokens},
        **offered,
    }
    frozen = freeze(facts)
    return frozen if isinstance(frozen, FrozenDict) else EMPTY


def may_stream(permit: Permit) -> bool:
    """Whether pieces of an answer may be shown before all of it is known."""
    for obligation in permit.obligations:
        whole = obligation.type == "model" and obligation.properties.get("stream") is False
        if whole or obligation.type in _WHOLE_ONLY:
            return False
    return True
