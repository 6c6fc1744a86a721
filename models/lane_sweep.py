"""
What no visit does: take back what dead visits held, end what is late, see which lanes are due.

What was left behind in a removed mailbox is ended too. Every statement here reads partial indexes
only, so its cost follows what is queued and in hand, never what was sent before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
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
from models.lane_recover import Begun, Composing, recover
from models.lifecycle import CANCEL, EXPIRE, State
from models.lookups import MAILBOX, REMOVED
from models.moves import DELIVERY, in_state, move
from models.quota import DayLimits
from models.quota_counts import prune
from models.unsent import LEFT_BEHIND, names

EXPIRED = "expired"
"""Reason of a delivery that waited past its deadline."""

CANCELLED = "cancelled"
"""Reason of a delivery that somebody took back."""

MOST_AT_ONCE = 5000
"""Rows that a sweep takes back or expires at most, so that it holds up nobody for long."""
_D = DELIVERY.c


@dataclass(frozen=True, slots=True)
class Ended:
    """How many alerts of a mailbox a sweep ended unsent, and why."""

    tenant: str
    mailbox: str
    reason: str
    alerts: int


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
    left_behind: int = 0
    """Cancelled, because their mailbox was removed before."""
    ended: tuple[Ended, ...] = ()
    """Where it expired, and where it was left behind."""


def sweep(
    conn: Connection,
    *,
    claim_limit: int = 3,
    most: int = MOST_AT_ONCE,
    bucket_seconds: float = DayLimits().bucket_seconds,
    begun: Callable[[Connection], Begun] | None = None,
    composing: Callable[[Connection], Composing] | None = None,
    only: Collection[str] | None = None,
    unless: Callable[[Connection], bool] | None = None,
) -> Sweep:
    """
    Do all of a sweep in one transaction; see ``recover``, ``expire``, ``end_left_behind``, ``due``.

    Args:
        conn: A transaction that may write.
        claim_limit: A delivery in hand at so many deaths of a worker is dead itself.
        most: Take back at most so many claims and expire at most so many deliveries.
        bucket_seconds: How finely recipients are counted, see ``quota``.
        begun: Tells which submissions visits have begun; None: nothing is known of any.
        composing: Tells what visits are composing, likewise.
        only: Take back what these visits held and nothing else; None: whatever it is.
        unless: Says that nothing is to be taken back after all; asked first.
    """
    if only != [] and unless is not None and unless(conn):
        only = []
    recovered, buried, more_claims = recover(
        conn,
        claim_limit=claim_limit,
        most=most,
        bucket_seconds=bucket_seconds,
        begun={} if begun is None else begun(conn),
        composing={} if composing is None else composing(conn),
        only=only,
    )
    late = _ended(conn, _EXPIRE, most)
    left = _ended(conn, _LEAVE, most)
    expired, left_behind = (sum(found.values()) for found in (late, left))
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
        more=more_claims or max(expired, left_behind) >= most,
        left_behind=left_behind,
        ended=_named(conn, {EXPIRED: late, LEFT_BEHIND: left}),
    )


def expire(conn: Connection, *, most: int = MOST_AT_ONCE) -> int:
    """Expire queued deliveries past their deadline, at most so many; return how many."""
    return sum(_ended(conn, _EXPIRE, most).values())


def end_left_behind(conn: Connection, *, most: int = MOST_AT_ONCE) -> int:
    """
    Cancel what is queued in removed mailboxes, at most so much; return how many.

    Nothing is accepted for a removed mailbox, but what was once is told and not kept for ever.
    """
    return sum(_ended(conn, _LEAVE, most).values())


def _ended(conn: Connection, statement: Update, most: int) -> Counter[UUID]:
    return Counter(row.mailbox_id for row in conn.execute(statement, {"most": most}))


def _named(conn: Connection, found: Mapping[str, Counter[UUID]]) -> tuple[Ended, ...]:
    mailboxes = {key for counts in found.values() for key in counts}
    known = names(conn, mailboxes) if mailboxes else {}
    return tuple(
        Ended(*known[key], reason, alerts)
        for reason, counts in found.items()
        for key, alerts in counts.items()
    )


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
    .returning(_D.mailbox_id)
)

_LEFT = (
    select(_D.id)
    .where(
        in_state(State.QUEUED),
        _D.mailbox_id.in_(select(MAILBOX.c.id).where(MAILBOX.c.park_reason == REMOVED)),
    )
    .limit(_MOST)
    .with_for_update(skip_locked=True)
    .cte("left_behind")
)

_LEAVE = (
    move(CANCEL)
    .where(_D.id.in_(select(_LEFT.c.id)))
    .values(settled_at=utc_now(), reason=literal(LEFT_BEHIND))
    .returning(_D.mailbox_id)
)
