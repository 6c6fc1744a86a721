"""Deliveries as people look them up: lists, one with its attempts, by id or its beginning."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Subquery,
    cast,
    func,
    select,
    union_all,
)

from models.errors import Conflict, NotFound
from models.lifecycle import State
from models.lookups import MAILBOX, TENANT, mailbox_id, tenant_id
from models.mentions import mentions
from models.moves import DELIVERY, in_state
from models.partly_accepted import partly_accepted
from models.severity import Severity
from models.stored import AsText
from models.tables import METADATA

ATTEMPT = METADATA.tables["attempt"]

SHORTEST_PREFIX = 8
_HEX_DIGITS = 32
_HEX = re.compile(r"[0-9a-f]+")
_SHOWN_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """
    Which deliveries are meant; None means any.

    Attributes:
        tenant: A tenant's slug.
        mailbox: A mailbox's address.
        since: Only those that were handed in at this moment or later.
        until: Only those that were handed in before this moment.
        alert_id: As the alert carried it.
        recipient: An address, or a part of one; case does not matter.
        subject: A part of the subject; case does not matter.
        reason: The rule or word under which it waits, died or expired.
        refused: Only what was accepted while some of its recipients were refused.
    """

    state: State | None = None
    tenant: str | None = None
    mailbox: str | None = None
    severity: Severity | None = None
    since: datetime | None = None
    until: datetime | None = None
    alert_id: str | None = None
    recipient: str | None = None
    subject: str | None = None
    reason: str | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery as lists show it; its content stays sealed."""

    id: UUID
    tenant: str
    mailbox: str
    state: State
    severity: Severity
    subject: str
    alert_id: str | None
    recipients: tuple[str, ...]
    refused: dict[str, str]
    message_id: str
    enqueued_at: datetime
    due_at: datetime
    expires_at: datetime | None
    settled_at: datetime | None
    attempts: int
    claimed_by: str | None
    uncertain: bool
    reason: str | None
    reply_code: int | None
    enhanced_code: str | None
    reply_text: str | None
    replayed: int


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One try of a delivery."""

    id: UUID
    number: int
    counted: bool
    stage: str
    rule: str
    outcome: str
    reply_code: int | None
    enhanced_code: str | None
    reply_text: str | None
    smtp_host: str
    worker: str
    started_at: datetime
    finished_at: datetime
    took_permit: bool
    recipients: int
    uncertain: bool
    refused: dict[str, str] | None

    @property
    def duration_ms(self) -> int:
        """How long the try took."""
        return round((self.finished_at - self.started_at).total_seconds() * 1000)


@dataclass(frozen=True, slots=True)
class Shown:
    """A delivery with all of its tries, first one first."""

    delivery: DeliveryRow
    attempts: tuple[AttemptRow, ...]


def counted(column: ColumnElement[Any], *states: State) -> Subquery:
    """
    Return a subquery of ``key`` and ``deliveries``: how many are in these states, by a column.

    One part for each state: a condition on several at once could use none of the partial indexes,
    and would read every delivery there ever was.
    """
    parts = union_all(*(select(column.label("key")).where(in_state(state)) for state in states))
    each = parts.subquery()
    return select(each.c.key, func.count().label("deliveries")).group_by(each.c.key).subquery()


def list_deliveries(
    conn: Connection, wanted: DeliveryFilter | None = None, *, limit: int = 100
) -> list[DeliveryRow]:
    """
    Return the latest deliveries first.

    Raises:
        NotFound: The filter names a tenant or mailbox that does not exist.
    """
    # Keys sort by the time they were made, so the primary key serves as the index by time.
    statement = _listing().order_by(DELIVERY.c.id.desc()).limit(limit)
    for condition in conditions(conn, wanted or DeliveryFilter()):
        statement = statement.where(condition)
    return [_delivery(row) for row in conn.execute(statement)]


def find(conn: Connection, id_or_prefix: str) -> UUID:
    """
    Return the key of the one delivery whose id is, or begins with, this text.

    Args:
        conn: An open transaction.
        id_or_prefix: At least 8 hexadecimal digits; hyphens and case do not matter.

    Raises:
        NotFound: The text is no beginning of an id, or no delivery has it.
        Conflict: Several deliveries begin so.
    """
    digits = id_or_prefix.strip().lower().replace("-", "")
    if not _HEX.fullmatch(digits) or not SHORTEST_PREFIX <= len(digits) <= _HEX_DIGITS:
        raise NotFound(
            f"{id_or_prefix!r} is not a delivery id: give all of it, or its first "
            f"{SHORTEST_PREFIX} or more hexadecimal digits"
        )
    # A range instead of LIKE: it uses the primary key, whatever the database makes of a UUID.
    lowest = UUID(digits.ljust(_HEX_DIGITS, "0"))
    highest = UUID(digits.ljust(_HEX_DIGITS, "f"))
    found: list[UUID] = list(
        conn.scalars(
            select(DELIVERY.c.id)
            .where(DELIVERY.c.id.between(lowest, highest))
            .order_by(DELIVERY.c.id)
            .limit(_SHOWN_CANDIDATES + 1)
        )
    )
    if not found:
        raise NotFound(f"there is no delivery {id_or_prefix!r}")
    if len(found) > 1:
        shown = ", ".join(str(key) for key in found[:_SHOWN_CANDIDATES])
        more = " and more" if len(found) > _SHOWN_CANDIDATES else ""
        raise Conflict(f"several deliveries begin with {id_or_prefix!r}: {shown}{more}")
    return found[0]


def show(conn: Connection, id_or_prefix: str | UUID) -> Shown:
    """
    Return a delivery with its tries.

    Raises:
        NotFound, Conflict: As ``find``.
    """
    key = find(conn, str(id_or_prefix))
    delivery = _delivery(conn.execute(_listing().where(DELIVERY.c.id == key)).one())
    tries = conn.execute(
        select(*(ATTEMPT.c[name] for name in AttemptRow.__dataclass_fields__))
        .where(ATTEMPT.c.delivery_id == key)
        .order_by(ATTEMPT.c.number, ATTEMPT.c.started_at, ATTEMPT.c.id)
    )
    return Shown(delivery, tuple(AttemptRow(**row._mapping) for row in tries))  # noqa: SLF001


def _listing() -> Any:
    return (
        select(
            DELIVERY.c.id,
            TENANT.c.slug.label("tenant"),
            MAILBOX.c.address.label("mailbox"),
            DELIVERY.c.state,
            DELIVERY.c.severity,
            DELIVERY.c.subject,
            DELIVERY.c.alert_id,
            DELIVERY.c.recipients,
            DELIVERY.c.refused,
            DELIVERY.c.message_id,
            DELIVERY.c.enqueued_at,
            DELIVERY.c.due_at,
            DELIVERY.c.expires_at,
            DELIVERY.c.settled_at,
            DELIVERY.c.attempts,
            DELIVERY.c.claimed_by,
            DELIVERY.c.uncertain,
            DELIVERY.c.reason,
            DELIVERY.c.reply_code,
            DELIVERY.c.enhanced_code,
            DELIVERY.c.reply_text,
            DELIVERY.c.replayed,
        )
        .join_from(DELIVERY, TENANT, DELIVERY.c.tenant_id == TENANT.c.id)
        .join(MAILBOX, DELIVERY.c.mailbox_id == MAILBOX.c.id)
    )


def conditions(conn: Connection, wanted: DeliveryFilter) -> list[ColumnElement[bool]]:
    """
    Return what a filter asks of a delivery.

    Raises:
        NotFound: The filter names a tenant or mailbox that does not exist.
    """
    found: list[ColumnElement[bool]] = []
    for column, value in (
        (DELIVERY.c.severity, None if wanted.severity is None else int(wanted.severity)),
        (DELIVERY.c.alert_id, wanted.alert_id),
        (DELIVERY.c.reason, wanted.reason),
    ):
        if value is not None:
            found.append(column == value)
    if wanted.state is not None:
        found.append(in_state(wanted.state))
    if wanted.tenant is not None:
        found.append(DELIVERY.c.tenant_id == tenant_id(conn, wanted.tenant))
    if wanted.mailbox is not None:
        found.append(DELIVERY.c.mailbox_id == mailbox_id(conn, wanted.mailbox))
    if wanted.since is not None:
        found.append(DELIVERY.c.enqueued_at >= wanted.since)
    if wanted.until is not None:
        found.append(DELIVERY.c.enqueued_at < wanted.until)
    if wanted.refused:
        found.append(partly_accepted())
    return found + _by_words(wanted)


def _by_words(wanted: DeliveryFilter) -> list[ColumnElement[bool]]:
    found = []
    if wanted.recipient is not None:
        found.append(_written_to(wanted.recipient))
    if wanted.subject is not None:
        found.append(mentions(DELIVERY.c.subject, wanted.subject))
    return found


def _written_to(recipient: str) -> ColumnElement[bool]:
    """Look into the list as it is stored: one pass over its text, nothing to unpack."""
    text = recipient.strip().lower()
    local, _, domain = text.rpartition("@")
    # JSON puts quotes around each address, so a whole one matches no longer one that ends in it.
    part = json.dumps(text) if local and "." in domain else json.dumps(text)[1:-1]
    return mentions(cast(DELIVERY.c.recipients, AsText()), part)


def _delivery(row: Any) -> DeliveryRow:
    fields = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name begins so
    fields["state"] = State(row.state)
    fields["severity"] = Severity(row.severity)
    fields["recipients"] = tuple(row.recipients)
    fields["refused"] = row.refused or {}
    return DeliveryRow(**fields)
