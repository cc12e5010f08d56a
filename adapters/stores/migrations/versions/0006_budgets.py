"""What was spent, and what calls in flight hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_AMOUNTS = ("nano_usd", "tokens", "calls", "millis")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "budget_accounts",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("holder_key", sa.String(64), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("window_s", sa.BigInteger, nullable=False),
        sa.Column("starts_s", sa.BigInteger, nullable=False),
        sa.Column("ends_s", sa.BigInteger, nullable=False),
        *[sa.Column(name, sa.BigInteger, nullable=False) for name in _AMOUNTS],
        sa.Column("terms", sa.JSON, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("budget_accounts_by_holder", "budget_accounts", ["holder_key"])
    op.create_index("budget_accounts_by_time", "budget_accounts", ["updated_ms"])
    op.create_table(
        "budget_holds",
        sa.Column("hold", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(64), primary_key=True),
        *[sa.Column(name, sa.BigInteger, nullable=False) for name in _AMOUNTS],
        sa.Column("lease_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("budget_holds_by_account", "budget_holds", ["account", "lease_ms"])
    op.create_index("budget_holds_by_lease", "budget_holds", ["lease_ms"])
