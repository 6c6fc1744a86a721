"""Parking and pausing: whom a cause concerns, and who resumes with whom."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select

from models import lane, lifecycle
from models.accounts import accounts
from models.database import write
from models.errors import NotFound
from models.ids import uuid7
from models.lane import AttemptRecord, Outcome, Recent, Scope
from tests.models.factories import MAILBOX, delivery_rows, world_rows


def park(engine: Engine, mailbox_id: UUID, scope: Scope = "mailbox", **changes: Any) -> set[UUID]:
    given = {
        "reason": "smtp-auth-disabled-mailbox",
        "meaning": "SMTP AUTH is off for this mailbox.",
        "next_step": "Switch it on.",
        "answer": "535 5.7.139",
        "probe_after_seconds": 900.0,
    } | changes
    with write(engine) as conn:
        return set(lane.park(conn, mailbox_id=mailbox_id, scope=scope, **given))


def mailbox(engine: Engine, mailbox_id: UUID) -> Any:
    with engine.connect() as conn:
        return conn.execute(select(MAILBOX).where(MAILBOX.c.id == mailbox_id)).one()


@pytest.mark.parametrize(("scope", "count"), [("mailbox", 1), ("tenant", 2), ("app", 4)])
def test_scope(engine: Engine, scope: Scope, count: int) -> None:
    """A cause parks the mailbox, its tenant, or all under the app registration; nobody else."""
    world = world_rows(engine, mailboxes=2)
    sibling = world_rows(engine, mailboxes=2, app_id=world.app_id)
    stranger = world_rows(engine)
    everyone = [*world.mailbox_ids, *sibling.mailbox_ids, stranger.mailbox_id]

    parked = park(engine, world.mailbox_id, scope)

    assert len(parked) == count
    assert {box for box in everyone if mailbox(engine, box).parked_at is not None} == parked
    row = mailbox(engine, world.mailbox_id)
    assert (row.park_scope, row.park_answer, row.park_count) == (scope, "535 5.7.139", 0)
    assert (row.probe_at - row.parked_at).total_seconds() == pytest.approx(900, abs=1)


def test_probe_parks_again(engine: Engine) -> None:
    """A probe that ends parked again is counted and keeps the time at which the wait began."""
    world = world_rows(engine)
    park(engine, world.mailbox_id)
    since = mailbox(engine, world.mailbox_id).parked_at

    park(engine, world.mailbox_id, probe_after_seconds=None)

    row = mailbox(engine, world.mailbox_id)
    assert (row.parked_at, row.park_count, row.probe_at) == (since, 1, None)


def test_own_cause_survives(engine: Engine) -> None:
    """A mailbox that waits for a cause of its own keeps it when its tenant is parked."""
    world = world_rows(engine, mailboxes=3)
    first, second, third = world.mailbox_ids
    park(engine, second, reason="grant-revoked")

    parked = park(engine, first, "tenant", reason="tenant-off")
    with write(engine) as conn:
        resumed = set(lane.resume_scope(conn, mailbox_id=third))

    assert parked == {first, second, third}
    assert resumed == {first, third}
    assert mailbox(engine, second).park_reason == "grant-revoked"


def test_resume(engine: Engine) -> None:
    """Resuming forgets the cause, and tells only of those that were parked."""
    world = world_rows(engine, mailboxes=2)
    park(engine, world.mailbox_id)

    with write(engine) as conn:
        resumed = lane.resume(conn, mailbox_ids=world.mailbox_ids)

    row = mailbox(engine, world.mailbox_id)
    assert resumed == [world.mailbox_id]
    assert (row.parked_at, row.park_reason, row.probe_at, row.park_count) == (None, None, None, 0)


def test_nothing_to_resume(engine: Engine) -> None:
    """Resuming what does not wait, or is not there, does nothing."""
    world = world_rows(engine)

    with write(engine) as conn:
        assert lane.resume(conn, mailbox_ids=[]) == []
        assert lane.resume_scope(conn, mailbox_id=world.mailbox_id) == []
        assert lane.resume_scope(conn, mailbox_id=uuid7()) == []


def test_unknown_mailbox(engine: Engine) -> None:
    """Parking a mailbox that is not there says so."""
    with pytest.raises(NotFound):
        park(engine, uuid7())


def test_pause(engine: Engine) -> None:
    """A pause is never shortened by a later one; ending it forgets the count."""
    world = world_rows(engine)
    boxes = [world.mailbox_id]
    with write(engine) as conn:
        lane.pause(conn, mailbox_ids=boxes, seconds=600, reason="throttled")
    longest = mailbox(engine, world.mailbox_id).paused_until
    with write(engine) as conn:
        lane.pause(conn, mailbox_ids=boxes, seconds=5, reason="throttled")

    row = mailbox(engine, world.mailbox_id)
    assert (row.paused_until, row.pause_reason, row.pause_count) == (longest, "throttled", 2)
    with write(engine) as conn:
        assert lane.unpause(conn, mailbox_ids=boxes) == boxes
        assert lane.unpause(conn, mailbox_ids=boxes) == []
    assert mailbox(engine, world.mailbox_id).pause_count == 0


def test_recent_submissions(engine: Engine) -> None:
    """Only tries that took a permit within the window count, and living claims are named."""
    world = world_rows(engine)
    ids = delivery_rows(engine, world, 4)
    with write(engine) as conn:
        lane.claim(conn, mailbox_id=world.mailbox_id, claimed_by="v1", limit=4, lease_seconds=20)
        lane.settle(
            conn,
            [
                Outcome(
                    delivery_id=key,
                    mailbox_id=world.mailbox_id,
                    claimed_by="v1",
                    transition=lifecycle.ACCEPT,
                    attempt=AttemptRecord(stage="body", rule="accepted", took_permit=took),
                )
                for key, took in zip(ids, [True, True, False], strict=False)
            ],
        )
        account = accounts(conn, [world.mailbox_id])[world.mailbox_id]
        within = lane.recent_submissions(conn, account=account, window_seconds=60)
        outside = lane.recent_submissions(conn, account=account, window_seconds=-1)
        other = lane.recent_submissions(conn, account="nobody@else.example", window_seconds=60)

    assert len(within.ages_ms) == 2
    assert all(0 <= age < 10_000 for age in within.ages_ms)
    [(visit, left, mailbox_id)] = within.in_hand
    assert mailbox_id == world.mailbox_id
    assert visit == "v1"
    assert 0 < left <= 20
    assert outside.ages_ms == []
    assert other == Recent(ages_ms=[], in_hand=[])
