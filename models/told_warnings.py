"""
What the operator was told by mail, and when: the memory that keeps a warning from coming twice.

It is in SQL, beside the mails themselves and in their transactions, so that neither a restart nor
a second worker nor a lost Redis tells anything again. Idempotency keys of deliveries would not do:
one mail tells of several things, and which of them come together is different at every look. And
of a loss one has to know later that it was told, to say that it is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection, Executable, bindparam, select, update

from models.clock import utc_now
from models.errors import Conflict
from models.expiries import Kind
from models.ids import uuid7
from models.moves import DELIVERY
from models.tables import METADATA
from models.upserts import upsert_into

TOLD = METADATA.tables["told_warning"]

LOSS = "loss"
"""The kind of a mailbox that waits for a person; all other kinds are of ``expiries.Kind``."""

_T: Any = TOLD.c


@dataclass(frozen=True, slots=True, order=True)
class Telling:
    """
    One thing that is told.

    Attributes:
        kind: ``LOSS`` or what ends.
        subject: Name of the app registration, or address of the mailbox.
        detail: The level; of a loss the verdict's rule.
        moment: When it ends; of a loss when the mailbox was parked.
        cause: Of a loss, see ``losses.LostMailbox.cause``.
        delivery_id: The mail that told of it, where that is an earlier one.
    """

    kind: str
    subject: str
    detail: str
    moment: datetime
    cause: str = ""
    delivery_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """
    One thing as it was told.

    Attributes:
        told_at: When, the first time.
        tellings: How often, repetitions included.
        over_at: Of a loss: when it was seen to be over.
        recipients: Whom the first mail went to; empty where that mail is gone.
        state: Of that mail, None likewise.
    """

    kind: str
    subject: str
    detail: str
    moment: datetime
    cause: str
    told_at: datetime
    delivery_id: UUID
    tellings: int
    repeated_at: datetime | None
    over_at: datetime | None
    over_delivery_id: UUID | None
    recipients: tuple[str, ...]
    state: str | None


def told_ends(conn: Connection) -> set[tuple[str, str, str, datetime]]:
    """Return what was told of ends: kind, subject, level, and when it ends."""
    rows = conn.execute(select(_T.kind, _T.subject, _T.detail, _T.moment).where(_T.kind != LOSS))
    return {(row[0], row[1], row[2], row[3]) for row in rows}


def grants_told_since(conn: Connection, moment: datetime) -> set[str]:
    """Return the levels at which grants were told since then."""
    rows = conn.execute(
        select(_T.detail).where(_T.kind == Kind.GRANT.value, _T.told_at > moment).distinct()
    )
    return set(rows.scalars())


def remember(conn: Connection, tellings: Sequence[Telling], *, delivery_id: UUID) -> None:
    """
    Write down what a mail tells, in the transaction that enqueues it.

    Raises:
        Conflict: Some of it was told at this very moment by another worker; roll back.
    """
    # In one order everywhere: two workers that tell the same cannot wait for each other.
    rows = [
        {
            "id": uuid7(),
            "kind": one.kind,
            "subject": one.subject,
            "detail": one.detail,
            "moment": one.moment,
            "cause": one.cause,
            "delivery_id": one.delivery_id or delivery_id,
            "tellings": 1,
        }
        for one in sorted(tellings, key=lambda one: (one.kind, one.subject, one.detail))
    ]
    _change_all(conn, _insert_unless_told(conn.dialect.name), rows)


def repeat(conn: Connection, told: Sequence[tuple[UUID, int]]) -> None:
    """
    Write down that losses were told again.

    Args:
        conn: The transaction that enqueues the mail.
        told: Keys, each with how often it had been told before.

    Raises:
        Conflict: As ``remember``.
    """
    again = (
        update(TOLD)
        .where(_T.id == bindparam("key"), _T.tellings == bindparam("before"), _T.over_at.is_(None))
        .values(tellings=_T.tellings + 1, repeated_at=utc_now())
    )
    _change_all(conn, again, [{"key": key, "before": before} for key, before in sorted(told)])


def close(conn: Connection, keys: Sequence[UUID], *, delivery_id: UUID | None) -> None:
    """
    Write down that losses are over.

    Args:
        conn: The transaction that enqueues the mail.
        keys: Which.
        delivery_id: The mail that says so; None: nobody is told.

    Raises:
        Conflict: As ``remember``.
    """
    over = (
        update(TOLD)
        .where(_T.id == bindparam("key"), _T.over_at.is_(None))
        .values(over_at=utc_now(), over_delivery_id=delivery_id)
    )
    _change_all(conn, over, [{"key": key} for key in sorted(keys)])


def told(conn: Connection, *, since: datetime | None = None) -> list[Told]:
    """Return what was told, the latest mail first."""
    statement = (
        select(
            _T.kind,
            _T.subject,
            _T.detail,
            _T.moment,
            _T.cause,
            _T.told_at,
            _T.delivery_id,
            _T.tellings,
            _T.repeated_at,
            _T.over_at,
            _T.over_delivery_id,
            DELIVERY.c.recipients,
            DELIVERY.c.state,
        )
        .join_from(TOLD, DELIVERY, DELIVERY.c.id == _T.delivery_id, isouter=True)
        # Keys of deliveries sort by the time they were made.
        .order_by(_T.delivery_id.desc(), _T.kind, _T.subject)
    )
    if since is not None:
        statement = statement.where(_T.told_at >= since)
    rows = (dict(row._mapping) for row in conn.execute(statement))  # noqa: SLF001 - a public name
    return [Told(**{**row, "recipients": tuple(row["recipients"] or ())}) for row in rows]


def _change_all(conn: Connection, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
    """Run a statement for each of these rows; all of them change one, or somebody was faster."""
    if not rows:
        return
    done = conn.execute(statement, rows, execution_options={"preserve_rowcount": True})
    if done.rowcount != len(rows):
        raise Conflict("another worker tells the operator of it at this moment")


def _insert_unless_told(dialect: str) -> Executable:
    keys = ["kind", "subject", "detail", "moment"]
    insert = upsert_into(dialect, TOLD).values(told_at=utc_now())
    return cast("Executable", insert.on_conflict_do_nothing(index_elements=keys))
