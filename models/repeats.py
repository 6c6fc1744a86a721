"""How often the same answer came in a row: some answers turn from patience into a park."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, select

from models.database import now
from models.tables import METADATA

ATTEMPT = METADATA.tables["attempt"]

MEMORY = 200
"""Attempts looked at; six hours of quarter-hourly tries are 24."""


def repeats(
    conn: Connection,
    *,
    rule: str,
    delivery_id: UUID | None = None,
    mailbox_id: UUID | None = None,
) -> tuple[int, timedelta]:
    """
    Count the latest attempts in a row that ended by one rule.

    Args:
        conn: An open transaction.
        rule: The verdict's rule.
        delivery_id: Look at this delivery's attempts,
        mailbox_id: or at those of all the mailbox's deliveries.

    Returns:
        How many, and the time since the first of them; (0, zero) where the last was another.
    """
    scope = (
        ATTEMPT.c.delivery_id == delivery_id
        if delivery_id is not None
        else ATTEMPT.c.mailbox_id == mailbox_id
    )
    rows = conn.execute(
        select(ATTEMPT.c.rule, ATTEMPT.c.finished_at)
        .where(scope)
        .order_by(ATTEMPT.c.finished_at.desc())
        .limit(MEMORY)
    ).all()
    count, first = 0, None
    for row in rows:
        if row.rule != rule:
            break
        count, first = count + 1, row.finished_at
    return count, now(conn) - first if first is not None else timedelta(0)
