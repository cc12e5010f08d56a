"""From a request to the call that travels the governed path: deciding on a call is a call, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.approvals import desk, switch_desk
from gateway.approvals.desk import concerns
from gateway.approvals.facts import APPROVAL, SWITCH, grant_facts, list_facts, ticket_facts, ticket_resource
from gateway.errors import PolicyDenied, Unauthenticated, UnknownResource
from gateway.listeners.mcp.quiet import Handler, QuietExchange
from gateway.ports import Identifier
from gateway.tickets import ApprovalStore
from gateway.types import EMPTY, Call, Credentials, FrozenDict, Identity, Resource, Result, freeze

PROTOCOL: Final = "interlock"

_ACTIONS: Final[Mapping[str, str]] = {
    desk.LIST: "approvals.list",
    desk.READ: "approvals.read",
    desk.APPROVE: "approvals.approve",
    desk.DENY: "approvals.deny",
    desk.LIST_GRANTS: "approvals.list",
    desk.DROP_GRANT: "approvals.deny",
    switch_desk.LIST: "switches.list",
    switch_desk.SET: "switches.set",
    switch_desk.CLEAR: "switches.clear",
}
"""Method of the call -> action that policy is asked about."""

_NOBODY: Final = Identity()
_HIDDEN: Final = "there is no such approval, or it is not open to you"


@dataclass(frozen=True, slots=True)
class ApprovalCalls:
    """Makes these calls and takes them down the path. Every method raises the `InterlockError`s."""

    store: ApprovalStore
    handler: Handler
    identifier: Identifier
    new_id: Callable[[], str]
    clock_ns: Callable[[], int] = time.time_ns

    async def listed(self, method: str, params: Mapping[str, object], credentials: Credentials) -> Result:
        """Tickets or standing grants: what concerns the caller, or with `scope=all` every one."""
        identity = await self._identified(credentials)
        facts = list_facts(identity, everything=params.get("scope") == "all")
        return await self._handled(method, Resource(APPROVAL, "*", name="*"), params, facts, credentials, identity)

    async def read(self, ticket_id: str, credentials: Credentials) -> Result:
        """One ticket. One that may not be read is not found, as one that there is not."""
        identity = await self._identified(credentials)
        return await self._looked_at(ticket_id, credentials, identity)

    async def vote(self, method: str, ticket_id: str, params: Mapping[str, object], credentials: Credentials) -> Result:
        """A yes or a no. A refusal is told only to who may read the ticket."""
        identity = await self._identified(credentials)
        ticket = await self.store.ticket(ticket_id)
        facts = ticket_facts(ticket, identity, self._now_ms(), voting=True) if ticket is not None else EMPTY
        resource = ticket_resource(ticket_id, ticket)
        try:
            return await self._handled(method, resource, params, facts, credentials, identity)
        except PolicyDenied:
            await self._looked_at(ticket_id, credentials, identity)
            raise

    async def drop_grant(self, grant_id: str, credentials: Credentials) -> Result:
        """End a standing grant."""
        identity = await self._identified(credentials)
        grants = await self.store.grants(self._now_ms())
        grant = next((each for each in grants if each.id == grant_id), None)
        facts = grant_facts(grant, concerns(grant, identity)) if grant is not None else EMPTY
        resource = Resource(APPROVAL, grant_id, name=grant_id, known=grant is not None)
        try:
            return await self._handled(desk.DROP_GRANT, resource, EMPTY, facts, credentials, identity)
        except PolicyDenied as exc:
            raise UnknownResource(_HIDDEN) from exc

    async def switch(self, method: str, params: Mapping[str, object], credentials: Credentials) -> Result:
        """Kill switches: list, set, clear."""
        identity = await self._identified(credentials)
        name = ":".join(str(params[part]) for part in ("kind", "value") if params.get(part)) or "*"
        resource = Resource(SWITCH, name, name=name)
        return await self._handled(method, resource, params, EMPTY, credentials, identity)

    async def _looked_at(self, ticket_id: str, credentials: Credentials, identity: Identity) -> Result:
        ticket = await self.store.ticket(ticket_id)
        facts = ticket_facts(ticket, identity, self._now_ms(), voting=False) if ticket is not None else EMPTY
        try:
            resource = ticket_resource(ticket_id, ticket)
            return await self._handled(desk.READ, resource, EMPTY, facts, credentials, identity)
        except (PolicyDenied, UnknownResource) as exc:
            raise UnknownResource(_HIDDEN) from exc

    async def _identified(self, credentials: Credentials) -> Identity:
        """Who asks. A call of nobody is still a call: it goes down the path to be refused on record."""
        try:
            return await self.identifier.identify(credentials)
        except Unauthenticated:
            return _NOBODY

    async def _handled(  # what a call is made of
        self,
        method: str,
        resource: Resource,
        params: Mapping[str, object],
        facts: FrozenDict,
        credentials: Credentials,
        identity: Identity,
    ) -> Result:
        frozen = freeze(dict(params))
        call = Call(
            id=self.new_id(),
            action=_ACTIONS[method],
            method=method,
            resource=resource,
            params=frozen if isinstance(frozen, FrozenDict) else EMPTY,
            protocol=PROTOCOL,
            started_ns=self.clock_ns(),
            facts=facts,
        )
        return await self.handler.handle(call, credentials, QuietExchange(identity.principal))

    def _now_ms(self) -> int:
        return self.clock_ns() // 1_000_000
