"""Taking deliveries from a lane for one visit, keeping them while it lives, giving them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Float,
    Integer,
    String,
    Update,
    Uuid,
    bindparam,
    exists,
    literal_column,
    null,
    or_,
    select,
    update,
)

from models.clock import utc_after, utc_now
from models.lifecycle import CLAIM, RETURN, State
from models.moves import DELIVERY, in_state, move
from models.severity import Severity
from models.tables import METADATA

SUSPECT_CLAIMS = 2
"""
In hand at so many deaths of a worker, a delivery is suspected of causing them.

One more makes it a dead letter, so from here on only one suspect is in hand at a time, over all
workers: the next death then tells which one it is. Without that, a mail that stops its worker
would condemn whatever other visits of the same process had in hand each time.
"""

_MAILBOX = METADATA.tables["mailbox"]
_D = DELIVERY.c


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery as a visit needs it, from the moment it was claimed."""

    id: UUID
    tenant_id: UUID
    mailbox_id: UUID
    severity: int
    attempts: int
    claims: int
    uncertain: bool
    first_attempt_at: datetime | None
    enqueued_at: datetime
    due_at: datetime
    expires_at: datetime | None
    message_id: str
    payload_encrypted: bytes
    refused: dict[str, str]
    taken: dict[str, str]
    recipients: list[str]


_RETURNED = [_D[name] for name in Claimed.__dataclass_fields__]


def claim(
    conn: Connection,
    *,
    mailbox_id: UUID,
    claimed_by: str,
    limit: int,
    lease_seconds: float,
    only_critical: bool = False,
    probing: bool = False,
) -> list[Claimed]:
    """
    Take what is due from a lane, most severe first, then oldest.

    Args:
        conn: A transaction that may write.
        mailbox_id: Whose lane.
        claimed_by: Names the visit; no two visits ever share a name.
        limit: At most so many.
        lease_seconds: After this the sweep takes them back, unless ``renew`` is called before.
        only_critical: Leave all but criticals.
        probing: Claim although the mailbox is parked or paused, to try whether the cause is gone.

    Returns:
        In the order in which the visit must work them off, because the sweep takes the first one
        of a dead visit for the one that was in hand.

    Source:
        docs/lifecycle.md, arrow a.
    """
    rows = conn.execute(
        _claim(only_critical, probing),
        {"lane": mailbox_id, "visit": claimed_by, "most": limit, "lease": float(lease_seconds)},
    )
    # RETURNING promises no order.
    return sorted((Claimed(*row) for row in rows), key=_order)


def renew(conn: Connection, *, claimed_by: str, lease_seconds: float) -> int:
    """Keep all that a visit holds for so many seconds from now; return how many those are."""
    given = {"visit": claimed_by, "lease": float(lease_seconds)}
    return conn.execute(_RENEW, given).rowcount


def give_back(conn: Connection, *, claimed_by: str, ids: Sequence[UUID]) -> int:
    """
    Return deliveries that the visit did not come to; no attempt, due as before.

    Source:
        docs/lifecycle.md, arrow d.
    """
    if not ids:
        return 0
    return conn.execute(_GIVE_BACK, {"visit": claimed_by, "ids": list(ids)}).rowcount


def _order(row: Claimed) -> tuple[int, datetime, UUID]:
    return row.severity, row.due_at, row.id


def in_lane_order() -> tuple[Any, ...]:
    """Give the order of a lane, that of its index."""
    return _D.severity, _D.due_at, _D.id


def severity_in(*severities: Severity) -> Any:
    """
    Name severities one by one, in the statement's text.

    That makes ``due_at`` a bound of the index for each of them; with the severity left open,
    every delivery of the lane that waits for later would be looked at on the way.
    """
    return _D.severity.in_([literal_column(str(int(severity))) for severity in severities])


_S = DELIVERY.alias("suspect")
_SUSPECT_IN_HAND = exists().where(
    _S.c.state == literal_column(f"'{State.SENDING.value}'"),
    _S.c.claimed_by >= "",
    _S.c.claims >= SUSPECT_CLAIMS,
)


@cache
def _claim(only_critical: bool, probing: bool) -> Update:  # noqa: FBT001 - parts of a cache key
    ready = [_MAILBOX.c.id == bindparam("lane", type_=Uuid()), _MAILBOX.c.connected_at.is_not(None)]
    if not probing:
        ready += [
            _MAILBOX.c.parked_at.is_(None),
            or_(_MAILBOX.c.paused_until.is_(None), _MAILBOX.c.paused_until <= utc_now()),
        ]
    first = (
        select(_D.id)
        .where(
            in_state(State.QUEUED),
            _D.mailbox_id == bindparam("lane", type_=Uuid()),
            severity_in(*([Severity.CRITICAL] if only_critical else Severity)),
            _D.due_at <= utc_now(),
            or_(_D.expires_at.is_(None), _D.expires_at > utc_now()),
            exists().where(*ready),
            or_(_D.claims < SUSPECT_CLAIMS, ~_SUSPECT_IN_HAND),
        )
        .order_by(*in_lane_order())
        # In the text: with the limit unknown PostgreSQL plans for a tenth of all rows.
        .limit(bindparam("most", type_=Integer(), literal_execute=True))
        .with_for_update(skip_locked=True)
        # A CTE is run once; PostgreSQL may run a subquery that locks rows several times over,
        # and then take more of them than its limit says.
        .cte("first")
    )
    return (
        move(CLAIM)
        .where(_D.id.in_(select(first.c.id)))
        .values(
            claimed_by=bindparam("visit", type_=String()),
            claimed_until=utc_after(bindparam("lease", type_=Float())),
        )
        .returning(*_RETURNED)
    )


_RENEW = (
    update(DELIVERY)
    .where(in_state(State.SENDING), _D.claimed_by == bindparam("visit", type_=String()))
    .values(claimed_until=utc_after(bindparam("lease", type_=Float())))
)

_GIVE_BACK = (
    move(RETURN)
    .where(
        _D.claimed_by == bindparam("visit", type_=String()),
        _D.id.in_(bindparam("ids", type_=Uuid(), expanding=True)),
    )
    .values(claimed_by=null(), claimed_until=null())
)
