"""Redis or SQL away in the middle: nothing is forgotten, nothing goes unrecorded, all resumes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from models.database import create_engine_from
from models.errors import StoreUnavailable
from producers.enqueue import Producer
from sandbox.faults import Fault, Slow
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, listening, send_many


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"pacing": {"messages_per_window": 1000}}


@pytest.fixture(autouse=True)
def _no_rate_limit(whole: Whole) -> None:
    # The rate is the concern of others; here a backlog shall be under way for a while.
    from dataclasses import replace

    whole.exchange().limits = replace(whole.exchange().limits, messages_per_window=None)
    whole.sandbox.exchange.inject(Fault("slow", "body", Slow(0.02)))


@contextmanager
def sql_away(whole: Whole) -> Iterator[None]:
    """Refuse the database to everybody: a lock on SQLite's file, no connections to PostgreSQL."""
    url = whole.engine.url
    if url.get_backend_name() == "sqlite":
        other = sqlite3.connect(str(url.database), timeout=10, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()
        return
    server = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    name = url.database
    try:
        with server.connect() as connection:
            connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :d"),
                {"d": name},
            )
            try:
                yield
            finally:
                connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
    finally:
        server.dispose()


async def test_sql_away_in_the_middle_forgets_no_outcome(whole: Whole) -> None:
    """Producers are refused and mails stop; what was sent is recorded, then the rest follows."""
    send_many(whole, 60)
    url = whole.engine.url.render_as_string(hide_password=False)
    engine = create_engine_from(url, busy_seconds=0.2)
    impatient = Producer(engine, whole.vault, None)
    lane_id = whole.mailbox_id("contoso")
    async with listening(whole.settings, whole.services.visits):
        await whole.services.wake(lane_id, critical=False)
        await whole.until(lambda: whole.count("accepted") >= 5)
        with sql_away(whole):
            await asyncio.sleep(0.3)
            sent = len(whole.outbox())
            with pytest.raises(StoreUnavailable, match=r"locked|busy|reached|shutting down"):
                await asyncio.to_thread(impatient.enqueue, whole.alert())
            await asyncio.sleep(0.7)
            # One mail for each open connection may have been on its way.
            assert len(whole.outbox()) <= sent + 1
        await whole.until(lambda: whole.count("accepted") == 60, seconds=25)

    assert not whole.exchange().outbox.duplicate_message_ids()
    assert len(whole.outbox()) == 60
    assert whole.exchange().max_connections <= 3
    engine.dispose()
