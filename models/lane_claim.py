"""Taking deliveries from a lane for one visit, keeping them while it lives, giving them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Integer,
    Update,
    Uuid,
    bindparam,
    exists,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    true,
    update,
)

from models.batches import as_parameter, table_of_rows
from models.clock import utc_after, utc_now
from models.composing_deaths import COMPOSING, WATCHED
from models.lifecycle import CLAIM, RETURN, State
from models.moves import DELIVERY, in_state, known_by_key, move
from models.severity import Severity
from models.tables import METADATA

SUSPECT_CLAIMS = 2
"""
In hand at so many deaths of a worker, a delivery is suspected of causing them.

One more makes it a dead letter, so from here on only one suspect is in hand at a time, over all
workers: the next death then tells which one it is. Without that, a mail that stops its worker
would condemn whatever other visits of the same process had in hand each time. What was composed at
a death is a suspect at once, see ``composing_deaths``.
"""

_MAILBOX = METADATA.tables["mailbox"]
_ATTEMPT = METADATA.tables["attempt"]
_D = DELIVERY.c


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery as a visit needs it, from the moment it was claimed."""

    id: UUID
    tenant_id: UUID
    mailbox_id: UUID
    severity: int
    attempts: int
    claims: int
    uncertain: bool
    first_attempt_at: datetime | None
    enqueued_at: datetime
    due_at: datetime
    expires_at: datetime | None
    message_id: str
    sealed_bytes: int
    """Of the content as far as it stands in the row; it is read when its turn comes."""
    refused: dict[str, str]
    taken: dict[str, str]
    recipients: list[str]
    reason: str | None
    """What it waited under."""

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what workers die of."""
        return self.claims >= SUSPECT_CLAIMS or self.reason == COMPOSING

    @property
    def is_watched(self) -> bool:
        """Whether it is to be known when it is composed, see ``composing_deaths``."""
        return self.reason in WATCHED


_RETURNED = [
    func.length(_D.payload_encrypted) if name == "sealed_bytes" else _D[name]
    for name in Claimed.__dataclass_fields__
]


@dataclass(frozen=True, slots=True)
class Wish:
    """
    What a visit wants of its lane.

    Attributes:
        mailbox_id: Whose lane.
        claimed_by: Names the visit; no two visits ever share a name.
        limit: At most so many.
        only_critical: Leave all but criticals.
        probing: Claim although the mailbox is parked or paused, to try whether the cause is gone.
        careful: Take one that was never refused, if there is any; else the one that has waited
            longest since its last try. With a limit of one: a dead visit had the first in hand.
    """

    mailbox_id: UUID
    claimed_by: str
    limit: int
    only_critical: bool = False
    probing: bool = False
    careful: bool = False


def claim(
    conn: Connection,
    *,
    mailbox_id: UUID,
    claimed_by: str,
    limit: int,
    lease_seconds: float,
    only_critical: bool = False,
    probing: bool = False,
    careful: bool = False,
) -> list[Claimed]:
    """Take what is due from one lane; see ``Wish`` and ``claim_many``."""
    wish = Wish(mailbox_id, claimed_by, limit, only_critical, probing, careful)
    return claim_many(conn, [wish], lease_seconds=lease_seconds)[0]


def claim_many(
    conn: Connection, wishes: Sequence[Wish], *, lease_seconds: float
) -> list[list[Claimed]]:
    """
    Take what is due from lanes, of each the most severe first, then the oldest.

    Args:
        conn: A transaction that may write.
        wishes: Of different mailboxes; those that differ in nothing else share a statement.
        lease_seconds: After this the sweep takes them back, unless ``renew`` is called before.

    Returns:
        For each wish what was claimed, in the order in which the visit must work it off, because
        the sweep takes the first one of a dead visit for the one that was in hand.

    Source:
        docs/lifecycle.md, arrow a.
    """
    taken: dict[UUID, list[Claimed]] = {wish.mailbox_id: [] for wish in wishes}
    for (limit, only_critical, probing, careful), alike in _alike(wishes).items():
        for choice in (_Choice.UNTRIED, _Choice.LONGEST_AGO) if careful else (_Choice.FIRST,):
            given = as_parameter(
                [
                    {"lane": wish.mailbox_id.hex, "visit": wish.claimed_by}
                    for wish in alike
                    if not taken[wish.mailbox_id]
                ]
            )
            rows = conn.execute(
                _claim(conn.dialect.name, only_critical, probing, choice),
                {**given, "most": limit, "lease": float(lease_seconds)},
            )
            for row in rows:
                claimed = Claimed(*row)
                taken[claimed.mailbox_id].append(claimed)
    _leave_one_suspect(conn, wishes, taken)
    # RETURNING promises no order.
    return [sorted(taken[wish.mailbox_id], key=_order) for wish in wishes]


class _Choice(Enum):
    """Which of a lane's deliveries to begin with."""

    FIRST = auto()
    UNTRIED = auto()
    """The first of those of which no try failed yet."""
    LONGEST_AGO = auto()
    """Where all were tried in vain: each in turn."""


def _alike(wishes: Sequence[Wish]) -> dict[tuple[int, bool, bool, bool], list[Wish]]:
    groups: dict[tuple[int, bool, bool, bool], list[Wish]] = {}
    for wish in wishes:
        kind = (wish.limit, wish.only_critical, wish.probing, wish.careful)
        groups.setdefault(kind, []).append(wish)
    return groups


def _leave_one_suspect(
    conn: Connection, wishes: Sequence[Wish], taken: dict[UUID, list[Claimed]]
) -> None:
    """Give back all suspects but one: the statement that took them saw none of them in hand."""
    suspects = [one for claims in taken.values() for one in claims if one.is_suspect]
    visits = {wish.mailbox_id: wish.claimed_by for wish in wishes}
    for one in sorted(suspects, key=_order)[1:]:
        give_back(conn, claimed_by=visits[one.mailbox_id], ids=[one.id])
        taken[one.mailbox_id].remove(one)


def renew(conn: Connection, *, claimed_by: str, lease_seconds: float) -> int:
    """Keep all that a visit holds for so many seconds from now; return how many those are."""
    given = {"visit": claimed_by, "lease": float(lease_seconds)}
    return conn.execute(_RENEW, given).rowcount


def give_back(conn: Connection, *, claimed_by: str, ids: Sequence[UUID]) -> int:
    """
    Return deliveries that the visit did not come to; no attempt, due as before.

    Source:
        docs/lifecycle.md, arrow d.
    """
    if not ids:
        return 0
    return conn.execute(_GIVE_BACK, {"visit": claimed_by, "ids": list(ids)}).rowcount


def _order(row: Claimed) -> tuple[int, datetime, UUID]:
    return row.severity, row.due_at, row.id


def in_lane_order() -> tuple[Any, ...]:
    """Give the order of a lane, that of its index."""
    return _D.severity, _D.due_at, _D.id


def severity_in(*severities: Severity) -> Any:
    """
    Name severities one by one, in the statement's text.

    That makes ``due_at`` a bound of the index for each of them; with the severity left open,
    every delivery of the lane that waits for later would be looked at on the way.
    """
    return _severity(_D.severity, *severities)


def _severity(column: ColumnElement[int], *severities: Severity) -> Any:
    return column.in_([literal_column(str(int(severity))) for severity in severities])


_H = DELIVERY.alias("waiting").c
_S = DELIVERY.alias("suspect")


def _is_suspect(of: Any) -> ColumnElement[bool]:
    return or_(
        of.claims >= SUSPECT_CLAIMS,
        # Nothing is unknown, so what is not a suspect is found by the negation.
        func.coalesce(of.reason, "") == COMPOSING,
    )


_SUSPECT_IN_HAND = exists().where(
    _S.c.state == literal_column(f"'{State.SENDING.value}'"),
    _S.c.claimed_by >= "",
    _is_suspect(_S.c),
)


@cache
def _claim(
    dialect: str,
    only_critical: bool,  # noqa: FBT001 - a cache key
    probing: bool,  # noqa: FBT001
    choice: _Choice,
) -> Update:
    wishes = table_of_rows(dialect, {"lane": Uuid(), "visit": _D.claimed_by.type})
    ready = [_MAILBOX.c.id == wishes.c.lane, _MAILBOX.c.connected_at.is_not(None)]
    if not probing:
        ready += [
            _MAILBOX.c.parked_at.is_(None),
            or_(_MAILBOX.c.paused_until.is_(None), _MAILBOX.c.paused_until <= utc_now()),
        ]
    head = (
        select(_H.id)
        .where(
            _H.state == literal_column(f"'{State.QUEUED.value}'"),
            _H.mailbox_id == wishes.c.lane,
            _severity(_H.severity, *([Severity.CRITICAL] if only_critical else Severity)),
            _H.due_at <= utc_now(),
            or_(_H.expires_at.is_(None), _H.expires_at > utc_now()),
            or_(not_(_is_suspect(_H)), ~_SUSPECT_IN_HAND),
        )
        .order_by(*_in_order(choice))
        # In the text: with the limit unknown PostgreSQL plans for a tenth of all rows.
        .limit(bindparam("most", type_=Integer(), literal_execute=True))
        .correlate(wishes)
    )
    if choice is _Choice.UNTRIED:
        head = head.where(_H.reason.is_(None))
    statement = known_by_key(CLAIM)
    if dialect == "postgresql":
        # A CTE is run once; PostgreSQL may run a subquery that locks rows several times over,
        # and then take more of them than its limit says.
        locked = head.with_for_update(skip_locked=True).lateral("head")
        first = (
            select(locked.c.id, wishes.c.visit)
            .select_from(wishes.join(locked, true()))
            .where(exists().where(*ready))
            .cte("first")
        )
        visit = first.c.visit
        statement = statement.where(_D.id == first.c.id)
    else:
        # SQLite has no LATERAL, but looks up a list that depends on another table.
        visit = wishes.c.visit
        statement = statement.where(
            _D.mailbox_id == wishes.c.lane, _D.id.in_(head), exists().where(*ready)
        )
    return statement.values(
        claimed_by=visit, claimed_until=utc_after(bindparam("lease", type_=Float()))
    ).returning(*_RETURNED)


def _in_order(choice: _Choice) -> list[Any]:
    order: list[Any] = [_H.severity, _H.due_at, _H.id]
    if choice is _Choice.LONGEST_AGO:
        last = select(func.max(_ATTEMPT.c.finished_at)).where(_ATTEMPT.c.delivery_id == _H.id)
        order.insert(0, last.correlate(_H.id.table).scalar_subquery())
    return order


_RENEW = (
    update(DELIVERY)
    .where(in_state(State.SENDING), _D.claimed_by == bindparam("visit", type_=_D.claimed_by.type))
    .values(claimed_until=utc_after(bindparam("lease", type_=Float())))
)

_GIVE_BACK = (
    move(RETURN)
    .where(
        _D.claimed_by == bindparam("visit", type_=_D.claimed_by.type),
        _D.id.in_(bindparam("ids", type_=Uuid(), expanding=True)),
    )
    .values(claimed_by=null(), claimed_until=null())
)
