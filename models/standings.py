"""Which tenants and mailboxes can send, and what the others wait for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, select

from models.lookups import APP, MAILBOX, TENANT, live_mailbox
from models.mailboxes import PAUSED, standing_of

READY = "ready"


@dataclass(frozen=True, slots=True)
class MailboxRow:
    """A mailbox with its tenant; a tenant that has none is one row with ``mailbox`` None."""

    tenant: str
    mailbox: str | None = None
    connected_at: datetime | None = None
    parked_at: datetime | None = None
    park_reason: str | None = None
    park_meaning: str | None = None
    park_next_step: str | None = None
    probe_at: datetime | None = None
    paused_until: datetime | None = None
    pause_reason: str | None = None
    paused: bool = False
    app: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """
    Mailboxes that wait for the same thing.

    Attributes:
        standing: ``not connected``, ``parked`` or ``paused``.
        reason: The verdict's rule; None where consent was never given.
        meaning: In words, where the mailbox itself says it.
        next_step: What a person has to do, likewise.
        since: When the first of them was parked.
        tries_at: When one mail tries whether the cause is gone.
        until: When the last of them has paused long enough.
        app: The app registration of the first of them.
    """

    standing: str
    reason: str | None
    meaning: str | None
    next_step: str | None
    mailboxes: tuple[str, ...]
    tenants: tuple[str, ...]
    since: datetime | None = None
    tries_at: datetime | None = None
    until: datetime | None = None
    app: str = ""


@dataclass(frozen=True, slots=True)
class Standings:
    """
    Who can send.

    Attributes:
        tenants_ready: Tenants all of whose mailboxes are ready.
        tenants_waiting: Tenants of which some mailbox is not.
        tenants_empty: Tenants without a mailbox: new ones, and those out of service.
        held: The most mailboxes first.
    """

    tenants_ready: int
    tenants_waiting: int
    tenants_empty: int
    mailboxes: int
    mailboxes_ready: int
    held: tuple[Held, ...]


def mailbox_rows(conn: Connection) -> list[MailboxRow]:
    """Read all tenants with their mailboxes; removed ones are left out."""
    names = [name for name in MailboxRow.__dataclass_fields__ if name in MAILBOX.c]
    rows = conn.execute(
        select(
            TENANT.c.slug.label("tenant"),
            MAILBOX.c.address.label("mailbox"),
            *(MAILBOX.c[name] for name in names),
            PAUSED,
            APP.c.name.label("app"),
        )
        .join_from(TENANT, APP, TENANT.c.app_registration_id == APP.c.id)
        .outerjoin(MAILBOX, and_(MAILBOX.c.tenant_id == TENANT.c.id, live_mailbox()))
        .order_by(TENANT.c.slug, MAILBOX.c.address)
    )
    return [MailboxRow(**row._mapping) for row in rows]  # noqa: SLF001 - a public name


def standings(rows: Sequence[MailboxRow]) -> Standings:
    """Count who can send, and group the others by what they wait for."""
    ready: dict[str, list[bool]] = defaultdict(list)
    groups: dict[tuple[Any, ...], list[MailboxRow]] = defaultdict(list)
    for row in rows:
        if row.mailbox is None:
            ready[row.tenant] = []
            continue
        standing = standing_of(row)
        ready[row.tenant].append(standing == READY)
        if standing != READY:
            groups[_cause(row, standing)].append(row)
    held = [_held(cause, together) for cause, together in groups.items()]
    return Standings(
        tenants_ready=sum(bool(boxes) and all(boxes) for boxes in ready.values()),
        tenants_waiting=sum(not all(boxes) for boxes in ready.values()),
        tenants_empty=sum(not boxes for boxes in ready.values()),
        mailboxes=sum(map(len, ready.values())),
        mailboxes_ready=sum(map(sum, ready.values())),
        held=tuple(sorted(held, key=lambda one: (-len(one.mailboxes), one.mailboxes))),
    )


def _cause(row: MailboxRow, standing: str) -> tuple[Any, ...]:
    if standing == "parked":
        return standing, row.park_reason, row.park_meaning, row.park_next_step
    return standing, row.pause_reason if standing == "paused" else None, None, None


def _held(cause: tuple[Any, ...], rows: Sequence[MailboxRow]) -> Held:
    standing, reason, meaning, next_step = cause
    parked, paused = standing == "parked", standing == "paused"
    tries = [row.probe_at for row in rows if row.probe_at is not None]
    return Held(
        standing=standing,
        reason=reason,
        meaning=meaning,
        next_step=next_step,
        mailboxes=tuple(str(row.mailbox) for row in rows),
        tenants=tuple(dict.fromkeys(row.tenant for row in rows)),
        app=rows[0].app,
        since=min(row.parked_at for row in rows if row.parked_at) if parked else None,
        tries_at=min(tries) if parked and tries else None,
        until=max(row.paused_until for row in rows if row.paused_until) if paused else None,
    )
