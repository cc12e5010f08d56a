"""What alembic runs for each command: the migrations, on the connection that the caller put into the configuration.

The caller owns the connection and its transaction, so that the lock, the backup and the migrations stand or fall
together. There is no offline mode: an operator upgrades by starting the new version.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from adapters.stores.schema import SCHEMA, metadata

connection: Connection = context.config.attributes["connection"]

context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=True,
    version_table_schema=SCHEMA if connection.dialect.name == "postgresql" else None,
)
with context.begin_transaction():
    context.run_migrations()
