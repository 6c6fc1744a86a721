"""Who did what, when and why. Entries are only ever added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert, select

from models.ids import uuid7
from models.tables import METADATA

AUDIT = METADATA.tables["audit_entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One action of a person or a program.

    Attributes:
        actor: Who, such as ``cli:alice`` or ``web:bob@example.com``.
        action: What, a verb with its noun, such as ``replay`` or ``tenant-add``.
        subject_kind: ``tenant``, ``mailbox``, ``app``, ``delivery`` and the like.
        subject: The slug, address, name or id.
        reason: Why, in the actor's own words.
        detail: Further facts; never a secret.
    """

    actor: str
    action: str
    subject_kind: str
    subject: str
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An entry as it was written."""

    id: UUID
    at: datetime
    entry: Entry


def write(conn: Connection, *entries: Entry) -> None:
    """Add entries in the transaction of what they tell about: both are kept or neither."""
    write_all(conn, entries)


def write_all(conn: Connection, entries: Iterable[Entry]) -> None:
    """Add many entries at once, as ``write``."""
    rows = [
        {
            "id": uuid7(),
            "actor": entry.actor,
            "action": entry.action,
            "subject_kind": entry.subject_kind,
            "subject": entry.subject,
            "reason": entry.reason,
            "detail": dict(entry.detail),
        }
        for entry in entries
    ]
    if rows:
        conn.execute(insert(AUDIT), rows)


def entries(
    conn: Connection,
    *,
    subject_kind: str | None = None,
    subject: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
) -> list[Recorded]:
    """Return the latest entries first, of everything or of one subject."""
    # The keys sort by time too, and tell apart what was written in the same moment.
    statement = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
    if subject_kind is not None:
        statement = statement.where(AUDIT.c.subject_kind == subject_kind)
    if subject is not None:
        statement = statement.where(AUDIT.c.subject == subject)
    if since is not None:
        statement = statement.where(AUDIT.c.at >= since)
    return [
        Recorded(
            id=row.id,
            at=row.at,
            entry=Entry(
                actor=row.actor,
                action=row.action,
                subject_kind=row.subject_kind,
                subject=row.subject,
                reason=row.reason,
                detail=row.detail,
            ),
        )
        for row in conn.execute(statement)
    ]
