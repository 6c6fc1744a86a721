"""Alerts that ended without being sent though nobody took them back: nothing ends in silence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Float, bindparam, func, or_, select

from models.clock import utc_after
from models.lifecycle import State
from models.lookups import MAILBOX, TENANT
from models.moves import DELIVERY, in_state
from models.told_warnings import TOLD

UNSENT = "unsent"
"""The kind under which it is remembered that the operator was told."""

LEFT_BEHIND = "left-behind"
"""Reason of a delivery that was cancelled by the sweep: its mailbox was removed before."""

SHOWN = timedelta(days=1)
"""So far back it is shown how things stand."""

REMEMBERED = timedelta(days=7)
"""So far back the operator is told of what he was not told of."""

SETTLED = timedelta(seconds=60)
"""What has just ended is told later: others of the same storm will follow."""

GATHERED = timedelta(hours=1)
"""One mail in so long tells of such alerts, however many lanes they end in, one after the other."""

_D, _M, _T = DELIVERY.c, MAILBOX.c, TOLD.c


@dataclass(frozen=True, slots=True)
class Unsent:
    """
    Alerts of one mailbox that ended unsent for one reason.

    Attributes:
        reason: ``expired``, the rule of the verdict that held them up until their deadline, or
            ``LEFT_BEHIND``.
        first_at: When the first of them ended.
        last_at: When the last of them did.
    """

    tenant: str
    mailbox: str
    state: str
    reason: str | None
    alerts: int
    first_at: datetime
    last_at: datetime


def unsent(conn: Connection, *, within: timedelta = SHOWN) -> list[Unsent]:
    """Return what ended unsent within this time, the most first."""
    return _unsent(conn, within)


def new_unsent(conn: Connection) -> list[Unsent]:
    """Return what ended unsent and was not told to the operator; nothing so soon after another."""
    lately = conn.scalar(
        select(TOLD.c.id)
        .where(_T.kind == UNSENT, _T.told_at > utc_after(-GATHERED.total_seconds()))
        .limit(1)
    )
    if lately is not None:
        return []
    told = (
        select(func.max(_T.moment, type_=_T.moment.type))
        .where(_T.kind == UNSENT, _T.subject == _M.address)
        .correlate(MAILBOX)
        .scalar_subquery()
    )
    return _unsent(
        conn,
        REMEMBERED,
        _D.settled_at <= utc_after(-SETTLED.total_seconds()),
        or_(told.is_(None), _D.settled_at > told),
    )


def by_mailbox(unsent: Iterable[Unsent]) -> dict[str, datetime]:
    """Say of each mailbox when the last of these alerts ended: up to there it is told."""
    last: dict[str, datetime] = {}
    for one in unsent:
        last[one.mailbox] = max(one.last_at, last.get(one.mailbox, one.last_at))
    return last


def names(conn: Connection, mailbox_ids: Iterable[UUID]) -> dict[UUID, tuple[str, str]]:
    """Return tenant and address of mailboxes."""
    rows = conn.execute(
        select(_M.id, TENANT.c.slug, _M.address)
        .join_from(MAILBOX, TENANT, TENANT.c.id == _M.tenant_id)
        .where(_M.id.in_(list(mailbox_ids)))
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def _unsent(conn: Connection, within: timedelta, *conditions: Any) -> list[Unsent]:
    alerts = func.count().label("alerts")
    rows = conn.execute(
        select(
            TENANT.c.slug.label("tenant"),
            _M.address.label("mailbox"),
            _D.state,
            _D.reason,
            alerts,
            func.min(_D.settled_at, type_=_D.settled_at.type).label("first_at"),
            func.max(_D.settled_at, type_=_D.settled_at.type).label("last_at"),
        )
        .join_from(DELIVERY, MAILBOX, _M.id == _D.mailbox_id)
        .join(TENANT, TENANT.c.id == _D.tenant_id)
        .where(
            # In the words of the index, which has nothing else.
            in_state(State.CANCELLED, State.EXPIRED),
            or_(in_state(State.EXPIRED), _D.reason == LEFT_BEHIND),
            _D.settled_at > utc_after(bindparam("since", type_=Float())),
            *conditions,
        )
        .group_by(TENANT.c.slug, _M.address, _D.state, _D.reason)
        .order_by(alerts.desc(), TENANT.c.slug, _M.address, _D.reason),
        {"since": -within.total_seconds()},
    )
    return [Unsent(**row._mapping) for row in rows]  # noqa: SLF001 - a public name
