"""
The expiry radar: when each secret, certificate and grant ends, and what waits for it then.

A client secret or certificate takes all mailboxes of its tenants along, a grant its own mailbox.
Both end without a word from Microsoft; the first one to notice would be an alert that waits. Where
an app has two credentials, mailboxes need the one that works: the other's end holds nothing up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import groupby
from shlex import quote
from uuid import UUID

from sqlalchemy import Connection, and_, exists, func, or_, select

from models import credential_commands, credential_standing
from models.clock import utc_after
from models.credential_standing import (
    Standing,
    dispensable,
    in_force,
    none_works,
    refused_beside,
    states,
)
from models.grants import DELEGATED, GRANT
from models.lookups import APP, CREDENTIAL, MAILBOX, TENANT, live_mailbox

GRANT_IDLE = timedelta(days=90)
"""
A refresh token ends when it was not used for so long; each use begins this anew.

Source:
    Microsoft, "Refresh tokens in the Microsoft identity platform", token lifetime.
"""


_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_NOBODY = UUID(int=0)
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
    REFUSED = "refused"
    """Entra takes it no more, and no other one works; whatever its date says."""


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

    Where an app has two credentials, each of them has such rows.

    Attributes:
        has_certificate: The credential of this row is one, else a secret.
        number: Of the credential; None where the app has none.
        worked_at: When the credential was taken last; ``refused_rule`` and what follows: as
            what Entra refused it since.
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
    credential_id: UUID | None = None
    number: int | None = 1
    added_at: datetime | None = None
    worked_at: datetime | None = None
    refused_at: datetime | None = None
    refused_rule: str | None = None
    refused_answer: str | None = None


@dataclass(frozen=True, slots=True)
class Expiry:
    """
    One end that is to come, or has come.

    Attributes:
        name: Of the app registration, or the address of the grant's mailbox.
        ends_at: None where nobody said when the secret ends.
        days: Days that are left, as ``days_left`` counts them; below 0 once it has ended.
        tenants: Slugs of those that need it.
        mailboxes: Addresses that cannot send without it.
        next_step: What to do, in one sentence.
        command: How, ready to be typed; words in capitals are to be filled in.
        credential: Where an app has two credentials: the number of this one; else None.
        state: How that one stands beside the other one; else empty.
        note: What else there is to say, such as that Entra refuses the newer one; mostly empty.
        refused: Entra's code where it refuses this one and none works; else empty.
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
    credential: int | None = None
    state: str = ""
    note: str = ""
    refused: str = ""

    def is_due(self, now: datetime, *, within: timedelta) -> bool:
        """Whether mailboxes need it and it is refused, has ended, or will within this time."""
        ends = self.ends_at is not None and self.ends_at - now <= within
        return bool(self.mailboxes) and (ends or bool(self.refused))


def credential_rows(conn: Connection) -> list[CredentialRow]:
    """Read what everything is sent by, in one query; nothing that is secret is read."""
    rows = conn.execute(
        select(
            APP.c.name.label("app"),
            CREDENTIAL.c.certificate_pem.is_not(None).label("has_certificate"),
            CREDENTIAL.c.expires_at.label("credential_expires_at"),
            TENANT.c.slug.label("tenant"),
            MAILBOX.c.address.label("mailbox"),
            GRANT.c.kind.label("grant_kind"),
            func.coalesce(GRANT.c.refreshed_at, GRANT.c.granted_at).label("grant_used_at"),
            CREDENTIAL.c.id.label("credential_id"),
            CREDENTIAL.c.number,
            CREDENTIAL.c.added_at,
            CREDENTIAL.c.worked_at,
            CREDENTIAL.c.refused_at,
            CREDENTIAL.c.refused_rule,
            CREDENTIAL.c.refused_answer,
        )
        .select_from(APP)
        .outerjoin(CREDENTIAL, CREDENTIAL.c.app_registration_id == APP.c.id)
        .outerjoin(TENANT, TENANT.c.app_registration_id == APP.c.id)
        .outerjoin(MAILBOX, and_(MAILBOX.c.tenant_id == TENANT.c.id, live_mailbox()))
        .outerjoin(GRANT, GRANT.c.mailbox_id == MAILBOX.c.id)
        .order_by(APP.c.name, CREDENTIAL.c.number, TENANT.c.slug, MAILBOX.c.address)
    )
    return [CredentialRow(**row._mapping) for row in rows]  # noqa: SLF001 - a public name


def ends_near(conn: Connection, *, within: timedelta) -> bool:
    """Tell whether something may end within this time; cheaper than to look at everything."""
    used = func.coalesce(GRANT.c.refreshed_at, GRANT.c.granted_at)
    idle = (within - GRANT_IDLE).total_seconds()
    near = or_(
        # By a column, as a reader may not read all of them.
        exists(CREDENTIAL.c.id).where(CREDENTIAL.c.expires_at <= utc_after(within.total_seconds())),
        exists(GRANT.c.id).where(GRANT.c.kind == DELEGATED, used <= utc_after(idle)),
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
        by_credential = [list(users) for _, users in groupby(of_app, key=lambda row: row.number)]
        found += _credentials(by_credential, now)
        found += _grants(by_credential[0], now)
    return sorted(
        found,
        key=lambda one: (not one.refused, one.ends_at is None, one.ends_at or now, one.name),
    )


def level_of(left: timedelta | None) -> Level:
    """Tell the level from what is left; None: nobody knows."""
    if left is None:
        return Level.UNKNOWN
    return next((level for most, level in STEPS if left <= most), Level.LATER)


def days_left(left: timedelta) -> int:
    """
    Count the days that are left, the same everywhere: a day that has begun counts whole.

    Who is told at seven days is told of seven, and today and that number give the date. What has
    ended has less than none left.
    """
    days = left / timedelta(days=1)
    return math.ceil(days) if days > 0 else math.floor(days)


def _credentials(found: Sequence[Sequence[CredentialRow]], now: datetime) -> Iterator[Expiry]:
    """Tell the end of each credential of an app; its users stand beside each of them."""
    known = [_standing(users[0]) for users in found if users[0].number is not None]
    standing = states(known, now)
    used = in_force(known, now)
    refused = refused_beside(known, now)
    for users, one in zip(found, known, strict=False):
        if one is used:
            gone = none_works(known, now) is not None
            expiry = _needed(users, one, now, refused=refused, gone=gone)
        else:
            expiry = _spare(users, one, now, can_go=one in dispensable(known, now))
        if len(known) > 1:
            state = standing[one.number].value
            expiry = replace(expiry, credential=one.number, state=state)
        yield expiry


def _needed(
    users: Sequence[CredentialRow],
    one: Standing,
    now: datetime,
    *,
    refused: str | None,
    gone: bool,
) -> Expiry:
    kind = _kind(one)
    # A tenant without a mailbox, such as one out of service, sends nothing.
    boxes = [row for row in users if row.mailbox is not None]
    app = users[0].app
    new = credential_commands.new_secret(app)
    if kind is Kind.CERTIFICATE:
        new = credential_commands.new_certificate(app)
    left = None if one.expires_at is None else one.expires_at - now
    step, command = _renewal(kind, level_of(left)), new
    if refused is not None:
        step = "Fix the newer one before this one ends; its refusal says what is wrong with it."
        command = credential_commands.ask_entra(app)
    if gone:
        step, command = _refused_renewal(kind, app)
    expiry = _expiry(
        kind, users[0].app, one.expires_at, now, boxes, next_step=step, command=command
    )
    if gone:
        # One that is known to have ended has its own word, which says more.
        level = expiry.level if expiry.level is Level.ENDED else Level.REFUSED
        expiry = replace(expiry, level=level, refused=one.refused_code)
    return replace(expiry, note=refused or "")


def _refused_renewal(kind: Kind, app: str) -> tuple[str, str]:
    if kind is Kind.CERTIFICATE:
        return (
            (
                "Entra refuses it and no other one works: upload it in Entra, or give another one; "
                "`--check` asks again."
            ),
            credential_commands.ask_entra(app),
        )
    return (
        (
            "Entra refuses it and no other one works: make a new client secret in Entra and give "
            "it here; what waits goes on."
        ),
        credential_commands.new_secret(app, replace=True),
    )


def _spare(users: Sequence[CredentialRow], one: Standing, now: datetime, *, can_go: bool) -> Expiry:
    """Tell of a credential that nothing depends on: it is not alarming, whenever it ends."""
    app = users[0].app
    step = "Nothing: mailboxes go by the other one, see there."
    command = f"alertpost apps credentials {quote(app)}"
    if can_go:
        step = "The other one works, so this one can go, here and in Entra."
        command = credential_commands.retire(app, one.number)
    expiry = _expiry(
        _kind(one), users[0].app, one.expires_at, now, [], next_step=step, command=command
    )
    return replace(expiry, level=Level.LATER)


def _kind(one: Standing) -> Kind:
    certificate = one.kind is credential_standing.Kind.CERTIFICATE
    return Kind.CERTIFICATE if certificate else Kind.CLIENT_SECRET


def _standing(row: CredentialRow) -> Standing:
    kinds = credential_standing.Kind
    return Standing(
        id=row.credential_id or _NOBODY,
        number=row.number or 0,
        kind=kinds.CERTIFICATE if row.has_certificate else kinds.SECRET,
        thumbprint=None,
        expires_at=row.credential_expires_at,
        added_at=row.added_at or _LONG_AGO,
        worked_at=row.worked_at,
        refused_at=row.refused_at,
        refused_rule=row.refused_rule,
        refused_answer=row.refused_answer,
    )


def _grants(users: Sequence[CredentialRow], now: datetime) -> Iterator[Expiry]:
    for row in users:
        # An app-only grant holds no refresh token; it lasts as long as the app's credential.
        if row.mailbox is None or row.grant_kind != DELEGATED or row.grant_used_at is None:
            continue
        ends_at = row.grant_used_at + GRANT_IDLE
        address = row.mailbox
        if ends_at <= now:
            step = (
                "Nothing was sent for 90 days, so Entra takes the consent no more: sign in again."
            )
            command = f"alertpost mailboxes connect {quote(address)}"
        elif level_of(ends_at - now) is Level.LATER:
            step = "Nothing to do: each mail, and workers about once a week, make it last 90 days."
            command = f"alertpost mailboxes test {quote(address)} --to {quote(address)}"
        else:
            step = _OLD_GRANT
            command = f"alertpost mailboxes test {quote(address)} --to {quote(address)}"
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
        days=None if left is None else days_left(left),
        level=level_of(left),
        tenants=tuple(dict.fromkeys(row.tenant for row in boxes if row.tenant is not None)),
        mailboxes=tuple(row.mailbox for row in boxes if row.mailbox is not None),
        next_step=next_step,
        command=command,
    )


def _renewal(kind: Kind, level: Level) -> str:
    if level is Level.UNKNOWN:
        return (
            "End date unknown. Look it up in Entra, and enter the same secret again with "
            "--secret-expires."
        )
    if level is Level.ENDED:
        return (
            f"It has ended: make a new {kind} in Entra and enter it here; what waits is sent then."
        )
    return f"Make a new {kind} in Entra before this one ends, and enter it here."
