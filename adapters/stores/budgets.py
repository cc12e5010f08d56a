"""What was spent, in tables (`gateway.spending.BudgetStore`).

Whoever reserves or settles holds the rows of all accounts that it touches, taken in the order of their ids, and adds
up what calls in flight hold while it has them. So no two replicas give the same money away, and none waits for one
that waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, cast

from sqlalchemy import BigInteger, ColumnElement, RowMapping, Table, bindparam, case, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.stores.database import Database
from adapters.stores.schema import budget_accounts, budget_holds
from gateway.budgets.arithmetic import given_back, plan
from gateway.spending import (
    DIMENSIONS,
    NOTHING,
    Account,
    BudgetStore,
    Charge,
    Drawn,
    Limits,
    Line,
    Reserved,
    Scope,
    Short,
    Source,
    Standing,
    StandingQuery,
    Terms,
    amount,
)
from gateway.types import Usage

LAPSED_MS: Final = 86_400_000
"""How long a hold is kept after its lease: a settlement that comes late still finds it, and so is made once."""
MAX_AT_ONCE: Final = 500
MOST_SPENT: Final = 9 * 10**18
"""What an account counts up to: nothing beyond fits into its columns."""
_ACCOUNT: Final = budget_accounts.c
_HOLD: Final = budget_holds.c
_HELD: Final = tuple(func.coalesce(func.sum(_HOLD[name]), 0).label(name) for name in DIMENSIONS)


class SqlBudgetStore:
    """Raises `StateUnavailable` when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database
        account = database.insert(budget_accounts)
        renewed = {name: account.excluded[name] for name in ("terms", "updated_ms")}
        self._open = account.on_conflict_do_update(index_elements=["id"], set_=renewed)
        hold = database.insert(budget_holds)
        more: dict[str, Any] = {name: _HOLD[name] + hold.excluded[name] for name in DIMENSIONS}
        self._add = hold.on_conflict_do_update(
            index_elements=["hold", "account"], set_={**more, "lease_ms": hold.excluded.lease_ms}
        )

    async def reserve(
        self, hold: str, lines: Sequence[Line], sources: Sequence[Source], now_ms: int, lease_ms: int
    ) -> Reserved | Short:
        """Give every line or none."""
        ordered = sorted(lines, key=lambda line: line.account.id)
        async with self._database.writing() as connection:
            for line in ordered:
                await connection.execute(self._open, _account_row(line, now_ms))
            standings = await _named(connection, [line.account.id for line in ordered], now_ms)
            holds = await _holds(connection, sources, now_ms) if sources else {}
            made = plan(lines, {each.account.id: each for each in standings}, sources, holds)
            if isinstance(made, Short):
                return made
            for drawn in sorted(made.drawn, key=lambda item: (item.source, item.account)):
                await connection.execute(_moved(drawn, -1))
            rows = [_hold_row(hold, account, usage, lease_ms) for account, usage in made.given.items()]
            await connection.execute(self._add, rows)
            return made

    async def settle(
        self, hold: str, charges: Sequence[Charge], drawn: Sequence[Drawn], now_ms: int
    ) -> Sequence[Standing]:
        """Charge and end a hold, once."""
        accounts = sorted(charge.account for charge in charges)
        locked = select(_ACCOUNT.id).where(_ACCOUNT.id.in_(accounts)).order_by(_ACCOUNT.id).with_for_update()
        ended = delete(budget_holds).where(_HOLD.hold == hold).returning(_HOLD.account, *_columns(budget_holds))
        async with self._database.writing() as connection:
            await connection.execute(locked)
            held = {row["account"]: _usage(row) for row in (await connection.execute(ended)).mappings()}
            if held:  # otherwise it was settled before
                charged = {charge.account: charge.usage for charge in charges if charge.account in held}
                rows = [_charge_row(charged[key], key, now_ms) for key in sorted(charged)]
                if rows:
                    await connection.execute(_CHARGED, rows)
                for back in given_back(held, charged, drawn):
                    await connection.execute(_moved(back, 1))
            return await _named(connection, accounts, now_ms)

    async def renew(self, holds: Sequence[str], lease_ms: int) -> None:
        """Keep holds until then; what is just being changed is left for the next time, so that nobody waits."""
        for start in range(0, len(holds), MAX_AT_ONCE):
            some = _HOLD.hold.in_(holds[start : start + MAX_AT_ONCE])
            free = select(_HOLD.hold, _HOLD.account).where(some).with_for_update(skip_locked=True)
            async with self._database.writing() as connection:
                rows = [{"b_hold": row.hold, "b_account": row.account} for row in await connection.execute(free)]
                if rows:
                    await connection.execute(_RENEWED, [{**row, "b_lease": lease_ms} for row in rows])

    async def standings(self, query: StandingQuery) -> Sequence[Standing]:
        """How accounts stand; those used last come first."""
        asked: list[ColumnElement[bool]] = []
        if query.account:
            asked.append(_ACCOUNT.id == query.account)
        else:
            asked.append(or_(_ACCOUNT.ends_s == 0, _ACCOUNT.ends_s * 1_000 > query.now_ms))
        if query.holder_keys is not None:
            asked.append(_ACCOUNT.holder_key.in_(query.holder_keys))
        async with self._database.reading() as connection:
            return await _standings(connection, asked, query.now_ms, query.limit)

    async def reset(self, account: str, now_ms: int) -> bool:
        """Begin an account anew."""
        nothing: dict[str, int] = {**_amounts(NOTHING), "updated_ms": now_ms}
        query = update(budget_accounts).where(_ACCOUNT.id == account).values(nothing)
        async with self._database.writing() as connection:
            return bool((await connection.execute(query)).rowcount)

    async def prune(self, before_ms: int) -> int:
        """Forget what nobody counts any more."""
        over = (_ACCOUNT.ends_s != 0) & (_ACCOUNT.ends_s * 1_000 < before_ms)
        idle = _ACCOUNT.scope.in_(("session", "chain")) & (_ACCOUNT.ends_s == 0)
        old = delete(budget_accounts).where(_ACCOUNT.updated_ms < before_ms, or_(over, idle))
        async with self._database.writing() as connection:
            await connection.execute(delete(budget_holds).where(_HOLD.lease_ms < before_ms - LAPSED_MS))
            return (await connection.execute(old)).rowcount


def _raised(name: str) -> ColumnElement[int]:
    """What was spent and what is charged, as far as a column counts."""
    charged = bindparam(f"b_{name}", type_=BigInteger)
    return case((_ACCOUNT[name] > MOST_SPENT - charged, MOST_SPENT), else_=_ACCOUNT[name] + charged)


_CHARGED: Final = (
    update(budget_accounts)
    .where(_ACCOUNT.id == bindparam("b_id"))
    .values({**{name: _raised(name) for name in DIMENSIONS}, "updated_ms": bindparam("b_ms")})
)
_RENEWED: Final = (
    update(budget_holds)
    .where(_HOLD.hold == bindparam("b_hold"), _HOLD.account == bindparam("b_account"))
    .values(lease_ms=bindparam("b_lease"))
)


def _columns(table: Table) -> list[ColumnElement[Any]]:
    return [table.c[name] for name in DIMENSIONS]


def _amounts(usage: Usage) -> dict[str, int]:
    return {name: amount(usage, name) for name in DIMENSIONS}


def _usage(row: RowMapping) -> Usage:
    return Usage(**{name: int(row[name]) for name in DIMENSIONS})


def _account_row(line: Line, now_ms: int) -> dict[str, Any]:
    account = line.account
    return {
        **asdict(account),
        "ends_s": account.ends_s if account.window_s else 0,
        **_amounts(NOTHING),
        "terms": asdict(line.terms),
        "updated_ms": now_ms,
    }


def _hold_row(hold: str, account: str, usage: Usage, lease_ms: int) -> dict[str, Any]:
    return {"hold": hold, "account": account, **_amounts(usage), "lease_ms": lease_ms}


def _charge_row(usage: Usage, account: str, now_ms: int) -> dict[str, Any]:
    return {"b_id": account, "b_ms": now_ms, **{f"b_{name}": amount(usage, name) for name in DIMENSIONS}}


def _moved(drawn: Drawn, sign: int) -> Any:
    changed = {name: _HOLD[name] + sign * amount(drawn.usage, name) for name in DIMENSIONS}
    return update(budget_holds).where(_HOLD.hold == drawn.source, _HOLD.account == drawn.account).values(changed)


async def _holds(
    connection: AsyncConnection, sources: Sequence[Source], now_ms: int
) -> Mapping[tuple[str, str], Usage]:
    query = select(budget_holds).where(_HOLD.hold.in_([source.hold for source in sources]), _HOLD.lease_ms > now_ms)
    found = (await connection.execute(query)).mappings()
    return {(row["hold"], row["account"]): _usage(row) for row in found}


async def _named(connection: AsyncConnection, accounts: Sequence[str], now_ms: int) -> Sequence[Standing]:
    return await _standings(connection, [_ACCOUNT.id.in_(accounts)], now_ms, len(accounts))


async def _standings(
    connection: AsyncConnection, which: Sequence[ColumnElement[bool]], now_ms: int, limit: int
) -> Sequence[Standing]:
    page = select(budget_accounts).where(*which).order_by(_ACCOUNT.updated_ms.desc(), _ACCOUNT.id).limit(limit)
    rows = (await connection.execute(page)).mappings().all()
    live = (_HOLD.account.in_([row["id"] for row in rows]), _HOLD.lease_ms > now_ms)
    sums = select(_HOLD.account, *_HELD).where(*live).group_by(_HOLD.account)
    held = {row["account"]: _usage(row) for row in (await connection.execute(sums)).mappings()}
    return [_standing(row, held.get(row["id"], NOTHING)) for row in rows]


def _standing(row: RowMapping, held: Usage) -> Standing:
    names = ("id", "holder_key", "holder", "name", "window_s", "starts_s", "tenant")
    account = Account(scope=cast("Scope", row["scope"]), **{name: row[name] for name in names})
    terms = {**row["terms"], "limits": Limits(**row["terms"]["limits"])}
    return Standing(
        account,
        Terms(**terms),
        _usage(row),
        held,
        row["updated_ms"],
    )


_: type[BudgetStore] = SqlBudgetStore
