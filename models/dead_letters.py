"""
Dead letters: finding, grouping, replaying and discarding them.

A replay puts a delivery back into its lane; it does not send. So pacing, parking and the order of
severities hold for it as for every other, and its Message-ID stays the same.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from shlex import quote
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, false, func, or_, select

from models import audit
from models.clock import utc_now
from models.errors import Conflict, NotFound
from models.lifecycle import DISCARD, REPLAY, REPLAY_FORCED, State, Transition
from models.lookups import MAILBOX, REMOVED, TENANT, mailbox_id, tenant_id
from models.moves import DELIVERY, in_state, move
from models.severity import Severity

_CHUNK = 500
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """
    Which dead letters are meant; None or empty means any.

    Attributes:
        tenant: A tenant's slug.
        mailbox: A mailbox's address.
        reason: The rule or word under which it died.
        since: Only those that died at this moment or later.
        ids: Only these; up to some thousands.
    """

    tenant: str | None = None
    mailbox: str | None = None
    reason: str | None = None
    reply_code: int | None = None
    enhanced_code: str | None = None
    since: datetime | None = None
    severity: Severity | None = None
    ids: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter as lists show it."""

    id: UUID
    tenant: str
    mailbox: str
    severity: Severity
    subject: str
    alert_id: str | None
    enqueued_at: datetime
    died_at: datetime | None
    expires_at: datetime | None
    attempts: int
    uncertain: bool
    reason: str | None
    reply_code: int | None
    enhanced_code: str | None
    reply_text: str | None
    replayed: int


@dataclass(frozen=True, slots=True)
class ReasonGroup:
    """
    Dead letters that died of the same cause.

    Attributes:
        tenants: Whose they are, and how many of each tenant's; the most first.
        uncertain: How many of them may have been sent all the same.
        example: The reply text of one of them.
    """

    reason: str | None
    reply_code: int | None
    enhanced_code: str | None
    tenants: dict[str, int]
    count: int
    uncertain: int
    oldest: datetime | None
    newest: datetime | None
    example: str | None


@dataclass(frozen=True, slots=True)
class Replay:
    """
    What a replay did.

    Attributes:
        replayed: How many deliveries wait in their lanes again.
        forced: How many of these were no dead letters.
        expiry_cleared: How many of these had an expiry in the past; they have none now.
        wake: The mailboxes that have work now, each with whether some of it is critical; to be
            woken after the commit.
    """

    replayed: int
    forced: int
    expiry_cleared: int
    wake: tuple[tuple[UUID, bool], ...]

    def __str__(self) -> str:
        text = (
            "1 delivery is queued again"
            if self.replayed == 1
            else f"{self.replayed} deliveries are queued again"
        )
        if self.forced:
            text += " (forced)" if self.forced == self.replayed else f" ({self.forced} forced)"
        if self.expiry_cleared:
            text += f"; {self.expiry_cleared} of them had expired: the deadline is gone"
        return text


def list_dead(
    conn: Connection, wanted: DeadFilter | None = None, *, limit: int = 100
) -> list[DeadLetter]:
    """
    Return dead letters, the latest first.

    Raises:
        NotFound: The filter names a tenant or mailbox that does not exist.
    """
    statement = (
        select(
            DELIVERY.c.id,
            TENANT.c.slug.label("tenant"),
            MAILBOX.c.address.label("mailbox"),
            DELIVERY.c.severity,
            DELIVERY.c.subject,
            DELIVERY.c.alert_id,
            DELIVERY.c.enqueued_at,
            DELIVERY.c.settled_at.label("died_at"),
            DELIVERY.c.expires_at,
            DELIVERY.c.attempts,
            DELIVERY.c.uncertain,
            DELIVERY.c.reason,
            DELIVERY.c.reply_code,
            DELIVERY.c.enhanced_code,
            DELIVERY.c.reply_text,
            DELIVERY.c.replayed,
        )
        .join_from(DELIVERY, TENANT, DELIVERY.c.tenant_id == TENANT.c.id)
        .join(MAILBOX, DELIVERY.c.mailbox_id == MAILBOX.c.id)
        .where(in_state(State.DEAD), _matches(conn, wanted or DeadFilter()))
        .order_by(DELIVERY.c.settled_at.desc(), DELIVERY.c.id.desc())
        .limit(limit)
    )
    return [
        DeadLetter(**{**row._mapping, "severity": Severity(row.severity)})  # noqa: SLF001
        for row in conn.execute(statement)
    ]


def group_by_reason(conn: Connection, wanted: DeadFilter | None = None) -> list[ReasonGroup]:
    """
    Return dead letters by cause, the most frequent first.

    Raises:
        NotFound: As ``list_dead``.
    """
    cause = (DELIVERY.c.reason, DELIVERY.c.reply_code, DELIVERY.c.enhanced_code)
    statement = (
        select(
            *cause,
            TENANT.c.slug,
            func.count().label("size"),
            func.count().filter(DELIVERY.c.uncertain).label("uncertain"),
            func.min(DELIVERY.c.settled_at).label("oldest"),
            func.max(DELIVERY.c.settled_at).label("newest"),
            func.max(DELIVERY.c.reply_text).label("example"),
        )
        .join_from(DELIVERY, TENANT, DELIVERY.c.tenant_id == TENANT.c.id)
        .where(in_state(State.DEAD), _matches(conn, wanted or DeadFilter()))
        .group_by(*cause, TENANT.c.slug)
    )
    parts: dict[tuple[Any, ...], list[Any]] = {}
    for row in conn.execute(statement):
        parts.setdefault((row.reason, row.reply_code, row.enhanced_code), []).append(row)
    groups = [_group(rows) for rows in parts.values()]
    return sorted(groups, key=lambda group: (-group.count, group.reason or ""))


def _group(rows: list[Any]) -> ReasonGroup:
    """Sum up the rows of one cause, one of each tenant."""
    rows = sorted(rows, key=lambda row: (-row.size, row.slug))
    return ReasonGroup(
        reason=rows[0].reason,
        reply_code=rows[0].reply_code,
        enhanced_code=rows[0].enhanced_code,
        tenants={row.slug: row.size for row in rows},
        count=sum(row.size for row in rows),
        uncertain=sum(row.uncertain for row in rows),
        oldest=min((row.oldest for row in rows if row.oldest), default=None),
        newest=max((row.newest for row in rows if row.newest), default=None),
        example=next((row.example for row in rows if row.example), None),
    )


def count(conn: Connection, wanted: DeadFilter | None = None) -> int:
    """
    Return how many dead letters there are; what a replay or a discard would concern.

    Raises:
        NotFound: As ``list_dead``.
    """
    statement = (
        select(func.count())
        .select_from(DELIVERY)
        .where(in_state(State.DEAD), _matches(conn, wanted or DeadFilter()))
    )
    return conn.execute(statement).scalar_one()


def replay(
    conn: Connection,
    wanted: DeadFilter,
    *,
    actor: str,
    reason: str | None = None,
    force_ids: Collection[UUID] = (),
) -> Replay:
    """
    Put deliveries back into their lanes, due now, with all their tries before them.

    The mark ``uncertain`` stays: a copy may have been sent. An expiry in the past is cleared, for
    otherwise the next sweep would expire the delivery again.

    Args:
        conn: An open transaction.
        wanted: Which dead letters; an empty filter means all of them.
        actor: Who asks for it.
        reason: Why, for the audit.
        force_ids: Deliveries to send again although they are accepted, expired or cancelled.

    Raises:
        NotFound: An id names no delivery, or the filter a tenant or mailbox that does not exist.
        Conflict: An id names a delivery that is no dead letter and is not forced, or one that is
            on its way already; or a mailbox was removed.
    """
    forced_ids = tuple(dict.fromkeys(force_ids))
    _check_ids(conn, (*wanted.ids, *forced_ids), forced=frozenset(forced_ids))
    # With nothing but forced ids, the empty rest of the filter must not mean everything.
    dead = false() if forced_ids and wanted == DeadFilter() else _matches(conn, wanted)
    by_id = _among(forced_ids)
    late = and_(DELIVERY.c.expires_at.is_not(None), DELIVERY.c.expires_at <= utc_now())
    moved: list[tuple[Any, bool]] = []
    cleared = 0
    steps = [(REPLAY, or_(dead, by_id)), (REPLAY_FORCED, by_id)]
    for transition, condition in steps if forced_ids else steps[:1]:
        # Those past their expiry first: once it is cleared, the second statement cannot see them.
        for expired in (True, False):
            rows = _requeue(conn, transition, condition, only=late if expired else None)
            cleared += len(rows) * expired
            moved += [(row, transition is REPLAY_FORCED) for row in rows]
    mailboxes: dict[UUID, bool] = {}
    for row, _ in moved:
        critical = row.severity == Severity.CRITICAL
        mailboxes[row.mailbox_id] = mailboxes.get(row.mailbox_id, False) or critical
    _check_mailboxes(conn, list(mailboxes))
    audit.write_all(
        conn,
        (
            audit.Entry(
                actor=actor,
                action="replay",
                subject_kind="delivery",
                subject=str(row.id),
                reason=reason,
                detail={"forced": forced},
            )
            for row, forced in moved
        ),
    )
    return Replay(
        replayed=len(moved),
        forced=sum(forced for _, forced in moved),
        expiry_cleared=cleared,
        wake=tuple(mailboxes.items()),
    )


def discard(conn: Connection, wanted: DeadFilter, *, actor: str, reason: str | None = None) -> int:
    """
    Give dead letters up for good; their cause stays on record.

    Args:
        conn: An open transaction.
        wanted: Which dead letters; an empty filter means all of them.
        actor: Who asks for it.
        reason: Why, for the audit.

    Returns:
        How many there were.

    Raises:
        NotFound: As ``replay``.
        Conflict: An id names a delivery that is no dead letter.
    """
    _check_ids(conn, wanted.ids)
    discarded: list[UUID] = list(
        conn.scalars(
            move(DISCARD)
            .where(_matches(conn, wanted))
            .values(settled_at=utc_now())
            .returning(DELIVERY.c.id)
        )
    )
    audit.write_all(
        conn,
        (
            audit.Entry(
                actor=actor,
                action="discard",
                subject_kind="delivery",
                subject=str(key),
                reason=reason,
            )
            for key in discarded
        ),
    )
    return len(discarded)


def _requeue(
    conn: Connection,
    transition: Transition,
    condition: ColumnElement[bool],
    *,
    only: ColumnElement[bool] | None,
) -> list[Any]:
    values: dict[str, Any] = {
        "due_at": utc_now(),
        "attempts": 0,
        "first_attempt_at": None,
        "claims": 0,
        "claimed_by": None,
        "claimed_until": None,
        "settled_at": None,
        "reason": None,
        "reply_code": None,
        "enhanced_code": None,
        "reply_text": None,
        # Who was refused for good is tried again: that is often what was set right.
        "refused": {},
        "replayed": DELIVERY.c.replayed + 1,
    }
    statement = move(transition).where(condition)
    if only is not None:
        statement = statement.where(only)
        values["expires_at"] = None
    return list(
        conn.execute(
            statement.values(values).returning(
                DELIVERY.c.id, DELIVERY.c.mailbox_id, DELIVERY.c.severity
            )
        )
    )


def _matches(conn: Connection, wanted: DeadFilter) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.tenant is not None:
        conditions.append(DELIVERY.c.tenant_id == tenant_id(conn, wanted.tenant))
    if wanted.mailbox is not None:
        conditions.append(DELIVERY.c.mailbox_id == mailbox_id(conn, wanted.mailbox))
    if wanted.reason is not None:
        conditions.append(DELIVERY.c.reason == wanted.reason)
    if wanted.reply_code is not None:
        conditions.append(DELIVERY.c.reply_code == wanted.reply_code)
    if wanted.enhanced_code is not None:
        conditions.append(DELIVERY.c.enhanced_code == wanted.enhanced_code)
    if wanted.since is not None:
        conditions.append(DELIVERY.c.settled_at >= wanted.since)
    if wanted.severity is not None:
        conditions.append(DELIVERY.c.severity == int(wanted.severity))
    if wanted.ids:
        conditions.append(_among(wanted.ids))
    return and_(*conditions) if conditions else DELIVERY.c.id.is_not(None)


def _among(ids: Collection[UUID]) -> ColumnElement[bool]:
    return DELIVERY.c.id.in_(ids) if ids else false()


def _check_ids(
    conn: Connection, ids: Collection[UUID], *, forced: frozenset[UUID] | None = None
) -> None:
    """Say of ids that cannot be taken why not, before anything changes; without force, None."""
    wanted = list(dict.fromkeys(ids))
    states: dict[UUID, State] = {}
    for start in range(0, len(wanted), _CHUNK):
        statement = select(DELIVERY.c.id, DELIVERY.c.state).where(
            DELIVERY.c.id.in_(wanted[start : start + _CHUNK])
        )
        states.update((row.id, State(row.state)) for row in conn.execute(statement))
    if missing := [key for key in wanted if key not in states]:
        raise NotFound(f"there is no delivery {_named(missing)}")
    for state in State:
        concerned = [key for key in wanted if states[key] is state]
        allowed = state is State.DEAD or (
            forced is not None and state in REPLAY_FORCED.origins and forced.issuperset(concerned)
        )
        if concerned and not allowed:
            if forced is None:
                fact = _WHY_NOT[state].partition(";")[0]
                raise Conflict(
                    f"delivery {_named(concerned)} {fact}; only dead letters can be discarded"
                )
            unforced = [key for key in concerned if key not in forced] or concerned
            raise Conflict(f"delivery {_named(unforced)} {_WHY_NOT[state]}")


_WHY_NOT = {
    State.QUEUED: "waits in its lane already",
    State.SENDING: "is being sent at this moment",
    State.ACCEPTED: "was accepted by Exchange; only --force sends it a second time",
    State.EXPIRED: "expired; only --force sends it anyway",
    State.CANCELLED: "was cancelled; only --force sends it anyway",
    State.FOLDED: "went out as part of a digest; replay the digest",
}


def _named(ids: list[UUID]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(str(key) for key in ids[:_SHOWN]) + more


def _check_mailboxes(conn: Connection, mailboxes: list[UUID]) -> None:
    for start in range(0, len(mailboxes), _CHUNK):
        rows = conn.execute(
            select(MAILBOX.c.address, MAILBOX.c.park_reason)
            .where(MAILBOX.c.id.in_(mailboxes[start : start + _CHUNK]))
            .order_by(MAILBOX.c.id)
            # As when an alert is accepted: a removal comes before this, or finds what is queued.
            .with_for_update(read=True, key_share=True)
        )
        removed = next((row.address for row in rows if row.park_reason == REMOVED), None)
        if removed is not None:
            raise Conflict(
                f"mailbox {removed!r} was removed, so nothing would ever leave its lane; "
                f"`alertpost mailboxes add TENANT {quote(removed)}` brings it back, or leave "
                "its deliveries out"
            )
