"""Who owns which A2A task, context and push configuration."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables of tasks, contexts and push configurations."""
    by_code_point = sa.String(1024).with_variant(postgresql.VARCHAR(1024, collation="C"), "postgresql")
    op.create_table(
        "a2a_tasks",
        sa.Column("agent", sa.String(128), primary_key=True),
        sa.Column("task_id", by_code_point, primary_key=True),
        sa.Column("context_id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("owner_key", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("state", sa.String(64), nullable=False),
        sa.Column("parent_id", sa.Text, nullable=False),
        sa.Column("chain", sa.JSON, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("a2a_tasks_by_owner", "a2a_tasks", ["agent", "owner_key", "updated_ms", "task_id"])
    op.create_table(
        "a2a_contexts",
        sa.Column("agent", sa.String(128), primary_key=True),
        sa.Column("context_id", sa.String(1024), primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "a2a_pushes",
        sa.Column("agent", sa.String(128), primary_key=True),
        sa.Column("task_id", sa.String(1024), primary_key=True),
        sa.Column("config_id", sa.String(1024), primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("relay_id", sa.String(128), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("a2a_pushes_by_relay", "a2a_pushes", ["relay_id"], unique=True)
