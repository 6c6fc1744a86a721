"""Texts that compare and sort by code points, whatever the database's own order is."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import Connection, text

_OTHERS = text(
    """
    SELECT relname, attname, format_type(atttypid, atttypmod)
    FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid
    WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace
      AND relname = ANY(:tables) AND attnum > 0 AND NOT attisdropped
      AND atttypid IN ('varchar'::regtype, 'text'::regtype)
      AND attcollation != 'pg_catalog."C"'::regcollation
    ORDER BY relname, attnum
    """
)


def order_by_code_points(connection: Connection, tables: list[str]) -> None:
    """
    Give ``COLLATE "C"`` to the columns of text that lack it; SQLite compares so anyway.

    PostgreSQL leaves the rows alone and builds the indexes anew, each table's at once. No row can
    be in the way: what is unique in any of its orders differs in some code point.
    """
    if connection.dialect.name != "postgresql":
        return
    columns = defaultdict(list)
    for table, column, kind in connection.execute(_OTHERS, {"tables": tables}):
        columns[table].append(f'ALTER COLUMN "{column}" TYPE {kind} COLLATE "C"')
    for table, changes in columns.items():
        connection.execute(text(f'ALTER TABLE "{table}" {", ".join(changes)}'))
