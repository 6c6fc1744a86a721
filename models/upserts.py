"""
INSERT with ON CONFLICT, as each database spells it; either dialect is loaded when it is used.

Every command imports who writes so. PostgreSQL's dialect takes as long to load as all our tables,
and most commands need neither.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table


def upsert_into(dialect: str, table: Table) -> Any:
    """
    Begin an INSERT that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``.

    Args:
        dialect: ``sqlite`` or ``postgresql``.
        table: Where to.
    """
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - see above

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite  # noqa: PLC0415

    return sqlite.insert(table)
