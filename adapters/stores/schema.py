"""The tables of the state store, as SQLAlchemy Core sees them.

The migrations in `migrations/versions` are what makes them; a test compares the two on both databases. No table
names a schema: on PostgreSQL a translate map puts all of them into `SCHEMA`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, MetaData, String, Table, Text
from sqlalchemy.dialects import postgresql

SCHEMA: Final = "interlock"
"""The PostgreSQL schema that holds everything of ours; SQLite has none."""

REVISION: Final = "revision"
"""The row of `meta` that counts the changes of keys and pins."""

metadata = MetaData()

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("subject_type", String(32), nullable=False),
    Column("subject_id", String(512), nullable=False),
    Column("tenant", String(512), nullable=False),
    Column("roles", JSON, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_s", BigInteger, nullable=False),
    Column("expires_s", BigInteger, nullable=False),
    Column("revoked_s", BigInteger, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("created_s", BigInteger, nullable=False),
)

pins = Table(
    "pins",
    metadata,
    Column("upstream", String(128), primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("name", String(1024), primary_key=True),
    Column("digest", String(128), nullable=False),
    Column("definition", LargeBinary, nullable=False),
    Column("accepted_by", String(512), nullable=False),
    Column("accepted_s", BigInteger, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

KEY_BYTES: Final = 1024
"""Longest id of a peer's that is a key: an index of PostgreSQL takes rows up to 2,704 bytes, and no more."""

_TASK_ID: Final = String(KEY_BYTES).with_variant(postgresql.VARCHAR(KEY_BYTES, collation="C"), "postgresql")
"""Sorted by code point on both databases, because the order of pages rests on it."""

a2a_tasks = Table(
    "a2a_tasks",
    metadata,
    Column("agent", String(128), primary_key=True),
    Column("task_id", _TASK_ID, primary_key=True),
    Column("context_id", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("owner_key", String(64), nullable=False),
    Column("subject", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("state", String(64), nullable=False),
    Column("parent_id", Text, nullable=False),
    Column("chain", JSON, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Index("a2a_tasks_by_owner", "agent", "owner_key", "updated_ms", "task_id"),
)

a2a_contexts = Table(
    "a2a_contexts",
    metadata,
    Column("agent", String(128), primary_key=True),
    Column("context_id", String(KEY_BYTES), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

a2a_pushes = Table(
    "a2a_pushes",
    metadata,
    Column("agent", String(128), primary_key=True),
    Column("task_id", String(KEY_BYTES), primary_key=True),
    Column("config_id", String(KEY_BYTES), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("relay_id", String(128), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Index("a2a_pushes_by_relay", "relay_id", unique=True),
)

APPROVALS: Final = "approvals"
"""The row of `meta` that whoever opens a ticket or uses a grant holds meanwhile, so that counts are true."""

approval_tickets = Table(
    "approval_tickets",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("binding", String(64), nullable=False),
    Column("live", String(64), nullable=True),
    Column("requester_key", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("spent_ms", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("body", JSON, nullable=False),
    Index("approval_tickets_live", "live", unique=True),
    Index("approval_tickets_by_requester", "requester_key", "state"),
    Index("approval_tickets_by_time", "created_ms"),
)
"""`live` is the binding of a ticket that calls may meet, and null once it is spent: there is one such for a binding."""

approval_grants = Table(
    "approval_grants",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("scope", String(64), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("idle_ms", BigInteger, nullable=False),
    Column("used_ms", BigInteger, nullable=False),
    Column("uses_left", BigInteger, nullable=False),
    Column("body", JSON, nullable=False),
    Index("approval_grants_by_scope", "scope"),
)

approval_notices = Table(
    "approval_notices",
    metadata,
    Column("ticket_id", String(64), primary_key=True),
    Column("event", String(32), primary_key=True),
    Column("sent", BigInteger, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
)

kill_switches = Table(
    "kill_switches",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("value", String(512), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("set_by", Text, nullable=False),
    Column("set_ms", BigInteger, nullable=False),
)

held_calls = Table(
    "held_calls",
    metadata,
    Column("ticket_id", String(64), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("sealed_call", LargeBinary, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("sealed_result", LargeBinary, nullable=False),
    Column("runner", String(64), nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
    Column("answer", String(16), nullable=False),
    Column("version", BigInteger, nullable=False),
    Index("held_calls_by_time", "expires_ms"),
)

budget_accounts = Table(
    "budget_accounts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("holder_key", String(64), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("holder", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("name", String(64), nullable=False),
    Column("window_s", BigInteger, nullable=False),
    Column("starts_s", BigInteger, nullable=False),
    Column("ends_s", BigInteger, nullable=False),
    Column("nano_usd", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("millis", BigInteger, nullable=False),
    Column("terms", JSON, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Index("budget_accounts_by_holder", "holder_key"),
    Index("budget_accounts_by_time", "updated_ms"),
)
"""`ends_s` is 0 where the window has no end. Whoever changes what an account has or holds has its row locked."""

budget_holds = Table(
    "budget_holds",
    metadata,
    Column("hold", String(64), primary_key=True),
    Column("account", String(64), primary_key=True),
    Column("nano_usd", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("millis", BigInteger, nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
    Index("budget_holds_by_account", "account", "lease_ms"),
    Index("budget_holds_by_lease", "lease_ms"),
)
"""What calls in flight hold of an account. One whose lease is over counts no more."""
