"""The whole path behind a pooler in transaction mode, the real one: each alert goes out once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from models.database import LOOKUPS, create_engine_from
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, another_worker, listening, send_many

MANY = 48


@pytest.fixture
def database_kind() -> str:
    return "postgresql"


@pytest.fixture
def engine(pgbouncer_url: str) -> Iterator[Engine]:
    engine = create_engine_from(pgbouncer_url, postgresql_settings=LOOKUPS)
    yield engine
    engine.dispose()


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"pacing": {"messages_per_window": 1000}}


async def test_each_alert_goes_out_once(whole: Whole) -> None:
    """Two workers over two sessions of the server: as many mails as receipts, none in doubt."""
    whole.exchange().limits = replace(whole.exchange().limits, messages_per_window=None)
    async with (
        another_worker(whole) as second,
        listening(whole.settings, whole.services.visits, second.visits),
    ):
        receipts = [one for _ in range(MANY // 6) for one in send_many(whole, 6)]
        await whole.until(lambda: whole.count("accepted") == MANY)

    assert len(whole.outbox()) == MANY
    rows = [whole.row(one.delivery_id) for one in receipts]
    assert [row.uncertain for row in rows] == [False] * MANY
    assert [len(whole.attempts(row.id)) for row in rows] == [1] * MANY
