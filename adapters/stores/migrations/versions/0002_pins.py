"""Pinned definitions of tools, prompts and resources."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of pins."""
    op.create_table(
        "pins",
        sa.Column("upstream", sa.String(128), primary_key=True),
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(1024), primary_key=True),
        sa.Column("digest", sa.String(128), nullable=False),
        sa.Column("definition", sa.LargeBinary, nullable=False),
        sa.Column("accepted_by", sa.String(512), nullable=False),
        sa.Column("accepted_s", sa.BigInteger, nullable=False),
    )
