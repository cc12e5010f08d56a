"""Calls that wait for people: tickets, standing grants, what was sent of them, and kill switches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables, and the row that counting is done under."""
    _tickets()
    op.create_table(
        "approval_grants",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("scope", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("idle_ms", sa.BigInteger, nullable=False),
        sa.Column("used_ms", sa.BigInteger, nullable=False),
        sa.Column("uses_left", sa.BigInteger, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
    )
    op.create_index("approval_grants_by_scope", "approval_grants", ["scope"])
    op.create_table(
        "approval_notices",
        sa.Column("ticket_id", sa.String(64), primary_key=True),
        sa.Column("event", sa.String(32), primary_key=True),
        sa.Column("sent", sa.BigInteger, nullable=False),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "kill_switches",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("value", sa.String(512), primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("set_by", sa.Text, nullable=False),
        sa.Column("set_ms", sa.BigInteger, nullable=False),
    )
    # A `Table`, because only of those the translate map changes the schema.
    meta = sa.Table("meta", sa.MetaData(), sa.Column("name", sa.String(64)), sa.Column("value", sa.BigInteger))
    op.bulk_insert(meta, [{"name": "approvals", "value": 1}])


def _tickets() -> None:
    op.create_table(
        "approval_tickets",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("binding", sa.String(64), nullable=False),
        sa.Column("live", sa.String(64), nullable=True),
        sa.Column("requester_key", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("spent_ms", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
    )
    op.create_index("approval_tickets_live", "approval_tickets", ["live"], unique=True)
    op.create_index("approval_tickets_by_requester", "approval_tickets", ["requester_key", "state"])
    op.create_index("approval_tickets_by_time", "approval_tickets", ["created_ms"])
