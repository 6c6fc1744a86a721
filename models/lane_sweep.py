"""
What no visit does: take back what dead visits held, expire what is late, see which lanes are due.

Every statement here reads partial indexes only, so its cost follows what is queued and in hand,
never what was sent before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from uuid import UUID

from sqlalchemy import (
    Connection,
    Integer,
    Update,
    Uuid,
    bindparam,
    literal,
    select,
)

from models.batches import as_parameter, table_of_rows
from models.clock import utc_now
from models.lane_due import due
from models.lane_maintenance import end_maintenance
from models.lane_recover import recover
from models.lifecycle import CANCEL, EXPIRE, State
from models.moves import DELIVERY, in_state, move
from models.quota import DayLimits
from models.quota_counts import prune

EXPIRED = "expired"
"""Reason of a delivery that waited past its deadline."""

CANCELLED = "cancelled"
"""Reason of a delivery that somebody took back."""

MOST_AT_ONCE = 5000
"""Rows that a sweep takes back or expires at most, so that it holds up nobody for long."""
_D = DELIVERY.c


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep found and did."""

    due: list[tuple[UUID, bool]]
    """Mailboxes to wake, and whether something critical waits there; probes included."""
    recovered: int
    """Claims of dead visits that are queued again."""
    buried: int
    """Claims of dead visits that became dead letters."""
    expired: int
    probes: list[UUID]
    """Parked mailboxes that may try one mail; one for each cause."""
    more: bool = False
    """There was more to do than one sweep does: sweep again soon."""
    resumed: list[UUID] = field(default_factory=list)
    """Mailboxes whose park by hand is over."""


def sweep(
    conn: Connection,
    *,
    claim_limit: int = 3,
    most: int = MOST_AT_ONCE,
    bucket_seconds: float = DayLimits().bucket_seconds,
) -> Sweep:
    """
    Do all of a sweep in one transaction; see ``recover``, ``expire`` and ``due``.

    Args:
        conn: A transaction that may write.
        claim_limit: A delivery in hand at so many deaths of a worker is dead itself.
        most: Take back at most so many claims and expire at most so many deliveries.
        bucket_seconds: How finely recipients are counted, see ``quota``.
    """
    recovered, buried, more_claims = recover(
        conn, claim_limit=claim_limit, most=most, bucket_seconds=bucket_seconds
    )
    expired = expire(conn, most=most)
    prune(conn)
    resumed = end_maintenance(conn)
    lanes, probes = due(conn)
    return Sweep(
        due=lanes,
        recovered=recovered,
        buried=buried,
        expired=expired,
        probes=probes,
        resumed=resumed,
        more=more_claims or expired >= most,
    )


def expire(conn: Connection, *, most: int = MOST_AT_ONCE) -> int:
    """Expire queued deliveries past their deadline, at most so many; return how many."""
    return len(conn.execute(_EXPIRE, {"most": most}).all())


def cancel(conn: Connection, ids: Sequence[UUID]) -> int:
    """
    Take queued deliveries back; return how many were still queued.

    Source:
        docs/lifecycle.md, arrow h.
    """
    if not ids:
        return 0
    given = as_parameter([{"id": key.hex} for key in ids])
    return conn.execute(_cancel(conn.dialect.name), given).rowcount


@cache
def _cancel(dialect: str) -> Update:
    given = table_of_rows(dialect, {"id": Uuid()}).c
    return (
        move(CANCEL)
        .where(_D.id == given.id)
        .values(settled_at=utc_now(), reason=literal(CANCELLED))
    )


_MOST = bindparam("most", type_=Integer(), literal_execute=True)

_LATE = (
    select(_D.id)
    .where(in_state(State.QUEUED), _D.expires_at.is_not(None), _D.expires_at <= utc_now())
    .order_by(_D.expires_at)
    .limit(_MOST)
    .with_for_update(skip_locked=True)
    # For the reason given in ``lane_claim``: a plain subquery can exceed its limit.
    .cte("late")
)

_EXPIRE = (
    move(EXPIRE)
    .where(_D.id.in_(select(_LATE.c.id)))
    .values(settled_at=utc_now(), reason=literal(EXPIRED))
    # SQLite's driver does not count the rows of a statement that begins with WITH.
    .returning(_D.id)
)
