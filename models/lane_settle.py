"""Recording what became of deliveries: the new state and the attempt, many in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Float,
    FromClause,
    Insert,
    Integer,
    Text,
    Update,
    Uuid,
    case,
    func,
    insert,
    literal_column,
    null,
    select,
    true,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from models.batches import as_parameter, plain, table_of_rows
from models.clock import utc_after, utc_now
from models.errors import LifecycleError
from models.ids import uuid7
from models.lifecycle import ACCEPT, ACCEPT_LATE, State, Transition
from models.moves import DELIVERY, in_state, move
from models.tables import METADATA

_ATTEMPT = METADATA.tables["attempt"]
_D = DELIVERY.c
_REPLY_LIMIT = 4000
"""Characters kept of a reply; real ones have a few hundred."""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try, as its row will say."""

    stage: str
    rule: str
    reply_code: int | None = None
    enhanced_code: str | None = None
    reply_text: str | None = None
    smtp_host: str = ""
    worker: str = ""
    duration_ms: float = 0.0
    took_permit: bool = False
    """Whether it reached the server's rate limit."""
    recipients: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one claimed delivery."""

    delivery_id: UUID
    mailbox_id: UUID
    claimed_by: str
    transition: Transition
    delay_seconds: float | None = None
    """Due again after so long; None leaves the due time as it was."""
    counted: bool = False
    """Whether this try counts towards the most attempts allowed."""
    reason: str | None = None
    uncertain: bool = False
    """The mail may have been sent all the same."""
    refused: dict[str, str] | None = None
    """Recipients refused for good in this try, each with the reply; added to earlier ones."""
    attempt: AttemptRecord | None = None


_COLUMNS: dict[str, TypeEngine[Any]] = {
    "id": Uuid(),
    "visit": Text(),
    "delay": Float(),
    "counted": Integer(),
    "reason": Text(),
    "uncertain": Integer(),
    "refused": JSON(),
    "tried": Integer(),
    "attempt": Uuid(),
    "stage": Text(),
    "rule": Text(),
    "code": Integer(),
    "enhanced": Text(),
    "text": Text(),
    "host": Text(),
    "worker": Text(),
    "seconds": Float(),
    "permit": Integer(),
    "recipients": Integer(),
}


def settle(conn: Connection, outcomes: Sequence[Outcome]) -> list[bool]:
    """
    Record outcomes: change states along their arrows and add a row for every attempt.

    A delivery changes only while the visit that reports still holds it. One exception: a mail
    that was accepted is out, so its 250 counts also after the sweep has taken the claim back
    (``ACCEPT_LATE``). If another visit holds it by then, its state is left to that visit and the
    delivery is marked ``uncertain``, because it goes out twice.

    Args:
        conn: A transaction that may write.
        outcomes: Any number; those of many visits together.

    Returns:
        For each outcome whether the delivery's state changed.

    Raises:
        LifecycleError: A transition that does not begin at ``sending``.
    """
    changed = [False] * len(outcomes)
    for indexes in _rounds(outcomes):
        for transition, group in _by_transition(outcomes, indexes).items():
            landed = _settle_group(conn, transition, [outcomes[index] for index in group])
            for index in group:
                changed[index] = outcomes[index].delivery_id in landed
    return changed


def _rounds(outcomes: Sequence[Outcome]) -> Iterator[list[int]]:
    """Split so that no delivery is twice in a round: a statement changes a row only once."""
    waiting = list(range(len(outcomes)))
    while waiting:
        seen: set[UUID] = set()
        now: list[int] = []
        later: list[int] = []
        for index in waiting:
            key = outcomes[index].delivery_id
            (later if key in seen else now).append(index)
            seen.add(key)
        yield now
        waiting = later


def _by_transition(
    outcomes: Sequence[Outcome], indexes: Sequence[int]
) -> dict[Transition, list[int]]:
    groups: dict[Transition, list[int]] = {}
    for index in indexes:
        groups.setdefault(outcomes[index].transition, []).append(index)
    return groups


def _settle_group(
    conn: Connection, transition: Transition, outcomes: Sequence[Outcome]
) -> set[UUID]:
    if State.SENDING not in transition.origins:
        raise LifecycleError(f"a visit cannot {transition.name}: that does not begin at sending")
    dialect = conn.dialect.name
    given = as_parameter([_row(outcome) for outcome in outcomes])
    landed = set(conn.execute(_settled(dialect, transition), given).scalars())
    if transition is ACCEPT and len(landed) < len(outcomes):
        landed |= _accept_late(conn, [o for o in outcomes if o.delivery_id not in landed])
    if any(outcome.attempt is not None for outcome in outcomes):
        conn.execute(_attempts(dialect), given)
    return landed


def _accept_late(conn: Connection, outcomes: Sequence[Outcome]) -> set[UUID]:
    dialect = conn.dialect.name
    given = as_parameter([_row(outcome) for outcome in outcomes])
    landed = set(conn.execute(_settled(dialect, ACCEPT_LATE), given).scalars())
    if len(landed) < len(outcomes):
        conn.execute(_sent_twice(dialect), given)
    return landed


def _row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": outcome.delivery_id.hex,
        "visit": outcome.claimed_by,
        "delay": outcome.delay_seconds,
        "counted": int(outcome.counted),
        "reason": plain(outcome.reason, 100),
        "uncertain": int(outcome.uncertain),
        "tried": 0,
    }
    if outcome.refused:
        row["refused"] = {plain(k): plain(v, _REPLY_LIMIT) for k, v in outcome.refused.items()}
    record = outcome.attempt
    if record is not None:
        row |= {
            "tried": 1,
            "attempt": uuid7().hex,
            "stage": record.stage,
            "rule": plain(record.rule, 100),
            "code": record.reply_code,
            "enhanced": plain(record.enhanced_code, 12),
            "text": plain(record.reply_text, _REPLY_LIMIT),
            "host": plain(record.smtp_host, 255),
            "worker": plain(record.worker or outcome.claimed_by, 80),
            "seconds": record.duration_ms / 1000,
            "permit": int(record.took_permit),
            "recipients": record.recipients,
        }
    return row


@cache
def _given(dialect: str) -> FromClause:
    return table_of_rows(dialect, _COLUMNS)


@cache
def _settled(dialect: str, transition: Transition) -> Update:
    """Write the UPDATE for one arrow; all of them differ only in a few columns."""
    given = _given(dialect).c
    tried = given.tried == literal_column("1")
    counted = given.counted == literal_column("1")
    statement = (
        move(transition)
        .where(_D.id == given.id)
        .values(
            claimed_by=null(),
            claimed_until=null(),
            claims=literal_column("0"),
            attempts=_D.attempts + given.counted,
            first_attempt_at=case(
                (counted, func.coalesce(_D.first_attempt_at, utc_now(), type_=_D.due_at.type)),
                else_=_D.first_attempt_at,
            ),
            uncertain=case((given.uncertain == literal_column("1"), true()), else_=_D.uncertain),
            refused=_merged(dialect, given.refused),
            reason=given.reason,
            reply_code=case((tried, given.code), else_=_D.reply_code),
            enhanced_code=case((tried, given.enhanced), else_=_D.enhanced_code),
            reply_text=case((tried, given.text), else_=_D.reply_text),
        )
        .returning(_D.id)
    )
    if transition is not ACCEPT_LATE:
        statement = statement.where(_D.claimed_by == given.visit)
    if transition.target is State.QUEUED:
        due = case((given.delay.is_not(None), utc_after(given.delay)), else_=_D.due_at)
        return statement.values(due_at=due)
    return statement.values(settled_at=utc_now())


def _merged(dialect: str, refused: Any) -> Any:
    """Add what this try refused to what earlier ones did."""
    merged: Any
    if dialect == "postgresql":
        merged = (_D.refused.cast(JSONB()).op("||")(refused.cast(JSONB()))).cast(JSON())
    else:
        merged = func.json_patch(_D.refused, refused)
    return case(
        (refused.is_not(None), type_coerce(merged, JSON())), else_=type_coerce(_D.refused, JSON())
    )


@cache
def _sent_twice(dialect: str) -> Update:
    given = _given(dialect).c
    return (
        update(DELIVERY)
        .where(_D.id == given.id, in_state(State.SENDING), _D.claimed_by != given.visit)
        .values(uncertain=true())
    )


@cache
def _attempts(dialect: str) -> Insert:
    """
    Write the INSERT of all attempts of a group; it runs after the states have changed.

    A delivery that was deleted meanwhile drops out of the join instead of breaking the group.
    """
    source = _given(dialect)
    given = source.c
    earlier = (
        select(func.count()).where(_ATTEMPT.c.delivery_id == _D.id).correlate(DELIVERY)
    ).scalar_subquery()
    one: ColumnElement[Any] = literal_column("1")
    values: dict[str, Any] = {
        "id": given.attempt,
        "delivery_id": _D.id,
        "mailbox_id": _D.mailbox_id,
        "number": earlier + one,
        "counted": given.counted == one,
        "stage": given.stage,
        "rule": given.rule,
        "outcome": _D.state,
        "reply_code": given.code,
        "enhanced_code": given.enhanced,
        "reply_text": given.text,
        "smtp_host": given.host,
        "worker": given.worker,
        "started_at": utc_after(-given.seconds),
        "finished_at": utc_now(),
        "took_permit": given.permit == one,
        "recipients": given.recipients,
        "uncertain": given.uncertain == one,
        "refused": given.refused,
    }
    rows = (
        select(*values.values())
        .select_from(source.join(DELIVERY, _D.id == given.id))
        .where(given.tried == one)
    )
    return insert(_ATTEMPT).from_select(list(values), rows, include_defaults=False)
