"""Finding the lanes that want a visit."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, exists, or_, select

from models.clock import utc_now
from models.lane_claim import severity_in
from models.lifecycle import State
from models.moves import DELIVERY, in_state
from models.severity import Severity
from models.tables import METADATA

_MAILBOX = METADATA.tables["mailbox"]
_TENANT = METADATA.tables["tenant"]
_D = DELIVERY.c


def due(conn: Connection) -> tuple[list[tuple[UUID, bool]], list[UUID]]:
    """
    Find the lanes that want a visit; it reads only.

    Returns:
        Mailboxes with a delivery due, each with whether something critical is among them, and
        those of them that are parked but may probe. Of several mailboxes that are parked for
        one cause one probes: the others would only hear the same.
    """
    lanes, probes, causes = [], [], set()
    for row in conn.execute(_DUE):
        if row.parked_at is not None:
            cause = _cause(row)
            if cause in causes:
                continue
            causes.add(cause)
            probes.append(row.id)
        lanes.append((row.id, bool(row.critical)))
    return lanes, probes


def _cause(row: Any) -> tuple[Any, ...]:
    concerned = {"app": row.app_registration_id, "tenant": row.tenant_id}
    return row.park_scope, row.park_reason, concerned.get(row.park_scope, row.id)


def _due() -> Select[Any]:
    """
    Write the query for the lanes that want a visit.

    The recursion hops from one mailbox to the next in the index of queued deliveries, so it
    costs one probe for each lane that has any, however long the lanes are. ``DISTINCT`` would
    read all of them.
    """
    queued = in_state(State.QUEUED)
    first = select(_D.mailbox_id).where(queued).order_by(_D.mailbox_id).limit(1).subquery()
    lanes = select(first.c.mailbox_id).cte("lanes", recursive=True)
    following = (
        select(_D.mailbox_id)
        .where(queued, _D.mailbox_id > lanes.c.mailbox_id)
        .order_by(_D.mailbox_id)
        .limit(1)
        .correlate(lanes)
        .scalar_subquery()
    )
    lanes = lanes.union_all(select(following).where(lanes.c.mailbox_id.is_not(None)))

    def waits(*severities: Severity) -> Any:
        return exists().where(
            _D.mailbox_id == mailbox.id,
            queued,
            severity_in(*severities),
            _D.due_at <= utc_now(),
        )

    mailbox = _MAILBOX.c
    return (
        select(
            mailbox.id,
            mailbox.tenant_id,
            mailbox.parked_at,
            mailbox.park_scope,
            mailbox.park_reason,
            _TENANT.c.app_registration_id,
            waits(Severity.CRITICAL).label("critical"),
        )
        .select_from(lanes)
        .join(_MAILBOX, mailbox.id == lanes.c.mailbox_id)
        .join(_TENANT, _TENANT.c.id == mailbox.tenant_id)
        .where(
            mailbox.connected_at.is_not(None),
            or_(mailbox.parked_at.is_(None), mailbox.probe_at <= utc_now()),
            or_(mailbox.paused_until.is_(None), mailbox.paused_until <= utc_now()),
            waits(*Severity),
        )
    )


_DUE = _due()
