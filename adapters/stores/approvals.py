"""Tickets, standing grants and kill switches in tables (`gateway.tickets.ApprovalStore`).

What is agreed to once is carried out once, on however many replicas: a ticket changes only from the version that
somebody read, and whatever has to be counted first is counted under one lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, cast

from sqlalchemy import ColumnElement, RowMapping, and_, case, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.stores.database import Database
from adapters.stores.schema import (
    APPROVALS,
    approval_grants,
    approval_notices,
    approval_tickets,
    kill_switches,
    meta,
)
from gateway.tickets import (
    LIVE,
    WITHDRAWN_COUNTS_MS,
    ApprovalStore,
    NoticeStore,
    Stage,
    StandingGrant,
    Switch,
    SwitchKind,
    Ticket,
    TicketQuery,
    Vote,
)
from gateway.types import EMPTY, FrozenDict, freeze

_TICKET: Final = approval_tickets.c
_GRANT: Final = approval_grants.c
_SWITCH: Final = kill_switches.c
_NOTICE: Final = approval_notices.c


class SqlApprovalStore:
    """All that approvals rest on. Raises `StateUnavailable` when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert_ticket = database.insert(approval_tickets).on_conflict_do_nothing()

    async def live_ticket(self, binding: str, now_ms: int) -> Ticket | None:
        """The one that is neither spent nor withdrawn nor over."""
        async with self._database.reading() as connection:
            return await _live(connection, binding, now_ms)

    async def open_ticket(self, ticket: Ticket, now_ms: int, max_pending: int) -> Ticket | None:
        """A new ticket, or the live one with its binding; `None` beyond `max_pending`."""
        async with self._database.writing() as connection:
            await _lock(connection)
            live = await _live(connection, ticket.binding, now_ms)
            if live is not None:
                return live
            if await _pending(connection, ticket.requester, now_ms) >= max_pending:
                return None
            # One whose time is over still stands where the new one is to stand.
            over = update(approval_tickets).where(_TICKET.live == ticket.binding).values(live=None)
            await connection.execute(over)
            await connection.execute(self._insert_ticket, _ticket_row(ticket))
        return ticket

    async def ticket(self, ticket_id: str) -> Ticket | None:
        """Whatever became of it."""
        async with self._database.reading() as connection:
            return await _one(connection, _TICKET.id == ticket_id)

    async def change_ticket(self, ticket: Ticket) -> bool:
        """Compare and set, by version. Calls meet one that is given back, unless they met another one meanwhile."""
        row = _ticket_row(ticket)
        values = {name: row[name] for name in ("state", "spent_ms", "expires_ms", "live", "body")}
        same = (_TICKET.id == ticket.id, _TICKET.version == ticket.version)
        query = update(approval_tickets).where(*same).values(version=ticket.version + 1, **values)
        async with self._database.writing() as connection:
            if ticket.state in LIVE:
                await _lock(connection)
                if await _another(connection, ticket):
                    query = query.values(live=None)
            return bool((await connection.execute(query)).rowcount)

    async def tickets(self, query: TicketQuery) -> Sequence[Ticket]:
        """Newest first."""
        page = (
            select(approval_tickets)
            .where(*_asked_for(query))
            .order_by(_TICKET.created_ms.desc(), _TICKET.id.desc())
            .limit(query.limit)
        )
        async with self._database.reading() as connection:
            return tuple(map(_ticket, (await connection.execute(page)).mappings()))

    async def put_grant(self, grant: StandingGrant) -> None:
        """Add a grant, or replace the one with its id."""
        async with self._database.writing() as connection:
            await connection.execute(self._database.upsert(approval_grants), [_grant_row(grant)])

    async def grants(self, now_ms: int) -> Sequence[StandingGrant]:
        """Those that hold."""
        query = select(approval_grants).where(*_holding(now_ms))
        async with self._database.reading() as connection:
            found = map(_grant, (await connection.execute(query)).mappings())
            return sorted(found, key=lambda grant: (grant.created_ms, grant.id), reverse=True)

    async def grant_for(self, scopes: Sequence[str], now_ms: int) -> StandingGrant | None:
        """The narrowest grant that holds, of several the one that is over first."""
        query = select(approval_grants).where(_GRANT.scope.in_(scopes), *_holding(now_ms))
        async with self._database.reading() as connection:
            found = [_grant(row) for row in (await connection.execute(query)).mappings()]
        return min(found, key=lambda grant: (scopes.index(grant.scope), grant.expires_ms, grant.id), default=None)

    async def use_grant(self, grant_id: str, now_ms: int) -> bool:
        """One use less, while it holds."""
        query = update(approval_grants).where(_GRANT.id == grant_id, *_holding(now_ms))
        async with self._database.writing() as connection:
            used = query.values(uses_left=_GRANT.uses_left - 1, used_ms=now_ms)
            return bool((await connection.execute(used)).rowcount)

    async def drop_grant(self, grant_id: str) -> bool:
        """End a grant; `False` when there is none."""
        async with self._database.writing() as connection:
            return bool((await connection.execute(delete(approval_grants).where(_GRANT.id == grant_id))).rowcount)

    async def put_switch(self, switch: Switch) -> None:
        """Set a switch, or say anew why it is set."""
        async with self._database.writing() as connection:
            await connection.execute(self._database.upsert(kill_switches), [asdict(switch)])

    async def drop_switch(self, kind: SwitchKind, value: str) -> bool:
        """Clear a switch; `False` when it is not set."""
        same = (_SWITCH.kind == kind, _SWITCH.value == value)
        async with self._database.writing() as connection:
            return bool((await connection.execute(delete(kill_switches).where(*same))).rowcount)

    async def switches(self) -> Sequence[Switch]:
        """Those that are set, by kind and value."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(select(kill_switches))).mappings().all()
        return sorted((Switch(**row) for row in rows), key=lambda switch: (switch.kind, switch.value))

    async def prune_tickets(self, before_ms: int) -> int:
        """Forget tickets and grants whose time was over before, and what was sent of them."""
        old = select(_TICKET.id).where(_TICKET.expires_ms < before_ms)
        async with self._database.writing() as connection:
            await connection.execute(delete(approval_notices).where(_NOTICE.ticket_id.in_(old)))
            grants = await connection.execute(delete(approval_grants).where(_GRANT.expires_ms < before_ms))
            tickets = await connection.execute(delete(approval_tickets).where(_TICKET.expires_ms < before_ms))
            return grants.rowcount + tickets.rowcount

    async def claim_notice(self, ticket_id: str, event: str, now_ms: int, until_ms: int) -> bool:
        """Whether it is ours to send until then."""
        row = {"ticket_id": ticket_id, "event": event, "sent": 0, "until_ms": until_ms}
        insert = self._database.insert(approval_notices)
        free = (_NOTICE.sent == 0, _NOTICE.until_ms <= now_ms)
        taken = insert.on_conflict_do_update(
            index_elements=["ticket_id", "event"], set_={"until_ms": until_ms}, where=free[0] & free[1]
        )
        async with self._database.writing() as connection:
            return bool((await connection.execute(taken, row)).rowcount)

    async def release_notice(self, ticket_id: str, event: str) -> None:
        """It did not arrive."""
        same = (_NOTICE.ticket_id == ticket_id, _NOTICE.event == event, _NOTICE.sent == 0)
        async with self._database.writing() as connection:
            await connection.execute(update(approval_notices).where(*same).values(until_ms=0))

    async def settle_notice(self, ticket_id: str, event: str) -> None:
        """It arrived."""
        row = {"ticket_id": ticket_id, "event": event, "sent": 1, "until_ms": 0}
        async with self._database.writing() as connection:
            await connection.execute(self._database.upsert(approval_notices), [row])

    async def sent_notices(self, ticket_ids: Sequence[str]) -> frozenset[tuple[str, str]]:
        """What arrived of these."""
        query = select(_NOTICE.ticket_id, _NOTICE.event).where(_NOTICE.ticket_id.in_(ticket_ids), _NOTICE.sent == 1)
        async with self._database.reading() as connection:
            return frozenset((str(row[0]), str(row[1])) for row in await connection.execute(query))


async def _lock(connection: AsyncConnection) -> None:
    """From here to the end of the transaction, nobody else counts: a row of which there is one is held."""
    await connection.execute(update(meta).where(meta.c.name == APPROVALS).values(value=meta.c.value + 1))


async def _one(connection: AsyncConnection, *which: ColumnElement[bool]) -> Ticket | None:
    row = (await connection.execute(select(approval_tickets).where(*which))).mappings().one_or_none()
    return _ticket(row) if row is not None else None


async def _live(connection: AsyncConnection, binding: str, now_ms: int) -> Ticket | None:
    return await _one(connection, _TICKET.live == binding, _TICKET.expires_ms > now_ms)


async def _another(connection: AsyncConnection, ticket: Ticket) -> bool:
    """Whether another ticket stands where calls with its binding look."""
    other = select(_TICKET.id).where(_TICKET.live == ticket.binding, _TICKET.id != ticket.id)
    return (await connection.execute(other)).first() is not None


async def _pending(connection: AsyncConnection, requester: str, now_ms: int) -> int:
    waits = and_(_TICKET.state == "pending", _TICKET.expires_ms > now_ms)
    withdrawn = and_(_TICKET.state == "withdrawn", _TICKET.created_ms > now_ms - WITHDRAWN_COUNTS_MS)
    theirs = (_TICKET.requester_key == _key(requester), or_(waits, withdrawn))
    count = select(func.count()).select_from(approval_tickets).where(*theirs)
    return int((await connection.execute(count)).scalar_one())


def _asked_for(query: TicketQuery) -> list[ColumnElement[bool]]:
    asked: list[ColumnElement[bool]] = []
    if query.state:
        asked.append(_TICKET.state == query.state)
    if query.requester:
        asked.append(_TICKET.requester_key == _key(query.requester))
    if query.alive_at_ms:
        asked.append(_TICKET.expires_ms > query.alive_at_ms)
    if query.untold_at_ms:
        asked.append(_untold(query.untold_at_ms))
    if query.before is not None:
        created_ms, ticket_id = query.before
        same = and_(_TICKET.created_ms == created_ms, _TICKET.id < ticket_id)
        asked.append(or_(_TICKET.created_ms < created_ms, same))
    return asked


def _untold(now_ms: int) -> ColumnElement[bool]:
    """That it is held is told of each, and of most what became of it."""
    arrived = (
        select(func.count()).select_from(approval_notices).where(_NOTICE.ticket_id == _TICKET.id, _NOTICE.sent == 1)
    )
    late = and_(_TICKET.state == "pending", _TICKET.expires_ms <= now_ms)
    ended = or_(_TICKET.state.in_(("approved", "spent", "denied")), late)
    return arrived.scalar_subquery() < case((ended, 2), else_=1)


def _holding(now_ms: int) -> tuple[ColumnElement[bool], ...]:
    unfaded = or_(_GRANT.idle_ms == 0, _GRANT.used_ms + _GRANT.idle_ms > now_ms)
    return (_GRANT.expires_ms > now_ms, _GRANT.uses_left > 0, unfaded)


def _key(requester: str) -> str:
    """A principal has no greatest length, but what an index holds does."""
    return hashlib.sha256(requester.encode("utf-8", "surrogatepass")).hexdigest()


def _ticket_row(ticket: Ticket) -> dict[str, Any]:
    body = {
        "requester": ticket.requester,
        "subjects": ticket.subjects,
        "stages": [asdict(stage) for stage in ticket.stages],
        "title": ticket.title,
        "shown": ticket.shown,
        "covers": ticket.covers,
        "votes": [asdict(vote) for vote in ticket.votes],
        "edited": ticket.edited,
        "scopes": ticket.scopes,
        "standing": ticket.standing,
    }
    return {
        "id": ticket.id,
        "binding": ticket.binding,
        "live": ticket.binding if ticket.state in LIVE else None,
        "requester_key": _key(ticket.requester),
        "state": ticket.state,
        "created_ms": ticket.created_ms,
        "expires_ms": ticket.expires_ms,
        "spent_ms": ticket.spent_ms,
        "version": ticket.version,
        "body": body,
    }


def _ticket(row: RowMapping) -> Ticket:
    body: Mapping[str, Any] = row["body"]
    return Ticket(
        id=row["id"],
        binding=row["binding"],
        requester=body["requester"],
        subjects=tuple(body["subjects"]),
        stages=tuple(Stage(**stage) for stage in body["stages"]),
        title=body["title"],
        created_ms=row["created_ms"],
        expires_ms=row["expires_ms"],
        shown=_frozen(body["shown"]),
        covers=tuple(freeze(cover) for cover in body["covers"]),
        state=row["state"],
        votes=tuple(Vote(**vote) for vote in body["votes"]),
        edited=_or_none(body["edited"]),
        scopes=tuple(body["scopes"]),
        standing=_or_none(body["standing"]),
        spent_ms=row["spent_ms"],
        version=row["version"],
    )


def _grant_row(grant: StandingGrant) -> dict[str, Any]:
    kept = ("id", "scope", "created_ms", "expires_ms", "idle_ms", "used_ms", "uses_left")
    body = {
        "requester": grant.requester,
        "any_arguments": grant.any_arguments,
        "granted_by": grant.granted_by,
        "ticket_id": grant.ticket_id,
        "shown": grant.shown,
    }
    return {**{name: getattr(grant, name) for name in kept}, "body": body}


def _grant(row: RowMapping) -> StandingGrant:
    body: Mapping[str, Any] = row["body"]
    said = {**body, "granted_by": tuple(body["granted_by"]), "shown": _frozen(body["shown"])}
    return StandingGrant(**{name: value for name, value in row.items() if name != "body"}, **said)


def _or_none(value: Mapping[str, object] | None) -> FrozenDict | None:
    return _frozen(value) if value is not None else None


def _frozen(value: Mapping[str, object]) -> FrozenDict:
    return cast("FrozenDict", freeze(dict(value))) if value else EMPTY


_: type[ApprovalStore] = SqlApprovalStore
_notices: type[NoticeStore] = SqlApprovalStore
