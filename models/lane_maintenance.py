"""Parks by hand that have an end: a maintenance window is over without anybody having to watch."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, select

from models.clock import utc_now
from models.lane_park import resume
from models.lookups import BY_HAND
from models.tables import METADATA

_M = METADATA.tables["mailbox"].c

# By-hand parks never probe, so the moment of the probe is free to be that of the end.
_OVER = select(_M.id).where(_M.park_reason == BY_HAND, _M.probe_at <= utc_now())


def end_maintenance(conn: Connection) -> list[UUID]:
    """Let mailboxes send again whose park by hand has come to its end; return them."""
    return resume(conn, mailbox_ids=list(conn.scalars(_OVER)))
