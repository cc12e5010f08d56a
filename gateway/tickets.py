"""Calls that wait for people, as values: the ticket, its stages and votes, standing grants and kill switches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from gateway.types import EMPTY, FrozenDict

TicketState: TypeAlias = Literal["pending", "approved", "denied", "spent", "withdrawn"]
"""What became of a ticket. That its time is over is not a state: whoever reads it compares `expires_ms`."""

LIVE: Final[frozenset[TicketState]] = frozenset({"pending", "approved", "denied"})
"""What a call may meet its ticket in. A spent one is as if there had been none."""

WITHDRAWN_COUNTS_MS: Final = 3_600_000
"""How long one that was taken back counts among those that its requester has open: people were asked all the same."""

SwitchKind: TypeAlias = Literal["everything", "subject", "agent", "upstream", "tool"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Who has to agree, and how many of them. `approvers` is `user:ID`, `agent:ID`, `group:NAME` or `role:NAME`."""

    approvers: str
    quorum: int = 1


@dataclass(frozen=True, slots=True)
class Vote:
    """What one person said at one stage. `approver` is `TYPE:ID`; `at_ms` is wall clock."""

    approver: str
    stage: int
    verdict: Literal["approve", "deny"]
    reason: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Ticket:
    """One call that policy holds until people agree. Times are milliseconds since the epoch.

    `binding` is what it is good for and nothing else: a digest of subject, chain, action, resource, arguments, tool
    definition, policy revision and what policy asked for.
    """

    id: str
    binding: str
    requester: str
    """`Identity.principal` of who made the call."""
    subjects: tuple[str, ...]
    """Everybody the call is made by or for, as `TYPE:ID` and as in `Identity.delegation`: none of them may approve."""
    stages: tuple[Stage, ...]
    title: str
    created_ms: int
    expires_ms: int
    shown: FrozenDict = EMPTY
    """What an approver is shown: subject, action, resource, arguments, reasons, labels and what the tool can reach."""
    covers: tuple[object, ...] = ()
    """The holds of policy that it answers, exactly as policy worded them."""
    state: TicketState = "pending"
    votes: tuple[Vote, ...] = ()
    edited: FrozenDict | None = None
    """The arguments that an approver put in place of the call's."""
    scopes: tuple[str, str] = ("", "")
    """What a standing grant would be bound to: the call with these arguments, or with any."""
    standing: FrozenDict | None = None
    """The standing grant that approvers propose (`uses`, `expires_s`, `idle_s`, `any_arguments`)."""
    spent_ms: int = 0
    """When it was used up last; 0 where no call has begun on it."""
    version: int = 0
    """Grows with every change; a change names the version that it was made from."""

    @property
    def stage(self) -> int:
        """The index of the stage that is being voted on; their number when all have agreed."""
        for index, stage in enumerate(self.stages):
            agreed = {vote.approver for vote in self.votes if vote.stage == index and vote.verdict == "approve"}
            if len(agreed) < stage.quorum:
                return index
        return len(self.stages)


@dataclass(frozen=True, slots=True)
class StandingGrant:
    """An approval for more than one call of one requester: it fades with time, with use and with disuse.

    `scope` is a digest as `Ticket.binding`, of less: without the arguments where `any_arguments`. Times are
    milliseconds; `uses_left` counts down; unused for `idle_ms` it is over.
    """

    id: str
    scope: str
    requester: str
    any_arguments: bool
    granted_by: tuple[str, ...]
    ticket_id: str
    shown: FrozenDict
    created_ms: int
    expires_ms: int
    idle_ms: int
    used_ms: int
    uses_left: int


@dataclass(frozen=True, slots=True)
class Approval:
    """That people agreed to one call, as policy is told of it (`context.approval`). `id` names ticket or grant."""

    id: str
    approvers: tuple[str, ...]
    covers: tuple[object, ...]
    standing: bool = False
    edited: FrozenDict | None = None

    @property
    def question(self) -> Mapping[str, object]:
        """`context.approval` of a policy question (policy contract, "Question")."""
        return {"id": self.id, "approvers": self.approvers, "covers": self.covers, "standing": self.standing}


@dataclass(frozen=True, slots=True)
class Switch:
    """A kill switch that is set: no call of this subject, by this agent, on this upstream or tool; or no call."""

    kind: SwitchKind
    value: str
    reason: str
    set_by: str
    set_ms: int


@dataclass(frozen=True, slots=True)
class TicketQuery:
    """Which tickets are asked for, newest first. Empty fields ask for all."""

    state: TicketState | Literal[""] = ""
    requester: str = ""
    alive_at_ms: int = 0
    """Only those whose time is not over then; 0 asks for all."""
    untold_at_ms: int = 0
    """Only those of which something is left to tell then: fewer notices arrived than there are. 0 asks for all."""
    before: tuple[int, str] | None = None
    """`created_ms` and id of the last one that is known already: what comes after it."""
    limit: int = 100


class ApprovalStore(Protocol):
    """Tickets, standing grants and kill switches, kept over restarts. Raises `StateUnavailable` when it cannot."""

    async def live_ticket(self, binding: str, now_ms: int) -> Ticket | None:
        """The ticket with this binding that is pending, approved or denied, and whose time is not over."""

    async def open_ticket(self, ticket: Ticket, now_ms: int, max_pending: int) -> Ticket | None:
        """Keep a new ticket; where there is a live one with its binding, that one.

        `None`, with nothing kept, when its requester has `max_pending` open ones: live and pending, or withdrawn and
        made less than `WITHDRAWN_COUNTS_MS` ago. At once: two calls that ask at the same time get the same ticket.
        """

    async def ticket(self, ticket_id: str) -> Ticket | None: ...

    async def change_ticket(self, ticket: Ticket) -> bool:
        """Put `ticket` in place of the one with its id and version, counting the version up; `False`, with nothing
        changed, when somebody else was faster."""

    async def tickets(self, query: TicketQuery) -> Sequence[Ticket]: ...

    async def put_grant(self, grant: StandingGrant) -> None: ...

    async def grants(self, now_ms: int) -> Sequence[StandingGrant]:
        """Those that still hold, newest first."""

    async def grant_for(self, scopes: Sequence[str], now_ms: int) -> StandingGrant | None:
        """Of the grants that hold and have one of these scopes, the one with the first of them that ends first."""

    async def use_grant(self, grant_id: str, now_ms: int) -> bool:
        """Take one use of a grant, at once; `False` when it does not hold."""

    async def drop_grant(self, grant_id: str) -> bool: ...

    async def put_switch(self, switch: Switch) -> None: ...

    async def drop_switch(self, kind: SwitchKind, value: str) -> bool: ...

    async def switches(self) -> Sequence[Switch]: ...

    async def prune_tickets(self, before_ms: int) -> int:
        """Forget tickets whose time was over before, and grants and their like with them. Gives how many."""


class NoticeStore(Protocol):
    """What was sent of tickets to those who want to know, kept over restarts and shared by replicas."""

    async def claim_notice(self, ticket_id: str, event: str, now_ms: int, until_ms: int) -> bool:
        """Whether it is the caller's to send until then: it did not arrive, and nobody else is at it."""

    async def release_notice(self, ticket_id: str, event: str) -> None:
        """Anybody may try it again: it did not arrive."""

    async def settle_notice(self, ticket_id: str, event: str) -> None:
        """Note that it arrived."""

    async def sent_notices(self, ticket_ids: Sequence[str]) -> frozenset[tuple[str, str]]:
        """The (ticket, event) pairs that arrived."""


HeldState: TypeAlias = Literal["waiting", "running", "done", "failed", "withdrawn"]
"""What became of a held call that its client asks after."""


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A held call whose client asks after it instead of making it again. Times are milliseconds since the epoch.

    The call and what came of it are encrypted: they are somebody's, and lie here for as long as people take.
    """

    ticket_id: str
    owner: str
    """`Identity.principal` of who made the call. Nobody else finds it."""
    sealed_call: bytes
    created_ms: int
    updated_ms: int
    expires_ms: int
    """When it is forgotten, with what came of it."""
    state: HeldState = "waiting"
    sealed_result: bytes = b""
    runner: str = ""
    """The process that carries it out."""
    lease_ms: int = 0
    """Until when that process is known to be at it: it renews this time as long as it lives."""
    answer: str = ""
    """What the client's user did about the page where it can be approved: `accept`, or empty."""
    version: int = 0
    """As that of a ticket."""


class HeldCallStore(Protocol):
    """Held calls that clients ask after, kept over restarts. Raises `StateUnavailable` when it cannot."""

    async def keep_held(self, held: HeldCall) -> HeldCall:
        """Keep one; where its ticket has one already, that one."""

    async def held(self, ticket_id: str) -> HeldCall | None: ...

    async def change_held(self, held: HeldCall) -> bool:
        """As `ApprovalStore.change_ticket`."""

    async def prune_held(self, before_ms: int) -> int:
        """Forget those that expired before. Gives how many."""
