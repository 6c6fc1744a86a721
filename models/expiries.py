"""
The expiry radar: when each secret, certificate and grant ends, and what waits for it then.

A client secret or certificate takes all mailboxes of its tenants along, a grant its own mailbox.
Both end without a word from Microsoft; the first one to notice would be an alert that waits.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby

from sqlalchemy import Connection, and_, exists, func, or_, select

from models.clock import utc_after
from models.grants import DELEGATED, GRANT
from models.lookups import APP, MAILBOX, TENANT, live_mailbox

GRANT_IDLE = timedelta(days=90)
"""
A refresh token ends when it was not used for so long; each use begins this anew.

Source:
    Microsoft, "Refresh tokens in the Microsoft identity platform", token lifetime.
"""


_OLD_GRANT = (
    "Workers refresh a grant that no alert uses about once a week, for another 90 days "
    "(ALERTPOST_LEASE__KEEP_WARM_DAYS). One that gets old means that no worker runs, that this is "
    "switched off, or that Entra refuses. One mail shows which, and makes it last."
)


class Level(StrEnum):
    """How near the end is: has come, within so many days, later; or nobody knows."""

    ENDED = "ended"
    DAY = "1d"
    WEEK = "7d"
    FORTNIGHT = "14d"
    MONTH = "30d"
    TWO_MONTHS = "60d"
    LATER = "later"
    UNKNOWN = "unknown"


STEPS = (
    (timedelta(0), Level.ENDED),
    (timedelta(days=1), Level.DAY),
    (timedelta(days=7), Level.WEEK),
    (timedelta(days=14), Level.FORTNIGHT),
    (timedelta(days=30), Level.MONTH),
    (timedelta(days=60), Level.TWO_MONTHS),
)
"""What is left, at most, at each level; the nearest first."""


class Kind(StrEnum):
    """What ends."""

    CLIENT_SECRET = "client secret"  # noqa: S105 - a kind, no secret
    CERTIFICATE = "certificate"
    GRANT = "grant"


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """
    A mailbox with what it sends by; an app that no mailbox needs has one row without one.

    Attributes:
        tenant: Slug, None where no tenant trusts the app.
        mailbox: Address, None where the tenant has none.
        grant_kind: None where the mailbox is not connected.
        grant_used_at: When the grant was refreshed last; before the first time, given.
    """

    app: str
    has_certificate: bool
    credential_expires_at: datetime | None
    tenant: str | None = None
    mailbox: str | None = None
    grant_kind: str | None = None
    grant_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Expiry:
    """
    One end that is to come, or has come.

    Attributes:
        name: Of the app registration, or the address of the grant's mailbox.
        ends_at: None where nobody said when the secret ends.
        days: Whole days that are left, below 0 once it has ended.
        tenants: Slugs of those that need it.
        mailboxes: Addresses that cannot send without it.
        next_step: What to do, in one sentence.
        command: How, ready to be typed; words in capitals are to be filled in.
    """

    kind: Kind
    name: str
    ends_at: datetime | None
    days: int | None
    level: Level
    tenants: tuple[str, ...]
    mailboxes: tuple[str, ...]
    next_step: str
    command: str

    def is_due(self, now: datetime, *, within: timedelta) -> bool:
        """Whether mailboxes need it and it has ended, or will within this time."""
        return bool(self.mailboxes) and self.ends_at is not None and self.ends_at - now <= within


def credential_rows(conn: Connection) -> list[CredentialRow]:
    """Read what everything is sent by, in one query; nothing that is secret is read."""
    rows = conn.execute(
        select(
            APP.c.name.label("app"),
            APP.c.private_key_encrypted.is_not(None).label("has_certificate"),
            APP.c.credential_expires_at,
            TENANT.c.slug.label("tenant"),
            MAILBOX.c.address.label("mailbox"),
            GRANT.c.kind.label("grant_kind"),
            func.coalesce(GRANT.c.refreshed_at, GRANT.c.granted_at).label("grant_used_at"),
        )
        .select_from(APP)
        .outerjoin(TENANT, TENANT.c.app_registration_id == APP.c.id)
        .outerjoin(MAILBOX, and_(MAILBOX.c.tenant_id == TENANT.c.id, live_mailbox()))
        .outerjoin(GRANT, GRANT.c.mailbox_id == MAILBOX.c.id)
        .order_by(APP.c.name, TENANT.c.slug, MAILBOX.c.address)
    )
    return [CredentialRow(**row._mapping) for row in rows]  # noqa: SLF001 - a public name


def ends_near(conn: Connection, *, within: timedelta) -> bool:
    """Tell whether something may end within this time; cheaper than to look at everything."""
    used = func.coalesce(GRANT.c.refreshed_at, GRANT.c.granted_at)
    idle = (within - GRANT_IDLE).total_seconds()
    near = or_(
        exists().where(APP.c.credential_expires_at <= utc_after(within.total_seconds())),
        exists().where(GRANT.c.kind == DELEGATED, used <= utc_after(idle)),
    )
    return bool(conn.scalar(select(near)))


def expiries(rows: Iterable[CredentialRow], now: datetime) -> list[Expiry]:
    """
    Say what ends when; what ends first comes first, what nobody knows last.

    Args:
        rows: Those of an app registration one after the other, as ``credential_rows`` has them.
        now: The moment, by the database's clock.
    """
    found: list[Expiry] = []
    for _, of_app in groupby(rows, key=lambda row: row.app):
        users = list(of_app)
        found.append(_credential(users, now))
        found += _grants(users, now)
    return sorted(found, key=lambda one: (one.ends_at is None, one.ends_at or now, one.name))


def level_of(left: timedelta | None) -> Level:
    """Tell the level from what is left; None: nobody knows."""
    if left is None:
        return Level.UNKNOWN
    return next((level for most, level in STEPS if left <= most), Level.LATER)


def _credential(users: Sequence[CredentialRow], now: datetime) -> Expiry:
    first = users[0]
    kind = Kind.CERTIFICATE if first.has_certificate else Kind.CLIENT_SECRET
    ends_at = first.credential_expires_at
    # A tenant without a mailbox, such as one out of service, sends nothing.
    boxes = [row for row in users if row.mailbox is not None]
    new = "--client-secret-file FILE --secret-expires DATE"
    if kind is Kind.CERTIFICATE:
        new = "--certificate-file FILE --private-key-file FILE"
    return _expiry(
        kind,
        first.app,
        ends_at,
        now,
        boxes,
        next_step=_renewal(kind, level_of(None if ends_at is None else ends_at - now)),
        command=f"alertpost apps secret {shlex.quote(first.app)} {new}",
    )


def _grants(users: Sequence[CredentialRow], now: datetime) -> Iterator[Expiry]:
    for row in users:
        # An app-only grant holds no refresh token; it lasts as long as the app's credential.
        if row.mailbox is None or row.grant_kind != DELEGATED or row.grant_used_at is None:
            continue
        ends_at = row.grant_used_at + GRANT_IDLE
        address = shlex.quote(row.mailbox)
        if ends_at <= now:
            step = (
                "Nothing was sent for 90 days, so Entra takes the consent no more: sign in again."
            )
            command = f"alertpost mailboxes connect {address}"
        elif level_of(ends_at - now) is Level.LATER:
            step = "Nothing to do: each mail, and workers about once a week, make it last 90 days."
            command = f"alertpost mailboxes test {address} --to {address}"
        else:
            step = _OLD_GRANT
            command = f"alertpost mailboxes test {address} --to {address}"
        yield _expiry(Kind.GRANT, row.mailbox, ends_at, now, [row], next_step=step, command=command)


def _expiry(
    kind: Kind,
    name: str,
    ends_at: datetime | None,
    now: datetime,
    boxes: Sequence[CredentialRow],
    *,
    next_step: str,
    command: str,
) -> Expiry:
    left = None if ends_at is None else ends_at - now
    return Expiry(
        kind=kind,
        name=name,
        ends_at=ends_at,
        days=None if left is None else left.days,
        level=level_of(left),
        tenants=tuple(dict.fromkeys(row.tenant for row in boxes if row.tenant is not None)),
        mailboxes=tuple(row.mailbox for row in boxes if row.mailbox is not None),
        next_step=next_step,
        command=command,
    )


def _renewal(kind: Kind, level: Level) -> str:
    if level is Level.UNKNOWN:
        return (
            "Nobody said when it ends: look it up in Entra, and give the same secret once more "
            "together with that date."
        )
    if level is Level.ENDED:
        return f"It has ended: make a new {kind} in Entra and give it here; what waits goes on."
    return f"Make a new {kind} in Entra before this one ends, and give it here."
