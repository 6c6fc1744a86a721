"""
Whether SQL takes what is written: asked by writing, not by reading.

A disk that is full, a standby, a file of somebody else or a writer that never ends let everything
be read, and nothing be accepted or settled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sqlalchemy import Connection, text, update
from sqlalchemy.exc import SQLAlchemyError

from models.database import create_engine_from, write
from models.errors import AlertpostError
from models.moves import DELIVERY

if TYPE_CHECKING:
    from models.settings import Settings

BUSY_SECONDS = 3.0
"""How long the probe waits for its turn: far longer than any transaction of ours takes."""

_NOBODY = UUID(int=0)

_NEXT_STEPS: Final = (
    ("disk is full", "make room on that disk"),
    ("disk that holds", "look at that disk and its file system"),
    ("is damaged", "stop everything and restore it from a backup"),
    ("cannot be written", "give the user that runs alertpost write access to it, or mount it so"),
    ("file cannot be opened", "see that the path in ALERTPOST_DATABASE_URL can be written"),
    ("locked", "end the program that holds it open: `fuser` or `lsof` names it"),
    ("busy", "end the program that holds it open: `fuser` or `lsof` names it"),
    ("lock in PostgreSQL", "end the session that holds it; pg_stat_activity shows which"),
    ("read-only", "let ALERTPOST_DATABASE_URL name the primary, or end its read-only mode"),
    ("may not use", "give that user the rights, or make it the tables' owner"),
    ("no connection free", "raise its max_connections, or close other sessions"),
    ("out of resources", "see the log of PostgreSQL"),
    ("db upgrade", "run `alertpost db upgrade`"),
)
"""By words of our own sentences for what went wrong."""

_OTHERWISE = "see the log of the database"


@dataclass(frozen=True, slots=True)
class SqlTrouble:
    """Why SQL takes nothing now: a sentence without its full stop, and what to do about it."""

    text: str
    next_step: str


def look(settings: Settings) -> SqlTrouble | None:
    """
    Try to write; None where that works.

    Args:
        settings: Where SQL is.
    """
    try:
        engine = create_engine_from(settings.sqlalchemy_url, busy_seconds=BUSY_SECONDS)
        try:
            with write(engine) as conn:
                probe(conn)
        finally:
            engine.dispose()
    except AlertpostError as error:
        return explained(error)
    except SQLAlchemyError as error:
        # Not one that we know, but nothing was written all the same.
        return explained(error.__cause__ or error)
    return None


def probe(conn: Connection) -> None:
    """
    Write something that changes nothing; the transaction is to be committed.

    SQLite writes a page to its log, and so notices a disk that is full. PostgreSQL writes the
    commit of a transaction, after it was asked whether this user may change deliveries here.
    """
    if conn.dialect.name == "sqlite":
        conn.execute(text("UPDATE alembic_version SET version_num = version_num"))
        return
    nobody = update(DELIVERY).where(DELIVERY.c.id == _NOBODY)
    conn.execute(nobody.values(state=DELIVERY.c.state))
    conn.execute(text("SELECT txid_current()"))


def explained(error: BaseException) -> SqlTrouble:
    """Say what an error at writing means."""
    told = " ".join(str(error).split())[:300]
    step = next_step(told) or _OTHERWISE
    return SqlTrouble(f"SQL takes nothing that is written: {told}", step)


def next_step(told: str) -> str | None:
    """Say what to do about an error, by our own sentence for it; None where that says nothing."""
    return next((step for words, step in _NEXT_STEPS if words in told), None)
