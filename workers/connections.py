"""
Connections kept open between visits, each with the slot that it was opened under.

The next alert of a mailbox then costs no handshake and no AUTH. A kept connection goes when it has
idled long enough, when it is old, when Redis forgot its slot, or when somebody waits for the slot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from models.settings import VisitSettings
from workers.pacing import Pacer, PacingUnavailable, Waiting
from workers.smtp_session import SmtpSession

log = structlog.get_logger()

TEND_SECONDS = 0.5
"""How often kept slots are renewed and looked after; bounds how long a waiter waits for one."""


@dataclass(slots=True)
class Kept:
    """
    An idle connection.

    Attributes:
        visit_id: Under which its slot is held.
        since: When it became idle, on ``time.monotonic``.
        renewed_at: When Redis last confirmed its slot.
    """

    mailbox_id: UUID
    visit_id: str
    session: SmtpSession
    since: float
    renewed_at: float


class Connections:
    """The kept connections of one process; at most one a mailbox."""

    def __init__(
        self,
        *,
        pacer: Pacer,
        settings: VisitSettings,
        slot_seconds: float,
        wake: Callable[[UUID, Waiting], Awaitable[None]],
    ) -> None:
        self._pacer = pacer
        self._settings = settings
        self._slot_seconds = slot_seconds
        self._wake = wake
        self._kept: dict[UUID, Kept] = {}

    def take(self, mailbox_id: UUID) -> Kept | None:
        """Hand a kept connection to a visit, with its slot."""
        kept = self._kept.pop(mailbox_id, None)
        if kept is not None and not self.worth_keeping(kept.session):
            kept.session.close()
        return kept

    def worth_keeping(self, session: SmtpSession) -> bool:
        """Say whether a connection may take more mails."""
        return (
            session.usable
            and session.mails < self._settings.connection_max_messages
            and time.monotonic() - session.opened_at < self._settings.connection_max_seconds
        )

    def has_room(self, mailbox_id: UUID, session: SmtpSession) -> bool:
        """Say whether ``keep`` would serve: the connection is good and none is kept yet."""
        return mailbox_id not in self._kept and self.worth_keeping(session)

    def keep(self, mailbox_id: UUID, visit_id: str, session: SmtpSession) -> None:
        """Keep a connection after its visit, which has just renewed its slot."""
        now = time.monotonic()
        self._kept[mailbox_id] = Kept(mailbox_id, visit_id, session, now, now)

    async def tend(self) -> None:
        """Renew the slots of kept connections and let go of what should go; runs for ever."""
        while True:
            await asyncio.sleep(TEND_SECONDS)
            kept = list(self._kept.values())
            if kept:
                await asyncio.gather(*(self._look_after(one) for one in kept))

    async def _look_after(self, kept: Kept) -> None:
        now = time.monotonic()
        go = now - kept.since > self._settings.connection_idle_seconds or not self.worth_keeping(
            kept.session
        )
        try:
            renewal = await self._pacer.renew(kept.mailbox_id, kept.visit_id)
            kept.renewed_at = now
            go = go or renewal.wanted or not renewal.kept
        except PacingUnavailable:
            # Before others may take the slot, which Redis gives away where nobody renews it.
            go = go or now - kept.renewed_at > self._slot_seconds / 2
        if go and self._kept.get(kept.mailbox_id) is kept:
            del self._kept[kept.mailbox_id]
            await self._let_go(kept)

    async def _let_go(self, kept: Kept) -> None:
        kept.session.close()
        try:
            waiting = await self._pacer.leave(kept.mailbox_id, kept.visit_id, stamp=False)
            await self._wake(kept.mailbox_id, waiting)
        except PacingUnavailable:
            log.debug("slot_left_to_expire", mailbox_id=str(kept.mailbox_id))

    async def close(self) -> None:
        """Close everything and give the slots back."""
        kept = list(self._kept.values())
        self._kept.clear()
        await asyncio.gather(*(self._let_go(one) for one in kept))
