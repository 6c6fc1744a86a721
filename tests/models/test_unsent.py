"""Alerts that end unsent: found by an index, told once, and what a removed mailbox left behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from models import lane, told_warnings
from models.database import read, write
from models.ids import uuid7
from models.lookups import REMOVED
from models.operator_news import news, record
from models.unsent import LEFT_BEHIND, Unsent, unsent
from tests.models.factories import (
    LONG_AGO,
    World,
    delivery_rows,
    query_plan,
    row_of,
    set_delivery,
    set_mailbox,
    world_rows,
)
from tests.models.passing_time import pass_time


def sweep(engine: Engine) -> lane.Sweep:
    with write(engine) as conn:
        return lane.sweep(conn)


def seen(engine: Engine) -> list[Unsent]:
    with read(engine) as conn:
        return unsent(conn)


def tell(engine: Engine) -> tuple[Unsent, ...]:
    """Look, and write down that all of it was mailed."""
    with read(engine) as conn:
        found = news(conn, keep_warm_days=7)
    if found.to_record:
        with write(engine) as conn:
            record(conn, found, delivery_id=uuid7())
    return found.unsent


def expire(engine: Engine, world: World, count: int = 1, **changes: Any) -> None:
    delivery_rows(engine, world, count, expires_at=LONG_AGO, **changes)
    assert sweep(engine).expired == count


def test_an_expired_alert_is_shown(engine: Engine) -> None:
    """By mailbox, tenant and reason, for a day."""
    world = world_rows(engine, slug="contoso", mailboxes=2)
    expire(engine, world, 2)
    expire(engine, world, 3, mailbox_id=world.mailbox_ids[1])

    assert [(one.tenant, one.alerts, one.reason, one.state) for one in seen(engine)] == [
        ("contoso", 3, "expired", "expired"),
        ("contoso", 2, "expired", "expired"),
    ]
    pass_time(engine, hours=23)
    assert len(seen(engine)) == 2
    pass_time(engine, hours=2)
    assert seen(engine) == []


def test_what_expired_for_another_reason_is_shown_with_it(engine: Engine) -> None:
    """A deadline that came while the server refused tells what it refused for."""
    world = world_rows(engine)
    [key] = delivery_rows(engine, world)
    set_delivery(engine, key, state="expired", reason="throttled", settled_at=datetime.now(UTC))

    assert [one.reason for one in seen(engine)] == ["throttled"]


def test_what_people_took_back_is_not_shown(engine: Engine) -> None:
    """A cancelled alert is known to whoever cancelled it."""
    world = world_rows(engine)
    ids = delivery_rows(engine, world, 2)
    with write(engine) as conn:
        lane.cancel(conn, ids)

    assert seen(engine) == []


def test_a_removed_mailbox_keeps_nothing_queued(engine: Engine) -> None:
    """What was accepted for it before it went is ended by the sweep, with its reason, and shown."""
    world = world_rows(engine, slug="contoso", mailboxes=2)
    [left] = delivery_rows(engine, world)
    [other] = delivery_rows(engine, world, mailbox_id=world.mailbox_ids[1])
    set_mailbox(engine, world.mailbox_id, parked_at=LONG_AGO, park_reason=REMOVED)

    swept = sweep(engine)

    assert (swept.left_behind, swept.expired) == (1, 0)
    [ended] = swept.ended
    assert (ended.tenant, ended.reason, ended.alerts) == ("contoso", LEFT_BEHIND, 1)
    row = row_of(engine, left)
    assert (row.state, row.reason, row.settled_at is not None) == ("cancelled", LEFT_BEHIND, True)
    assert row_of(engine, other).state == "queued"
    assert [(one.reason, one.alerts) for one in seen(engine)] == [(LEFT_BEHIND, 1)]
    assert sweep(engine).left_behind == 0


def test_a_sweep_says_where_alerts_expired(engine: Engine) -> None:
    """So that the log can name tenant and mailbox."""
    world = world_rows(engine, slug="contoso")
    delivery_rows(engine, world, 4, expires_at=LONG_AGO)

    [ended] = sweep(engine).ended

    assert (ended.tenant, ended.reason, ended.alerts) == ("contoso", "expired", 4)


def test_the_operator_is_told_once(engine: Engine) -> None:
    """A minute after it ended, and then no more, whatever else happens."""
    world = world_rows(engine)
    expire(engine, world, 2)
    told = [tell(engine)]
    for minutes in (2, 2, 120, 2000):
        pass_time(engine, minutes=minutes)
        told.append(tell(engine))

    assert [sum(one.alerts for one in each) for each in told] == [0, 2, 0, 0, 0]


def test_a_storm_is_told_by_the_hour(engine: Engine) -> None:
    """Alerts that end one after the other make one mail an hour, and none of them is left out."""
    world = world_rows(engine, mailboxes=2)
    told = []
    for number in range(9):
        expire(engine, world, 1, mailbox_id=world.mailbox_ids[number % 2])
        pass_time(engine, minutes=20)
        told.append(sum(one.alerts for one in tell(engine)))
    pass_time(engine, minutes=60)
    told.append(sum(one.alerts for one in tell(engine)))

    assert sum(told) == 9
    assert sum(1 for one in told if one) <= 4


def test_it_is_remembered_what_was_told(engine: Engine) -> None:
    """The list of warnings has it, by mailbox."""
    world = world_rows(engine, mailboxes=2)
    expire(engine, world, 2)
    expire(engine, world, 1, mailbox_id=world.mailbox_ids[1])
    pass_time(engine, minutes=5)
    tell(engine)

    with read(engine) as conn:
        assert [(one.kind, one.tellings) for one in told_warnings.told(conn)] == [("unsent", 1)] * 2


@pytest.mark.parametrize("within", [timedelta(days=1), timedelta(days=7)])
def test_it_is_found_by_an_index(sqlite_url: str, within: timedelta) -> None:
    """However much was sent before, only what ended unsent is looked at."""
    plan = query_plan(sqlite_url, lambda conn: unsent(conn, within=within))

    assert any("ix_delivery_unsent" in step for step in plan)
    assert not [step for step in plan if step.startswith("SCAN delivery")]
