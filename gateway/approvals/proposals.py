"""What an approver may change: other arguments for the call, and a grant for more calls like it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.approvals.voting import same
from gateway.approvals.wording import standing_in
from gateway.errors import InvalidCall
from gateway.tickets import StandingGrant, Ticket
from gateway.types import EMPTY, FrozenDict, freeze

EDITABLE: Final = frozenset({"mcp.tools.call", "mcp.prompts.get"})
"""The actions whose arguments are one JSON object, which somebody else can write."""

_NUMBERS: Final = ("uses", "expires_s", "idle_s")


def proposal_in(ticket: Ticket, params: Mapping[str, object]) -> tuple[FrozenDict | None, FrozenDict | None]:
    """The arguments and the grant that a vote with these parameters agrees to; `None` for those of the call, for none.

    What the parameters do not name stays as the ticket has it. Raises `InvalidCall`.
    """
    edited = _edited(ticket, params["arguments"]) if "arguments" in params else ticket.edited
    standing = _standing(ticket, params["standing"]) if "standing" in params else ticket.standing
    if edited is not None and standing is not None:
        raise InvalidCall("`standing` is for the call as it is made: leave the arguments as they are, or leave it out")
    return edited, standing


def offered(ticket: Ticket) -> Mapping[str, object]:
    """The most that a standing grant for it may be; empty where policy offers none."""
    request = ticket.shown.get("request")
    return standing_in(request) if isinstance(request, Mapping) else EMPTY


def grant_of(ticket: Ticket, grant_id: str, now_ms: int) -> StandingGrant | None:
    """The grant that an approved ticket makes, if its approvers agreed to one."""
    said = ticket.standing
    if said is None or ticket.state != "approved":
        return None
    uses, expires_s, idle_s = (_number(said, name) for name in _NUMBERS)
    any_arguments = said.get("any_arguments") is True
    return StandingGrant(
        id=grant_id,
        scope=ticket.scopes[1 if any_arguments else 0],
        requester=ticket.requester,
        any_arguments=any_arguments,
        granted_by=tuple(vote.approver for vote in ticket.votes if vote.verdict == "approve"),
        ticket_id=ticket.id,
        shown=ticket.shown,
        created_ms=now_ms,
        expires_ms=now_ms + expires_s * 1000,
        idle_ms=idle_s * 1000,
        used_ms=now_ms,
        uses_left=uses,
    )


def _edited(ticket: Ticket, arguments: object) -> FrozenDict | None:
    if arguments is None:
        return None
    if ticket.shown.get("action") not in EDITABLE:
        raise InvalidCall("`arguments` can be changed only of a tool's call and of a prompt: approve or deny this one")
    frozen = freeze(arguments)
    if not isinstance(frozen, FrozenDict):
        raise InvalidCall("`arguments` is a JSON object: all the arguments of the call, as they are to be")
    return None if same(frozen, ticket.shown.get("arguments", EMPTY)) else frozen


def _standing(ticket: Ticket, wanted: object) -> FrozenDict | None:
    if wanted is None:
        return None
    most = offered(ticket)
    if not most:
        raise InvalidCall("`standing`: policy offers no standing grant for this call")
    if not isinstance(wanted, Mapping) or not set(wanted) <= {*_NUMBERS, "any_arguments"}:
        raise InvalidCall("`standing` is an object with uses, expires_s, idle_s and any_arguments")
    if not isinstance(wanted.get("any_arguments", False), bool):
        raise InvalidCall("`standing.any_arguments` is true or false")
    if wanted.get("any_arguments") is True and most.get("any_arguments") is not True:
        raise InvalidCall("`standing.any_arguments`: policy offers a grant for these arguments only")
    numbers = {name: _within(name, wanted.get(name, most[name]), _number(most, name)) for name in _NUMBERS}
    return FrozenDict({**numbers, "any_arguments": wanted.get("any_arguments") is True})


def _within(name: str, value: object, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidCall(f"`standing.{name}` is a number from 1 to {most}, which is what policy offers")
    return value


def _number(said: Mapping[str, object], name: str) -> int:
    value = said.get(name)
    return value if type(value) is int else 0
