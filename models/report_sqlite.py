"""
The figures of a report on SQLite: each table is gone through once, and added up as it comes.

SQLite has no other core to sort on, and its own ways cost more than the reading: a group without an
index is a sort of every row, a window another one for each percentile, and the tenant of an attempt
a search in the largest table. So rows leave SQLite as they lie, as few small values as will do; a
number for each accepted delivery is all that is kept.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, func, or_, select, type_coerce

from models.deliveries import ATTEMPT
from models.lifecycle import State
from models.moves import DELIVERY
from models.partly_accepted import number_refused
from models.percentiles import interpolated, milliseconds_between
from models.stored import AsText

_WAITING = {State.QUEUED.value, State.SENDING.value}
_PORTION = 10_000
_KEY = 32
"""So many letters a UUID has in SQLite."""


@dataclass(slots=True)
class Sums:
    """
    What was added up, by tenant.

    Attributes:
        counts: Names of ``reports.Figures``, with how many.
        milliseconds: From enqueued to accepted, one for each that was.
        boxes: From which mailboxes deliveries go out on whose behalf.
    """

    counts: dict[UUID, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    milliseconds: dict[UUID, array[float]] = field(
        default_factory=lambda: defaultdict(lambda: array("d"))
    )
    boxes: dict[UUID, set[UUID]] = field(default_factory=lambda: defaultdict(set))


def deliveries(conn: Connection, scope: ColumnElement[bool] | None) -> Sums:
    """Go through the deliveries."""
    columns = DELIVERY.c
    whose = (columns.tenant_id, columns.mailbox_id, columns.uncertain, columns.state)
    tenant, box, uncertain, state = (type_coerce(column, AsText()) for column in whose)
    # Four values in one are made, moved and counted faster than one by one.
    statement = select(
        tenant.concat(box).concat(uncertain).concat(state),
        milliseconds_between(columns.enqueued_at, columns.settled_at),
        number_refused(),
    )
    counted: Counter[str] = Counter()
    accepted: dict[str, array[float]] = defaultdict(lambda: array("d"))
    refusals: dict[str, list[int]] = defaultdict(list)
    for key, value, refused in _rows(conn, statement, scope):
        counted[key] += 1
        if refused:
            refusals[key].append(refused)
        if value is not None and key.endswith(State.ACCEPTED.value):
            accepted[key].append(value)
    sums = Sums()
    for key, number in counted.items():
        tenant_id, box_id = UUID(key[:_KEY]), UUID(key[_KEY : 2 * _KEY])
        state_name = key[2 * _KEY + 1 :]
        figures = sums.counts[tenant_id]
        figures["enqueued"] += number
        figures["waiting" if state_name in _WAITING else state_name] += number
        figures["uncertain"] += number * int(key[2 * _KEY])
        if state_name == State.ACCEPTED.value:
            refused_in = refusals.get(key, [])
            figures["partly_accepted"] += len(refused_in)
            figures["recipients_refused"] += sum(refused_in)
        sums.boxes[box_id].add(tenant_id)
        sums.milliseconds[tenant_id].extend(accepted.get(key, ()))
    return sums


def _rows(
    conn: Connection, statement: Any, scope: ColumnElement[bool] | None
) -> Iterator[Sequence[Any]]:
    if scope is not None:
        # A part of the table, as a rule; its values have to be bound.
        for portion in conn.execute(statement.where(scope)).partitions(_PORTION):
            yield from portion
        return
    # By the driver's own cursor: to make each row SQLAlchemy's takes longer than to read it.
    cursor = conn.connection.cursor()
    try:
        yield from cursor.execute(str(statement.compile(dialect=conn.dialect)))
    finally:
        cursor.close()


def percentiles_of(values: array[float], shares: Sequence[float]) -> tuple[float, ...]:
    """Return percentiles of what is not empty."""
    ranked = sorted(values)
    return tuple(interpolated(ranked, len(ranked), share) for share in shares)


@dataclass(frozen=True, slots=True)
class Tries:
    """Attempts of a tenant under one rule; as ``reports`` has them from SQL."""

    tenant_id: UUID
    rule: str
    tries: int
    retried: int


def tries(conn: Connection, sums: Sums, *, quiet_rule: str) -> list[Tries]:
    """
    Count attempts by tenant and rule, of mailboxes that never moved to another tenant.

    So each attempt is its mailbox's tenant's, and its delivery need not be looked up.

    Args:
        conn: An open transaction.
        sums: Of all deliveries.
        quiet_rule: The rule of nearly all attempts. Those are counted from an index, as the rest.
    """
    columns = ATTEMPT.c
    # Not grouped by SQLite: it would go by an index, which leads all over the table.
    odd = Counter(
        (row.mailbox_id, row.rule, row.number == 2)  # noqa: PLR2004
        for row in conn.execute(
            select(columns.mailbox_id, columns.rule, columns.number).where(
                or_(columns.rule != quiet_rule, columns.number == 2)  # noqa: PLR2004
            )
        )
    )
    everything = select(columns.mailbox_id, func.count()).group_by(columns.mailbox_id)
    # An attempt goes with its delivery.
    left = {box: n for box, n in conn.execute(everything) if box in sums.boxes}
    found = []
    for (box, rule, is_second), number in odd.items():
        if box not in left:
            continue
        retried = number if is_second else 0
        if rule == quiet_rule:
            # The others under this rule were no second tries.
            found.append(Tries(_tenant(sums, box), rule, 0, retried))
        else:
            left[box] -= number
            found.append(Tries(_tenant(sums, box), rule, number, retried))
    found += [Tries(_tenant(sums, box), quiet_rule, number, 0) for box, number in left.items()]
    return found


def _tenant(sums: Sums, box: UUID) -> UUID:
    [tenant] = sums.boxes[box]
    return tenant
