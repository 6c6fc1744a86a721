"""Bringing a database's tables to what this version expects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from models.database import read, write
from models.errors import NewerSchema

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x616C657274  # "alert"; any number would do, as long as all processes take the same


def upgrade(engine: Engine) -> None:
    """
    Bring the tables up to date; does nothing where they are.

    Several processes may call this at once: one migrates, the others wait and find it done.

    Raises:
        NewerSchema: The tables are those of a newer version.
        StoreUnavailable: The database is away or cannot be written.
    """
    from alembic import command  # noqa: PLC0415 - see _config

    with write(engine) as conn, _alone(conn):
        # Before Alembic meets a revision that it does not have.
        _is_current(conn)
        config = _config()
        config.attributes["connection"] = conn
        command.upgrade(config, "head")


def is_current(engine: Engine) -> bool:
    """
    Tell whether the tables are those that this version expects.

    Raises:
        NewerSchema: They are those of a newer version.
        StoreUnavailable: The database is away.
    """
    with read(engine) as conn:
        return _is_current(conn)


def _is_current(conn: Connection) -> bool:
    if not inspect(conn).has_table("alembic_version"):
        return False
    found = set(conn.execute(text("SELECT version_num FROM alembic_version")).scalars())
    unknown = found - set(_numbers())
    if unknown:
        raise NewerSchema(
            f"the database's tables are of a newer alertpost (schema {', '.join(sorted(unknown))}) "
            f"than this program (schema {newest()}): run that version, or a later one"
        )
    return found == {newest()}


def newest() -> str:
    """
    Name the last migration.

    By its file's number, as Alembic takes as long to load as a listing takes to print; a test
    holds the two together.
    """
    return max(_numbers())


def _numbers() -> list[str]:
    return [path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")]


def _config() -> Config:
    # Alembic takes a fifth of a second to load, and few commands need it.
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    # Percent signs in a path would be taken for interpolation.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _alone(conn: Connection) -> Iterator[None]:
    """Keep other migrations out until the transaction ends; on SQLite ``write`` does that."""
    if conn.dialect.name == "postgresql":
        # A migration may rightly take longer than any other statement.
        conn.execute(text("SET LOCAL statement_timeout = 0"))
        conn.execute(text("SET LOCAL lock_timeout = '5min'"))
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    yield
