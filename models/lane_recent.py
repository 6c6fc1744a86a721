"""What an account has submitted lately, for pacing that lost its own memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Float, Uuid, bindparam, func, select

from models.accounts import changed_lately, counted_for
from models.clock import utc_after, utc_now
from models.hand_mails import recent_by_hand
from models.lifecycle import State
from models.moves import DELIVERY, in_state
from models.tables import METADATA

_A = METADATA.tables["attempt"].c
_D = DELIVERY.c


class Holder(NamedTuple):
    """A visit that holds deliveries, or a command that borrowed a connection."""

    visit: str
    seconds_left: float
    """Until its claims run out."""
    mailbox_id: UUID


@dataclass(frozen=True, slots=True)
class Recent:
    """What counts against an account's limits, as SQL knows it."""

    ages_ms: list[int]
    """How long ago each try ended that reached the rate limit, youngest first."""
    in_hand: list[Holder]
    used: bool = False
    """Whether anything was tried at all within the longer time that was asked for."""


def recent_submissions(
    conn: Connection, *, account: str, window_seconds: float, used_seconds: float = 0.0
) -> Recent:
    """
    Tell what an account has submitted within the window, and who is at it now.

    Ages are rounded down, so a permit made from one runs out late rather than early.

    Args:
        conn: An open transaction.
        account: Who signs in; the mails of all its mailboxes count.
        window_seconds: How far back.
        used_seconds: How far back to see whether anything was tried, whatever came of it.
    """
    longest = max(window_seconds, used_seconds)
    given = {"account": account, "lately": -float(longest), "window": -float(longest)}
    # In this order: on PostgreSQL each statement sees what was committed before it, and a mail that
    # is settled between the two must be seen twice rather than not at all.
    visits = conn.execute(_VISITS, given).all()
    by_hand, holders = recent_by_hand(conn, account=account, seconds=longest)
    tries = conn.execute(_TRIES, given).all()
    ages = [(now - then).total_seconds() for then, counts, _, now in tries if counts] + by_hand
    # What another account did for a mailbox says nothing of this one.
    changed = changed_lately(conn, seconds=longest) if tries else {}
    tried = [(now - then).total_seconds() for then, _, whose, now in tries if whose not in changed]
    return Recent(
        ages_ms=sorted(max(0, int(age * 1000)) for age in ages if age < window_seconds),
        in_hand=[
            *(
                Holder(visit, max(0.0, (until - now).total_seconds()), mailbox_id)
                for visit, mailbox_id, until, now in visits
            ),
            *(Holder(*one) for one in holders),
        ],
        used=any(age < used_seconds for age in (*tried, *by_hand)),
    )


def ages_of(conn: Connection, mailbox_id: UUID, *, window_seconds: float) -> list[int]:
    """Tell the same ages of one mailbox alone, whoever signed in for it."""
    given = {"mailbox": mailbox_id, "window": -float(window_seconds)}
    rows = conn.execute(_TRIES_OF_ONE, given)
    return [max(0, int((now - then).total_seconds() * 1000)) for then, now in rows]


_COUNTED = counted_for()

_TRIES_OF_ONE = (
    select(_A.finished_at, utc_now())
    .where(
        _A.mailbox_id == bindparam("mailbox", type_=Uuid()),
        _A.finished_at > utc_after(bindparam("window", type_=Float())),
        _A.took_permit,
    )
    .order_by(_A.finished_at.desc())
)

_TRIES = (
    select(_A.finished_at, _A.took_permit, _A.mailbox_id, utc_now())
    .where(
        _A.mailbox_id.in_(_COUNTED),
        _A.finished_at > utc_after(bindparam("window", type_=Float())),
    )
    .order_by(_A.finished_at.desc())
)

_VISITS = (
    select(
        _D.claimed_by,
        _D.mailbox_id,
        func.max(_D.claimed_until, type_=_D.claimed_until.type),
        utc_now(),
    )
    .where(in_state(State.SENDING), _D.claimed_by >= "", _D.mailbox_id.in_(_COUNTED))
    .group_by(_D.claimed_by, _D.mailbox_id)
    .order_by(_D.claimed_by)
)
