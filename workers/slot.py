"""
One connection of an account, as a visit or a command has it: entered, used, and left.

    enter → [permit → (a mail) → stamp]… → leave

Whoever enters where Redis forgot the account teaches it anew from SQL first; all who open
connections do so here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from workers.pacing import NOTICE_SECONDS, Entry, Pacer, Party, Permit, Renewal, Waiting

if TYPE_CHECKING:
    from models.lane_recent import Recent
    from models.settings import Settings

_LESSONS: Final = 3
"""How often it is taught what may be forgotten again at once."""

NOBODY: Final = Waiting()


class Teacher:
    """
    What SQL knows of an account, for Redis that does not remember it.

    Args:
        settings: All of them; what counts are those of pacing and of visits.
        recent: Asks SQL; see ``lane.recent_submissions``.
    """

    def __init__(
        self, settings: Settings, recent: Callable[[str, float, float], Awaitable[Recent]]
    ) -> None:
        self._recent = recent
        self._window_seconds = settings.pacing.window_seconds
        self._slot_seconds = settings.pacing.slot_seconds
        # No claim lasts longer than its lease, unless SQL's clock was set back meanwhile.
        self._claim_seconds = settings.visit.claim_seconds
        self._longest_seconds = settings.visit.connection_max_seconds + self._slot_seconds

    async def teach(self, pacer: Pacer, party: Party, era: int) -> None:
        """Tell Redis; where somebody may still hold a connection it forgot, nobody opens one."""
        age_seconds = pacer.memory_age_seconds
        recent = await self._recent(
            party.account, self._window_seconds, min(age_seconds, self._longest_seconds)
        )
        seconds = pacer.unsettled_seconds
        if recent.used:
            # Redis kept the rest and lost this one alone, which is seen at the next renewal only.
            seconds = max(seconds, self._slot_seconds / 4 + 2 * NOTICE_SECONDS)
        await pacer.seed(
            party,
            ages_ms=recent.ages_ms,
            holders=[
                (one.visit, int(min(one.seconds_left, self._claim_seconds) * 1000), one.mailbox_id)
                for one in recent.in_hand
            ],
            era=era,
            closed_ms=math.ceil(seconds * 1000),
        )


class Slot:
    """
    The right of one visit to a connection, and to the mail that it has in hand.

    Args:
        pacer: Asks Redis.
        teacher: Asks SQL where Redis has forgotten.
        party: Whose.
        visit_id: Names the visit; no two ever share a name.
        critical: Whether it may use the slot that is kept for criticals.
        slot_seconds: How long it lasts without being renewed.
        held: It was held already, with a connection that was kept.
    """

    def __init__(
        self,
        pacer: Pacer,
        teacher: Teacher,
        party: Party,
        visit_id: str,
        *,
        critical: bool,
        slot_seconds: float,
        held: bool = False,
    ) -> None:
        self._pacer = pacer
        self._teacher = teacher
        self.party = party
        self._visit_id = visit_id
        self._critical = critical
        self._slot_seconds = slot_seconds
        self.held = held
        """Whether the slot is ours."""
        self.permit_held = False
        """Whether a mail may be on its way, or was answered and is not counted yet."""
        self.until = 0.0
        """Until when, on the monotonic clock, the slot is certainly still ours."""

    async def enter(self) -> Entry:
        """Take a slot, or renew the one we have; teach Redis what it forgot."""
        for _ in range(_LESSONS):
            asked = time.monotonic()
            entry = await self._pacer.enter(
                self.party, self._visit_id, critical=self._critical, stamp=self.permit_held
            )
            # Where it was not known: what was sent is in SQL, and taught from there.
            self.permit_held = False
            if entry.known:
                break
            await self._teacher.teach(self._pacer, self.party, entry.era)
        # One that came with a kept connection may have lost its slot meanwhile.
        self.held = entry.slot
        self.until = asked + self._slot_seconds
        return entry

    async def permit(self, *, critical: bool) -> Permit:
        """Count the mail before and get a permit for the next, in one call."""
        # An answer that does not come may have been a permit: until it is there, count on one.
        stamp, self.permit_held = self.permit_held, True
        asked = time.monotonic()
        permit = await self._pacer.permit(
            self.party, self._visit_id, critical=critical, stamp=stamp
        )
        self.permit_held = permit.granted
        if permit.granted:
            self.until = asked + self._slot_seconds
        elif permit.lost:
            self.held = False
        return permit

    async def stamp(self) -> None:
        """Count the mail in hand as of now."""
        if self.permit_held:
            await self._pacer.stamp(self.party, self._visit_id)
            self.permit_held = False

    async def renew(self, *, idle: bool = False) -> Renewal:
        """Keep the slot for as long again; where it is lost, others may have it already."""
        asked = time.monotonic()
        renewal = await self._pacer.renew(self.party, self._visit_id, idle=idle)
        self.until = asked + self._slot_seconds if renewal.kept else 0.0
        return renewal

    async def leave(self, *, has_nothing: bool = False) -> Waiting:
        """Give the slot back; tells who waits for it. Close the connection first."""
        if not self.held:
            return NOBODY
        return await self._pacer.leave(
            self.party, self._visit_id, stamp=self.permit_held, has_nothing=has_nothing
        )
