"""What a verb writes to the audit trail of a mailbox."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from models import audit


def note(
    conn: Connection,
    actor: str,
    action: str,
    address: str,
    reason: str | None = None,
    **detail: Any,
) -> None:
    """Write to the audit trail who did what with a mailbox."""
    audit.write(
        conn,
        audit.Entry(
            actor=actor,
            action=action,
            subject_kind="mailbox",
            subject=address,
            reason=reason,
            detail=detail,
        ),
    )
