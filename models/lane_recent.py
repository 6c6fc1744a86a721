"""What a mailbox has submitted lately, for pacing that lost its own memory."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, Float, Uuid, bindparam, func, select

from models.clock import utc_after, utc_now
from models.lifecycle import State
from models.moves import DELIVERY, in_state
from models.tables import METADATA

_A = METADATA.tables["attempt"].c
_D = DELIVERY.c


@dataclass(frozen=True, slots=True)
class Recent:
    """What counts against a mailbox's limits, as SQL knows it."""

    ages_ms: list[int]
    """How long ago each try ended that reached the rate limit, youngest first."""
    in_hand: list[tuple[str, float]]
    """Visits that hold deliveries, with the seconds until their claims run out."""


def recent_submissions(conn: Connection, *, mailbox_id: UUID, window_seconds: float) -> Recent:
    """
    Tell what a mailbox has submitted within the window, and who is at it now.

    Ages are rounded down, so a permit made from one runs out late rather than early.
    """
    given = {"mailbox": mailbox_id, "window": -float(window_seconds)}
    # In this order: on PostgreSQL each statement sees what was committed before it, and a mail that
    # is settled between the two must be seen twice rather than not at all.
    visits = conn.execute(_VISITS, {"mailbox": mailbox_id}).all()
    tries = conn.execute(_TRIES, given).all()
    return Recent(
        ages_ms=[max(0, int((now - then).total_seconds() * 1000)) for then, now in tries],
        in_hand=[(visit, max(0.0, (until - now).total_seconds())) for visit, until, now in visits],
    )


_LANE = bindparam("mailbox", type_=Uuid())

_TRIES = (
    select(_A.finished_at, utc_now())
    .where(
        _A.mailbox_id == _LANE,
        _A.finished_at > utc_after(bindparam("window", type_=Float())),
        _A.took_permit,
    )
    .order_by(_A.finished_at.desc())
)

_VISITS = (
    select(_D.claimed_by, func.max(_D.claimed_until, type_=_D.claimed_until.type), utc_now())
    .where(in_state(State.SENDING), _D.claimed_by >= "", _D.mailbox_id == _LANE)
    .group_by(_D.claimed_by)
    .order_by(_D.claimed_by)
)
