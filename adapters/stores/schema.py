"""The tables of the state store, as SQLAlchemy Core sees them.

The migrations in `migrations/versions` are what makes them; a test compares the two on both databases. No table
names a schema: on PostgreSQL a translate map puts all of them into `SCHEMA`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import JSON, BigInteger, Column, LargeBinary, MetaData, String, Table

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
