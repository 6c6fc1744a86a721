"""Taking back what visits held that died."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Integer,
    Update,
    Uuid,
    bindparam,
    func,
    literal_column,
    null,
    or_,
    select,
)
from sqlalchemy.types import TypeEngine

from models.batches import as_parameter, table_of_rows
from models.clock import utc_now
from models.composing_deaths import COMPOSING, EARLY, LIMIT, STOPS_UNSENT, deaths_so_far
from models.lane_claim import in_lane_order
from models.lane_outcome import AttemptRecord, Outcome
from models.lane_settle import record_attempts
from models.lifecycle import GIVE_UP, RECOVER, State, Transition
from models.moves import DELIVERY, in_state, move
from models.quota import DayLimits
from models.quota_counts import spend_abandoned
from models.stages import Stage
from models.tables import METADATA

Begun = Mapping[str, UUID | None]
"""
Of visits the delivery whose submission each began last, None where it began none.

Those of which nothing is known are missing.
"""

Composing = Mapping[str, UUID]
"""Of visits the delivery that each was composing, where it said so; see ``composing_deaths``."""

STOPS_ITS_WORKER = "stops-its-worker"
"""Reason of a delivery that was in hand each time a worker died."""

WORKER_DIED = "worker-died"
"""Rule of the attempt that a dead visit may have made."""

UNCERTAIN_HELD = "uncertain-held"
"""Reason of a delivery whose fate is unknown and whose tenant does not want it sent again."""

_TENANT = METADATA.tables["tenant"]
_D = DELIVERY.c


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A claim whose visit stopped renewing it."""

    id: UUID
    mailbox_id: UUID
    claimed_by: str
    claims: int
    hold: bool
    """The tenant does not want a mail sent again whose fate is unknown."""
    reason: str | None = None
    """What it waited under."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What becomes of an abandoned claim."""

    abandoned: Abandoned
    in_hand: bool
    """It may have been sent just when the visit died."""
    reason: str | None
    """Why it is dead; None: it is queued again."""
    composing: bool = False
    """It was being composed just when the visit died; nothing of it was sent."""
    waits: str | None = None
    """What it is queued under from now on; None: the same as before."""


def recover(
    conn: Connection,
    *,
    claim_limit: int = 3,
    most: int = 5000,
    bucket_seconds: float = DayLimits().bucket_seconds,
    begun: Begun = MappingProxyType({}),
    composing: Composing = MappingProxyType({}),
    only: Collection[str] | None = None,
) -> tuple[int, int, bool]:
    """
    Take back claims that were not renewed in time.

    A visit works strictly in the order of the lane, one mail at a time, so of all that it held at
    most one can have been on its way: the one whose submission it began last, or, where that is
    not known, the first. That one is ``uncertain``, counts a claim and gets an attempt, because
    it may have taken a permit, which pacing must be able to learn again, and its recipients
    count as reached. The others are not touched, but for the first of them, which may have been
    composed just then; see ``composing_deaths``.

    Args:
        conn: A transaction that may write.
        claim_limit: A delivery in hand at so many deaths of a worker is dead itself.
        most: At most so many claims.
        bucket_seconds: How finely recipients are counted, see ``quota``.
        begun: What is known of these visits.
        composing: What they were composing, likewise.
        only: Take back what these visits held and nothing else; None: whatever it is.

    Returns:
        How many are queued again, how many are dead, and whether there are more.
    """
    if only is None:
        rows = conn.execute(_ABANDONED, {"most": most}).all()
    elif only:
        rows = conn.execute(_ABANDONED_BY, {"most": most, "visits": list(only)}).all()
    else:
        rows = []
    if not rows:
        return 0, 0, False
    abandoned = [Abandoned(*row) for row in rows]
    composed = {claim.id for claim in abandoned if composing.get(claim.claimed_by) == claim.id}
    findings = judge(
        abandoned,
        claim_limit=claim_limit,
        begun=begun,
        deaths=deaths_so_far(conn, composed),
    )
    back = [finding for finding in findings if finding.reason is None]
    dead = [finding for finding in findings if finding.reason is not None]
    recovered = _take_back(conn, RECOVER, back)
    buried = _take_back(conn, GIVE_UP, dead)
    in_hand = [finding for finding in findings if finding.in_hand]
    died_of = [finding for finding in findings if finding.in_hand or finding.composing]
    record_attempts(conn, [_attempt(finding) for finding in died_of])
    spend_abandoned(
        conn, [finding.abandoned.id for finding in in_hand], bucket_seconds=bucket_seconds
    )
    return recovered, buried, len(rows) >= most


def abandoned_visits(conn: Connection, *, most: int = 500) -> list[str]:
    """Name visits that hold claims which were not renewed in time; at most so many."""
    return list(conn.execute(_VISITS, {"most": most}).scalars())


def judge(
    claims: Iterable[Abandoned],
    *,
    claim_limit: int,
    begun: Begun = MappingProxyType({}),
    deaths: Mapping[UUID, int] = MappingProxyType({}),
) -> list[Finding]:
    """
    Decide what becomes of abandoned claims.

    Args:
        claims: Those of one visit together, in the order of its lane.
        claim_limit: See ``sweep``.
        begun: See ``recover``.
        deaths: Of those that were being composed how often workers died so before.
    """
    findings = []
    for visit, group in groupby(claims, key=lambda claim: claim.claimed_by):
        held = list(group)
        in_doubt = _in_doubt(held, begun[visit]) if visit in begun else 1
        findings += [_in_hand(claim, claim_limit) for claim in held[:in_doubt]]
        # The order of the lane is that of the visit: it had not come to those after the first.
        findings += [_not_begun(claim, deaths) for claim in held[in_doubt : in_doubt + 1]]
        findings += [Finding(claim, in_hand=False, reason=None) for claim in held[in_doubt + 1 :]]
    return findings


def _in_hand(claim: Abandoned, claim_limit: int) -> Finding:
    reason = None
    if claim.claims + 1 >= claim_limit:
        reason = STOPS_ITS_WORKER
    elif claim.hold:
        reason = UNCERTAIN_HELD
    return Finding(claim, in_hand=True, reason=reason)


def _not_begun(claim: Abandoned, deaths: Mapping[UUID, int]) -> Finding:
    """Judge the one that the visit would have begun next."""
    if claim.id not in deaths:
        # A suspect stays one until it was composed without a death.
        waits = None if claim.reason == COMPOSING else EARLY
        return Finding(claim, in_hand=False, reason=None, waits=waits)
    reason = STOPS_UNSENT if deaths[claim.id] + 1 >= LIMIT else None
    return Finding(claim, in_hand=False, reason=reason, composing=True, waits=COMPOSING)


def _in_doubt(held: Sequence[Abandoned], last: UUID | None) -> int:
    """
    Say how many of these, from the first on, may be on their way.

    The outcome of one is committed before the next begins, so those before the last one that was
    begun are no longer held. Were one held all the same, it would be in doubt as well.
    """
    ids = [claim.id for claim in held]
    return ids.index(last) + 1 if last in ids else 0


def _attempt(finding: Finding) -> Outcome:
    """Shape the try that a dead visit may have made; it ends now, when its claim is over."""
    claim = finding.abandoned
    if finding.composing:
        return Outcome(
            delivery_id=claim.id,
            mailbox_id=claim.mailbox_id,
            claimed_by=claim.claimed_by,
            transition=RECOVER if finding.reason is None else GIVE_UP,
            attempt=AttemptRecord(stage=Stage.COMPOSE, rule=finding.reason or COMPOSING),
        )
    rule = finding.reason or WORKER_DIED
    return Outcome(
        delivery_id=claim.id,
        mailbox_id=claim.mailbox_id,
        claimed_by=claim.claimed_by,
        transition=RECOVER if finding.reason is None else GIVE_UP,
        uncertain=True,
        attempt=AttemptRecord(stage=Stage.BODY, rule=rule, took_permit=True),
    )


def _take_back(conn: Connection, transition: Transition, findings: Sequence[Finding]) -> int:
    if not findings:
        return 0
    given = as_parameter(
        [
            {
                "id": finding.abandoned.id.hex,
                "visit": finding.abandoned.claimed_by,
                "in_hand": int(finding.in_hand),
                "reason": finding.reason or finding.waits,
            }
            for finding in findings
        ]
    )
    return conn.execute(_taken_back(conn.dialect.name, transition), given).rowcount


@cache
def _taken_back(dialect: str, transition: Transition) -> Update:
    kinds: dict[str, TypeEngine[Any]] = {
        "id": Uuid(),
        "visit": _D.claimed_by.type,
        "in_hand": Integer(),
        "reason": _D.reason.type,
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
    return statement.values(reason=func.coalesce(given.reason, _D.reason, type_=_D.reason.type))


_OVER = (
    in_state(State.SENDING),
    # Always true of a claim; it lets the index be read from its beginning.
    _D.claimed_by >= "",
    _D.claimed_until < utc_now(),
)
_MOST = bindparam("most", type_=Integer(), literal_execute=True)

_ALL_ABANDONED = (
    select(
        _D.id,
        _D.mailbox_id,
        _D.claimed_by,
        _D.claims,
        _TENANT.c.uncertain_policy == "hold",
        _D.reason,
    )
    .join(_TENANT, _TENANT.c.id == _D.tenant_id)
    .where(*_OVER)
    .order_by(_D.claimed_by, *in_lane_order())
    # What a visit settles at this very moment is not abandoned after all.
    .with_for_update(of=DELIVERY, skip_locked=True)
)
_ABANDONED = _ALL_ABANDONED.limit(_MOST)
_ABANDONED_BY = _ALL_ABANDONED.where(
    _D.claimed_by.in_(bindparam("visits", type_=_D.claimed_by.type, expanding=True))
).limit(_MOST)

_VISITS = select(_D.claimed_by).distinct().where(*_OVER).order_by(_D.claimed_by).limit(_MOST)
