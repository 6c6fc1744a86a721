"""Parking what an answer concerns, unless its cause was removed meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from models import lane, senders
from models.lookups import app_name
from workers.cures import with_command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Connection

    from models.senders import Sender
    from workers.verdict import Scope, Verdict

log = structlog.get_logger()


def park_unless_renewed(
    conn: Connection,
    *,
    tried: Sender,
    verdict: Verdict,
    scope: Scope,
    answer: str,
    probe_after_seconds: float | None,
    over_credential: bool,
) -> list[UUID]:
    """
    Park a mailbox, and whatever else the scope names.

    Args:
        conn: A transaction that may write.
        tried: The sender as it was when the answer came.
        verdict: What the answer means.
        scope: How far it reaches.
        answer: As it was given, with its trace id.
        probe_after_seconds: When one mail may try by itself; None: never.
        over_credential: It was about the grant or the app's secret: it stands only while these are
            the same as then.

    Returns:
        What was parked; nothing where the answer is out of date.
    """
    if over_credential:
        found = senders.sender(conn, tried.mailbox_id)
        if found and found.connected and found.credential != tried.credential:
            return []
    return lane.park(
        conn,
        mailbox_id=tried.mailbox_id,
        scope=scope.value,
        reason=verdict.rule,
        meaning=verdict.meaning,
        next_step=with_command(
            verdict.next_step,
            verdict.rule,
            address=tried.address,
            tenant=tried.tenant_slug,
            account=tried.auth_user,
            app=app_name(conn, tried.app_id),
        ),
        answer=answer,
        probe_after_seconds=probe_after_seconds,
        resumes_seen=tried.resume_count,
    )


def tell_parked(mailbox_id: UUID, verdict: Verdict, scope: Scope, parked: Sequence[UUID]) -> None:
    """Log what was parked, and what a person has to do."""
    log.error(
        "mailbox_parked",
        mailbox_id=str(mailbox_id),
        scope=scope.value,
        mailboxes=len(parked),
        reason=verdict.rule,
        meaning=verdict.meaning,
        next_step=verdict.next_step,
    )
