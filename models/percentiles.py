"""
Percentiles over any number of rows, on both databases, without loading them.

The database ranks the values and hands out the two that lie around each percentile; what lies
between them is interpolated here, as PostgreSQL's ``percentile_cont`` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Select,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class milliseconds_between(FunctionElement[float]):  # noqa: N801 - reads as an SQL function
    """Milliseconds from the first time to the second."""

    type = Float()
    inherit_cache = True
    name = "milliseconds_between"


@compiles(milliseconds_between, "postgresql")
def _postgresql(element: milliseconds_between, compiler: SQLCompiler, **kw: Any) -> str:
    start, end = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"(EXTRACT(EPOCH FROM ({end} - {start})) * 1000)::double precision"


@compiles(milliseconds_between, "sqlite")
def _sqlite(element: milliseconds_between, compiler: SQLCompiler, **kw: Any) -> str:
    start, end = (compiler.process(clause, **kw) for clause in element.clauses)
    # Whole milliseconds are all that SQLite's dates hold; rounding removes the binary fraction.
    return f"ROUND((julianday({end}) - julianday({start})) * 86400000.0)"


def percentiles(
    conn: Connection,
    values: Select[Any],
    *,
    shares: Sequence[float],
) -> dict[Any, tuple[float, ...]]:
    """
    Return percentiles by group.

    Args:
        conn: An open transaction.
        values: A query of two columns, ``grouped`` and ``value``.
        shares: Which percentiles, 0.0 to 1.0; 1.0 is the maximum.

    Returns:
        For each group one value per share; groups without rows are absent.
    """
    given = values.subquery("given")
    ranked = select(
        given.c.grouped,
        given.c.value,
        (func.row_number().over(partition_by=given.c.grouped, order_by=given.c.value) - 1).label(
            "place"
        ),
        func.count().over(partition_by=given.c.grouped).label("size"),
    ).subquery("ranked")
    wanted: list[ColumnElement[bool]] = []
    for share in shares:
        # The places next to the exact one; FLOOR is missing in some builds of SQLite.
        exact = literal(share, Float()) * (ranked.c.size - 1)
        wanted.append(ranked.c.place.between(exact - 1, exact + 1))
    groups: dict[Any, tuple[int, dict[int, float]]] = {}
    for row in conn.execute(select(ranked).where(or_(*wanted))):
        _, places = groups.setdefault(row.grouped, (row.size, {}))
        places[row.place] = float(row.value)
    return {
        group: tuple(interpolated(places, size, share) for share in shares)
        for group, (size, places) in groups.items()
    }


def interpolated(places: Mapping[int, float] | Sequence[float], size: int, share: float) -> float:
    """Return what lies at a share of values that are ranked; places beside it are enough."""
    exact = share * (size - 1)
    lower = int(exact)
    upper = min(lower + 1, size - 1)
    return places[lower] + (places[upper] - places[lower]) * (exact - lower)
