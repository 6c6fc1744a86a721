"""What becomes of waiting times when the database's clock is set."""

from __future__ import annotations

from sqlalchemy import Connection, Float, Update, and_, bindparam, exists, or_, select, update

from models.clock import utc_after, utc_moved, utc_now
from models.lifecycle import State
from models.moves import DELIVERY, in_state
from models.severity import Severity
from models.tables import METADATA

ROUNDING_SECONDS = 1.0

MAILBOX = METADATA.tables["mailbox"]
_D, _M = DELIVERY.c, MAILBOX.c
_A = METADATA.tables["attempt"].c


def clock_was_set(conn: Connection, *, seconds: float, lease_seconds: float) -> None:
    """
    Put right at once what the database's clock has made wrong by being set.

    Set forward, every claim would run out, in the hands of living visits: they get another lease.
    A wait that ends early does no harm. Set back, pauses would last as much longer: they are moved
    along; for the rest see ``call_back``. Moments that a customer gave (``expires_at``,
    ``not_before``) stay what they are.

    Several workers may call this for one step: what the first moved is no longer where the others
    look, and another lease only delays the recovery of a dead visit's claims by its own length.

    Args:
        conn: A transaction that may write.
        seconds: Ahead of where it was; negative where it was set back.
        lease_seconds: Of a claim.
    """
    if seconds > 0:
        conn.execute(_LEASED_AGAIN, {"since": -seconds, "lease": lease_seconds})
        return
    for statement in (_PAUSED, _PROBED):
        conn.execute(statement, {"by": seconds, "from": -seconds / 2})
    call_back(conn, lease_seconds=lease_seconds)


def call_back(conn: Connection, *, lease_seconds: float) -> int:
    """
    Let nothing wait for a moment that was written before the clock was set back.

    What tells it is the row itself: it was enqueued, or tried, later than now. A claim tells by
    lasting longer than any does. Nobody need have seen the step, so this heals what happened
    while no worker ran.

    Returns:
        How many rows were called back.
    """
    given = {"slack": ROUNDING_SECONDS, "lease": lease_seconds, "longest": 2 * lease_seconds}
    return conn.execute(_DUE, given).rowcount + conn.execute(_CLAIMED, given).rowcount


_SOON = utc_after(bindparam("slack", type_=Float()))
_LEASE = utc_after(bindparam("lease", type_=Float()))
_BY = bindparam("by", type_=Float())
_FROM = utc_after(bindparam("from", type_=Float()))
"""Later than this is what was written before the step, unless it was to be waited for long."""

_DUE: Update = (
    update(DELIVERY)
    .where(
        in_state(State.QUEUED),
        # Both always true: they let the lanes' index be read from where the future begins.
        _D.mailbox_id.in_(select(_M.id)),
        _D.severity.in_([int(severity) for severity in Severity]),
        _D.due_at > _SOON,
        or_(
            # Later than its arrival it is due only where the producer said so.
            and_(_D.enqueued_at > _SOON, _D.due_at <= _D.enqueued_at),
            exists().where(_A.delivery_id == _D.id, _A.finished_at > _SOON),
        ),
    )
    .values(due_at=utc_now())
)

_CLAIMED: Update = (
    update(DELIVERY)
    .where(
        in_state(State.SENDING),
        _D.claimed_by >= "",
        _D.claimed_until > utc_after(bindparam("longest", type_=Float())),
    )
    .values(claimed_until=_LEASE)
)

_LEASED_AGAIN: Update = (
    update(DELIVERY)
    .where(
        in_state(State.SENDING),
        _D.claimed_by >= "",
        _D.claimed_until > utc_after(bindparam("since", type_=Float())),
        _D.claimed_until <= utc_now(),
    )
    .values(claimed_until=_LEASE)
)

_PAUSED: Update = (
    update(MAILBOX)
    .where(_M.paused_until > _FROM)
    .values(paused_until=utc_moved(_M.paused_until, _BY))
)

_PROBED: Update = (
    update(MAILBOX).where(_M.probe_at > _FROM).values(probe_at=utc_moved(_M.probe_at, _BY))
)
