"""Recording what became of deliveries: the new state and the attempt, many in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    FromClause,
    Insert,
    Select,
    Update,
    case,
    func,
    literal_column,
    null,
    select,
    true,
    type_coerce,
    update,
)

from models.batches import as_parameter, table_of_rows
from models.clock import utc_after, utc_now
from models.errors import LifecycleError
from models.lane_outcome import OUTCOME_COLUMNS, Outcome, as_row
from models.lifecycle import ACCEPT, ACCEPT_LATE, State, Transition
from models.moves import DELIVERY, in_state, known_by_key
from models.quota_counts import spend
from models.tables import METADATA
from models.upserts import upsert_into

_ATTEMPT = METADATA.tables["attempt"]
_D = DELIVERY.c


def settle(conn: Connection, outcomes: Sequence[Outcome]) -> list[bool]:
    """
    Record outcomes: change states along their arrows and add a row for every attempt.

    A delivery changes only while the visit that reports still holds it. One exception: a mail
    that was accepted is out, so its 250 counts also after the sweep has taken the claim back
    (``ACCEPT_LATE``). If another visit holds it by then, or has sent it, its state is left as that
    visit made it and the delivery is marked ``uncertain``, because it goes out twice. So it is with
    all that may be out.

    An outcome that was recorded before is known by its attempt, and nothing is done again: the
    answer to a commit can be lost.

    Args:
        conn: A transaction that may write.
        outcomes: Any number; those of many visits together.

    Returns:
        For each outcome whether it is recorded in the delivery's state.

    Raises:
        LifecycleError: A transition that does not begin at ``sending``.
    """
    changed = [False] * len(outcomes)
    known: set[UUID] = set()
    for indexes in _rounds(outcomes):
        for transition, group in _by_transition(outcomes, indexes).items():
            landed = _settle_group(conn, transition, [outcomes[index] for index in group], known)
            for index in group:
                changed[index] = outcomes[index].delivery_id in landed
    spend(conn, (outcome.spent for outcome in outcomes if outcome.key not in known))
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
    conn: Connection, transition: Transition, outcomes: Sequence[Outcome], known: set[UUID]
) -> set[UUID]:
    """Take deliveries along one arrow; adds the keys of outcomes that were recorded before."""
    if State.SENDING not in transition.origins:
        raise LifecycleError(f"a visit cannot {transition.name}: that does not begin at sending")
    dialect = conn.dialect.name
    given = as_parameter([as_row(outcome) for outcome in outcomes])
    landed = set(conn.execute(_settled(dialect, transition), given).scalars())
    if len(landed) < len(outcomes):
        late = [outcome for outcome in outcomes if outcome.delivery_id not in landed]
        given_late = as_parameter([as_row(outcome) for outcome in late])
        found: set[UUID] = set(conn.execute(_known(dialect), given_late).scalars())
        known |= found
        landed |= {one.delivery_id for one in late if one.key in found}
        landed |= _settle_late(conn, transition, [one for one in late if one.key not in found])
    if any(outcome.attempt is not None for outcome in outcomes):
        conn.execute(_attempts(dialect), given)
    return landed


def _settle_late(
    conn: Connection, transition: Transition, outcomes: Sequence[Outcome]
) -> set[UUID]:
    """Record what may be out of visits that hold these deliveries no more."""
    dialect = conn.dialect.name
    out = [outcome for outcome in outcomes if outcome.may_be_out]
    if not out:
        return set()
    given = as_parameter([as_row(outcome) for outcome in out])
    landed: set[UUID] = set()
    if transition is ACCEPT:
        landed = set(conn.execute(_settled(dialect, ACCEPT_LATE), given).scalars())
    twice = [as_row(outcome) for outcome in out if outcome.delivery_id not in landed]
    if twice:
        conn.execute(_sent_twice(dialect), as_parameter(twice))
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
        from sqlalchemy.dialects.postgresql import JSONB  # noqa: PLC0415 - see ``upserts``

        merged = (before.cast(JSONB()).op("||")(added.cast(JSONB()))).cast(JSON())
    else:
        merged = func.json_patch(before, added)
    return case(
        (added.is_not(None), type_coerce(merged, JSON())), else_=type_coerce(before, JSON())
    )


@cache
def _sent_twice(dialect: str) -> Update:
    """Write the UPDATE for what is out although others hold it, or have ended it."""
    given = _given(dialect).c
    # Who has it is left out of the next try, if there is to be one.
    goes_on = in_state(State.QUEUED, State.SENDING)
    return (
        update(DELIVERY)
        .where(_D.id == given.id)
        .values(
            uncertain=true(),
            taken=case(
                (goes_on, _merged(dialect, _D.taken, given.taken)),
                else_=type_coerce(_D.taken, JSON()),
            ),
        )
    )


@cache
def _known(dialect: str) -> Select[Any]:
    given = _given(dialect).c
    return select(_ATTEMPT.c.id).where(_ATTEMPT.c.id == given.attempt)


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
    into = upsert_into(dialect, _ATTEMPT)
    # One that was recorded before stays as it is.
    return cast(
        "Insert",
        into.from_select(list(values), rows, include_defaults=False).on_conflict_do_nothing(
            index_elements=["id"]
        ),
    )
