"""Claiming: what, in which order, and for whom."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from models import lane
from models.database import now, read, write
from models.ids import uuid7
from models.lane_claim import Claimed
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


def claim(engine: Engine, mailbox_id: UUID, visit: str = "v1", **options: Any) -> list[Claimed]:
    given = {"limit": 10, "lease_seconds": 20.0} | options
    with write(engine) as conn:
        return lane.claim(conn, mailbox_id=mailbox_id, claimed_by=visit, **given)


def test_order(engine: Engine) -> None:
    """The most severe comes first, then the one that is due longest, then the oldest."""
    world = world_rows(engine)
    normal = delivery_rows(engine, world, 2, severity=2)
    low = delivery_rows(engine, world, severity=3)
    critical = delivery_rows(engine, world, severity=0)
    set_delivery(engine, normal[1], due_at=LONG_AGO)

    claimed = claim(engine, world.mailbox_id)

    assert [row.id for row in claimed] == [*critical, normal[1], normal[0], *low]


def test_limit_takes_the_first(engine: Engine) -> None:
    """A batch is the head of the lane, and the next batch follows it."""
    world = world_rows(engine)
    ids = delivery_rows(engine, world, 7)

    batches = [claim(engine, world.mailbox_id, f"v{n}", limit=3) for n in range(3)]

    assert [[row.id for row in batch] for batch in batches] == [ids[:3], ids[3:6], ids[6:]]


def test_fields(engine: Engine) -> None:
    """A claimed delivery carries what the visit needs, with aware times."""
    world = world_rows(engine)
    [key] = delivery_rows(engine, world, severity=1, expires_at=FAR_AHEAD)

    [claimed] = claim(engine, world.mailbox_id)

    row = row_of(engine, key)
    assert claimed.sealed_bytes == len(b"sealed")
    assert claimed.refused == {}
    assert claimed.expires_at == FAR_AHEAD
    assert claimed.enqueued_at.utcoffset() is not None
    assert (claimed.tenant_id, claimed.message_id) == (world.tenant_id, row.message_id)
    assert (row.state, row.claimed_by) == ("sending", "v1")


def test_lease_by_database_clock(engine: Engine) -> None:
    """A claim lasts as long as asked for, counted on the database's clock."""
    world = world_rows(engine)
    [key] = delivery_rows(engine, world)
    with read(engine) as conn:
        before = now(conn)

    claim(engine, world.mailbox_id, lease_seconds=20.5)

    with read(engine) as conn:
        after = now(conn)
    until = row_of(engine, key).claimed_until
    assert (until - before).total_seconds() >= 20.4
    assert (until - after).total_seconds() <= 20.5


@pytest.mark.parametrize(
    "changes",
    [{"due_at": FAR_AHEAD}, {"expires_at": LONG_AGO}, {"state": "dead"}, {"state": "cancelled"}],
    ids=["later", "expired", "dead", "cancelled"],
)
def test_not_claimable(engine: Engine, changes: dict[str, Any]) -> None:
    """What is not due, is past its deadline or has left the lane is not claimed."""
    world = world_rows(engine)
    [key] = delivery_rows(engine, world)
    set_delivery(engine, key, **changes)

    assert claim(engine, world.mailbox_id) == []


@pytest.mark.parametrize(
    ("changes", "plain", "probing"),
    [
        ({}, 1, 1),
        ({"parked_at": LONG_AGO}, 0, 1),
        ({"paused_until": FAR_AHEAD}, 0, 1),
        ({"paused_until": LONG_AGO}, 1, 1),
        ({"connected_at": None}, 0, 0),
    ],
    ids=["open", "parked", "paused", "pause-over", "not-connected"],
)
def test_mailbox_waits(engine: Engine, changes: dict[str, Any], plain: int, probing: int) -> None:
    """A waiting lane gives nothing, but to a probe; one never connected gives nothing at all."""
    world = world_rows(engine)
    delivery_rows(engine, world)
    if changes:
        set_mailbox(engine, world.mailbox_id, **changes)

    first = claim(engine, world.mailbox_id)
    second = first or claim(engine, world.mailbox_id, probing=True)

    assert (len(first), len(second)) == (plain, probing)


def test_only_critical(engine: Engine) -> None:
    """A visit for criticals takes nothing else."""
    world = world_rows(engine)
    delivery_rows(engine, world, 2, severity=1)
    critical = delivery_rows(engine, world, 2, severity=0)

    claimed = claim(engine, world.mailbox_id, only_critical=True)

    assert [row.id for row in claimed] == critical


def test_other_lanes_untouched(engine: Engine) -> None:
    """A claim takes from one lane only."""
    world, other = world_rows(engine), world_rows(engine)
    delivery_rows(engine, other)

    assert claim(engine, world.mailbox_id) == []


def test_never_twice(engine: Engine) -> None:
    """Visits that claim at the same moment never get the same delivery, and together get all."""
    world = world_rows(engine)
    ids = delivery_rows(engine, world, 120)

    with ThreadPoolExecutor(8) as pool:
        batches = pool.map(lambda n: claim(engine, world.mailbox_id, f"v{n}"), range(16))

    taken = [row.id for batch in batches for row in batch]
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(ids)
    assert len(taken) + len(claim(engine, world.mailbox_id, "rest", limit=200)) == 120


def test_renew(engine: Engine) -> None:
    """Renewing extends all that the visit holds and nothing of others."""
    world = world_rows(engine)
    delivery_rows(engine, world, 4)
    mine = claim(engine, world.mailbox_id, "mine", limit=3)
    [other] = claim(engine, world.mailbox_id, "other")
    before = row_of(engine, other.id).claimed_until

    with write(engine) as conn:
        renewed = lane.renew(conn, claimed_by="mine", lease_seconds=100)

    assert renewed == 3
    assert row_of(engine, other.id).claimed_until == before
    assert all(row_of(engine, row.id).claimed_until > before for row in mine)


def test_give_back(engine: Engine) -> None:
    """What is given back is due as before, uncounted, and only its holder can give it back."""
    world = world_rows(engine)
    [key] = delivery_rows(engine, world)
    due = row_of(engine, key).due_at
    claim(engine, world.mailbox_id, "mine")

    with write(engine) as conn:
        theirs = lane.give_back(conn, claimed_by="other", ids=[key])
        ours = lane.give_back(conn, claimed_by="mine", ids=[key])

    row = row_of(engine, key)
    assert (theirs, ours) == (0, 1)
    assert (row.state, row.claimed_by, row.attempts, row.claims) == ("queued", None, 0, 0)
    assert row.due_at == due


def test_claim_reads_the_lane_index(sqlite_url: str) -> None:
    """SQLite bounds a claim by mailbox, severity and due time in the index, and sorts nothing."""
    plan = query_plan(
        sqlite_url,
        lambda conn: lane.claim(
            conn, mailbox_id=uuid7(), claimed_by="v1", limit=10, lease_seconds=20
        ),
    )

    assert any("ix_delivery_lane (mailbox_id=? AND severity=? AND due_at<?)" in s for s in plan)
    assert not any("TEMP B-TREE" in step for step in plan)
