"""
Many rows in one parameter: a JSON list that the database reads as a table.

One statement for fifty outcomes costs one round trip and, unlike ``executemany``, can return
which rows it changed. Its text does not depend on their number, so it is prepared once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    FromClause,
    Text,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.types import TypeEngine

ROWS = "rows"
"""The name of the parameter."""


def table_of_rows(dialect: str, columns: Mapping[str, TypeEngine[Any]]) -> FromClause:
    """
    Make a FROM clause whose rows come from the parameter ``rows``; see ``as_parameter``.

    Args:
        dialect: ``sqlite`` or ``postgresql``.
        columns: Names and types; keys missing in a row read as NULL.
    """
    parameter = bindparam(ROWS, type_=Text())
    if dialect == "postgresql":
        rows = func.json_to_recordset(cast(parameter, JSON()))
        typed = [column(name, kind) for name, kind in columns.items()]
        return rows.table_valued(*typed).render_derived(name="given", with_types=True)
    each = func.json_each(parameter).table_valued("value", name="each")
    return select(
        *(
            type_coerce(func.json_extract(each.c.value, literal_column(f"'$.{name}'")), kind).label(
                name
            )
            for name, kind in columns.items()
        )
    ).subquery("given")


def as_parameter(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Give rows the form that ``table_of_rows`` reads; UUIDs go in as ``uuid.hex``."""
    return {ROWS: json.dumps(rows, separators=(",", ":"))}


def plain(text: str | None, limit: int | None = None) -> str | None:
    """
    Make any text storable: no NUL, no lone surrogate, not longer than its column.

    One answer of a strange server must not make a whole group of outcomes fail.
    """
    if text is None:
        return None
    if limit is not None:
        text = text[:limit]
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\x00", "\N{SYMBOL FOR NULL}") if "\x00" in text else text
