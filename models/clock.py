"""
The database's clock, as parts of statements.

Claims, due times and deadlines are set and compared by one clock, the database's own, so that
hosts whose clocks differ agree on them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Numeric, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from models.tables import UtcDateTime

# SQLite compares times as text, so this must be the very form in which SQLAlchemy stores them:
# six digits after the second, of which SQLite's clock fills three.
_SQLITE_FORM = "'%Y-%m-%d %H:%M:%f000'"


class utc_now(FunctionElement[Any]):  # noqa: N801 - reads as the SQL function that it is
    """
    The moment at which the statement began.

    PostgreSQL's ``now()`` would be the moment the transaction began, which lies further back the
    longer a group of statements takes; ``clock_timestamp()`` could not bound an index scan.
    """

    type = UtcDateTime()
    inherit_cache = True
    name = "utc_now"


class utc_after(FunctionElement[Any]):  # noqa: N801 - as above
    """A moment so many seconds (fractions and negative ones too) after ``utc_now``."""

    type = UtcDateTime()
    inherit_cache = True
    name = "utc_after"

    def __init__(self, seconds: ColumnElement[Any] | float) -> None:
        if isinstance(seconds, int | float):
            seconds = literal(float(seconds), Numeric(asdecimal=False))
        super().__init__(seconds)


class utc_not_before(FunctionElement[Any]):  # noqa: N801 - as above
    """The later of ``utc_now`` and a moment that may be NULL."""

    type = UtcDateTime()
    inherit_cache = True
    name = "utc_not_before"


class utc_bucket_end(FunctionElement[Any]):  # noqa: N801 - as above
    """The end of the bucket in which ``utc_now`` lies, of buckets of so many seconds since 1970."""

    type = UtcDateTime()
    inherit_cache = True
    name = "utc_bucket_end"


class utc_moved(FunctionElement[Any]):  # noqa: N801 - as above
    """A stored moment, so many seconds later (or earlier)."""

    type = UtcDateTime()
    inherit_cache = True
    name = "utc_moved"


@compiles(utc_now, "sqlite")
def _now_sqlite(element: utc_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ARG001
    # The percent signs are safe: SQLite's driver takes question marks.
    return f"strftime({_SQLITE_FORM}, 'now')"


@compiles(utc_now, "postgresql")
def _now_postgresql(element: utc_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ARG001
    return "statement_timestamp()"


@compiles(utc_after, "sqlite")
def _after_sqlite(element: utc_after, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime({_SQLITE_FORM}, 'now', printf('%+.3f seconds', {seconds}))"


@compiles(utc_after, "postgresql")
def _after_postgresql(element: utc_after, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"(statement_timestamp() + {seconds} * interval '1 second')"


@compiles(utc_not_before, "sqlite")
def _not_before_sqlite(element: utc_not_before, compiler: SQLCompiler, **kw: Any) -> str:
    moment = compiler.process(element.clauses, **kw)
    now = f"strftime({_SQLITE_FORM}, 'now')"
    return f"max({now}, coalesce({moment}, {now}))"


@compiles(utc_not_before, "postgresql")
def _not_before_postgresql(element: utc_not_before, compiler: SQLCompiler, **kw: Any) -> str:
    # GREATEST passes over NULL.
    moment = compiler.process(element.clauses, **kw)
    return f"greatest(statement_timestamp(), {moment})"


@compiles(utc_bucket_end, "sqlite")
def _bucket_end_sqlite(element: utc_bucket_end, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    since = "((julianday('now') - 2440587.5) * 86400.0)"
    return (
        f"strftime({_SQLITE_FORM}, (cast({since} / {seconds} as integer) + 1) * {seconds}, "
        "'unixepoch')"
    )


@compiles(utc_bucket_end, "postgresql")
def _bucket_end_postgresql(element: utc_bucket_end, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    since = "extract(epoch from statement_timestamp())"
    return f"to_timestamp((floor({since} / {seconds}) + 1) * {seconds})"


@compiles(utc_moved, "sqlite")
def _moved_sqlite(element: utc_moved, compiler: SQLCompiler, **kw: Any) -> str:
    moment, seconds = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"strftime({_SQLITE_FORM}, {moment}, printf('%+.3f seconds', {seconds}))"


@compiles(utc_moved, "postgresql")
def _moved_postgresql(element: utc_moved, compiler: SQLCompiler, **kw: Any) -> str:
    moment, seconds = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({moment} + {seconds} * interval '1 second')"
