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
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.types import TypeEngine

from models.stored import AsText, Record, Words, plain_value

ROWS = "rows"
"""The name of the parameter."""


def table_of_rows(dialect: str, columns: Mapping[str, TypeEngine[Any]]) -> FromClause:
    """
    Make a FROM clause whose rows come from the parameter ``rows``; see ``as_parameter``.

    Args:
        dialect: ``sqlite`` or ``postgresql``.
        columns: Names and types; keys missing in a row read as NULL.
    """
    parameter = bindparam(ROWS, type_=AsText())
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
    """
    Give rows the form that ``table_of_rows`` reads; UUIDs go in as ``uuid.hex``.

    This way leads past the types of columns, so texts are made storable here. Where one may also
    be too long for where it goes, see ``fitted``.
    """
    text = _dumped(rows)
    if "\\u0000" in text or not _is_utf8(text):
        text = _dumped(plain_value(json.loads(text)))
    return {ROWS: text}


def fitted(row: Mapping[str, Any], columns: Mapping[str, TypeEngine[Any]]) -> dict[str, Any]:
    """Make the texts of a row fit for columns of these types."""
    return {
        name: kind.fit(value) if isinstance(kind := columns.get(name), Words | Record) else value
        for name, value in row.items()
    }


def _dumped(rows: Any) -> str:
    return json.dumps(rows, separators=(",", ":"), ensure_ascii=False)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
