"""Reading what policy asks for (`context.access_request`): stages of people, how long it holds, what they are shown.

A request that cannot be read holds the call for good: nobody can agree to what is not understood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gateway import codec
from gateway.errors import InputTooLarge
from gateway.tickets import Stage
from gateway.types import EMPTY, Call, FrozenDict, Identity, NeedsApproval, freeze

MAX_STAGES: Final = 8
MAX_QUORUM: Final = 32
MAX_TITLE: Final = 300
MIN_EXPIRES_S: Final = 1
EXPIRES_S: Final = 3_600.0
"""How long people have where a rule does not say it."""
MAX_EXPIRES_S: Final = 30 * 86_400.0

MAX_SHOWN: Final = 256 << 10
"""Bytes of JSON. Nobody reads more, and what waits is stored."""
MAX_STANDING: Final = 31_536_000
"""Of uses and of seconds: a year."""

KINDS: Final = ("user", "agent", "group", "role")


class Unreadable(ValueError):
    """The request names no people that could be asked; the text says what is wrong, for the author of the rule."""


def stages_in(request: Mapping[str, object]) -> tuple[Stage, ...]:
    """The stages in their order. Several teams' requests (`all_of`) follow one another. Raises `Unreadable`."""
    stages = tuple(_stages(request))
    if not 1 <= len(stages) <= MAX_STAGES:
        raise Unreadable(f"an approval has 1 to {MAX_STAGES} stages, not {len(stages)}")
    return stages


def covers_in(request: Mapping[str, object]) -> tuple[object, ...]:
    """The holds that the request is made of, exactly as rules worded them."""
    several = request.get("all_of")
    return tuple(several) if isinstance(several, tuple) and several else (request,)


def expires_s_in(request: Mapping[str, object], default_s: float = EXPIRES_S) -> float:
    """How long people have, in seconds: the shortest of all holds, each `default_s` where it says nothing."""
    said = [_seconds(each.get("expires_s")) for each in covers_in(request) if isinstance(each, Mapping)]
    shortest = min((default_s if seconds is None else seconds for seconds in said), default=default_s)
    return min(MAX_EXPIRES_S, max(MIN_EXPIRES_S, shortest))


def standing_in(request: Mapping[str, object]) -> Mapping[str, object]:
    """The most that a standing grant may be: the least of what all holds offer, and nothing unless all of them do."""
    offers = [each.get("standing") if isinstance(each, Mapping) else None for each in covers_in(request)]
    if not offers or not all(isinstance(offer, Mapping) and _readable(offer) for offer in offers):
        return EMPTY
    said = [offer for offer in offers if isinstance(offer, Mapping)]
    least = {name: min(_whole(offer.get(name)) for offer in said) for name in ("uses", "expires_s")}
    idle = [_whole(offer["idle_s"]) for offer in said if "idle_s" in offer]
    any_arguments = all(offer.get("any_arguments") is True for offer in said)
    return FrozenDict({**least, "idle_s": min([*idle, least["expires_s"]]), "any_arguments": any_arguments})


def _readable(offer: Mapping[str, object]) -> bool:
    named = [offer.get("uses"), offer.get("expires_s"), offer.get("idle_s", 1)]
    return all(type(value) is int and 1 <= value <= MAX_STANDING for value in named)


def _whole(value: object) -> int:
    return value if type(value) is int else 0


def title_of(request: Mapping[str, object], call: Call) -> str:
    """What it is about, in a line."""
    title = request.get("title")
    return (title if isinstance(title, str) and title else f"{call.action} on {call.resource.id}")[:MAX_TITLE]


def shown_of(call: Call, identity: Identity, needs: NeedsApproval) -> FrozenDict:
    """What an approver decides by. Everything of the call that policy was shown, and nothing that proves who it is.

    Raises `InputTooLarge` for what nobody could read.
    """
    resource = call.resource
    shown = freeze(
        {
            "subject": identity.question,
            "hops": identity.hops,
            "action": call.action,
            "protocol": call.protocol,
            "resource": {
                "type": resource.type,
                "id": resource.id,
                "upstream": resource.upstream,
                "name": resource.name,
            },
            "catalog": resource.catalog,
            "hints": resource.hints,
            "arguments": call.arguments,
            "meta": call.params.get("_meta") if call.protocol == "mcp" else None,
            "params": _others(call) or None,
            "arguments_digest": call.arguments_digest,
            "facts": call.facts,
            "labels": needs.labels,
            "request": needs.request,
            "revision": needs.ruling.revision,
            "decision_id": needs.decision_id,
            "call_id": call.id,
            "trace_id": call.traceparent[3:35],
        }
    )
    if len(codec.canonical(shown)) > MAX_SHOWN:
        raise InputTooLarge(f"the call is longer than the {MAX_SHOWN} bytes that people can be shown")
    return shown if isinstance(shown, FrozenDict) else FrozenDict()


def _others(call: Call) -> Mapping[str, object]:
    """What else reaches the upstream: in MCP, arguments are only a part of the parameters."""
    known = ("name", "arguments", "_meta")
    return {name: value for name, value in call.params.items() if name not in known} if call.protocol == "mcp" else {}


def _stages(request: Mapping[str, object]) -> Iterator[Stage]:
    named = [name for name in ("all_of", "stages") if name in request]
    if not named:
        yield Stage(_approvers(request), _quorum(request))
        return
    if len(named) > 1 or "quorum" in request:  # one of them would be left out
        raise Unreadable("all_of, stages and quorum stand in one another's way: say the quorum in each stage")
    several = request[named[0]]
    if not isinstance(several, Sequence) or isinstance(several, str):
        raise Unreadable("stages and all_of are lists of objects with approvers")
    for each in several:
        if not isinstance(each, Mapping):
            raise Unreadable("a stage is an object with approvers")
        yield from _stages(each)


def _approvers(request: Mapping[str, object]) -> str:
    approvers = request.get("approvers")
    kind, _, name = approvers.partition(":") if isinstance(approvers, str) else ("", "", "")
    if kind not in KINDS or not name:
        raise Unreadable("approvers is user:ID, agent:ID, group:NAME or role:NAME")
    return f"{kind}:{name}"


def _quorum(request: Mapping[str, object]) -> int:
    quorum = request.get("quorum", 1)
    if type(quorum) is not int or not 1 <= quorum <= MAX_QUORUM:
        raise Unreadable(f"quorum is a number from 1 to {MAX_QUORUM}")
    return quorum


def _seconds(value: object) -> float | None:
    return value if type(value) in (int, float) and isinstance(value, int | float) else None
