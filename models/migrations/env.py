"""Run by Alembic. The connection comes from ``schema.upgrade``, already in a transaction."""

from __future__ import annotations

from alembic import context

from models.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    # SQLite's DDL is part of a transaction here, because the driver's own handling is off.
    transactional_ddl=True,
    # SQLite can change little of a table in place; Alembic then copies it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
