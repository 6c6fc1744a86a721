"""
Connections kept open between visits, each with the slot that it was opened under.

The next alert of a mailbox then costs no handshake and no AUTH. A kept connection goes when it has
idled long enough, when it is old, when Redis forgot its slot, or when somebody waits for the slot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import structlog

from models.settings import VisitSettings
from workers.pacing import (
    NOTICE_SECONDS,
    Pacer,
    PacingUnavailable,
    Party,
    Renewal,
    Waiting,
    Watched,
)
from workers.smtp_session import SmtpSession

log = structlog.get_logger()

TEND_SECONDS = NOTICE_SECONDS
"""How often it is asked who waits for a slot, and whether Redis forgot those that are held idle."""


@dataclass(slots=True)
class Kept:
    """
    An idle connection.

    Attributes:
        visit_id: Under which its slot is held.
        since: When it became idle, on ``time.monotonic``.
        renewed_at: When Redis last confirmed its slot.
        memory: Under which of its memories; see ``Watched``. A new one is looked at soon.
    """

    party: Party
    visit_id: str
    session: SmtpSession
    since: float
    renewed_at: float
    memory: str = ""


class Connections:
    """The kept connections of one process; at most one a mailbox."""

    def __init__(
        self,
        *,
        pacer: Pacer,
        settings: VisitSettings,
        slot_seconds: float,
        wake: Callable[[Waiting], Awaitable[None]],
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

    def keep(self, party: Party, visit_id: str, session: SmtpSession) -> None:
        """Keep a connection after its visit, which has just renewed its slot."""
        now = time.monotonic()
        self._kept[party.mailbox_id] = Kept(party, visit_id, session, now, now)

    async def dismiss(self, kept: Kept) -> None:
        """Close a connection that was taken and is of no use after all, and give its slot back."""
        await self._let_go(kept)

    async def tend(self) -> None:
        """Renew the slots of kept connections and let go of what should go; runs for ever."""
        while True:
            await asyncio.sleep(TEND_SECONDS)
            if self._kept:
                await self._tend_all()

    async def _tend_all(self) -> None:
        try:
            watched = await self._pacer.watch()
        except PacingUnavailable:
            watched = None
        await asyncio.gather(
            *(self._look_after(one, watched) for one in list(self._kept.values())
              if self._is_over(one) or self._needs_a_look(one, watched))
        )  # fmt: skip

    def _is_over(self, kept: Kept) -> bool:
        idle = time.monotonic() - kept.since
        return idle > self._settings.connection_idle_seconds or not self.worth_keeping(kept.session)

    def _needs_a_look(self, kept: Kept, watched: Watched | None) -> bool:
        return (
            watched is None
            or kept.memory != watched.memory
            or kept.party.account in watched.wanted
            or time.monotonic() - kept.renewed_at > self._slot_seconds / 4
        )

    async def _look_after(self, kept: Kept, watched: Watched | None) -> None:
        now = time.monotonic()
        renewal: Renewal | None = None
        if watched is not None:
            with suppress(PacingUnavailable):
                renewal = await self._pacer.renew(kept.party, kept.visit_id)
                kept.renewed_at, kept.memory = now, watched.memory
        if renewal is None:
            # Before others may take the slot, which Redis gives away where nobody renews it.
            go = now - kept.renewed_at > self._slot_seconds / 2
        else:
            go = renewal.wanted or not renewal.kept
        go = go or self._is_over(kept)
        if go and self._kept.get(kept.party.mailbox_id) is kept:
            del self._kept[kept.party.mailbox_id]
            await self._let_go(kept)

    async def _let_go(self, kept: Kept) -> None:
        kept.session.close()
        try:
            waiting = await self._pacer.leave(kept.party, kept.visit_id, stamp=False)
            await self._wake(waiting)
        except PacingUnavailable:
            log.debug("slot_left_to_expire", mailbox_id=str(kept.party.mailbox_id))

    async def close(self) -> None:
        """Close everything and give the slots back."""
        kept = list(self._kept.values())
        self._kept.clear()
        await asyncio.gather(*(self._let_go(one) for one in kept))
