"""The schema: migrated and built from the tables it is the same, and it is migrated once."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from models.database import create_engine_from, read, write
from models.errors import ConfigurationError
from models.schema import is_current, upgrade
from models.tables import METADATA


def indexes(engine: Engine) -> set[tuple[str, tuple[str | None, ...], bool, str]]:
    """Read all indexes with their conditions, spelt alike for both databases."""
    found = set()
    for table in METADATA.tables:
        for index in inspect(engine).get_indexes(table):
            options = index.get("dialect_options", {})
            where = options.get("sqlite_where", options.get("postgresql_where", ""))
            plain = re.sub(r"::[a-z ]+|[()]", "", str(where))
            found.add((index["name"], tuple(index["column_names"]), bool(index["unique"]), plain))
    return found


def test_migrated_equals_declared(engine: Engine) -> None:
    """Alembic finds no difference between the migrated tables and the declared ones."""
    with engine.connect() as conn:
        context = MigrationContext.configure(
            conn, opts={"compare_type": True, "compare_server_default": True}
        )

        assert compare_metadata(context, METADATA) == []


def test_indexes_equal(engine: Engine, empty_url: str) -> None:
    """The indexes, their conditions included, are those that the declaration makes."""
    declared = create_engine_from(empty_url)
    try:
        with write(declared) as conn:
            METADATA.create_all(conn)

        assert indexes(engine) == indexes(declared)
    finally:
        declared.dispose()


def test_upgrade_at_once(empty_url: str) -> None:
    """Many processes may upgrade one empty database at once."""
    engines = [create_engine_from(empty_url) for _ in range(4)]
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(upgrade, engines))

        assert is_current(engines[0])
    finally:
        for engine in engines:
            engine.dispose()


def test_empty_is_not_current(empty_url: str) -> None:
    """A database without tables is not current, and a query says which command helps."""
    engine = create_engine_from(empty_url)
    try:
        assert not is_current(engine)
        with pytest.raises(ConfigurationError, match="alertpost db upgrade"), read(engine) as conn:
            conn.execute(text("SELECT count(*) FROM delivery"))
    finally:
        engine.dispose()
