"""
What no visit does: take back what dead visits held, expire what is late, see which lanes are due.

Every statement here reads partial indexes only, so its cost follows what is queued and in hand,
never what was sent before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Integer,
    Select,
    Text,
    Update,
    Uuid,
    bindparam,
    exists,
    literal,
    literal_column,
    null,
    or_,
    select,
)
from sqlalchemy.types import TypeEngine

from models.batches import as_parameter, table_of_rows
from models.clock import utc_now
from models.lane_claim import in_lane_order, severity_in
from models.lifecycle import CANCEL, EXPIRE, GIVE_UP, RECOVER, State, Transition
from models.moves import DELIVERY, in_state, move
from models.severity import Severity
from models.tables import METADATA

STOPS_ITS_WORKER = "stops-its-worker"
"""Reason of a delivery that was in hand each time a worker died."""

UNCERTAIN_HELD = "uncertain-held"
"""Reason of a delivery whose fate is unknown and whose tenant does not want it sent again."""

EXPIRED = "expired"
"""Reason of a delivery that waited past its deadline."""

CANCELLED = "cancelled"
"""Reason of a delivery that somebody took back."""

_MOST_AT_ONCE = 5000
_MAILBOX = METADATA.tables["mailbox"]
_TENANT = METADATA.tables["tenant"]
_D = DELIVERY.c


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep found and did."""

    due: list[tuple[UUID, bool]]
    """Mailboxes to wake, and whether something critical waits there; probes included."""
    recovered: int
    """Claims of dead visits that are queued again."""
    buried: int
    """Claims of dead visits that became dead letters."""
    expired: int
    probes: list[UUID]
    """Parked mailboxes that may try one mail; one for each cause."""
    more: bool = False
    """There was more to do than one sweep does: sweep again soon."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A claim whose visit stopped renewing it."""

    id: UUID
    claimed_by: str
    claims: int
    hold: bool
    """The tenant does not want a mail sent again whose fate is unknown."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What becomes of an abandoned claim."""

    abandoned: Abandoned
    in_hand: bool
    """It may have been sent just when the visit died."""
    reason: str | None
    """Why it is dead; None: it is queued again."""


def sweep(conn: Connection, *, claim_limit: int = 3) -> Sweep:
    """
    Do all of a sweep in one transaction; see ``recover``, ``expire`` and ``due``.

    Args:
        conn: A transaction that may write.
        claim_limit: A delivery in hand at so many deaths of a worker is dead itself.
    """
    recovered, buried, more_claims = recover(conn, claim_limit=claim_limit)
    expired = expire(conn)
    lanes, probes = due(conn)
    return Sweep(
        due=lanes,
        recovered=recovered,
        buried=buried,
        expired=expired,
        probes=probes,
        more=more_claims or expired >= _MOST_AT_ONCE,
    )


def recover(conn: Connection, *, claim_limit: int = 3) -> tuple[int, int, bool]:
    """
    Take back claims that were not renewed in time.

    A visit works strictly in the order of the lane, so of all that it held only the first can
    have been on its way: that one is ``uncertain`` and counts a claim. The others are untouched.

    Returns:
        How many are queued again, how many are dead, and whether there are more.
    """
    rows = conn.execute(_ABANDONED, {"most": _MOST_AT_ONCE}).all()
    if not rows:
        return 0, 0, False
    findings = judge((Abandoned(*row) for row in rows), claim_limit=claim_limit)
    back = [finding for finding in findings if finding.reason is None]
    dead = [finding for finding in findings if finding.reason is not None]
    return (
        _take_back(conn, RECOVER, back),
        _take_back(conn, GIVE_UP, dead),
        len(rows) >= _MOST_AT_ONCE,
    )


def judge(claims: Iterable[Abandoned], *, claim_limit: int) -> list[Finding]:
    """
    Decide what becomes of abandoned claims.

    Args:
        claims: Those of one visit together, in the order of its lane.
        claim_limit: See ``sweep``.
    """
    findings = []
    for _, held in groupby(claims, key=lambda claim: claim.claimed_by):
        for position, claim in enumerate(held):
            in_hand = position == 0
            reason = None
            if in_hand and claim.claims + 1 >= claim_limit:
                reason = STOPS_ITS_WORKER
            elif in_hand and claim.hold:
                reason = UNCERTAIN_HELD
            findings.append(Finding(claim, in_hand, reason))
    return findings


def expire(conn: Connection) -> int:
    """Expire queued deliveries past their deadline, at most 5,000; return how many."""
    return len(conn.execute(_EXPIRE, {"most": _MOST_AT_ONCE}).all())


def due(conn: Connection) -> tuple[list[tuple[UUID, bool]], list[UUID]]:
    """
    Find the lanes that want a visit; it reads only.

    Returns:
        Mailboxes with a delivery due, each with whether something critical is among them, and
        those of them that are parked but may probe. Of several mailboxes that are parked for
        one cause one probes: the others would only hear the same.
    """
    lanes, probes, causes = [], [], set()
    for row in conn.execute(_DUE):
        if row.parked_at is not None:
            cause = _cause(row)
            if cause in causes:
                continue
            causes.add(cause)
            probes.append(row.id)
        lanes.append((row.id, bool(row.critical)))
    return lanes, probes


def cancel(conn: Connection, ids: Sequence[UUID]) -> int:
    """
    Take queued deliveries back; return how many were still queued.

    Source:
        docs/lifecycle.md, arrow h.
    """
    if not ids:
        return 0
    given = as_parameter([{"id": key.hex} for key in ids])
    return conn.execute(_cancel(conn.dialect.name), given).rowcount


def _cause(row: Any) -> tuple[Any, ...]:
    concerned = {"app": row.app_registration_id, "tenant": row.tenant_id}
    return row.park_scope, row.park_reason, concerned.get(row.park_scope, row.id)


def _take_back(conn: Connection, transition: Transition, findings: Sequence[Finding]) -> int:
    if not findings:
        return 0
    given = as_parameter(
        [
            {
                "id": finding.abandoned.id.hex,
                "visit": finding.abandoned.claimed_by,
                "in_hand": int(finding.in_hand),
                "reason": finding.reason,
            }
            for finding in findings
        ]
    )
    return conn.execute(_taken_back(conn.dialect.name, transition), given).rowcount


@cache
def _taken_back(dialect: str, transition: Transition) -> Update:
    kinds: dict[str, TypeEngine[Any]] = {
        "id": Uuid(),
        "visit": Text(),
        "in_hand": Integer(),
        "reason": Text(),
    }
    given = table_of_rows(dialect, kinds).c
    statement = (
        move(transition)
        .where(_D.id == given.id, _D.claimed_by == given.visit)
        .values(
            claimed_by=null(),
            claimed_until=null(),
            claims=_D.claims + given.in_hand,
            uncertain=or_(_D.uncertain, given.in_hand == literal_column("1")),
        )
    )
    if transition.target is State.DEAD:
        return statement.values(settled_at=utc_now(), reason=given.reason)
    return statement


@cache
def _cancel(dialect: str) -> Update:
    given = table_of_rows(dialect, {"id": Uuid()}).c
    return (
        move(CANCEL)
        .where(_D.id == given.id)
        .values(settled_at=utc_now(), reason=literal(CANCELLED))
    )


_MOST = bindparam("most", type_=Integer(), literal_execute=True)

_ABANDONED = (
    select(_D.id, _D.claimed_by, _D.claims, _TENANT.c.uncertain_policy == "hold")
    .join(_TENANT, _TENANT.c.id == _D.tenant_id)
    .where(
        in_state(State.SENDING),
        # Always true of a claim; it lets the index be read from its beginning.
        _D.claimed_by >= "",
        _D.claimed_until < utc_now(),
    )
    .order_by(_D.claimed_by, *in_lane_order())
    .limit(_MOST)
    # What a visit settles at this very moment is not abandoned after all.
    .with_for_update(of=DELIVERY, skip_locked=True)
)

_LATE = (
    select(_D.id)
    .where(in_state(State.QUEUED), _D.expires_at.is_not(None), _D.expires_at <= utc_now())
    .order_by(_D.expires_at)
    .limit(_MOST)
    .with_for_update(skip_locked=True)
    # For the reason given in ``lane_claim``: a plain subquery can exceed its limit.
    .cte("late")
)

_EXPIRE = (
    move(EXPIRE)
    .where(_D.id.in_(select(_LATE.c.id)))
    .values(settled_at=utc_now(), reason=literal(EXPIRED))
    # SQLite's driver does not count the rows of a statement that begins with WITH.
    .returning(_D.id)
)


def _due() -> Select[Any]:
    """
    Write the query for the lanes that want a visit.

    The recursion hops from one mailbox to the next in the index of queued deliveries, so it
    costs one probe for each lane that has any, however long the lanes are. ``DISTINCT`` would
    read all of them.
    """
    queued = in_state(State.QUEUED)
    first = select(_D.mailbox_id).where(queued).order_by(_D.mailbox_id).limit(1).subquery()
    lanes = select(first.c.mailbox_id).cte("lanes", recursive=True)
    following = (
        select(_D.mailbox_id)
        .where(queued, _D.mailbox_id > lanes.c.mailbox_id)
        .order_by(_D.mailbox_id)
        .limit(1)
        .correlate(lanes)
        .scalar_subquery()
    )
    lanes = lanes.union_all(select(following).where(lanes.c.mailbox_id.is_not(None)))

    def waits(*severities: Severity) -> Any:
        return exists().where(
            _D.mailbox_id == mailbox.id,
            queued,
            severity_in(*severities),
            _D.due_at <= utc_now(),
        )

    mailbox = _MAILBOX.c
    return (
        select(
            mailbox.id,
            mailbox.tenant_id,
            mailbox.parked_at,
            mailbox.park_scope,
            mailbox.park_reason,
            _TENANT.c.app_registration_id,
            waits(Severity.CRITICAL).label("critical"),
        )
        .select_from(lanes)
        .join(_MAILBOX, mailbox.id == lanes.c.mailbox_id)
        .join(_TENANT, _TENANT.c.id == mailbox.tenant_id)
        .where(
            mailbox.connected_at.is_not(None),
            or_(mailbox.parked_at.is_(None), mailbox.probe_at <= utc_now()),
            or_(mailbox.paused_until.is_(None), mailbox.paused_until <= utc_now()),
            waits(*Severity),
        )
    )


_DUE = _due()
