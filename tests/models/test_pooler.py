"""Behind a pooler in transaction mode, the real one: no transaction leaves anything to the next."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from structlog.testing import capture_logs

from models import outages, schema
from models.database import LOOKUPS, create_engine_from, read, write
from models.errors import ConfigurationError, StoreUnavailable
from models.settings import Settings

OFTEN = 12
"""More often than the driver runs a statement before it prepares it."""


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = create_engine_from(url, postgresql_settings=LOOKUPS)
    try:
        yield engine
    finally:
        engine.dispose()


def _in_turn(engine: Engine, threads: int) -> list[Exception]:
    """Run the same statements in several threads, each on a connection of its own."""
    failed: list[Exception] = []
    together = threading.Barrier(threads)

    def work(number: int) -> None:
        try:
            together.wait(30)
            for turn in range(OFTEN):
                with write(engine) as conn:
                    given = {"n": number, "turn": turn, "text": "x" * number}
                    # Of each thread another first statement, so that their names are not alike.
                    for _ in range(number):
                        conn.execute(text(f"SELECT :n + {number}"), given)
                    found = conn.execute(text("SELECT :n, :turn, :text"), given).one()
                    assert tuple(found) == (number, turn, "x" * number)
        except Exception as error:  # noqa: BLE001 - told to the test
            failed.append(error)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return failed


def test_the_driver_alone_fails_behind_a_pooler(pgbouncer_url: str) -> None:
    """What alertpost guards against is there: prepared statements meet another session."""
    engine = create_engine(make_url(pgbouncer_url).set(drivername="postgresql+psycopg"))
    try:
        failed = _in_turn_plainly(engine)
    finally:
        engine.dispose()

    assert failed


def _in_turn_plainly(engine: Engine) -> list[Exception]:
    failed: list[Exception] = []
    with ExitStack() as stack:
        lines = [stack.enter_context(engine.connect()) for _ in range(3)]
        for _ in range(OFTEN):
            for number, line in enumerate(lines):
                try:
                    for _ in range(number + 1):
                        line.execute(text(f"SELECT :n + {number}"), {"n": 1})
                    line.commit()
                except (OperationalError, ProgrammingError) as error:
                    failed.append(error)
                    line.rollback()
    return failed


@pytest.mark.parametrize("option", ["", "pooler=transaction", "prepare_threshold=none"])
def test_transactions_mix_behind_a_pooler(pgbouncer_url: str, option: str) -> None:
    """Many transactions over two sessions, found out by itself or told: none fails."""
    url = f"{pgbouncer_url}&{option}" if option else pgbouncer_url
    with _engine(url) as engine:
        assert _in_turn(engine, 6) == []


def test_limits_hold_in_each_transaction(pgbouncer_url: str) -> None:
    """Time limits, zone and planner are those of any session."""
    with _engine(pgbouncer_url) as engine:
        for opened in (read, write, read):
            with opened(engine) as conn:
                names = "statement_timeout", "lock_timeout", "timezone", "enable_seqscan"
                found = [conn.execute(text(f"SHOW {name}")).scalar_one() for name in names]
            assert found == ["30s", "10s", "UTC", "off"]


def test_nothing_is_left_to_strangers(pgbouncer_url: str) -> None:
    """Another program that uses the same sessions meets no setting, statement or lock of ours."""
    with _engine(pgbouncer_url) as engine:
        schema.upgrade(engine)
        assert _in_turn(engine, 4) == []
        with write(engine) as held, write(engine) as other:
            held.execute(text("SELECT 1"))
            other.execute(text("SELECT 1"))

    with ExitStack() as stack:
        for _ in range(2):
            stranger = stack.enter_context(psycopg.connect(pgbouncer_url, prepare_threshold=None))
            found = {
                name: stranger.execute(f"SELECT {name}").fetchone()
                for name in (
                    "current_setting('statement_timeout')",
                    "current_setting('enable_seqscan')",
                    "(SELECT count(*) FROM pg_prepared_statements)",
                    "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')",
                )
            }
            assert list(found.values()) == [("0",), ("on",), (0,), (0,)]


def test_many_upgrade_at_once_through_a_pooler(pgbouncer_url: str) -> None:
    """Migrations lock each other out also where sessions are shared."""
    with _engine(pgbouncer_url) as engine, write(engine) as conn:
        conn.execute(text("DROP SCHEMA public CASCADE"))
        conn.execute(text("CREATE SCHEMA public"))
    failed: list[Exception] = []

    def migrate() -> None:
        with _engine(pgbouncer_url) as engine:
            try:
                schema.upgrade(engine)
            except Exception as error:  # noqa: BLE001 - told below
                failed.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    with _engine(pgbouncer_url) as engine:
        assert schema.is_current(engine)


def test_a_direct_line_is_no_pooler(postgresql_url: str) -> None:
    """Without a pooler settings are made once, and statements are prepared."""
    statements: list[str] = []
    with _engine(postgresql_url) as engine, capture_logs() as logs:
        event.listen(
            engine, "before_cursor_execute", lambda _c, _cur, text, *_: statements.append(text)
        )
        for _ in range(OFTEN):
            with read(engine) as conn:
                conn.execute(text("SELECT 1"))
        with read(engine) as conn:
            prepared = conn.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar()

    assert not [one for one in statements if "set_config" in one]
    assert prepared
    assert logs == []


def test_a_pooler_that_hides_shows_by_what_fails(postgresql_url: str) -> None:
    """Where a prepared statement fails, the transaction is to be tried again and none is prepared."""
    with _engine(f"{postgresql_url}&pooler=none") as engine, capture_logs() as logs:

        def use_it() -> None:
            with write(engine) as conn:
                for _ in range(OFTEN):
                    conn.execute(text("SELECT 1"))

        use_it()
        with write(engine) as conn:
            # As if the session were another one; said so that the driver does not notice.
            conn.exec_driver_sql("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
        with pytest.raises(StoreUnavailable, match="pooler"):
            use_it()
        for _ in range(3):
            use_it()
        with read(engine) as conn:
            assert conn.execute(text("SHOW statement_timeout")).scalar_one() == "30s"
            prepared = conn.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar()

    assert prepared == 0
    assert [entry["event"] for entry in logs] == ["database_pooler"]


@pytest.mark.parametrize(
    "cause",
    [psycopg.errors.InvalidSqlStatementName("x"), psycopg.errors.DuplicatePreparedStatement("x")],
)
def test_meaning(cause: Exception) -> None:
    """What a pooler does to prepared statements is no fault of the statement."""
    found = outages.meaning(OperationalError("SELECT 1", {}, cause))

    assert isinstance(found, StoreUnavailable)
    assert "pooler" in str(found)


def test_options_are_checked(postgresql_url: str) -> None:
    """A pooler that nobody knows, and a threshold that is no number, are told by name."""
    for option, word in (("pooler=session", "pooler"), ("prepare_threshold=soon", "threshold")):
        with pytest.raises(ConfigurationError, match=word):
            create_engine_from(f"{postgresql_url}&{option}")


def test_the_setting_is_handed_on() -> None:
    """ALERTPOST_DATABASE_POOLER reaches the engine with the URL."""
    url = "postgresql://u@h/d"

    found = [
        Settings.load(database_url=url + query, database_pooler="transaction").sqlalchemy_url
        for query in ("", "?sslmode=require")
    ]

    assert found == [
        "postgresql+psycopg://u@h/d?pooler=transaction",
        "postgresql+psycopg://u@h/d?sslmode=require&pooler=transaction",
    ]
    assert "pooler" not in Settings.load(database_url=url).sqlalchemy_url
    assert "pooler" not in Settings.load(database_pooler="transaction").sqlalchemy_url
