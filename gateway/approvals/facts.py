"""What policy is told of a call about approvals (`resource.properties`), as the gateway found it."""

from __future__ import annotations

from typing import Final

from gateway.approvals.voting import agreed_to, may_see, obstacle_to
from gateway.tickets import StandingGrant, Ticket
from gateway.types import FrozenDict, Identity, Resource, freeze

APPROVAL: Final = "approval"
SWITCH: Final = "switch"


def ticket_resource(ticket_id: str, ticket: Ticket | None) -> Resource:
    """A ticket as policy names it; one that there is not is not known."""
    return Resource(APPROVAL, ticket_id, name=ticket_id, known=ticket is not None)


def ticket_facts(ticket: Ticket, identity: Identity, now_ms: int, *, voting: bool) -> FrozenDict:
    """`granted` says that no rule is needed: a vote of who is asked, a look of who may see it anyway."""
    obstacle = obstacle_to(ticket, identity, now_ms)
    asked = ticket.stages[ticket.stage].approvers if ticket.stage < len(ticket.stages) else ""
    return _frozen(
        {
            "granted": not obstacle if voting else may_see(ticket, identity),
            "obstacle": obstacle if voting else "",
            "approvers": asked,
            "stage": ticket.stage,
            "stages": len(ticket.stages),
            "title": ticket.title,
            "requester": ticket.subjects[0] if ticket.subjects else "",
            "subjects": ticket.subjects,
            "state": ticket.state,
            "held_action": ticket.shown.get("action"),
            "held_resource": ticket.shown.get("resource"),
            "agreeing_to": agreed_to(ticket),
        }
    )


def list_facts(identity: Identity, *, everything: bool) -> FrozenDict:
    """Anybody who is known may list what is theirs; the list of all takes a rule."""
    known = identity.method in ("api_key", "jwt")
    return FrozenDict({"granted": known and not everything})


def grant_facts(grant: StandingGrant, granted: bool) -> FrozenDict:
    """Who uses a grant may give it up, and who gave it may take it back."""
    return _frozen({"granted": granted, "approvers": grant.granted_by})


def _frozen(value: object) -> FrozenDict:
    frozen = freeze(value)
    return frozen if isinstance(frozen, FrozenDict) else FrozenDict()
