"""What the operator has to be told: what ends, what is lost, back or ended unsent. Each once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection

from models import database, told_warnings
from models.expiries import (
    GRANT_IDLE,
    STEPS,
    Expiry,
    Kind,
    Level,
    credential_rows,
    ends_near,
    expiries,
)
from models.losses import (
    GATHERED,
    BackMailbox,
    Lost,
    LostMailbox,
    by_cause,
    due_again,
    ended_losses,
    lost_mailboxes,
    waiting_in_parked,
)
from models.told_warnings import LOSS, Telling
from models.unsent import UNSENT, Unsent, by_mailbox, new_unsent

_NEAR = frozenset(level for _, level in STEPS)
_UNHURRIED = _NEAR - {Level.DAY, Level.ENDED}
GRANTS_GATHERED = timedelta(days=1)
"""
Grants that come to the same level are told together, so often at most, while there is time.

Where nobody refreshes them, those of three hundred customers get old one after the other.
"""

_OVERDUE = timedelta(days=1)
"""A grant that has idled for so much longer than workers let it was not refreshed as it should."""


@dataclass(frozen=True, slots=True)
class News:
    """
    What was seen at one look.

    Attributes:
        now: The moment, by the database's clock.
        ends: Secrets, certificates and grants that have come to another level, the nearest first.
        lost: Causes for which mailboxes wait for a person since lately.
        repeated: Causes that were told before and still stand.
        back: Mailboxes that were told as lost and send again.
        unsent: Alerts that ended without being sent though nobody took them back.
        joined: Lost for a cause of which the operator knows; written down, not mailed.
        silent: Keys of told losses that are over without a word.
    """

    now: datetime
    ends: tuple[Expiry, ...] = ()
    lost: tuple[Lost, ...] = ()
    repeated: tuple[Lost, ...] = ()
    back: tuple[BackMailbox, ...] = ()
    joined: tuple[LostMailbox, ...] = ()
    silent: tuple[UUID, ...] = ()
    unsent: tuple[Unsent, ...] = ()

    @property
    def to_mail(self) -> bool:
        """Whether there is something to mail."""
        return bool(self.ends or self.lost or self.repeated or self.back or self.unsent)

    @property
    def to_record(self) -> bool:
        """Whether there is something to write down."""
        return self.to_mail or bool(self.joined or self.silent)


def news(conn: Connection, *, keep_warm_days: float) -> News:
    """
    Look at what the operator does not know yet.

    Args:
        conn: An open transaction; nothing is changed.
        keep_warm_days: About how long workers let a grant idle; 0: for ever.
    """
    now = database.now(conn)
    lost = lost_mailboxes(conn)
    fresh, joined = _sorted_out(lost, now)
    again = due_again(lost, now)
    waiting = waiting_in_parked(conn) if fresh or again else {}
    ended = ended_losses(conn, now)
    return News(
        now=now,
        ends=tuple(_new_ends(conn, lost, now, keep_warm_days=keep_warm_days)),
        lost=by_cause(fresh, waiting),
        repeated=by_cause(again, waiting),
        back=ended.back,
        joined=tuple(joined),
        silent=ended.silent,
        unsent=tuple(new_unsent(conn)),
    )


def record(conn: Connection, seen: News, *, delivery_id: UUID) -> None:
    """
    Write down that all of it is told by this mail; in one transaction with the mail.

    Raises:
        Conflict: Another worker told some of it at this very moment; roll back.
    """
    tellings = [
        Telling(one.kind.value, one.name, one.level.value, one.ends_at)
        for one in seen.ends
        if one.ends_at is not None
    ]
    tellings += [_loss(one) for cause in seen.lost for one in cause.mailboxes]
    tellings += [_loss(one) for one in seen.joined]
    tellings += [
        Telling(UNSENT, mailbox, "unsent", last)
        for mailbox, last in by_mailbox(seen.unsent).items()
    ]
    told_warnings.remember(conn, tellings, delivery_id=delivery_id)
    told_warnings.repeat(
        conn,
        [
            (one.told_id, one.tellings)
            for cause in seen.repeated
            for one in cause.mailboxes
            if one.told_id is not None
        ],
    )
    told_warnings.close(conn, [one.told_id for one in seen.back], delivery_id=delivery_id)
    told_warnings.close(conn, seen.silent, delivery_id=None)


def _loss(one: LostMailbox) -> Telling:
    return Telling(LOSS, one.address, one.reason, one.parked_at, one.cause, one.delivery_id)


def _sorted_out(
    lost: Sequence[LostMailbox], now: datetime
) -> tuple[list[LostMailbox], list[LostMailbox]]:
    """Tell apart what is new, and what joins a cause that was told; the rest is known or waits."""
    told = {one.cause: one for one in lost if one.told_id is not None}
    told_lately = {
        one.cause for one in lost if one.told_at is not None and now - one.told_at < GATHERED
    }
    fresh: list[LostMailbox] = []
    joined: list[LostMailbox] = []
    for one in lost:
        if one.told_id is not None:
            continue
        if one.scope == "mailbox":
            if one.cause not in told_lately:
                fresh.append(one)
        elif one.cause in told:
            joined.append(replace(one, delivery_id=told[one.cause].delivery_id))
        else:
            fresh.append(one)
    return fresh, joined


def _new_ends(
    conn: Connection, lost: Iterable[LostMailbox], now: datetime, *, keep_warm_days: float
) -> list[Expiry]:
    if not ends_near(conn, within=STEPS[-1][0]):
        return []
    near = [
        one
        for one in expiries(credential_rows(conn), now)
        if one.level in _NEAR and one.mailboxes and one.ends_at is not None
    ]
    if not near:
        return []
    known = told_warnings.told_ends(conn)
    new = [
        one for one in near if (one.kind.value, one.name, one.level.value, one.ends_at) not in known
    ]
    if all(one.kind is not Kind.GRANT for one in new):
        return new
    lost_addresses = {one.address for one in lost}
    later = told_warnings.grants_told_since(conn, now - GRANTS_GATHERED) & _UNHURRIED
    return [
        one
        for one in new
        if one.kind is not Kind.GRANT
        or (
            one.name not in lost_addresses
            and one.level not in later
            and not _is_refreshed_yet(one, now, keep_warm_days)
        )
    ]


def _is_refreshed_yet(grant: Expiry, now: datetime, keep_warm_days: float) -> bool:
    """Tell whether workers will refresh it in time, as they always do."""
    if grant.ends_at is None or not keep_warm_days:
        return False
    idle = now - (grant.ends_at - GRANT_IDLE)
    return idle < timedelta(days=keep_warm_days) + _OVERDUE
