"""
What must still be true of deliveries in the very transaction that stores them.

They were looked up and sealed beforehand, and meanwhile a mailbox may have been removed, or a
deadline may have come. Both are decided here: by rows that nobody can take away until the
transaction ends, and by the database's clock, which also decides when a delivery expires.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select

from models import database, intake
from models.errors import PastDeadline, RouteGone
from models.intake import NewDelivery
from models.lookups import MAILBOX, REMOVED

_CHUNK = 500


def check(conn: Connection, deliveries: Sequence[NewDelivery]) -> None:
    """
    Make sure that these deliveries may be stored now.

    Args:
        conn: The transaction that stores them.
        deliveries: All that were handed in together, in their order.

    Raises:
        RouteGone: A mailbox was removed, or belongs to another tenant by now.
        PastDeadline: A deadline is past. Not of what was accepted before under its idempotency
            key: a producer that asks once more is answered as the first time.
    """
    _hold_mailboxes(conn, deliveries)
    _check_deadlines(conn, deliveries)


def _hold_mailboxes(conn: Connection, deliveries: Sequence[NewDelivery]) -> None:
    wanted = {(new.mailbox_id, new.tenant_id) for new in deliveries}
    # In one order: so do removals, and nobody waits for each other in a circle.
    ids = sorted({mailbox for mailbox, _ in wanted})
    there: set[tuple[UUID, UUID]] = set()
    for start in range(0, len(ids), _CHUNK):
        rows = conn.execute(
            select(MAILBOX.c.id, MAILBOX.c.tenant_id, MAILBOX.c.park_reason)
            .where(MAILBOX.c.id.in_(ids[start : start + _CHUNK]))
            .order_by(MAILBOX.c.id)
            # Only a removal waits for this lock, and it for a removal; parks and pauses do not.
            .with_for_update(read=True, key_share=True)
        )
        there |= {(row.id, row.tenant_id) for row in rows if row.park_reason != REMOVED}
    if wanted - there:
        raise RouteGone("a mailbox was removed just now")


def _check_deadlines(conn: Connection, deliveries: Sequence[NewDelivery]) -> None:
    timed = [new for new in deliveries if new.expires_at is not None]
    if not timed:
        return
    now = database.now(conn)
    late = [new for new in timed if new.expires_at is not None and new.expires_at <= now]
    known = intake.held(conn, late)
    late = [new for new in late if new.id not in known]
    if not late:
        return
    refused = {new.id for new in late}
    positions = tuple(place for place, new in enumerate(deliveries) if new.id in refused)
    said = past(deliveries[positions[0]].expires_at, now)
    raise PastDeadline(said, positions=positions, among=len(deliveries))


def past(deadline: datetime | None, now: datetime) -> str:
    """Say of a deadline that it is past."""
    assert deadline is not None
    return (
        f"is past: {deadline:%Y-%m-%dT%H:%M:%SZ}, and the database's clock says "
        f"{now:%Y-%m-%dT%H:%M:%SZ}; leave it out if the alert is to be sent anyway"
    )
