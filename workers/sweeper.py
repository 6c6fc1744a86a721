"""The sweep: wakes what nobody looks at, takes back what dead workers held, ends what is late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from uuid import UUID

import redis.asyncio
import structlog

from models import database, lane
from models.quota import DayLimits
from models.redis_keys import RedisKeys
from models.settings import SweepSettings
from workers.clock_watch import ClockWatch
from workers.recorder import Recorder
from workers.rounds import Rounds

log = structlog.get_logger()

CALL_BACK_EVERY = 12
"""
Intervals between looks for what a clock that was set back has put off; a minute by default.

By time, not by number: of several workers each sweeps only now and then.
"""


class Sweeper:
    """Sweeps now and then; of all workers one at a time, elected by a key in Redis."""

    def __init__(
        self,
        *,
        redis: redis.asyncio.Redis,
        keys: RedisKeys,
        recorder: Recorder,
        wake: Callable[[Sequence[tuple[UUID, bool]]], Awaitable[None]],
        settings: SweepSettings,
        claim_seconds: float,
        worker: str,
        bucket_seconds: float = DayLimits().bucket_seconds,
    ) -> None:
        self._rounds = Rounds(
            redis=redis,
            key=keys.sweep_lock,
            worker=worker,
            seconds=settings.interval_seconds,
            name="sweep",
        )
        self._recorder = recorder
        self._wake = wake
        self._interval_seconds = settings.interval_seconds
        self._claim_seconds = claim_seconds
        self._bucket_seconds = bucket_seconds
        self._clock = ClockWatch()
        self._called_back_at = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until told to stop; an outage of Redis or SQL is waited out."""
        await self._rounds.run(stop, self._sweep)

    async def _watch_clock(self) -> None:
        """Before claims are judged by the database's clock: see whether it was set."""
        asked = time.monotonic()
        shown = await self._recorder.run(database.now)
        step = self._clock.see(shown.timestamp(), asked=asked, heard=time.monotonic())
        if step:
            log.warning("clock_was_set", whose="database", seconds=round(step, 1))
            await self._recorder.run(
                partial(lane.clock_was_set, seconds=step, lease_seconds=self._claim_seconds)
            )
        if asked - self._called_back_at > CALL_BACK_EVERY * self._interval_seconds:
            self._called_back_at = asked
            await self._recorder.run(partial(lane.call_back, lease_seconds=self._claim_seconds))

    async def _sweep(self) -> None:
        await self._watch_clock()
        more = True
        while more:
            swept = await self._recorder.run(
                partial(lane.sweep, bucket_seconds=self._bucket_seconds)
            )
            more = swept.more
            await self._wake(swept.due)
            for mailbox_id in swept.resumed:
                log.info("mailbox_resumed", mailbox_id=str(mailbox_id), mailboxes=1)
            for ended in swept.ended:
                log.warning(
                    "alerts_ended_unsent",
                    tenant=ended.tenant,
                    mailbox=ended.mailbox,
                    reason=ended.reason,
                    alerts=ended.alerts,
                )
            if swept.recovered or swept.buried or swept.expired or swept.left_behind:
                log.warning(
                    "lane_sweep",
                    recovered=swept.recovered,
                    buried=swept.buried,
                    expired=swept.expired,
                    left_behind=swept.left_behind,
                    woken=len(swept.due),
                )
