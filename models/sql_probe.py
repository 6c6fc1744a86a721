"""
Whether SQL takes what is written: asked by writing, not by reading.

A disk that is full, a standby, a file of somebody else or a writer that never ends let everything
be read, and nothing be accepted or settled.

PostgreSQL's user may be one that is not meant to do what workers do, see ``deploy/roles.sql``. It
then tries what it is meant to do, and what it found is told as that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sqlalchemy import Connection, false, insert, literal, select, text, update
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
    ("lacks a right", "let ALERTPOST_DATABASE_URL name the role that this is for"),
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


class As(StrEnum):
    """As whom SQL is looked at: by what its user may do to deliveries."""

    WORKER = "worker"
    """Whoever may change them; an administrator, too."""
    DOOR = "door"
    """Whoever may only add to them."""
    READER = "reader"


@dataclass(frozen=True, slots=True)
class Looked:
    """
    What was found.

    Attributes:
        trouble: Why SQL does not take what this user is meant to write; None where it does.
        who: As whom it was looked at.
    """

    trouble: SqlTrouble | None = None
    who: As = As.WORKER

    @property
    def caveat(self) -> str | None:
        """Say what was not found out; None where everything was."""
        if self.trouble is not None or self.who is As.WORKER:
            return None
        found = "takes alerts" if self.who is As.DOOR else "can be read"
        return f"{found}; looked at as a {self.who}, so whether workers can write is not known"


def look(settings: Settings) -> SqlTrouble | None:
    """
    Try to write as workers do; None where that works.

    Args:
        settings: Where SQL is.
    """
    return _look(settings, As.WORKER).trouble


def look_as_permitted(settings: Settings) -> Looked:
    """
    Try what the user is meant to do, whichever role it has.

    Args:
        settings: Where SQL is.
    """
    return _look(settings, None)


def _look(settings: Settings, who: As | None) -> Looked:
    try:
        engine = create_engine_from(settings.sqlalchemy_url, busy_seconds=BUSY_SECONDS)
        try:
            with write(engine) as conn:
                return Looked(who=probe(conn, who))
        finally:
            engine.dispose()
    except AlertpostError as error:
        return Looked(explained(error))
    except SQLAlchemyError as error:
        # Not one that we know, but nothing was written all the same.
        return Looked(explained(error.__cause__ or error))


def probe(conn: Connection, who: As | None = As.WORKER) -> As:
    """
    Write something that changes nothing; the transaction is to be committed.

    SQLite writes a page to its log, and so notices a disk that is full. PostgreSQL writes the
    commit of a transaction, after it was asked whether this user may change deliveries here.

    Args:
        conn: A transaction of ``database.write``.
        who: As whom; None: by what the user may do.

    Returns:
        As whom it was tried.
    """
    if conn.dialect.name == "sqlite":
        conn.execute(text("UPDATE alembic_version SET version_num = version_num"))
        return As.WORKER
    who = who or _permitted(conn)
    if who is As.READER:
        return who
    if who is As.DOOR:
        nothing = select(*(literal(None, column.type) for column in _KEPT)).where(false())
        conn.execute(insert(DELIVERY).from_select(_KEPT, nothing, include_defaults=False))
    else:
        nobody = update(DELIVERY).where(DELIVERY.c.id == _NOBODY)
        conn.execute(nobody.values(state=DELIVERY.c.state))
    conn.execute(text("SELECT txid_current()"))
    return who


_KEPT: Final = [DELIVERY.c.id, DELIVERY.c.state]


def _permitted(conn: Connection) -> As:
    """Say what this user may do; one that may do nothing is told so when it tries to work."""
    may = conn.execute(
        text(
            "SELECT has_any_column_privilege('delivery', 'UPDATE') AS change,"
            " has_any_column_privilege('delivery', 'INSERT') AS add,"
            " has_any_column_privilege('delivery', 'SELECT') AS read"
        )
    ).one()
    if may.change or not (may.add or may.read):
        return As.WORKER
    return As.DOOR if may.add else As.READER


def explained(error: BaseException) -> SqlTrouble:
    """Say what an error at writing means."""
    told = " ".join(str(error).split())[:300]
    step = next_step(told) or _OTHERWISE
    return SqlTrouble(f"SQL takes nothing that is written: {told}", step)


def next_step(told: str) -> str | None:
    """Say what to do about an error, by our own sentence for it; None where that says nothing."""
    return next((step for words, step in _NEXT_STEPS if words in told), None)
