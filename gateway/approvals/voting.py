"""One vote on one ticket: who may cast it, and what becomes of the ticket. No clock and no store in here."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final, Literal

from gateway import codec
from gateway.approvals.binding import name_of, subjects_of
from gateway.tickets import Stage, Ticket, Vote
from gateway.types import FrozenDict, Identity

Obstacle = Literal["", "own", "not_asked", "voted", "over", "expired"]
"""Why somebody cannot vote: it is their own call, they are not who is asked, they voted, it is decided, it is late."""

PERSON: Final = "user"
"""The type of subject that groups and roles are asked of: an agent with a role is no person."""


def is_somebody(identity: Identity) -> bool:
    """Whether this is one principal who came with a credential of their own, and carries nobody else's authority."""
    alone = identity.on_behalf_of is None and not identity.delegation and not identity.hops
    known = identity.method in ("api_key", "jwt") and identity.subject.type != "anonymous"
    return alone and known and bool(identity.subject.id)


def is_asked(stage: Stage, identity: Identity) -> bool:
    """Whether the stage asks for this person. Groups are roles, as the identity provider or the API key gives them.

    An agent is asked only where it is named as one: `agent:ID`.
    """
    if not is_somebody(identity):
        return False
    kind, _, name = stage.approvers.partition(":")
    if kind in ("group", "role"):
        return identity.subject.type == PERSON and name in identity.roles
    return identity.subject.type == kind and name_of(identity.subject) == stage.approvers


def is_party(ticket: Ticket, identity: Identity) -> bool:
    """Whether the call is made by them, for them or through them."""
    return identity.principal == ticket.requester or bool(set(subjects_of(identity)) & set(ticket.subjects))


def same_tenant(ticket: Ticket, identity: Identity) -> bool:
    """Whether they belong to who asks: the same name in another tenant is somebody else."""
    subject = ticket.shown.get("subject")
    properties = subject.get("properties") if isinstance(subject, FrozenDict) else None
    return isinstance(properties, FrozenDict) and properties.get("tenant", "") == identity.tenant


def may_see(ticket: Ticket, identity: Identity) -> bool:
    """Whether the ticket is open to them without a rule of its own: parties to it, and those whom it asks."""
    if not same_tenant(ticket, identity) or identity.method not in ("api_key", "jwt"):
        return False
    return is_party(ticket, identity) or any(is_asked(stage, identity) for stage in ticket.stages)


def obstacle_to(ticket: Ticket, identity: Identity, now_ms: int) -> Obstacle:
    """What keeps this person from voting on it now; empty when nothing does.

    Nobody approves a call that is made by them, for them or through them, and an agent that carries somebody else's
    authority votes as nobody.
    """
    if ticket.state != "pending":
        return "over"
    if now_ms >= ticket.expires_ms:
        return "expired"
    if is_party(ticket, identity):
        return "own"
    if any(vote.approver == name_of(identity.subject) for vote in ticket.votes):
        return "voted"
    stage = ticket.stage
    asked = stage < len(ticket.stages) and is_asked(ticket.stages[stage], identity)
    return "" if asked and same_tenant(ticket, identity) else "not_asked"


def agreed_to(ticket: Ticket) -> str:
    """The digest of what a vote agrees to now: another one once an approver changed arguments or proposed a grant."""
    shown = ticket.shown.get("arguments_digest") if ticket.edited is None else ticket.edited
    return hashlib.sha256(codec.canonical([ticket.binding, shown, ticket.standing])).hexdigest()[:32]


def same(one: object, other: object) -> bool:
    """Whether two JSON values are the same to everybody: Python takes 1, 1.0 and true for one another."""
    return codec.canonical(one) == codec.canonical(other)


def voted(
    ticket: Ticket, vote: Vote, *, edited: FrozenDict | None = None, standing: FrozenDict | None = None
) -> Ticket:
    """The ticket with one more vote, for a voter whom nothing keeps from it.

    One denial denies. `edited` and `standing` are what the voter agrees to: where that is not what the ticket says, all
    have to agree to it, and the votes before do not count for it. The voter's own counts at the stage that they were
    asked at, and at no other.
    """
    if vote.verdict == "deny":
        return replace(ticket, votes=(*ticket.votes, vote), state="denied")
    if not same((edited, standing), (ticket.edited, ticket.standing)):
        ticket = replace(ticket, votes=(), edited=edited, standing=standing)
    ticket = replace(ticket, votes=(*ticket.votes, vote))
    return replace(ticket, state="approved") if ticket.stage == len(ticket.stages) else ticket
