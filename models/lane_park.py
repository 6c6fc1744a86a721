"""Letting lanes wait: parked until a cause is removed, paused until a moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Uuid,
    and_,
    bindparam,
    case,
    func,
    null,
    or_,
    select,
    update,
)

from models.batches import plain
from models.clock import utc_after, utc_now
from models.errors import NotFound
from models.lookups import REMOVED
from models.tables import METADATA

Scope = Literal["mailbox", "tenant", "app"]
"""Whom a cause concerns: one mailbox, a whole tenant, or all that use an app registration."""

_MAILBOX = METADATA.tables["mailbox"]
_TENANT = METADATA.tables["tenant"]
_M: Any = _MAILBOX.c


def park(
    conn: Connection,
    *,
    mailbox_id: UUID,
    scope: Scope,
    reason: str,
    meaning: str,
    next_step: str,
    answer: str,
    probe_after_seconds: float | None,
    resumes_seen: int | None = None,
) -> list[UUID]:
    """
    Let the lanes that a cause concerns wait for a person.

    A mailbox that already waits for another cause keeps that one: it will still be true when
    this one is gone. The mailbox that met the cause always takes the new one.

    Args:
        conn: A transaction that may write.
        mailbox_id: The mailbox that met the cause.
        scope: How far it reaches.
        reason: The verdict's rule.
        meaning: What it means, for a person.
        next_step: What that person has to do.
        answer: The raw answer.
        probe_after_seconds: After this the sweep lets one mail try; None: only a person resumes.
        resumes_seen: The mailbox's ``resume_count`` when it met the cause; None: not asked for.

    Returns:
        All mailboxes in the scope; each of them is parked now. None of them where the mailbox was
        resumed since it met the cause: whoever resumed it knew better.

    Raises:
        NotFound: There is no such mailbox.
    """
    same_cause = and_(_M.park_reason == reason, _M.park_scope == scope)
    concerned = _concerned(conn, mailbox_id, scope)
    # Locked, so that a resume comes before or after this, not into the middle.
    seen = select(_M.resume_count).where(_M.id == mailbox_id).with_for_update()
    if resumes_seen not in {None, conn.scalar(seen)}:
        return []
    probe_at = null() if probe_after_seconds is None else utc_after(probe_after_seconds)
    conn.execute(
        update(_MAILBOX)
        .where(concerned, or_(_M.id == mailbox_id, _M.parked_at.is_(None), same_cause))
        .values(
            parked_at=case(
                (same_cause, func.coalesce(_M.parked_at, utc_now(), type_=_M.parked_at.type)),
                else_=utc_now(),
            ),
            # Parked again while parked: that was a probe. Only the one that probed counts it.
            park_count=case(
                (and_(_M.id == mailbox_id, _M.parked_at.is_not(None)), _M.park_count + 1),
                else_=_M.park_count,
            ),
            park_reason=reason,
            park_scope=scope,
            park_meaning=meaning,
            park_next_step=next_step,
            park_answer=plain(answer),
            probe_at=probe_at,
        )
    )
    return _ids(conn, concerned)


def take_probe(conn: Connection, *, mailbox_id: UUID, again_seconds: float) -> bool:
    """
    Take the right to try whether the cause is gone, if its time has come; one visit gets it.

    Args:
        conn: A transaction that may write.
        mailbox_id: A parked mailbox.
        again_seconds: After this another visit may, unless the answer said otherwise.
    """
    taken = conn.execute(
        update(_MAILBOX)
        .where(_M.id == mailbox_id, _M.parked_at.is_not(None), _M.probe_at <= utc_now())
        .values(probe_at=utc_after(again_seconds))
    )
    return taken.rowcount == 1


def leave_probe(conn: Connection, *, mailbox_id: UUID) -> None:
    """Give that right back: there was nothing to try it with."""
    conn.execute(
        update(_MAILBOX)
        .where(_M.id == mailbox_id, _M.parked_at.is_not(None))
        .values(probe_at=utc_now())
    )


def resume(conn: Connection, *, mailbox_ids: Sequence[UUID]) -> list[UUID]:
    """Let these mailboxes send again; return those that were parked."""
    if not mailbox_ids:
        return []
    return _resume(conn, _M.id.in_(_bound(mailbox_ids)))


def resume_scope(conn: Connection, *, mailbox_id: UUID) -> list[UUID]:
    """
    Let all send again that were parked for the same cause as this mailbox, this one included.

    The same cause is the same reason and scope within the tenant or the app registration that
    the scope names.

    Returns:
        Those that were parked.
    """
    row = conn.execute(
        select(_M.parked_at, _M.park_scope, _M.park_reason).where(_M.id == mailbox_id)
    ).one_or_none()
    if row is None or row.parked_at is None:
        return []
    same_cause = and_(_M.park_reason == row.park_reason, _M.park_scope == row.park_scope)
    concerned = _concerned(conn, mailbox_id, row.park_scope)
    return _resume(conn, and_(concerned, or_(_M.id == mailbox_id, same_cause)))


def pause(
    conn: Connection, *, mailbox_ids: Sequence[UUID], seconds: float, reason: str
) -> list[UUID]:
    """
    Let these lanes wait because the server asked for patience.

    A longer pause that is under way stays; every call adds one to ``pause_count``.

    Returns:
        The mailboxes that were found.
    """
    if not mailbox_ids:
        return []
    until = utc_after(seconds)
    longer = case((_M.paused_until > until, _M.paused_until), else_=until)
    rows = conn.execute(
        update(_MAILBOX)
        .where(_M.id.in_(_bound(mailbox_ids)))
        .values(paused_until=longer, pause_reason=reason, pause_count=_M.pause_count + 1)
        .returning(_M.id)
    )
    return list(rows.scalars())


def unpause(conn: Connection, *, mailbox_ids: Sequence[UUID]) -> list[UUID]:
    """End pauses and forget how many there were in a row; return those that had any."""
    if not mailbox_ids:
        return []
    rows = conn.execute(
        update(_MAILBOX)
        .where(
            _M.id.in_(_bound(mailbox_ids)),
            or_(_M.paused_until.is_not(None), _M.pause_count > 0),
        )
        .values(paused_until=null(), pause_reason=null(), pause_count=0)
        .returning(_M.id)
    )
    return list(rows.scalars())


def concerned(conn: Connection, mailbox_id: UUID, scope: Scope) -> list[UUID]:
    """Name the mailboxes that a cause of this scope concerns, this one included."""
    return _ids(conn, _concerned(conn, mailbox_id, scope))


def _resume(conn: Connection, which: ColumnElement[bool]) -> list[UUID]:
    rows = conn.execute(
        update(_MAILBOX)
        .where(which, _M.parked_at.is_not(None), _M.park_reason != REMOVED)
        .values(
            parked_at=null(),
            park_reason=null(),
            park_scope=null(),
            park_meaning=null(),
            park_next_step=null(),
            park_answer=null(),
            park_count=0,
            resume_count=_M.resume_count + 1,
            resumed_at=utc_now(),
            probe_at=null(),
        )
        .returning(_M.id)
    )
    return list(rows.scalars())


def _concerned(conn: Connection, mailbox_id: UUID, scope: str) -> ColumnElement[bool]:
    row = conn.execute(
        select(_M.tenant_id, _TENANT.c.app_registration_id)
        .join(_TENANT, _TENANT.c.id == _M.tenant_id)
        .where(_M.id == mailbox_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no mailbox {mailbox_id}")
    which: ColumnElement[bool] = _M.id == mailbox_id
    if scope == "app":
        tenants = select(_TENANT.c.id).where(_TENANT.c.app_registration_id == row[1])
        which = _M.tenant_id.in_(tenants)
    elif scope == "tenant":
        which = _M.tenant_id == row.tenant_id
    return which


def _ids(conn: Connection, which: ColumnElement[bool]) -> list[UUID]:
    return list(conn.execute(select(_M.id).where(which).order_by(_M.id)).scalars())


def _bound(ids: Sequence[UUID]) -> Any:
    return bindparam("ids", list(ids), type_=Uuid(), expanding=True)
