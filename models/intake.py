"""Accepting deliveries: many rows in one transaction, each idempotency key once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, cast
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import (
    Connection,
    Dialect,
    Insert,
    Select,
    Uuid,
    bindparam,
    literal_column,
    select,
)
from sqlalchemy import insert as insert_into

from models import contents
from models.batches import as_parameter, table_of_rows
from models.clock import utc_not_before, utc_now
from models.errors import StoreUnavailable
from models.ids import uuid7
from models.large_content import LargeContent
from models.lifecycle import State
from models.moves import DELIVERY
from models.stored import Words
from models.tables import UtcDateTime
from models.upserts import upsert_into

_D = DELIVERY.c
_KEY = cast("Words", _D.idempotency_key.type)
_ROUNDS = 5
"""How often a key may vanish (deleted by retention) between being in the way and being read."""


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """What a producer hands in, validated and encrypted."""

    tenant_id: UUID
    mailbox_id: UUID
    severity: int
    fingerprint: str
    subject: str
    recipients: Sequence[str]
    payload_encrypted: bytes
    message_id: str
    idempotency_key: str | None = None
    alert_id: str | None = None
    not_before: datetime | None = None
    expires_at: datetime | None = None
    id: UUID = field(default_factory=uuid7)
    """Made by the caller where the payload was encrypted for this very row."""
    large: LargeContent | None = None
    """What does not stand in the row."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a handed-in delivery."""

    delivery_id: UUID
    """The first delivery under the idempotency key, whoever handed it in."""
    mailbox_id: UUID
    created: bool
    same_content: bool
    """False: the key was used before for a different alert, and this one was not taken."""
    state: str
    severity: int


@dataclass(frozen=True, slots=True)
class _Holder:
    """The delivery that holds an idempotency key."""

    id: UUID
    mailbox_id: UUID
    fingerprint: str
    state: str
    severity: int


_Key = tuple[UUID, str]

Rows = Mapping[UUID, Any]
"""Of each delivery, by its key, what the driver takes for it."""


def bind(dialect: Dialect, deliveries: Sequence[NewDelivery]) -> Rows:
    """
    Give deliveries the form that the database's driver takes, as ``insert`` needs it.

    It is half of the work and needs no transaction. Done beforehand, it keeps nobody out of a
    database with one writer.
    """
    return {new.id: _binder(dialect).bind(_values(new)) for new in deliveries}


def insert(
    conn: Connection,
    deliveries: Sequence[NewDelivery],
    *,
    rows: Rows | None = None,
    stored: Collection[UUID] = (),
    chunk: int = 500,
) -> list[Receipt]:
    """
    Store deliveries; all or none of them, with the caller's transaction.

    Under an idempotency key that the tenant used before nothing is created; the receipt names
    the first delivery. That holds within the batch and among concurrent callers.

    Args:
        conn: A transaction that may write.
        deliveries: In any order, of any tenants.
        rows: What ``bind`` made of these very deliveries; None: it is done here.
        stored: Deliveries whose large contents are stored already; see ``contents.store_ahead``.
        chunk: Rows per statement.

    Returns:
        One receipt each, in the order given.
    """
    if rows is None:
        rows = bind(conn.dialect, deliveries)
    binder = _binder(conn.dialect)
    unkeyed = [new for new in deliveries if new.idempotency_key is None]
    for part in _chunks(unkeyed, chunk):
        conn.exec_driver_sql(binder.insert, [rows[new.id] for new in part])
    holders = _insert_keyed(conn, _first_of_each_key(deliveries), rows, chunk=chunk)
    receipts = [_receipt(new, holders) for new in deliveries]
    contents.add(
        conn,
        (
            new.large
            for new, receipt in zip(deliveries, receipts, strict=True)
            if new.large is not None and receipt.created and new.id not in stored
        ),
    )
    return receipts


def _first_of_each_key(deliveries: Sequence[NewDelivery]) -> list[NewDelivery]:
    """
    Drop repetitions within the batch and sort by key.

    PostgreSQL makes a second writer of a key wait for the first; two batches that come to their
    keys in one order cannot wait for each other in a circle.
    """
    first: dict[_Key, NewDelivery] = {}
    for new in deliveries:
        if new.idempotency_key is not None:
            first.setdefault(_key(new), new)
    return [first[key] for key in sorted(first)]


def _insert_keyed(
    conn: Connection, deliveries: Sequence[NewDelivery], rows: Rows, *, chunk: int
) -> dict[_Key, _Holder]:
    holders: dict[_Key, _Holder] = {}
    for part in _chunks(deliveries, chunk):
        missing = part
        for _ in range(_ROUNDS):
            created = conn.exec_driver_sql(
                _binder(conn.dialect).insert_unless_held, [rows[new.id] for new in missing]
            ).rowcount
            if created == len(missing):
                holders |= {_key(new): _own(new) for new in missing}
                break
            holders |= _held(conn, missing)
            missing = [new for new in missing if _key(new) not in holders]
            if not missing:
                break
        else:
            raise StoreUnavailable("idempotency keys change faster than they can be read")
    return holders


def held(conn: Connection, deliveries: Sequence[NewDelivery]) -> set[UUID]:
    """Return the keys of those whose idempotency keys their tenants have used before."""
    keyed = [new for new in deliveries if new.idempotency_key is not None]
    holders = _held(conn, keyed) if keyed else {}
    return {new.id for new in keyed if _key(new) in holders}


def _held(conn: Connection, deliveries: Sequence[NewDelivery]) -> dict[_Key, _Holder]:
    given = as_parameter([{"tenant": new.tenant_id.hex, "key": _key(new)[1]} for new in deliveries])
    rows = conn.execute(_holders(conn.dialect.name), given)
    return {(row[0], row[1]): _Holder(*row[2:]) for row in rows}


def _receipt(new: NewDelivery, holders: dict[_Key, _Holder]) -> Receipt:
    holder = _own(new) if new.idempotency_key is None else holders[_key(new)]
    return Receipt(
        delivery_id=holder.id,
        mailbox_id=holder.mailbox_id,
        created=holder.id == new.id,
        same_content=holder.fingerprint == new.fingerprint,
        state=holder.state,
        severity=holder.severity,
    )


def _own(new: NewDelivery) -> _Holder:
    return _Holder(new.id, new.mailbox_id, new.fingerprint, State.QUEUED.value, new.severity)


def _key(new: NewDelivery) -> _Key:
    # As it stands in its row, by which those that hold a key are found.
    return new.tenant_id, _KEY.fit(new.idempotency_key) or ""


def _chunks(items: Sequence[NewDelivery], size: int) -> Iterator[Sequence[NewDelivery]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _values(new: NewDelivery) -> dict[str, Any]:
    return {
        "id": new.id,
        "tenant_id": new.tenant_id,
        "mailbox_id": new.mailbox_id,
        "severity": int(new.severity),
        "idempotency_key": new.idempotency_key,
        "fingerprint": new.fingerprint,
        "alert_id": new.alert_id,
        "subject": new.subject,
        "recipients": list(new.recipients),
        "payload_encrypted": new.payload_encrypted,
        "message_id": new.message_id,
        "not_before": new.not_before,
        "expires_at": new.expires_at,
    }


_COLUMNS: dict[str, Any] = {
    name: bindparam(name, type_=_D[name].type)
    for name in (
        "id", "tenant_id", "mailbox_id", "severity", "idempotency_key", "fingerprint", "alert_id",
        "subject", "recipients", "payload_encrypted", "message_id", "expires_at",
    )
} | {
    "state": literal_column(f"'{State.QUEUED.value}'"),
    "refused": literal_column("'{}'"),
    "taken": literal_column("'{}'"),
    "attempts": literal_column("0"),
    "claims": literal_column("0"),
    "replayed": literal_column("0"),
    "uncertain": literal_column("false"),
    "enqueued_at": utc_now(),
}  # fmt: skip
_NOT_BEFORE = bindparam("not_before", type_=UtcDateTime())

# A ``not_before`` that has passed must not let a late arrival overtake its lane.
_DUE = utc_not_before(bindparam("not_before", type_=UtcDateTime()))
_VALUES: dict[str, Any] = _COLUMNS | {"due_at": _DUE}
_INSERT: Insert = insert_into(DELIVERY).values(_VALUES)


class _Binder:
    """The two statements as one driver takes them, and the way to give it values."""

    def __init__(self, dialect: Dialect) -> None:
        compiled = _INSERT.compile(dialect=dialect)
        held = _insert_unless_held(dialect.name).compile(dialect=dialect)
        self.insert, self.insert_unless_held = str(compiled), str(held)
        self._positions: list[str] | None = compiled.positiontup
        if held.positiontup != compiled.positiontup:
            raise AssertionError("both statements take the same values in the same order")
        self._convert: list[tuple[str, Callable[[Any], Any] | None]] = [
            (name, bound.type.dialect_impl(dialect).bind_processor(dialect))
            for name, bound in compiled.binds.items()
        ]

    def bind(self, values: Mapping[str, Any]) -> Any:
        """Convert one row's values: to a tuple, or to a dict where the driver knows names."""
        row = {
            name: values[name] if convert is None else convert(values[name])
            for name, convert in self._convert
        }
        return row if self._positions is None else tuple(row[name] for name in self._positions)


_binders: WeakKeyDictionary[Dialect, _Binder] = WeakKeyDictionary()


def _binder(dialect: Dialect) -> _Binder:
    # One for each engine: compiling takes longer than a single alert does.
    known = _binders.get(dialect)
    if known is None:
        known = _binders[dialect] = _Binder(dialect)
    return known


def _insert_unless_held(dialect: str) -> Insert:
    where = _D.idempotency_key.is_not(None)
    keys = ["tenant_id", "idempotency_key"]
    insert = upsert_into(dialect, DELIVERY).values(_VALUES)
    return cast("Insert", insert.on_conflict_do_nothing(index_elements=keys, index_where=where))


@cache
def _holders(dialect: str) -> Select[Any]:
    given = table_of_rows(dialect, {"tenant": Uuid(), "key": _D.idempotency_key.type}).c
    return select(
        _D.tenant_id, _D.idempotency_key, _D.id, _D.mailbox_id, _D.fingerprint, _D.state,
        _D.severity,
    ).where(_D.tenant_id == given.tenant, _D.idempotency_key == given.key)  # fmt: skip
