"""Lanes in which mail waits: how much, how long, and when the next may go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Uuid, cast, func, select

from models.clock import utc_now
from models.lifecycle import State
from models.lookups import MAILBOX, TENANT
from models.mailboxes import PAUSED, standing_of
from models.moves import DELIVERY, in_state
from models.severity import Severity
from models.stored import AsText


@dataclass(frozen=True, slots=True)
class WaitingLane:
    """
    A lane in which mail waits.

    Attributes:
        standing: Of its mailbox, see ``mailboxes.MailboxEntry``.
        waiting: All that is queued.
        due: So much of it might go now, were there permits and nothing in the way.
        critical: So much of it is critical.
        oldest_at: When the oldest of it was enqueued.
        next_at: When the next may go, as far as SQL knows; in the past: now. None: not before a
            person has acted.
    """

    mailbox_id: UUID
    mailbox: str
    tenant: str
    standing: str
    waiting: int
    due: int
    critical: int
    oldest_at: datetime
    next_at: datetime | None


def waiting_lanes(conn: Connection) -> list[WaitingLane]:
    """Return the lanes in which something is queued, the fullest first."""
    lanes = [_lane(row) for row in conn.execute(_LANES)]
    return sorted(lanes, key=lambda lane: (-lane.waiting, lane.mailbox))


def in_hand(conn: Connection) -> int:
    """Count the deliveries that visits hold at this moment."""
    return conn.execute(_IN_HAND).scalar_one()


def _lane(row: Any) -> WaitingLane:
    return WaitingLane(
        mailbox_id=row.mailbox_id,
        mailbox=row.address,
        tenant=row.slug,
        standing=standing_of(row),
        waiting=row.waiting,
        due=row.due,
        critical=row.critical,
        oldest_at=row.enqueued_at,
        next_at=_next_at(row, standing_of(row)),
    )


def _next_at(row: Any, standing: str) -> datetime | None:
    first: datetime = row.first_due_at
    if standing == "ready":
        return first
    # A parked mailbox may try one mail at times; one that is not connected may not.
    opens = {"parked": row.probe_at, "paused": row.paused_until}.get(standing)
    return None if opens is None else max(first, opens)


def _lanes() -> Any:
    """
    Write the query for what waits.

    All that is counted stands in the index of queued deliveries, so PostgreSQL reads no row of a
    long lane, and SQLite none beyond its state, which stands before the sealed content. Keys sort
    by the time they were made: the least of a lane is its oldest, of which one row is looked up.
    As text, because not every PostgreSQL has ``min(uuid)``.
    """
    d = DELIVERY.c
    lanes = (
        select(
            d.mailbox_id,
            func.count().label("waiting"),
            func.count().filter(d.due_at <= utc_now()).label("due"),
            func.count().filter(d.severity == int(Severity.CRITICAL)).label("critical"),
            func.min(d.due_at).label("first_due_at"),
            func.min(cast(d.id, AsText())).label("oldest"),
        )
        .where(in_state(State.QUEUED))
        .group_by(d.mailbox_id)
        .subquery("lanes")
    )
    return (
        select(
            lanes,
            d.enqueued_at,
            MAILBOX.c.address,
            MAILBOX.c.connected_at,
            MAILBOX.c.parked_at,
            MAILBOX.c.probe_at,
            MAILBOX.c.paused_until,
            PAUSED,
            TENANT.c.slug,
        )
        .select_from(lanes)
        .join(DELIVERY, d.id == cast(lanes.c.oldest, Uuid()))
        .join(MAILBOX, MAILBOX.c.id == lanes.c.mailbox_id)
        .join(TENANT, TENANT.c.id == MAILBOX.c.tenant_id)
    )


_LANES = _lanes()

_IN_HAND = select(func.count()).select_from(DELIVERY).where(in_state(State.SENDING))
