"""
Mailboxes that wait for a person, and those that are back: what the operator has to be told.

A cause is told once, however many mailboxes it takes along. What was told stands in
``told_warnings``; the rest follows from the mailboxes as they are now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, union

from models.clock import utc_after
from models.deliveries import ATTEMPT
from models.lifecycle import State
from models.lookups import APP, BY_HAND, MAILBOX, REMOVED, TENANT
from models.moves import DELIVERY, in_state
from models.told_warnings import LOSS, TOLD

SETTLED = timedelta(seconds=60)
"""What parks and resumes within so short a time is not worth a mail; nor is the reverse."""

GATHERED = timedelta(minutes=10)
"""
Mailboxes that are lost one by one for the same reason are told together, so often at most.

A minute each would otherwise bring a mail while a customer's people all change a setting.
"""

REPEAT_AT_MOST = timedelta(days=1)
"""Between two mails that repeat something."""

LONGEST_GAP_DAYS = 7

_M: Any = MAILBOX.c
_T: Any = TOLD.c


@dataclass(frozen=True, slots=True)
class LostMailbox:
    """
    A mailbox that waits for a person.

    Attributes:
        told_id: Key of what was told of it; None: nothing yet.
        delivery_id: The mail that told of it.
        tellings: How often it was told.
        told_at: When it was told last.
    """

    address: str
    tenant: str
    app: str
    parked_at: datetime
    reason: str
    scope: str
    meaning: str
    next_step: str
    told_id: UUID | None = None
    delivery_id: UUID | None = None
    tellings: int = 0
    told_at: datetime | None = None

    @property
    def cause(self) -> str:
        """
        Name what this mailbox has in common with others that wait for the same.

        A cause that reaches as far as a tenant or an app is one for all of it. One that is a
        mailbox's own is the same only by its name.
        """
        where = {"app": f"app {self.app}", "tenant": f"tenant {self.tenant}"}.get(self.scope)
        return f"{where or 'mailboxes'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Lost:
    """
    What waits for one cause.

    Attributes:
        mailboxes: The longest lost first.
        waiting: Alerts that wait in them.
    """

    mailboxes: tuple[LostMailbox, ...]
    waiting: int = 0

    @property
    def first(self) -> LostMailbox:
        """The one that was lost first; reason, meaning and next step are those of all."""
        return self.mailboxes[0]


@dataclass(frozen=True, slots=True)
class BackMailbox:
    """A mailbox that was told as lost and sends again."""

    told_id: UUID
    address: str
    tenant: str
    cause: str
    reason: str
    parked_at: datetime
    resumed_at: datetime
    waited: int = 0

    @property
    def parked_for(self) -> timedelta:
        """How long it did not send."""
        return self.resumed_at - self.parked_at


@dataclass(frozen=True, slots=True)
class Ended:
    """
    Told losses that are losses no more.

    Attributes:
        back: They send again.
        silent: Keys of those that a person parked or removed, or that wait for something else.
    """

    back: tuple[BackMailbox, ...]
    silent: tuple[UUID, ...]


def lost_mailboxes(conn: Connection) -> list[LostMailbox]:
    """
    Return the mailboxes that wait for a person, the longest first.

    Those that somebody parked by hand, that were removed, or that have waited for less than
    ``SETTLED``, are left out.
    """
    rows = conn.execute(
        select(
            _M.address,
            TENANT.c.slug.label("tenant"),
            APP.c.name.label("app"),
            _M.parked_at,
            _M.park_reason.label("reason"),
            func.coalesce(_M.park_scope, "mailbox").label("scope"),
            func.coalesce(_M.park_meaning, "").label("meaning"),
            func.coalesce(_M.park_next_step, "").label("next_step"),
            _T.id.label("told_id"),
            _T.delivery_id,
            func.coalesce(_T.tellings, 0).label("tellings"),
            func.coalesce(_T.repeated_at, _T.told_at).label("told_at"),
        )
        .join_from(MAILBOX, TENANT, TENANT.c.id == _M.tenant_id)
        .join(APP, APP.c.id == TENANT.c.app_registration_id)
        .outerjoin(TOLD, and_(_of_mailbox(), _T.moment == _M.parked_at))
        .where(_waits_for_somebody(), _M.parked_at <= utc_after(-SETTLED.total_seconds()))
        .order_by(_M.parked_at, _M.address)
    )
    return [LostMailbox(**row._mapping) for row in rows]  # noqa: SLF001 - a public name


def waiting_in_parked(conn: Connection) -> dict[str, int]:
    """Count what is queued in parked mailboxes, by address; those without any are missing."""
    rows = conn.execute(
        select(_M.address, func.count())
        .join_from(DELIVERY, MAILBOX, DELIVERY.c.mailbox_id == _M.id)
        .where(in_state(State.QUEUED), _M.parked_at.is_not(None))
        .group_by(_M.address)
    )
    return {row[0]: row[1] for row in rows}


def by_cause(mailboxes: Iterable[LostMailbox], waiting: Mapping[str, int]) -> tuple[Lost, ...]:
    """Put together what waits for the same; the most mailboxes first."""
    groups: dict[str, list[LostMailbox]] = defaultdict(list)
    for one in mailboxes:
        groups[one.cause].append(one)
    lost = [
        Lost(tuple(group), sum(waiting.get(one.address, 0) for one in group))
        for group in groups.values()
    ]
    return tuple(sorted(lost, key=lambda one: (-len(one.mailboxes), one.first.parked_at)))


def due_again(lost: Sequence[LostMailbox], now: datetime) -> list[LostMailbox]:
    """
    Choose what is repeated: each cause of which some mailbox was told long enough ago, whole.

    After a day, then after two, four and seven more, then each week: whoever has not mended it by
    then knows, and a mail a day for ever would only teach to delete them unread.
    """
    told = [one for one in lost if one.told_at is not None]
    if any(one.tellings > 1 and now - _told(one) < REPEAT_AT_MOST for one in told):
        return []
    due = {one.cause for one in told if now - _told(one) >= _gap(one.tellings)}
    return [one for one in told if one.cause in due]


def ended_losses(conn: Connection, now: datetime) -> Ended:
    """Look at what was told as lost: which of it is over, and how."""
    rows = conn.execute(
        select(
            _T.id,
            _T.subject,
            _T.cause,
            _T.detail,
            _T.moment,
            _M.parked_at,
            _M.resumed_at,
            TENANT.c.slug,
        )
        .join_from(TOLD, MAILBOX, _M.address == _T.subject, isouter=True)
        .outerjoin(TENANT, TENANT.c.id == _M.tenant_id)
        .where(
            _T.kind == LOSS,
            _T.over_at.is_(None),
            or_(_M.id.is_(None), _M.parked_at.is_(None), _M.parked_at != _T.moment),
        )
        .order_by(_T.subject)
    ).all()
    back: list[BackMailbox] = []
    silent: list[UUID] = []
    waited = _waited(conn) if rows else {}
    for row in rows:
        resumed = None if row.parked_at is not None else row.resumed_at
        if resumed is None or resumed < row.moment:
            silent.append(row.id)
        elif now - resumed >= SETTLED:
            many = waited.get(row.subject, 0)
            back.append(
                BackMailbox(
                    row.id, row.subject, row.slug, row.cause, row.detail, row.moment, resumed, many
                )
            )
    return Ended(tuple(back), tuple(silent))


def _waited(conn: Connection) -> dict[str, int]:
    """
    Count the alerts that waited in mailboxes which are back, until they were resumed.

    Those are the ones that wait still, and those of which there was a try since the mailbox was
    parked: while it was there were none but probes.
    """
    back = and_(
        _of_mailbox(), _T.over_at.is_(None), _M.parked_at.is_(None), _M.resumed_at >= _T.moment
    )
    before = DELIVERY.c.enqueued_at < _M.resumed_at
    key = DELIVERY.c.id.label("id")
    parts = [
        select(key, _M.address)
        .join_from(TOLD, MAILBOX, back)
        .join(DELIVERY, DELIVERY.c.mailbox_id == _M.id)
        .where(in_state(state), before)
        for state in (State.QUEUED, State.SENDING)
    ]
    tried = (
        select(key, _M.address)
        .join_from(TOLD, MAILBOX, back)
        .join(ATTEMPT, and_(ATTEMPT.c.mailbox_id == _M.id, ATTEMPT.c.finished_at >= _T.moment))
        .join(DELIVERY, DELIVERY.c.id == ATTEMPT.c.delivery_id)
        .where(before)
    )
    each = union(*parts, tried).subquery()
    rows = conn.execute(select(each.c.address, func.count()).group_by(each.c.address))
    return {row[0]: row[1] for row in rows}


def _of_mailbox() -> ColumnElement[bool]:
    return and_(_T.kind == LOSS, _T.subject == _M.address)


def _waits_for_somebody() -> ColumnElement[bool]:
    return and_(_M.parked_at.is_not(None), _M.park_reason.not_in([BY_HAND, REMOVED]))


def _told(one: LostMailbox) -> datetime:
    assert one.told_at is not None
    return one.told_at


def _gap(tellings: int) -> timedelta:
    return timedelta(days=min(2 ** (tellings - 1), LONGEST_GAP_DAYS))
