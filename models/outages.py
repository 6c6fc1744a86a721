"""What a database's error means to a caller: wait, set something right, or a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.errors import AlertpostError, ConfigurationError, StoreUnavailable

NO_RIGHT = "42501"
"""PostgreSQL: a right is missing; the server's text names what for, and not whose."""

WHO = "alertpost_who"
"""Attribute of a driver's error of that kind: who was refused, and at what."""

_RIGHTS_HINT = (
    "use the role that is meant for this, or give the rights by deploy/rights.sql, as after an "
    "upgrade"
)

_SCHEMA_HINT = "the database has no alertpost tables or old ones: run `alertpost db upgrade`"

_SQLITE: tuple[tuple[str, str], ...] = (
    ("database is locked", "the SQLite database stayed locked by another writer"),
    ("database table is locked", "the SQLite database stayed locked by another writer"),
    ("readonly database", "the SQLite database, or the directory it is in, cannot be written"),
    ("disk is full", "the disk that holds the SQLite database is full"),
    ("unable to open database file", "the SQLite database file cannot be opened; see its path"),
    ("disk i/o error", "the disk that holds the SQLite database fails"),
    ("disk image is malformed", "the SQLite database file is damaged; restore it from a backup"),
    ("file is not a database", "the file at the SQLite path is not an SQLite database"),
)

# SQLSTATE codes, longest match first.
# Source: PostgreSQL documentation, appendix A, "PostgreSQL Error Codes".
_POSTGRESQL: tuple[tuple[str, str], ...] = (
    ("26000", "a pooler gave the statement to another session of PostgreSQL; try again"),
    ("42P05", "a pooler gave the statement to another session of PostgreSQL; try again"),
    ("25006", "PostgreSQL is read-only here: a standby, or a failover is under way"),
    ("25P03", "PostgreSQL ended a transaction that stood idle"),
    ("40", "PostgreSQL gave the transaction up in favour of another; try again"),
    ("53100", "PostgreSQL's disk is full"),
    ("53300", "PostgreSQL has no connection free"),
    ("53", "PostgreSQL is out of resources"),
    ("55P03", "a lock in PostgreSQL was not to be had in time"),
    ("57014", "a statement in PostgreSQL took longer than its limit"),
    ("57P", "PostgreSQL is shutting down or starting up"),
    ("58", "PostgreSQL reports a fault of its machine"),
    ("08", "the connection to PostgreSQL broke"),
)


# What a statement met, in a database that is there: a row held by somebody, another transaction in
# the way, too little memory for so much at once.
_OF_THE_STATEMENT = ("26000", "40", "42P05", "53200", "55P03", "57014")


def of_the_statement(error: StoreUnavailable) -> bool:
    """Say whether the database is there, and only what was asked for could not be done now."""
    cause = error.__cause__
    code: str | None = getattr(getattr(cause, "orig", None), "sqlstate", None)
    return code is not None and code.startswith(_OF_THE_STATEMENT)


@contextmanager
def wholly_translated() -> Iterator[None]:
    """
    Turn every error of SQL's into one of ours, also one that is a fault of our own.

    For callers who can do nothing about such a fault but hear that nothing was accepted.

    Raises:
        StoreUnavailable: The database is away, or it refused the statement.
        ConfigurationError: The tables are missing or old.
    """
    try:
        with translated():
            yield
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database refused it ({in_short(error)})") from error


@contextmanager
def translated() -> Iterator[None]:
    """
    Turn a driver's errors into ours, where somebody outside has to act or wait.

    Raises:
        StoreUnavailable: The database is away, locked, read-only, full or too slow.
        ConfigurationError: The tables are missing or old.
    """
    try:
        yield
    except (DBAPIError, DisconnectionError, PoolTimeout) as error:
        known = meaning(error)
        if known is None:
            raise
        raise known from error


def meaning(error: Exception) -> AlertpostError | None:
    """Tell what an error of SQLAlchemy's means; None: a fault in our own statement or data."""
    if isinstance(error, PoolTimeout):
        return StoreUnavailable("all connections to the database are busy; try again")
    if isinstance(error, DisconnectionError):
        return StoreUnavailable("the connection to the database broke")
    if not isinstance(error, DBAPIError):
        return None
    cause = error.orig if error.orig is not None else error
    if type(cause).__module__.startswith("sqlite3"):
        return _sqlite_meaning(str(cause).lower(), str(cause))
    return _postgresql_meaning(cause, lost=error.connection_invalidated)


def _sqlite_meaning(lowered: str, text: str) -> AlertpostError | None:
    if "no such table" in lowered or "no such column" in lowered:
        return ConfigurationError(f"{_SCHEMA_HINT} ({text})")
    for words, sentence in _SQLITE:
        if words in lowered:
            return StoreUnavailable(f"{sentence} ({text})")
    return None


def _postgresql_meaning(cause: BaseException, *, lost: bool) -> AlertpostError | None:
    text = _one_line(cause)
    code: str | None = getattr(cause, "sqlstate", None)
    if code in {"42P01", "42703"}:
        return ConfigurationError(f"{_SCHEMA_HINT} ({text})")
    if code == NO_RIGHT:
        # Not a wrong setting for good: once the right is given, all go on by themselves.
        who = getattr(cause, WHO, "the PostgreSQL user")
        return StoreUnavailable(f"{who} lacks a right: {text}; {_RIGHTS_HINT}")
    for prefix, sentence in _POSTGRESQL:
        if code is not None and code.startswith(prefix):
            return StoreUnavailable(f"{sentence} ({text})")
    # Without a code it is no answer of the server: the line was cut, or there never was one.
    if lost or (code is None and type(cause).__name__ in {"OperationalError", "ConnectionTimeout"}):
        return StoreUnavailable(f"PostgreSQL cannot be reached ({text})")
    return None


def in_short(error: BaseException) -> str:
    """Tell what happened in a line: the driver's own words, without SQLAlchemy's pages."""
    if isinstance(error, AlertpostError):
        return _one_line(error)
    orig = getattr(error, "orig", None)
    known = error if orig is None else orig
    return f"{type(known).__name__}: {_one_line(known)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split("\n", maxsplit=1)[0].split())
