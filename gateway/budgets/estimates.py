"""What a call will cost as far as it can be known before, and what it did cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.errors import (
    ApprovalPending,
    InvalidCall,
    PolicyDenied,
    QuotaExceeded,
    SandboxFailure,
    UnknownResource,
    UpstreamUnavailable,
)
from gateway.models import Price, price_from, service_of
from gateway.ports import Spent
from gateway.spending import NOTHING, less
from gateway.types import Call, Usage

MODEL_CALL: Final = "model.call"
ROUTED: Final = "models"
"""Upstream of names that stand for several models: what they cost, the calls that they cause cost."""
MOST: Final = 10**15
"""Of anything, for one call: a million dollars."""

_NOT_DONE: Final = (
    ApprovalPending,
    InvalidCall,
    PolicyDenied,
    QuotaExceeded,
    SandboxFailure,
    UnknownResource,
    UpstreamUnavailable,
)
"""Ends of a call that nobody did anything for."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call costs in any case (`fixed`), and what it may use up beyond that (`most`)."""

    fixed: Usage
    most: Usage = NOTHING
    priced: bool = True
    """Whether its price is known."""
    passes_on: bool = False
    """It does nothing itself: the calls that it causes are charged."""


def estimate_of(call: Call, cost: Usage | None) -> Estimate:
    """What is known of a call before it is carried out. `cost` is what policy says that it costs."""
    fixed = (cost or NOTHING) + Usage(calls=1)
    if call.action != MODEL_CALL:
        return Estimate(fixed)
    passes_on = call.resource.upstream == ROUTED
    said = call.facts.get("estimate")
    tokens_in, tokens_out = _count(said, "input_tokens"), _count(said, "output_tokens")
    price, service = price_from(call.resource.catalog), service_of(call.params)
    nano_usd = _bounded(price.most(tokens_in, tokens_out, service)) if price is not None else 0
    # Nobody says how long the answer of such a model gets, but it is something.
    tokens = tokens_in + tokens_out if passes_on else max(tokens_in + tokens_out, 1)
    declared = cost is not None and cost.nano_usd > 0
    priced = price is not None and price.knows(service)
    return Estimate(fixed, Usage(nano_usd, tokens), priced or declared or passes_on, passes_on)


def charged(call: Call, estimate: Estimate, spent: Spent, children: Usage) -> Usage:
    """What a call that is over is charged by itself, without its time; `children` were charged for it already."""
    result = spent.result
    done = spent.streamed or children != NOTHING  # what refuses it, if anything does, came after that
    if not spent.started or (result is None and isinstance(spent.error, _NOT_DONE) and not done):
        return Usage(calls=1) if spent.started and not isinstance(spent.error, PolicyDenied) else NOTHING
    if result is not None and result.outcome == "input_required":
        return NOTHING  # the round that ends it is charged
    if result is not None and result.usage is not None:
        usage = Usage(_bounded(_money(call, estimate, result.usage)), _bounded(result.usage.tokens))
    elif estimate.passes_on or (result is not None and result.outcome == "rpc_error"):
        usage = NOTHING
    else:
        usage = estimate.most
    return estimate.fixed + less(usage, children)


def _money(call: Call, estimate: Estimate, usage: Usage) -> int:
    """What is reported; where only tokens are and they have a price, what these may cost."""
    if usage.nano_usd or not usage.tokens or not estimate.most.nano_usd or estimate.passes_on:
        return usage.nano_usd
    price = (price_from(call.resource.catalog) or Price()).at(usage.tokens, service_of(call.params))
    return min(estimate.most.nano_usd, max(price.most(usage.tokens, 0), price.most(0, usage.tokens)))


def _count(said: object, name: str) -> int:
    value = said.get(name) if isinstance(said, Mapping) else None
    return _bounded(value) if type(value) is int else 0


def _bounded(number: int) -> int:
    """What callers ask for and providers report, as something that sums and stores can hold."""
    return min(max(number, 0), MOST)
