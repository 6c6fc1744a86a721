"""The database's clock is set: nothing waits longer for it, nothing living is taken for dead."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update

from models import lane
from models.database import now, read, write
from models.lifecycle import RETRY
from models.moves import DELIVERY
from models.stages import Stage
from models.tables import METADATA
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import send_many

MAILBOX = METADATA.tables["mailbox"]
ATTEMPT = METADATA.tables["attempt"]
HOUR = timedelta(hours=1)
LEASE_SECONDS = 20.0


def _as_if_written_an_hour_ahead(engine: Engine, **columns: Any) -> None:
    """Let everything that is there have been written while the clock was an hour ahead."""
    with write(engine) as connection:
        for table, name in (
            (DELIVERY, "enqueued_at"), (DELIVERY, "due_at"), (DELIVERY, "claimed_until"),
            (ATTEMPT, "finished_at"), (MAILBOX, "paused_until"),
        ):  # fmt: skip
            rows = connection.execute(
                select(table.c.id, table.c[name]).where(table.c[name].is_not(None))
            ).all()
            for key, moment in rows:
                connection.execute(
                    update(table).where(table.c.id == key).values({name: moment + HOUR})
                )


def _late(engine: Engine) -> int:
    """Count what waits for more than a minute."""
    with read(engine) as connection:
        soon = now(connection) + timedelta(minutes=1)
        return connection.execute(
            select(func.count())
            .select_from(DELIVERY)
            .where(
                ((DELIVERY.c.state == "queued") & (DELIVERY.c.due_at > soon))
                | (DELIVERY.c.claimed_until > soon)
            )
        ).scalar_one()


def _claim(whole: Whole, limit: int, visit: str = "visit/1") -> list[lane.Claimed]:
    with write(whole.engine) as connection:
        return lane.claim(
            connection,
            mailbox_id=whole.mailbox_id("contoso"),
            claimed_by=visit,
            limit=limit,
            lease_seconds=LEASE_SECONDS,
        )


def _put_off(whole: Whole) -> None:
    (claimed,) = _claim(whole, 1)
    outcome = lane.Outcome(
        delivery_id=claimed.id,
        mailbox_id=claimed.mailbox_id,
        claimed_by="visit/1",
        transition=RETRY,
        delay_seconds=30.0,
        reason="no-answer",
        attempt=lane.AttemptRecord(stage=Stage.BODY, rule="no-answer", took_permit=True),
    )
    with write(whole.engine) as connection:
        lane.settle(connection, [outcome])


async def test_nothing_waits_for_the_hour_by_which_the_clock_was_set_back(whole: Whole) -> None:
    """What was enqueued, put off or claimed an hour ahead is due now, seen from the rows alone."""
    send_many(whole, 1)
    _put_off(whole)
    send_many(whole, 2)
    _claim(whole, 1, "visit/2")
    _as_if_written_an_hour_ahead(whole.engine)
    assert _late(whole.engine) == 3

    with write(whole.engine) as connection:
        called = lane.call_back(connection, lease_seconds=LEASE_SECONDS)
        again = lane.call_back(connection, lease_seconds=LEASE_SECONDS)

    assert (called, again) == (3, 0)
    assert _late(whole.engine) == 0


async def test_what_a_producer_wants_later_stays_later(whole: Whole) -> None:
    """A ``not_before`` is a moment of the customer's; no setting of the clock moves it."""
    with read(whole.engine) as connection:
        tomorrow = now(connection) + timedelta(days=1)
    send_many(whole, 1, not_before=tomorrow)

    with write(whole.engine) as connection:
        called = lane.call_back(connection, lease_seconds=LEASE_SECONDS)

    assert called == 0


async def test_a_pause_lasts_no_longer_because_the_clock_was_set_back(whole: Whole) -> None:
    """What Exchange asked for is waited for, not the hour."""
    with write(whole.engine) as connection:
        lane.pause(
            connection, mailbox_ids=[whole.mailbox_id("contoso")], seconds=30.0, reason="busy"
        )
    _as_if_written_an_hour_ahead(whole.engine)

    with write(whole.engine) as connection:
        lane.clock_was_set(connection, seconds=-3600.0, lease_seconds=LEASE_SECONDS)
        until = connection.execute(select(MAILBOX.c.paused_until)).scalar_one()
        left = (until - now(connection)).total_seconds()

    assert left == pytest.approx(30.0, abs=15.0)


async def test_living_visits_keep_their_claims_when_the_clock_is_set_forward(whole: Whole) -> None:
    """Claims that only the step let run out get another lease instead of being taken back."""
    send_many(whole, 2)
    claimed = _claim(whole, 2)
    with write(whole.engine) as connection:
        connection.execute(
            update(DELIVERY).values(claimed_until=now(connection) - timedelta(minutes=59))
        )

    with write(whole.engine) as connection:
        lane.clock_was_set(connection, seconds=3600.0, lease_seconds=LEASE_SECONDS)
        swept = lane.sweep(connection)

    assert swept.recovered == 0
    assert [whole.row(one.id).state for one in claimed] == ["sending", "sending"]
