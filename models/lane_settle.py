"""Recording what became of deliveries: the new state and the attempt, many in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    FromClause,
    Insert,
    Update,
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

from models.batches import as_parameter, table_of_rows
from models.clock import utc_after, utc_now
from models.errors import LifecycleError
from models.lane_outcome import OUTCOME_COLUMNS, Outcome, as_row
from models.lifecycle import ACCEPT, ACCEPT_LATE, State, Transition
from models.moves import DELIVERY, in_state, known_by_key
from models.quota_counts import spend
from models.tables import METADATA

_ATTEMPT = METADATA.tables["attempt"]
_D = DELIVERY.c


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
    spend(conn, (outcome.spent for outcome in outcomes))
    return changed


def record_attempts(conn: Connection, outcomes: Sequence[Outcome]) -> None:
    """Add the attempts of outcomes whose states have changed already."""
    given = as_parameter([as_row(outcome) for outcome in outcomes])
    conn.execute(_attempts(conn.dialect.name), given)


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
    given = as_parameter([as_row(outcome) for outcome in outcomes])
    landed = set(conn.execute(_settled(dialect, transition), given).scalars())
    if transition is ACCEPT and len(landed) < len(outcomes):
        landed |= _accept_late(conn, [o for o in outcomes if o.delivery_id not in landed])
    if any(outcome.attempt is not None for outcome in outcomes):
        conn.execute(_attempts(dialect), given)
    return landed


def _accept_late(conn: Connection, outcomes: Sequence[Outcome]) -> set[UUID]:
    dialect = conn.dialect.name
    given = as_parameter([as_row(outcome) for outcome in outcomes])
    landed = set(conn.execute(_settled(dialect, ACCEPT_LATE), given).scalars())
    if len(landed) < len(outcomes):
        conn.execute(_sent_twice(dialect), given)
    return landed


@cache
def _given(dialect: str) -> FromClause:
    return table_of_rows(dialect, OUTCOME_COLUMNS)


@cache
def _settled(dialect: str, transition: Transition) -> Update:
    """Write the UPDATE for one arrow; all of them differ only in a few columns."""
    given = _given(dialect).c
    tried = given.tried == literal_column("1")
    counted = given.counted == literal_column("1")
    statement = (
        known_by_key(transition)
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
            refused=_merged(dialect, _D.refused, given.refused),
            taken=_merged(dialect, _D.taken, given.taken),
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


def _merged(dialect: str, before: Any, added: Any) -> Any:
    """Add the recipients of this try to those of earlier ones."""
    merged: Any
    if dialect == "postgresql":
        merged = (before.cast(JSONB()).op("||")(added.cast(JSONB()))).cast(JSON())
    else:
        merged = func.json_patch(before, added)
    return case(
        (added.is_not(None), type_coerce(merged, JSON())), else_=type_coerce(before, JSON())
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
