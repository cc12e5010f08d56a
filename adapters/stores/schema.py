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
