"""The store itself: how it is opened, and what a caller hears when it is away."""

from __future__ import annotations

import socket
import sqlite3
import stat
import threading
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, TimeoutError  # noqa: A004

from models import outages
from models.clock import utc_after, utc_not_before, utc_now
from models.database import LOOKUPS, create_engine_from, now, read, write
from models.errors import ConfigurationError, StoreUnavailable
from tests.models.factories import FAR_AHEAD, LONG_AGO, world_rows


def test_clock(engine: Engine) -> None:
    """The database's clock is aware, and moments reckoned from it compare rightly."""
    with read(engine) as conn:
        moment = now(conn)
        later, sooner = conn.execute(select(utc_after(90.5), utc_after(-2.0))).one()
        past, ahead = conn.execute(
            select(utc_not_before(LONG_AGO), utc_not_before(FAR_AHEAD))
        ).one()
        ordered = conn.execute(select(utc_after(-0.01) < utc_now())).scalar_one()

    assert moment.utcoffset() is not None
    assert 90 < (later - moment).total_seconds() < 95
    assert -2.1 < (sooner - moment).total_seconds() < 3
    assert past >= moment
    assert ahead == FAR_AHEAD
    assert ordered


def test_rolls_back(engine: Engine) -> None:
    """An error inside a transaction leaves nothing behind."""
    world = world_rows(engine)

    def fail() -> None:
        with write(engine) as conn:
            conn.execute(text("UPDATE mailbox SET park_count = 9"))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    with read(engine) as conn:
        assert conn.execute(text("SELECT max(park_count) FROM mailbox")).scalar_one() == 0
    assert world.mailbox_ids


def test_reader_sees_committed(engine: Engine) -> None:
    """A reader is not held up by a writer, and sees only what was committed."""
    world_rows(engine)
    with write(engine) as conn:
        conn.execute(text("UPDATE mailbox SET park_count = 9"))
        with read(engine) as other:
            seen = other.execute(text("SELECT max(park_count) FROM mailbox")).scalar_one()

    assert seen == 0


def test_our_own_fault_passes(engine: Engine) -> None:
    """A broken rule of the tables is no outage."""
    world = world_rows(engine)

    with pytest.raises(IntegrityError), write(engine) as conn:
        conn.execute(text("INSERT INTO mailbox (id) VALUES (NULL)"))
    assert world.mailbox_id


def test_durable_sqlite(sqlite_url: str) -> None:
    """A commit is on the disk when it returns, and references are checked."""
    engine = create_engine_from(sqlite_url)
    try:
        with read(engine) as conn:
            found = [
                conn.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
    finally:
        engine.dispose()

    assert found == ["wal", 2, 1, 10_000]


def test_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and its directory are the owner's alone; the path does not follow a chdir."""
    monkeypatch.chdir(tmp_path)
    engine = create_engine_from("sqlite:///var/deep/alertpost.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    try:
        with write(engine) as conn:
            conn.execute(text("CREATE TABLE t (a)"))
    finally:
        engine.dispose()

    path = tmp_path / "var" / "deep" / "alertpost.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in path.parents[:2]} == {0o700}


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://localhost/x", "sqlite://", "sqlite:///:memory:"]
)
def test_unusable_url(url: str) -> None:
    """A URL that cannot serve names the setting to change."""
    with pytest.raises(ConfigurationError, match="ALERTPOST_DATABASE_URL"):
        create_engine_from(url)


def test_directory_cannot_be_made(tmp_path: Path) -> None:
    """A path below a file is an outage that names the path."""
    (tmp_path / "file").touch()
    engine = create_engine_from(f"sqlite:///{tmp_path}/file/x.db")

    with pytest.raises(StoreUnavailable, match=r"x\.db"), read(engine):
        pass
    engine.dispose()


def test_no_database_file(tmp_path: Path) -> None:
    """A file that is something else is an outage that says so."""
    (tmp_path / "x.db").write_bytes(b"no database " * 1000)
    engine = create_engine_from(f"sqlite:///{tmp_path}/x.db")

    with pytest.raises(StoreUnavailable, match="not an SQLite database"), read(engine):
        pass
    engine.dispose()


def test_locked_sqlite(sqlite_url: str) -> None:
    """A writer that does not come to its turn hears that another one holds the database."""
    engine, other = (create_engine_from(sqlite_url, busy_seconds=0.05) for _ in range(2))
    try:
        with write(engine):
            with pytest.raises(StoreUnavailable, match="another writer"), write(other):
                pass
            with pytest.raises(StoreUnavailable, match="another writer"), write(engine):
                pass
    finally:
        engine.dispose()
        other.dispose()


def test_postgresql_away() -> None:
    """A server that does not answer is an outage, and the sentence holds no password."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    engine = create_engine_from(f"postgresql://user:hunter2@127.0.0.1:{port}/x")

    with pytest.raises(StoreUnavailable, match="cannot be reached") as caught, read(engine):
        pass
    engine.dispose()
    assert "hunter2" not in str(caught.value)


def _cut_own_connection(engine: Engine) -> None:
    with write(engine) as conn:
        mine = conn.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with write(engine) as killer:
            killer.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": mine})
        conn.execute(text("SELECT 1"))


def test_connection_cut(postgresql_url: str) -> None:
    """A cut connection is an outage once; the next transaction gets a new one."""
    engine = create_engine_from(postgresql_url)
    try:
        with pytest.raises(StoreUnavailable):
            _cut_own_connection(engine)
        with read(engine) as conn:
            assert conn.execute(text("SELECT 1")).scalar_one() == 1
    finally:
        engine.dispose()


def test_a_connection_that_died_at_rest_is_replaced(postgresql_url: str) -> None:
    """A restart of the server that nobody saw costs no transaction."""
    engine = create_engine_from(postgresql_url)
    # Registered later, so it runs later: as if each connection had rested for long.
    event.listen(engine, "checkin", lambda _, record: record.info.update(used_at=0.0))
    other = create_engine_from(postgresql_url)
    try:
        with read(engine) as conn:
            mine = conn.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with write(other) as killer:
            killer.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": mine})
        with read(engine) as conn:
            assert conn.execute(text("SELECT pg_backend_pid()")).scalar_one() != mine
    finally:
        engine.dispose()
        other.dispose()


def test_the_planner_of_workers_looks_up(postgresql_url: str) -> None:
    """What an engine is given for its sessions holds beside the usual limits."""
    engine = create_engine_from(postgresql_url, postgresql_settings=LOOKUPS)
    try:
        with read(engine) as conn:
            assert conn.execute(text("SHOW enable_seqscan")).scalar_one() == "off"
            assert conn.execute(text("SHOW lock_timeout")).scalar_one() == "10s"
    finally:
        engine.dispose()


def test_statement_limits(postgresql_url: str) -> None:
    """No statement on PostgreSQL may wait for ever, and times are UTC."""
    engine = create_engine_from(postgresql_url)
    try:
        with read(engine) as conn:
            found = [
                conn.execute(text(f"SHOW {name}")).scalar_one()
                for name in ("statement_timeout", "lock_timeout", "timezone")
            ]
    finally:
        engine.dispose()

    assert found == ["30s", "10s", "UTC"]


@pytest.mark.parametrize(
    ("cause", "kind", "words"),
    [
        (sqlite3.OperationalError("database is locked"), StoreUnavailable, "locked"),
        (
            sqlite3.OperationalError("attempt to write a readonly database"),
            StoreUnavailable,
            "cannot be written",
        ),
        (sqlite3.OperationalError("database or disk is full"), StoreUnavailable, "disk"),
        (
            sqlite3.OperationalError("unable to open database file"),
            StoreUnavailable,
            "cannot be opened",
        ),
        (sqlite3.OperationalError("no such table: delivery"), ConfigurationError, "db upgrade"),
        (psycopg.errors.UndefinedColumn("x"), ConfigurationError, "db upgrade"),
        (psycopg.errors.DiskFull("x"), StoreUnavailable, "full"),
        (psycopg.errors.ReadOnlySqlTransaction("x"), StoreUnavailable, "read-only"),
        (psycopg.errors.DeadlockDetected("x"), StoreUnavailable, "try again"),
        (psycopg.errors.QueryCanceled("x"), StoreUnavailable, "longer"),
        (psycopg.errors.TooManyConnections("x"), StoreUnavailable, "no connection free"),
        (psycopg.OperationalError("consuming input failed"), StoreUnavailable, "reached"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_meaning(cause: Exception, kind: type[Exception], words: str) -> None:
    """Each way in which a store fails is told apart, in a sentence for a person."""
    found = outages.meaning(OperationalError("SELECT 1", {}, cause))

    assert isinstance(found, kind)
    assert words in str(found)


@pytest.mark.parametrize(
    "cause", [sqlite3.OperationalError('near "x": syntax error'), psycopg.errors.SyntaxError("x")]
)
def test_no_outage(cause: Exception) -> None:
    """A wrong statement is our own fault and passes as it is."""
    assert outages.meaning(OperationalError("SELECT 1", {}, cause)) is None


def test_no_connection_free() -> None:
    """A pool whose connections are all busy is an outage, too."""
    assert isinstance(outages.meaning(TimeoutError()), StoreUnavailable)


def test_threads_share_an_engine(engine: Engine) -> None:
    """Writers in many threads of a process all come to their turn."""
    world_rows(engine)

    def add() -> None:
        with write(engine) as conn:
            conn.execute(text("UPDATE mailbox SET park_count = park_count + 1"))

    threads = [threading.Thread(target=add) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with read(engine) as conn:
        assert conn.execute(text("SELECT max(park_count) FROM mailbox")).scalar_one() == 30
