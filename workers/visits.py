"""
The visits of one worker process: begun, kept alive while they take long, and ended by a stop.

What a visit does stands in ``visit``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from models import lane
from workers.connections import TEND_SECONDS
from workers.faults import PAUSE_FROM, VISIT_FAILED, Faults, Rest
from workers.pacing import PacingUnavailable
from workers.visit import Visit, VisitEnd

if TYPE_CHECKING:
    from workers.services import Services

log = structlog.get_logger()

WAITING_SECONDS = 2.0
"""A visit that has brought nothing to an end for so long waits for a server; see ``room``."""


class Visits:
    """Runs visits in one worker process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._open: set[Visit] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._resting: dict[Visit, asyncio.Future[None]] = {}
        self.stopping = False
        """Whether no mail is to be begun any more."""
        self.at_the_door: set[UUID] = set()
        """Mailboxes of which a visit waits for the next permit."""
        self.faults = Faults()

    def stop(self) -> None:
        """Begin no more mails; may be called from any thread."""
        self.stopping = True
        self._loop.call_soon_threadsafe(self._disturb)

    def _disturb(self) -> None:
        self._services.budget.close()
        for resting in self._resting.values():
            _end_rest(resting)

    def disturb(self, visit: Visit) -> None:
        """End the rest of a visit."""
        if visit in self._resting:
            _end_rest(self._resting[visit])

    async def rest(self, visit: Visit, seconds: float) -> None:
        """Let a visit wait; a stop ends it, and so does ``disturb``."""
        if self.stopping:
            return
        resting: asyncio.Future[None] = self._loop.create_future()
        self._resting[visit] = resting
        alarm = self._loop.call_later(seconds, _end_rest, resting)
        try:
            await resting
        finally:
            alarm.cancel()
            del self._resting[visit]

    def begin(self, mailbox_id: UUID, *, critical: bool) -> None:
        """Begin a visit on the loop; may be called from any thread."""
        self._services.room.take()
        self._loop.call_soon_threadsafe(partial(self._launch, mailbox_id, critical=critical))

    def _launch(self, mailbox_id: UUID, *, critical: bool) -> None:
        task = self._loop.create_task(self._follow(mailbox_id, critical=critical))
        self._tasks.add(task)
        task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._services.room.give()

    async def _follow(self, mailbox_id: UUID, *, critical: bool) -> None:
        try:
            end = await self.run(mailbox_id, critical=critical)
            log.debug("visit", mailbox_id=str(mailbox_id), critical=critical, end=end.value)
        except Exception:
            # A wake-up is a hint: failing it would achieve nothing; the sweep comes back.
            log.exception("visit_failed", mailbox_id=str(mailbox_id))

    async def run(self, mailbox_id: UUID, *, critical: bool) -> VisitEnd:
        """
        Look at a mailbox's lane and send what may be sent.

        Args:
            mailbox_id: The mailbox.
            critical: Woken for a critical alert: may use the slot that is kept for those.
        """
        if self.stopping:
            await self._services.pass_on(mailbox_id, critical=critical)
            return VisitEnd.STOPPING
        rest_seconds = self.faults.seconds_left(
            mailbox_id
        ) or self._services.held_hosts.seconds_left(mailbox_id)
        if rest_seconds:
            await self._services.put_off(mailbox_id, seconds=rest_seconds)
            return VisitEnd.NOT_READY
        visit = Visit(self._services, self, mailbox_id, critical=critical)
        self._open.add(visit)
        try:
            end = await visit.run()
        except Exception:
            await self._rest(mailbox_id, visit.rest or self.faults.note(mailbox_id))
            raise
        finally:
            self._open.discard(visit)
        if visit.rest is not None:
            await self._rest(mailbox_id, visit.rest)
        return end

    async def _rest(self, mailbox_id: UUID, rest: Rest) -> None:
        """Let a fault that repeats be seen, and let all workers leave the mailbox alone."""
        times, seconds = rest.times, rest.seconds
        log.error("mailbox_rests", mailbox_id=str(mailbox_id), in_a_row=times, seconds=seconds)
        if times >= PAUSE_FROM:
            # Each by itself: the fault may lie in either of them.
            with suppress(Exception):
                await self._services.recorder.run(
                    partial(
                        lane.pause, mailbox_ids=[mailbox_id], seconds=seconds, reason=VISIT_FAILED
                    )
                )
            with suppress(Exception):
                party = await self._services.accounts.party(mailbox_id)
                await self._services.pacer.halt([party])
        with suppress(Exception):
            await self._services.put_off(mailbox_id, seconds=seconds)

    def looked_after(self) -> set[UUID]:
        """Name mailboxes of which a visit gets on, or waits for a permit: it looks there again."""
        lately = time.monotonic() - WAITING_SECONDS
        return {
            visit.mailbox_id
            for visit in self._open
            if not visit.critical and (visit.resting or visit.moved_at > lately)
        }

    async def finish(self, *, patience_seconds: float) -> None:
        """Let visits come to the end of the mail in hand."""
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_seconds)

    async def end(self, *, patience_seconds: float = 2.0) -> None:
        """Cut short the visits still open: what is in hand stays in doubt, the rest goes back."""
        self.stop()
        tasks = [visit.task for visit in self._open if visit.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=patience_seconds)

    async def keep_alive(self) -> None:
        """Renew claims and slots of visits that take long, tell who waits; runs for ever."""
        settings = self._services.settings
        # Apart from each other: slots must not wait for a database that is away, because the
        # connections are still there.
        await asyncio.gather(
            self._keep(settings.pacing.slot_seconds / 4, Visit.renew_slot),
            self._keep(settings.visit.claim_seconds / 4, Visit.renew_claims),
            self._tend_those_at_the_door(),
            self._look_who_waits(),
        )

    async def _look_who_waits(self) -> None:
        room = self._services.room
        while True:
            await asyncio.sleep(WAITING_SECONDS / 4)
            if room.crowded:
                before = time.monotonic() - WAITING_SECONDS
                slow = [one for one in self._open if one.moved_at < before and not one.resting]
                room.set_waiting(len(slow))

    async def _tend_those_at_the_door(self) -> None:
        # Their connections are as idle as those that are kept without a visit, and have to go as
        # soon when Redis forgets their slots, or another mailbox of the account has its turn.
        while True:
            await asyncio.sleep(TEND_SECONDS)
            if not any(visit.resting for visit in self._open):
                continue
            with suppress(PacingUnavailable):
                watched = await self._services.pacer.watch()
                await asyncio.gather(
                    *(visit.renew_slot(watched.memory) for visit in self._open
                      if visit.needs_a_look(watched))
                )  # fmt: skip

    async def _keep(
        self, pause: float, renew: Callable[[Visit], Coroutine[object, object, None]]
    ) -> None:
        while True:
            await asyncio.sleep(pause)
            slow = [visit for visit in self._open if visit.age_seconds >= pause]
            if slow:
                await asyncio.gather(*(renew(visit) for visit in slow))


def _end_rest(resting: asyncio.Future[None]) -> None:
    if not resting.done():
        resting.set_result(None)
