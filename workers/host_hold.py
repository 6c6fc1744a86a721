"""
A server that refuses the address of this host: what a process remembers, and whom it concerns.

The truth is in SQL (``models.host_holds``), where each visit sees it before it claims. A process
remembers it as well, so that what it has in hand does not meet the refusal either, and so that
lanes behind it are not looked at again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from models import host_holds
from models.clouds import resolve
from models.lookups import MAILBOX, TENANT, live_mailbox

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection


BELIEVED_SECONDS = 15.0
"""So long a process goes by what it has seen; another one may have found the hold to be over."""


class HeldHosts:
    """The holds that this process has met lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._behind: dict[UUID, str] = {}

    def note(self, smtp_host: str, mailbox_id: UUID, seconds: float) -> None:
        """Remember that a server holds us for so long, and that this mailbox sends by it."""
        self._until[smtp_host] = self._clock() + min(seconds, BELIEVED_SECONDS)
        self._behind[mailbox_id] = smtp_host

    def holds(self, smtp_host: str) -> bool:
        """Say whether this server is known to refuse us."""
        return self._until.get(smtp_host, 0.0) > self._clock()

    def seconds_left(self, mailbox_id: UUID) -> float:
        """Say for how long this mailbox's lane need not be looked at; 0.0 where it may be."""
        until = self._until.get(self._behind.get(mailbox_id, ""), 0.0)
        return max(0.0, until - self._clock())

    def forget(self, smtp_host: str) -> None:
        """It takes us again."""
        self._until.pop(smtp_host, None)
        self._behind = {key: host for key, host in self._behind.items() if host != smtp_host}


def hold_host(conn: Connection, *, smtp_host: str, **given: Any) -> tuple[float, list[UUID]]:
    """Hold a server as ``host_holds.hold`` does; name the mailboxes that send by it as well."""
    seconds = host_holds.hold(conn, smtp_host=smtp_host, **given)
    return seconds, mailboxes_behind(conn, smtp_host)


def release_host(conn: Connection, *, smtp_host: str, sends_from: str) -> list[UUID]:
    """End a hold; name the mailboxes that go on."""
    host_holds.lift(conn, smtp_host=smtp_host, sends_from=sends_from)
    return mailboxes_behind(conn, smtp_host)


def mailboxes_behind(conn: Connection, smtp_host: str) -> list[UUID]:
    """Name the mailboxes that send by a server."""
    rows = conn.execute(
        select(MAILBOX.c.id, TENANT.c.smtp_host, TENANT.c.cloud)
        .join_from(MAILBOX, TENANT, MAILBOX.c.tenant_id == TENANT.c.id)
        .where(live_mailbox(), MAILBOX.c.connected_at.is_not(None))
        .order_by(MAILBOX.c.id)
    )
    return [row.id for row in rows if (row.smtp_host or resolve(row.cloud).smtp_host) == smtp_host]
