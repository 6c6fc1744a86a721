"""
Engines for PostgreSQL, with or without a pooler between.

A pooler in transaction mode (pgbouncer's ``pool_mode = transaction`` and its like) gives each
transaction another session of the server. What is meant for a session then belongs to strangers:
statements prepared under a name, settings, locks. So where one stands between, nothing outlasts a
transaction: no statement is prepared, and settings are made anew in each.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Literal, get_args

import structlog
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError, NoSuchModuleError

from models.errors import ConfigurationError
from models.outages import NO_RIGHT, WHO
from models.postgresql_url import PREPARE_THRESHOLD, read_url

log = structlog.get_logger()

Pooler = Literal["auto", "transaction", "none"]
"""What stands between. ``auto``: it is found out."""

FRESH_SECONDS = 1.0
"""A connection used so lately is not asked whether it still lives."""

_NOT_PREPARED = frozenset({"26000", "42P05"})
"""SQLSTATE: a prepared statement is not there, or is there already; source: appendix A."""

_READ_ONLY = "25006"

_VERB = re.compile(r"\b(?:INSERT|UPDATE|KEY SHARE|DELETE|CREATE|ALTER|DROP)\b")

_NEVER = frozenset({"", "none", "never"})


def postgresql_engine(
    url: str, *, pool_size: int, busy_seconds: float, session: Mapping[str, str]
) -> Engine:
    """
    Make an engine; nothing is connected yet.

    Args:
        url: As ``postgresql_url`` reads it.
        pool_size: Connections kept; as many again may be opened for a burst.
        busy_seconds: How long a transaction waits for a free connection.
        session: Settings of the server, for all that goes over the engine.

    Raises:
        ConfigurationError: The URL cannot be read.
    """
    try:
        place = read_url(url)
        threshold = _threshold(place.prepare_threshold)
    except ValueError as error:
        raise ConfigurationError(f"ALERTPOST_DATABASE_URL {error}") from error
    pooler = place.pooler or "auto"
    if pooler not in get_args(Pooler):
        known = ", ".join(get_args(Pooler))
        raise ConfigurationError(
            f"ALERTPOST_DATABASE_URL says pooler={pooler}; it is one of {known}"
        )
    defaults: dict[str, Any] = {
        "connect_timeout": max(2, int(busy_seconds)),
        "application_name": "alertpost",
    }
    arguments = {name: given for name, given in defaults.items() if name not in place.url.query}
    if place.prepare_threshold is not None:
        arguments[PREPARE_THRESHOLD] = threshold
    try:
        engine = create_engine(
            place.url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=busy_seconds,
            pool_recycle=1800,
            # An error's text must not carry what the statement carried.
            hide_parameters=True,
            connect_args=arguments,
        )
    except NoSuchModuleError as error:  # pragma: no cover - psycopg is a dependency
        raise ConfigurationError("the PostgreSQL driver psycopg is not installed") from error
    sessions = _Sessions(session, pooler)
    event.listen(engine, "connect", sessions.prepare)
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", sessions.lend)
    event.listen(engine, "begin", sessions.begin)
    event.listen(engine, "handle_error", sessions.learn)
    return engine


class _Sessions:
    """What the sessions of one engine are told, and whether they are sessions at all."""

    def __init__(self, settings: Mapping[str, str], pooler: str) -> None:
        self._settings = settings
        self._pooler = pooler
        self._pooled = pooler == "transaction"
        self._values = [part for setting in settings.items() for part in setting]
        calls = ", ".join(["set_config(%s, %s, true)"] * len(settings))
        self._each_time = f"SELECT {calls}"

    def prepare(self, connection: Any, record: Any) -> None:  # noqa: ARG002
        """Make the settings for good, unless that would be in a stranger's session."""
        if self._pooled:
            connection.prepare_threshold = None
            return
        # By statement, not by start-up options: those are refused by connection poolers. A pooler
        # makes up the process id that it tells at the start, so it shows in the first answer.
        direct = connection.info.backend_pid if self._pooler == "auto" else None
        calls = "set_config(%s, %s, false)"
        if direct is not None:
            calls = f"CASE WHEN pg_backend_pid() = {int(direct)} THEN {calls} END"
        connection.autocommit = True
        try:
            found = connection.execute(
                "SELECT pg_backend_pid(), " + ", ".join([calls] * len(self._settings)), self._values
            ).fetchone()
        finally:
            connection.autocommit = False
        if direct is not None and found[0] != direct:
            self._be_pooled(connection, "the server's process is another one than was said")

    def lend(self, connection: Any, record: Any, proxy: Any) -> None:  # noqa: ARG002
        """Find out whether a connection still lives; see to it that it prepares nothing."""
        if self._pooled:
            connection.prepare_threshold = None
        _try_if_idle(connection, record)

    def begin(self, connection: Connection) -> None:
        """Make the settings for this transaction alone."""
        if self._pooled:
            connection.exec_driver_sql(self._each_time, tuple(self._values))

    def learn(self, context: ExceptionContext) -> None:
        """Learn from a prepared statement that failed; the transaction is to be tried again."""
        error = context.original_exception
        if getattr(error, "sqlstate", None) == _READ_ONLY:
            # Demoted: of several hosts another one takes writes by now, so none is kept to this.
            context.is_disconnect = True
        if getattr(error, "sqlstate", None) == NO_RIGHT:
            _note_who(context)
        if self._pooled or getattr(error, "sqlstate", None) not in _NOT_PREPARED:
            return
        held = context.connection
        driver = None if held is None else held.connection.dbapi_connection
        self._be_pooled(driver, str(error).split("\n", maxsplit=1)[0])

    def _be_pooled(self, connection: Any, reason: str) -> None:
        if connection is not None:
            connection.prepare_threshold = None
        if not self._pooled:
            self._pooled = True
            log.warning("database_pooler", mode="transaction", reason=reason)


def _note_who(context: ExceptionContext) -> None:
    """Note at an error whose right was missing, and for what: the server says neither."""
    held = context.connection
    driver = None if held is None else held.connection.dbapi_connection
    if driver is not None:
        # The last one changes something; what comes before it is read.
        verbs = _VERB.findall(context.statement or "") or ["SELECT"]
        who = f'the PostgreSQL user "{driver.info.user}", at {verbs[0]},'
        setattr(context.original_exception, WHO, who)


def _threshold(text: str | None) -> int | None:
    if text is None or text.lower() in _NEVER:
        return None
    if not text.isdigit():
        raise ValueError(f"says {PREPARE_THRESHOLD}={text!r}; it is a number, or `none`")
    return int(text)


def _note_use(connection: Any, record: Any) -> None:  # noqa: ARG001
    record.info["used_at"] = time.monotonic()


def _try_if_idle(connection: Any, record: Any) -> None:
    """
    Find out whether a pooled connection still lives, unless it did a moment ago.

    SQLAlchemy's own ``pool_pre_ping`` asks before each transaction, a fifth of the round trips
    of a busy worker. The pool replaces what fails here and tries again.
    """
    used_at = record.info.get("used_at")
    if used_at is None or time.monotonic() - used_at < FRESH_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except Exception as error:
        raise DisconnectionError("the connection did not outlive its rest") from error
