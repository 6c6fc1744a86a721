"""Who did what, when and why. Entries are only ever added."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Uuid,
    and_,
    case,
    cast,
    exists,
    func,
    insert,
    or_,
    select,
    type_coerce,
)

from models.ids import uuid7
from models.lookups import MAILBOX, TENANT, unknown_tenant
from models.mentions import mentions
from models.stored import AsText
from models.tables import METADATA

AUDIT = METADATA.tables["audit_entry"]
_DELIVERY = METADATA.tables["delivery"]

_ONE_GO = timedelta(seconds=60)
"""Entries of one action that follow each other so closely are of one command."""


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


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """
    Which entries are meant; None means any.

    Attributes:
        tenant: A slug: what was done to the tenant, its mailboxes and its deliveries.
        actor: Who, or a part of the name; case does not matter.
        action: What, or its beginning: ``mailbox`` means ``mailbox-park`` too.
        subject: The slug, address, name or id it was done to.
        since: At this moment or later.
        until: Before this moment.
    """

    tenant: str | None = None
    actor: str | None = None
    action: str | None = None
    subject_kind: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """
    What somebody did at once, to one thing or to many.

    Attributes:
        first: The entry of the one thing, or of one of the many.
        size: How many things it was done to.
    """

    first: Recorded
    size: int


def entries(
    conn: Connection,
    *,
    subject_kind: str | None = None,
    subject: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
) -> list[Recorded]:
    """Return the latest entries first, of everything or of one subject."""
    wanted = AuditFilter(subject_kind=subject_kind, subject=subject, since=since)
    return find(conn, wanted, limit=limit)


def find(conn: Connection, wanted: AuditFilter, *, limit: int | None) -> list[Recorded]:
    """
    Return what matches, the latest first.

    Raises:
        NotFound: The filter names a tenant that there is not and never was.
    """
    return list(_entries(conn, wanted, limit=limit))


def actions(conn: Connection, wanted: AuditFilter, *, limit: int) -> list[Action]:
    """
    Return what was done, the latest first, with one action for all deliveries it concerned.

    Raises:
        NotFound: As ``find``.
    """
    found: list[Action] = []
    for row in _entries(conn, wanted, limit=None):
        if found and _same_action(found[-1].first, row):
            found[-1] = Action(row, found[-1].size + 1)
        elif len(found) == limit:
            break
        else:
            found.append(Action(row, 1))
    return found


def of_delivery(conn: Connection, delivery_id: UUID) -> list[Recorded]:
    """Return what people did with a delivery, the first first."""
    wanted = AuditFilter(subject_kind="delivery", subject=str(delivery_id))
    return find(conn, wanted, limit=None)[::-1]


def _same_action(one: Recorded, other: Recorded) -> bool:
    """Say whether both were written in one go: a command works through many in portions."""
    a, b = one.entry, other.entry
    return (
        a.subject_kind == b.subject_kind == "delivery"
        and (a.actor, a.action, a.reason) == (b.actor, b.action, b.reason)
        and abs(one.at - other.at) < _ONE_GO
    )


def _entries(conn: Connection, wanted: AuditFilter, *, limit: int | None) -> Iterator[Recorded]:
    # The keys sort by time too, and tell apart what was written in the same moment.
    statement = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
    for condition in _conditions(conn, wanted):
        statement = statement.where(condition)
    for row in conn.execution_options(yield_per=1000).execute(statement):
        yield Recorded(
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


def _conditions(conn: Connection, wanted: AuditFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.tenant is not None:
        conditions.append(_of_tenant(conn, wanted.tenant))
    if wanted.actor is not None:
        conditions.append(mentions(AUDIT.c.actor, wanted.actor))
    if wanted.action is not None:
        conditions.append(AUDIT.c.action.startswith(wanted.action, autoescape=True))
    if wanted.subject_kind is not None:
        conditions.append(AUDIT.c.subject_kind == wanted.subject_kind)
    if wanted.subject is not None:
        conditions.append(AUDIT.c.subject == wanted.subject)
    if wanted.since is not None:
        conditions.append(AUDIT.c.at >= wanted.since)
    if wanted.until is not None:
        conditions.append(AUDIT.c.at < wanted.until)
    return conditions


def _of_tenant(conn: Connection, slug: str) -> ColumnElement[bool]:
    itself = and_(AUDIT.c.subject_kind == "tenant", AUDIT.c.subject == slug)
    key = conn.scalar(select(TENANT.c.id).where(TENANT.c.slug == slug))
    if key is None:
        # What was done to one that is gone stays on record.
        if conn.scalar(select(AUDIT.c.id).where(itself).limit(1)) is None:
            raise unknown_tenant(conn, slug)
        return itself
    mailboxes = select(MAILBOX.c.address).where(MAILBOX.c.tenant_id == key)
    return or_(
        itself,
        and_(AUDIT.c.subject_kind == "mailbox", AUDIT.c.subject.in_(mailboxes)),
        and_(
            AUDIT.c.subject_kind == "delivery",
            # By a column, as a reader may not read all of them.
            exists(_DELIVERY.c.id).where(
                _DELIVERY.c.tenant_id == key, _is_delivery(conn.dialect.name)
            ),
        ),
    )


def _is_delivery(dialect: str) -> ColumnElement[bool]:
    if dialect == "sqlite":
        # There ids are stored without hyphens.
        return type_coerce(_DELIVERY.c.id, AsText()) == func.replace(AUDIT.c.subject, "-", "")
    # In any order the database tries the conditions: only ids are cast to one.
    key = case((AUDIT.c.subject_kind == "delivery", AUDIT.c.subject))
    return _DELIVERY.c.id == cast(key, Uuid())
