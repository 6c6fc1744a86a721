"""
Mails that commands send by hand, so that they count as any other.

A command holds no delivery that a lane would know of. What it borrows and sends is kept here:
pacing that lost its memory learns from it, and its recipients count towards the day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, Float, bindparam, delete, insert, select, update

from models.clock import utc_after, utc_now
from models.ids import uuid7
from models.quota import DayLimits, charge, external, tenant_subject
from models.quota_counts import (
    accepted_domains,
    account_usage,
    alone,
    external_usage,
    spend,
)
from models.senders import Sender
from models.tables import METADATA

KEPT_SECONDS = 2 * 86_400.0
"""No window is longer; what is older is deleted."""

_MAIL = METADATA.tables["hand_mail"]
_M = _MAIL.c


@dataclass(frozen=True, slots=True)
class Full:
    """
    Why a mail may not go now.

    Attributes:
        whose: ``account`` or ``tenant``.
        wait_seconds: When it may.
    """

    whose: str
    wait_seconds: float


def borrow(conn: Connection, sender: Sender, *, visit: str, lease_seconds: float) -> UUID:
    """
    Say that a command may open a connection from now on, before it does.

    Returns:
        What ``keep``, ``begin`` and ``end`` are to be told.
    """
    conn.execute(delete(_MAIL).where(_M.held_until < utc_after(-KEPT_SECONDS)))
    key = uuid7()
    conn.execute(
        insert(_MAIL).values(
            id=key,
            account=sender.account,
            tenant_id=sender.tenant_id,
            mailbox_id=sender.mailbox_id,
            visit=visit,
            held_until=utc_after(lease_seconds),
            recipients=[],
        )
    )
    return key


def keep(conn: Connection, key: UUID, *, lease_seconds: float) -> None:
    """Hold it for so many seconds from now."""
    conn.execute(
        update(_MAIL)
        .where(_M.id == key, _M.ended_at.is_(None))
        .values(held_until=utc_after(lease_seconds))
    )


def begin(
    conn: Connection, key: UUID, sender: Sender, recipients: Sequence[str], *, limits: DayLimits
) -> Full | None:
    """
    Count a mail that is about to be submitted; it stays counted whatever is answered.

    Returns:
        Why it may not go, where the day has no room for it; nothing was counted then.
    """
    domains = accepted_domains(conn, sender.tenant_id)
    subjects = [sender.auth_user]
    if domains is not None:
        subjects.append(tenant_subject(sender.tenant_id))
    if not alone(conn, subjects):
        return Full("account", 0.0)
    full = _full(conn, sender, recipients, domains, limits)
    if full is None:
        charged = charge(
            recipients,
            account=sender.auth_user,
            tenant_id=sender.tenant_id,
            accepted_domains=domains,
            bucket_seconds=limits.bucket_seconds,
        )
        spend(conn, [charged])
        conn.execute(update(_MAIL).where(_M.id == key).values(recipients=list(recipients)))
    return full


def end(conn: Connection, key: UUID) -> None:
    """Say that the connection is closed; a mail that was begun was answered by now."""
    conn.execute(
        update(_MAIL).where(_M.id == key, _M.ended_at.is_(None)).values(ended_at=utc_now())
    )


def recent_by_hand(
    conn: Connection, *, account: str, seconds: float
) -> tuple[list[float], list[tuple[str, float, UUID]]]:
    """
    Say what commands did for an account.

    Returns:
        Seconds since each mail of the last ``seconds`` ended, or was given up; and who may hold a
        connection now: name, seconds that are left, mailbox.
    """
    ages, holders = [], []
    for row in conn.execute(_RECENT, {"account": account, "since": -float(seconds)}):
        left = (row.held_until - row.now).total_seconds()
        if row.ended_at is None and left > 0:
            holders.append((row.visit, left, row.mailbox_id))
        elif row.recipients:
            ended = row.held_until if row.ended_at is None else row.ended_at
            ages.append((row.now - ended).total_seconds())
    return [age for age in ages if age < seconds], holders


def _full(
    conn: Connection,
    sender: Sender,
    recipients: Sequence[str],
    domains: frozenset[str] | None,
    limits: DayLimits,
) -> Full | None:
    window, retry = limits.window_seconds, limits.bucket_seconds
    if limits.recipients:
        most = limits.recipients - limits.critical_reserve
        used = account_usage(conn, sender.auth_user, window_seconds=window)
        if used.total + len(recipients) > most:
            wait = used.seconds_until(len(recipients), limit=most, retry_seconds=retry)
            return Full("account", wait)
    if domains is not None and sender.external_limit is not None:
        outside = external(recipients, domains)
        used = external_usage(conn, sender.tenant_id, domains, window_seconds=window)
        if outside and used.total + outside > sender.external_limit:
            most = sender.external_limit
            return Full("tenant", used.seconds_until(outside, limit=most, retry_seconds=retry))
    return None


_RECENT = (
    select(
        _M.visit, _M.mailbox_id, _M.held_until, _M.ended_at, _M.recipients, utc_now().label("now")
    )
    .where(
        _M.account == bindparam("account", type_=_M.account.type),
        _M.held_until > utc_after(bindparam("since", type_=Float())),
    )
    .order_by(_M.held_until)
)
