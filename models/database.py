"""
The way to SQL: engines for SQLite and PostgreSQL, transactions, and what an outage looks like.

    with database.write(engine) as conn:
        intake.insert(conn, deliveries)      # committed when the block ends
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from models.clock import utc_now
from models.errors import ConfigurationError, StoreUnavailable
from models.mentions import teach_letters
from models.outages import translated
from models.turns import Turns

BUSY_SECONDS = 10.0
"""How long a writer waits for its turn before the store counts as unavailable."""

POOL_SIZE = 10
"""Connections kept per process; as many again may be opened for a burst."""

LOOKUPS = MappingProxyType({"enable_seqscan": "off"})
"""
For workers, whose statements all find their rows by an index.

PostgreSQL keeps the plan of a prepared statement. One that was made while a table held ten rows
reads all of it, and goes on so when it holds ten thousand, until autovacuum comes by.
"""

_SESSION = {
    "timezone": "UTC",
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}

_READ = {"alertpost_begin": "BEGIN"}
_turns: WeakKeyDictionary[Engine, Turns] = WeakKeyDictionary()
_NOW = select(utc_now())


def create_engine_from(
    url: str,
    *,
    busy_seconds: float = BUSY_SECONDS,
    postgresql_settings: Mapping[str, str] = MappingProxyType({}),
) -> Engine:
    """
    Make an engine; nothing is connected yet.

    SQLite: write-ahead log, ``synchronous=FULL`` (a commit survives a power cut), writers queue.
    PostgreSQL: psycopg 3, UTC, and time limits so that no statement waits for ever; also behind a
    pooler, see ``postgresql_engine``.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``postgresql://…``.
        busy_seconds: How long a transaction waits for its turn or for a free connection.
        postgresql_settings: Of the server, for each session; such as ``LOOKUPS``.

    Raises:
        ConfigurationError: The URL cannot be read or names another database.
    """
    name, _, rest = url.partition("://")
    if name.partition("+")[0] in {"postgresql", "postgres"} and rest:
        session = {**_SESSION, **postgresql_settings}
        # It brings the loggers along, which no listing from an SQLite file waits for.
        from models.postgresql_engine import postgresql_engine  # noqa: PLC0415

        return postgresql_engine(
            url, pool_size=POOL_SIZE, busy_seconds=busy_seconds, session=session
        )
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            "ALERTPOST_DATABASE_URL cannot be read; write sqlite:///path/to/file.db or "
            "postgresql://user:PASSWORD@host/name"
        ) from error
    if parsed.drivername.partition("+")[0] == "sqlite":
        return _sqlite_engine(parsed, busy_seconds)
    raise ConfigurationError(
        f"ALERTPOST_DATABASE_URL begins with {parsed.drivername!r}; alertpost knows sqlite and "
        "postgresql"
    )


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """
    Open a transaction that may write; it commits at the end and rolls back on an error.

    Not one inside another: on SQLite the inner one would wait for the outer one.

    Raises:
        StoreUnavailable: The database is away, locked, read-only or full; nothing was committed.
        ConfigurationError: The schema is missing or old.
    """
    with translated(), _turn(engine), engine.begin() as conn:
        yield conn


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads and blocks no writer; raises as ``write`` does."""
    with translated(), engine.connect() as conn:
        reading = conn.execution_options(**_READ) if _is_sqlite(engine) else conn
        with reading.begin():
            yield reading


def now(conn: Connection) -> datetime:
    """Tell the time by the database's clock."""
    moment: datetime = conn.execute(_NOW).scalar_one()
    return moment


def _is_sqlite(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite"


def _turn(engine: Engine) -> AbstractContextManager[None]:
    turns = _turns.get(engine)
    return nullcontext() if turns is None else turns.turn()


def _sqlite_engine(url: URL, busy_seconds: float) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError(
            "ALERTPOST_DATABASE_URL names no file; an SQLite database in memory would lose what "
            "was accepted"
        )
    # Absolute from the start: a later change of directory must not lead to another file.
    path = Path(url.database).absolute()
    engine = create_engine(
        url.set(drivername="sqlite", database=str(path)),
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE * 2,
        pool_timeout=busy_seconds,
        connect_args={"timeout": busy_seconds},
        hide_parameters=True,
    )

    @event.listens_for(engine, "do_connect")
    def _make_file(dialect: Any, record: Any, args: Any, options: Any) -> None:  # noqa: ARG001
        make_private_file(path)

    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    _turns[engine] = Turns(path, busy_seconds)
    return engine


def missing_file(url: str) -> Path | None:
    """Name the SQLite file that a URL means, if it is not there; to connect would make it."""
    # PostgreSQL's are libpq's, of which SQLAlchemy cannot read all.
    if not url.startswith("sqlite"):
        return None
    name = make_url(url).database
    # Not Path.exists, to which a directory that is locked is an error.
    return None if not name or os.path.lexists(name) else Path(name).absolute()


def make_private_file(path: Path) -> None:
    """
    Make an empty file that only its owner may read, in a directory likewise, where there is none.

    SQLite gives its write-ahead log the mode of the database file.

    Raises:
        StoreUnavailable: The directory or the file cannot be made.
    """
    if path.exists():
        return
    try:
        for parent in reversed([p for p in path.parents if not p.exists()]):
            parent.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreUnavailable(
            f"the database file {path} cannot be made: {error.strerror or error}"
        ) from error


def _prepare_sqlite(connection: Any, record: Any) -> None:  # noqa: ARG001
    # The driver's own transactions are off, ``_begin_sqlite`` opens them: the driver would begin
    # late and deferred, and a deferred writer can fail at its first write however long it waits.
    connection.isolation_level = None
    teach_letters(connection)
    cursor = connection.cursor()
    try:
        _enter_wal(cursor)
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA cache_size=-16000")
        cursor.execute("PRAGMA temp_store=MEMORY")
    finally:
        cursor.close()


def _enter_wal(cursor: Any) -> None:
    """Switch a new file to the write-ahead log; SQLite does not wait for its turn at this."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except cursor.connection.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(conn: Connection) -> None:
    conn.exec_driver_sql(conn.get_execution_options().get("alertpost_begin", "BEGIN IMMEDIATE"))
