"""What people and programs are shown of tickets, grants and switches, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.approvals.proposals import EDITABLE, offered
from gateway.approvals.voting import agreed_to, obstacle_to
from gateway.tickets import StandingGrant, Switch, Ticket
from gateway.types import Identity

_SHOWN: Final = (
    "subject",
    "hops",
    "action",
    "protocol",
    "resource",
    "catalog",
    "hints",
    "arguments",
    "arguments_digest",
    "meta",
    "params",
    "facts",
    "labels",
    "request",
    "revision",
    "decision_id",
    "call_id",
    "trace_id",
)


def state_of(ticket: Ticket, now_ms: int) -> str:
    """Its state, or `expired`: what nobody decided, or used, in time."""
    over = now_ms >= ticket.expires_ms and ticket.state in ("pending", "approved")
    return "expired" if over else ticket.state


def ticket_shown(ticket: Ticket, identity: Identity, now_ms: int, url: str) -> dict[str, object]:
    """All that somebody needs who is to decide on it; `obstacle` says what keeps the reader from that."""
    obstacle = obstacle_to(ticket, identity, now_ms)
    return {
        "id": ticket.id,
        "state": state_of(ticket, now_ms),
        "title": ticket.title,
        "url": url,
        "requester": ticket.subjects[0] if ticket.subjects else "",
        "subjects": ticket.subjects,
        "created_ms": ticket.created_ms,
        "expires_ms": ticket.expires_ms,
        "left_s": max(0, ticket.expires_ms - now_ms) // 1000,
        "stage": ticket.stage,
        "stages": [_stage_shown(ticket, index) for index in range(len(ticket.stages))],
        "denied": _denial(ticket),
        "edited": ticket.edited,
        "editable": ticket.shown.get("action") in EDITABLE,
        "standing": ticket.standing,
        "standing_offered": offered(ticket) or None,
        "agreeing_to": agreed_to(ticket),
        "may_vote": not obstacle,
        "obstacle": obstacle,
        **{name: ticket.shown.get(name) for name in _SHOWN},
    }


def summary_of(ticket: Ticket, identity: Identity, now_ms: int, url: str) -> dict[str, object]:
    """One line of a list."""
    whole = ticket_shown(ticket, identity, now_ms, url)
    kept = ("id", "state", "title", "url", "requester", "action", "resource", "created_ms", "expires_ms", "left_s")
    return {name: whole[name] for name in (*kept, "stage", "stages", "may_vote", "obstacle")}


def grant_shown(grant: StandingGrant) -> dict[str, object]:
    """What calls it is for, and how much of it is left."""
    return {
        "id": grant.id,
        "ticket_id": grant.ticket_id,
        "granted_by": grant.granted_by,
        "any_arguments": grant.any_arguments,
        "uses_left": grant.uses_left,
        "created_ms": grant.created_ms,
        "expires_ms": grant.expires_ms,
        "idle_ms": grant.idle_ms,
        "used_ms": grant.used_ms,
        "subject": grant.shown.get("subject"),
        "action": grant.shown.get("action"),
        "resource": grant.shown.get("resource"),
        "arguments": None if grant.any_arguments else grant.shown.get("arguments"),
    }


def switch_shown(switch: Switch) -> dict[str, object]:
    """What it stops, who set it and why."""
    return {
        "kind": switch.kind,
        "value": switch.value,
        "reason": switch.reason,
        "set_by": switch.set_by,
        "set_ms": switch.set_ms,
    }


def _stage_shown(ticket: Ticket, index: int) -> Mapping[str, object]:
    stage = ticket.stages[index]
    votes = [
        {"approver": vote.approver, "verdict": vote.verdict, "reason": vote.reason, "at_ms": vote.at_ms}
        for vote in ticket.votes
        if vote.stage == index
    ]
    return {"approvers": stage.approvers, "quorum": stage.quorum, "votes": votes}


def _denial(ticket: Ticket) -> Mapping[str, object] | None:
    said = next((vote for vote in ticket.votes if vote.verdict == "deny"), None)
    return {"by": said.approver, "reason": said.reason} if said is not None else None
