"""Held calls that their clients ask after, with what came of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "held_calls",
        sa.Column("ticket_id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("sealed_call", sa.LargeBinary, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("sealed_result", sa.LargeBinary, nullable=False),
        sa.Column("runner", sa.String(64), nullable=False),
        sa.Column("lease_ms", sa.BigInteger, nullable=False),
        sa.Column("answer", sa.String(16), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_index("held_calls_by_time", "held_calls", ["expires_ms"])
