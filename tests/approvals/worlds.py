"""The governed path with a gate, desks and switches over fakes, for the tests of approvals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final, cast

from gateway.approvals.desk import ApprovalDesk
from gateway.approvals.gate import ApprovalGate
from gateway.approvals.switch_desk import SwitchDesk
from gateway.approvals.switches import KillSwitches
from gateway.errors import ApprovalPending, PolicyDenied
from gateway.pipeline import Pipeline
from gateway.ports import Upstream
from gateway.tickets import Approval, Stage, Ticket, Vote
from gateway.types import (
    Call,
    Credentials,
    Entity,
    FrozenDict,
    Identity,
    NeedsApproval,
    Permit,
    Reason,
    Resource,
    Result,
    Ruling,
    freeze,
)
from tests.fakes import (
    FakeApprovalStore,
    FakeDecider,
    FakeExchange,
    FakeIdentifier,
    FakeRecorder,
    FakeUpstream,
    permit_for,
)

NOW_MS: Final = 1_000_000
PAY: Final = Resource("tool", "bank/pay", "bank", "pay", catalog=FrozenDict({"definition_digest": "d1"}))


def person(name: str, *roles: str, tenant: str = "acme", kind: str = "user") -> Identity:
    """Somebody with an API key of their own."""
    return Identity(Entity(kind, f"{kind}:{name}"), tenant=tenant, roles=roles, method="api_key")


ANA: Final = person("ana", "finance")
BO: Final = person("bo", "finance")
CY: Final = person("cy", "finance", "security")
DI: Final = person("di", "security")
OP: Final = person("op", "operator")
PEOPLE: Final = {"ana": ANA, "bo": BO, "cy": CY, "di": DI, "op": OP, "eve": person("eve", "finance", tenant="zeta")}


def frozen(value: object) -> FrozenDict:
    """A JSON object, frozen."""
    return cast("FrozenDict", freeze(value))


def a_call(arguments: Mapping[str, object] | None = None, **changes: object) -> Call:
    """A call that is held."""
    params = frozen({"name": "pay", "arguments": arguments if arguments is not None else {"to": "shop", "sum": 1}})
    call = Call("c1", "mcp.tools.call", "tools/call", PAY, params, session_id="s1")
    return replace(call, **changes)  # type: ignore[arg-type]  # fields of it


def needs(revision: str = "r1", /, **request: object) -> NeedsApproval:
    """What policy said: it wants one of finance, unless told otherwise."""
    asked = frozen(request or {"approvers": "group:finance", "title": "pay"})
    return NeedsApproval("d-1", asked, Ruling("d-1", revision))


def a_ticket(*stages: Stage, votes: tuple[Vote, ...] = (), **changes: object) -> Ticket:
    """A ticket of Ana's."""
    shown = {
        "subject": ANA.question,
        "action": "mcp.tools.call",
        "arguments": {"to": "shop", "sum": 1},
        "request": {"approvers": "group:finance"},
    }
    ticket = Ticket(
        id="apr-1",
        binding="b",
        requester=ANA.principal,
        subjects=("user:ana",),
        stages=stages or (Stage("group:finance"),),
        title="pay",
        created_ms=NOW_MS,
        expires_ms=NOW_MS + 60_000,
        shown=frozen(shown),
        covers=(frozen({"approvers": "group:finance"}),),
        scopes=("exact", "any"),
        votes=votes,
    )
    return replace(ticket, **changes)  # type: ignore[arg-type]  # fields of it


@dataclass
class FakeHerald:
    """`Herald` that keeps what it was told."""

    told: list[tuple[str, str]] = field(default_factory=list)

    def opened(self, ticket: Ticket) -> None:
        self.told.append(("opened", ticket.id))

    def voted(self, ticket: Ticket) -> None:
        self.told.append((ticket.state, ticket.id))


class Holding(FakeDecider):
    """Policy as the library has it: tools are held as `needs` says, and `granted` is enough for votes."""

    def __init__(self) -> None:
        super().__init__()
        self.needs: NeedsApproval | None = needs()
        self.again: NeedsApproval | None = None
        """What holds the call even though people agreed, if anything."""

    async def decide(self, call: Call, identity: Identity, approval: Approval | None = None) -> Permit:
        self.approvals.append(approval)
        self.asked.append(call)
        if call.resource.type in ("approval", "switch"):
            if call.facts.get("granted") is not True and "operator" not in identity.roles:
                code = f"approval_{call.facts.get('obstacle') or 'closed'}"
                raise PolicyDenied("no rule allows it", reasons=[Reason(code, public=True)])
            return permit_for(call, identity)
        held = self.needs if approval is None else self.again
        if held is not None and (approval is None or held.request not in approval.covers):
            raise ApprovalPending("held", needs=held)
        return permit_for(call, identity)


class World:
    """Everything but listeners. `now_ms` is what every clock says."""

    def __init__(self, *, max_pending: int = 8, decider: Holding | None = None) -> None:
        self.now_ms = NOW_MS
        self.store = FakeApprovalStore()
        self.herald = FakeHerald()
        self.switches = KillSwitches()
        self.decider = decider or Holding()
        self.upstream = FakeUpstream()
        self.trail = FakeRecorder()
        self.identifier = FakeIdentifier(PEOPLE)
        self.gate = ApprovalGate(
            self.store,
            clock_ms=lambda: self.now_ms,
            url_of=_page,
            herald=self.herald,
            expires_s=600,
            max_pending=max_pending,
        )
        self.desk = ApprovalDesk(self.store, clock_ms=lambda: self.now_ms, url_of=_page, herald=self.herald)
        numbers = count(1)
        self.pipeline = Pipeline(
            identifier=self.identifier,
            authz=self.decider,
            upstream_for=self._upstream_for,
            trail=self.trail,
            new_id=lambda: f"q{next(numbers)}",
            gate=self.gate,
            switches=self.switches,
        )
        self.switch_desk = SwitchDesk(
            self.store, self.switches, clock_ms=lambda: self.now_ms, changed=self.pipeline.end_killed
        )

    def _upstream_for(self, call: Call) -> Upstream:
        if call.resource.type == "switch":
            return self.switch_desk
        return self.desk if call.resource.type == "approval" else self.upstream

    async def make(self, call: Call | None = None, who: str = "ana") -> Result:
        """Take a call down the path."""
        return await self.pipeline.handle(call or a_call(), Credentials(who), FakeExchange())

    async def held(self, call: Call | None = None, who: str = "ana") -> ApprovalPending:
        """Take a call down the path that is to be held."""
        try:
            await self.make(call, who)
        except ApprovalPending as pending:
            return pending
        raise AssertionError("the call was not held")


def _page(ticket_id: str) -> str:
    return f"http://gate/approvals/{ticket_id}/page"
