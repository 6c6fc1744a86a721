"""Texts compare and sort by code points on both databases, whatever language the server speaks."""

from __future__ import annotations

import warnings

import pytest
from sqlalchemy import Engine, String, inspect, select, text

from models.tables import METADATA
from tests.models.factories import MAILBOX, set_mailbox, world_rows

TEXTS = """
SELECT relname, attname, collname FROM pg_attribute
JOIN pg_class ON pg_class.oid = attrelid
JOIN pg_collation ON pg_collation.oid = attcollation
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
  AND relname != 'alembic_version'
"""


def test_tests_sort_in_the_order_of_a_language(engine: Engine) -> None:
    """The tests' PostgreSQL databases sort as most installations do; without that this is blind."""
    with engine.connect() as conn:
        if conn.dialect.name != "postgresql":
            assert conn.execute(text("SELECT 'a' > 'B' AND 'k,' > 'k+1'")).scalar_one()
        elif not conn.execute(text("SELECT 'a' < 'B' AND 'k,' < 'k+1'")).scalar_one():
            said = (
                "no PostgreSQL database with a linguistic collation can be made here (no "
                "localedef with its sources, no en_US.UTF-8, no ICU): nothing tests the order"
            )
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(said, stacklevel=1)
            pytest.skip(said)


def test_every_text_is_in_order_of_code_points(postgresql_url: str, request) -> None:
    """Every column of text of every table is ``C``: compared and indexed ones need it, all have it."""
    from models.database import create_engine_from

    engine = create_engine_from(postgresql_url)
    try:
        with engine.connect() as conn:
            found = {(row[0], row[1]): row[2] for row in conn.execute(text(TEXTS))}
        declared = {
            (table.name, column["name"])
            for table in METADATA.tables.values()
            for column in inspect(engine).get_columns(table.name)
            if isinstance(column["type"], String)
        }
    finally:
        engine.dispose()

    assert {place: name for place, name in found.items() if name != "C"} == {}
    assert found.keys() == declared


def test_lists_sort_alike(engine: Engine) -> None:
    """A list is in the same order on both databases."""
    world = world_rows(engine, mailboxes=4)
    for key, address in zip(world.mailbox_ids, ["b,1@x", "b+1@x", "a@x", "B@x"], strict=True):
        set_mailbox(engine, key, address=address)

    with engine.connect() as conn:
        listed = conn.scalars(select(MAILBOX.c.address).order_by(MAILBOX.c.address)).all()

    assert listed == ["B@x", "a@x", "b+1@x", "b,1@x"]
