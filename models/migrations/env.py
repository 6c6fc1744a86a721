"""Run by Alembic. The connection comes from ``schema.upgrade``, already in a transaction."""

from __future__ import annotations

from alembic import context

from models.migrations.code_points import order_by_code_points
from models.tables import METADATA

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=METADATA,
    # SQLite's DDL is part of a transaction here, because the driver's own handling is off.
    transactional_ddl=True,
    # SQLite can change little of a table in place; Alembic then copies it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
# A migration need not think of it for the columns that it adds.
order_by_code_points(connection, list(METADATA.tables))
