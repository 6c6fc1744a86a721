"""The sweep: dead visits, deadlines, lanes to wake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine

from models import lane, lane_recover, lane_sweep
from models.composing_deaths import EARLY
from models.database import write
from models.lane import Sweep
from tests.models.factories import (
    FAR_AHEAD,
    LONG_AGO,
    delivery_rows,
    query_plan,
    row_of,
    set_delivery,
    set_mailbox,
    world_rows,
)


def sweep(engine: Engine, **options: int) -> Sweep:
    with write(engine) as conn:
        return lane.sweep(conn, **options)


def abandon(engine: Engine, mailbox_id: UUID, visit: str = "gone", limit: int = 10) -> list[UUID]:
    """Claim, and let the claim run out."""
    with write(engine) as conn:
        claimed = lane.claim(
            conn, mailbox_id=mailbox_id, claimed_by=visit, limit=limit, lease_seconds=-1
        )
    return [row.id for row in claimed]


def test_first_was_in_hand(engine: Engine) -> None:
    """Of a dead visit's deliveries only the first is uncertain and counts a claim."""
    world = world_rows(engine)
    delivery_rows(engine, world, 2)
    critical = delivery_rows(engine, world, severity=0)
    held = abandon(engine, world.mailbox_id)

    result = sweep(engine)

    rows = [row_of(engine, key) for key in held]
    assert held[0] == critical[0]
    assert (result.recovered, result.buried) == (3, 0)
    assert [(row.state, row.claims, row.uncertain) for row in rows] == [
        ("queued", 1, True), ("queued", 0, False), ("queued", 0, False),
    ]  # fmt: skip
    assert {row.claimed_by for row in rows} == {None}


def test_each_visit_has_its_first(engine: Engine) -> None:
    """Two visits that died had one delivery in hand each."""
    world = world_rows(engine)
    delivery_rows(engine, world, 4)
    first = abandon(engine, world.mailbox_id, "one", 2)
    second = abandon(engine, world.mailbox_id, "two", 2)

    sweep(engine)

    assert [row_of(engine, key).claims for key in first + second] == [1, 0, 1, 0]


def test_living_visit_keeps(engine: Engine) -> None:
    """What is renewed in time is left alone."""
    world = world_rows(engine)
    [key] = delivery_rows(engine, world)
    abandon(engine, world.mailbox_id, "alive")
    with write(engine) as conn:
        lane.renew(conn, claimed_by="alive", lease_seconds=20)

    assert sweep(engine).recovered == 0
    assert row_of(engine, key).state == "sending"


def test_third_death_buries(engine: Engine) -> None:
    """A delivery that was in hand at three deaths is a dead letter."""
    world = world_rows(engine)
    [key] = delivery_rows(engine, world)
    results = []
    for turn in range(3):
        abandon(engine, world.mailbox_id, f"v{turn}")
        results.append(sweep(engine))

    row = row_of(engine, key)
    assert [(result.recovered, result.buried) for result in results] == [(1, 0), (1, 0), (0, 1)]
    assert (row.state, row.reason, row.claims) == ("dead", lane_recover.STOPS_ITS_WORKER, 3)
    assert row.settled_at is not None


def test_hold_policy(engine: Engine) -> None:
    """A tenant that wants no duplicates gets a dead letter for what may have been sent only."""
    world = world_rows(engine, uncertain_policy="hold")
    ids = delivery_rows(engine, world, 2)
    abandon(engine, world.mailbox_id)

    result = sweep(engine)

    rows = [row_of(engine, key) for key in ids]
    assert (result.recovered, result.buried) == (1, 1)
    assert [(row.state, row.reason, row.uncertain) for row in rows] == [
        ("dead", lane_recover.UNCERTAIN_HELD, True), ("queued", EARLY, False),
    ]  # fmt: skip


def test_expires(engine: Engine) -> None:
    """Queued deliveries past their deadline expire; others do not."""
    world = world_rows(engine)
    late, timely, endless = (
        delivery_rows(engine, world, expires_at=when)[0] for when in (LONG_AGO, FAR_AHEAD, None)
    )

    result = sweep(engine)

    assert result.expired == 1
    assert [row_of(engine, key).state for key in (late, timely, endless)] == [
        "expired", "queued", "queued",
    ]  # fmt: skip
    assert (row_of(engine, late).reason, result.more) == (lane_sweep.EXPIRED, False)


def test_limited_work(engine: Engine) -> None:
    """A sweep ends after so much work and says that more is left."""
    world = world_rows(engine)
    delivery_rows(engine, world, 5, expires_at=LONG_AGO)

    results = [sweep(engine, most=3) for _ in range(2)]

    assert [(result.expired, result.more) for result in results] == [(3, True), (2, False)]


@pytest.mark.parametrize(
    ("mailbox", "delivery", "due"),
    [
        ({}, {}, True),
        ({}, {"due_at": FAR_AHEAD}, False),
        ({}, {"state": "accepted"}, False),
        ({"connected_at": None}, {}, False),
        ({"parked_at": LONG_AGO}, {}, False),
        ({"parked_at": LONG_AGO, "probe_at": FAR_AHEAD}, {}, False),
        ({"parked_at": LONG_AGO, "probe_at": LONG_AGO}, {}, True),
        ({"paused_until": FAR_AHEAD}, {}, False),
        ({"paused_until": LONG_AGO}, {}, True),
    ],
    ids=[
        "due", "later", "done", "not-connected", "parked", "probe-later", "probe", "paused",
        "pause-over",
    ],
)  # fmt: skip
def test_due(engine: Engine, mailbox: dict[str, Any], delivery: dict[str, Any], due: bool) -> None:
    """A lane is due if something in it is, and the mailbox may send or probe."""
    world = world_rows(engine)
    [key] = delivery_rows(engine, world)
    if mailbox:
        set_mailbox(engine, world.mailbox_id, **mailbox)
    if delivery:
        set_delivery(engine, key, **delivery)

    result = sweep(engine)

    assert result.due == ([(world.mailbox_id, False)] if due else [])
    assert result.probes == ([world.mailbox_id] if due and "parked_at" in mailbox else [])


def test_due_names_criticals(engine: Engine) -> None:
    """Each lane is named once, with whether a critical is due there."""
    calm, urgent, later = (world_rows(engine) for _ in range(3))
    for world in (calm, urgent, later):
        delivery_rows(engine, world, 3)
    delivery_rows(engine, urgent, 2, severity=0)
    delivery_rows(engine, later, severity=0, not_before=FAR_AHEAD)

    assert sorted(sweep(engine).due) == sorted(
        [(calm.mailbox_id, False), (urgent.mailbox_id, True), (later.mailbox_id, False)]
    )


def test_one_probe_for_each_cause(engine: Engine) -> None:
    """Of mailboxes that are parked for one cause only one probes."""
    world = world_rows(engine, mailboxes=3)
    for box in world.mailbox_ids:
        delivery_rows(engine, world, mailbox_id=box)
    with write(engine) as conn:
        lane.park(
            conn, mailbox_id=world.mailbox_id, scope="tenant", reason="off", meaning="",
            next_step="", answer="", probe_after_seconds=-1,
        )  # fmt: skip

    result = sweep(engine)

    assert len(result.probes) == 1
    assert [box for box, _ in result.due] == result.probes


def test_cancel(engine: Engine) -> None:
    """Only what is still queued can be cancelled."""
    world = world_rows(engine)
    ids = delivery_rows(engine, world, 3)
    abandon(engine, world.mailbox_id, limit=1)

    with write(engine) as conn:
        cancelled = lane.cancel(conn, ids)

    assert cancelled == 2
    assert [row_of(engine, key).state for key in ids] == ["sending", "cancelled", "cancelled"]


@pytest.mark.parametrize(
    "part",
    [lane.recover, lane.expire, lane.end_left_behind, lane.due],
    ids=lambda part: part.__name__,
)
def test_reads_partial_indexes_only(sqlite_url: str, part: Callable[[Connection], Any]) -> None:
    """No part of a sweep scans the table of deliveries, however many were sent."""
    plan = query_plan(sqlite_url, part)

    assert any("ix_delivery_" in step for step in plan)
    assert not [step for step in plan if step.startswith("SCAN delivery") and "INDEX" not in step]
