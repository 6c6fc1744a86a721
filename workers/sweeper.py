"""The sweep: wakes what nobody looks at, takes back what dead workers held, ends what is late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict
from functools import partial
from uuid import UUID

import redis.asyncio
import structlog
from redis.exceptions import RedisError
from sqlalchemy import Connection

from models import database, lane
from models.errors import AlertpostError, StoreUnavailable
from models.lane_sweep import Sweep
from models.outages import in_short
from models.quota import DayLimits
from models.redis_keys import RedisKeys
from models.settings import SweepSettings
from workers.begun import Begun, Marks
from workers.clock_pair import ClockPair, Step
from workers.clock_watch import ClockWatch, RedisClock
from workers.recorder import Recorder
from workers.rounds import Rounds, about, rest

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
        begun: Begun,
        redis_clock: RedisClock,
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
        self._begun = begun
        self._redis_clock = redis_clock
        self._pair = ClockPair(redis, keys)
        self._clock = ClockWatch()
        self._step = 0.0
        self._since: float | None = None
        self._called_back_at = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until told to stop; an outage of Redis or SQL is waited out."""
        while not stop.is_set() and not await self._acquainted():
            await rest(stop, about(self._interval_seconds))
        await self._rounds.run(stop, self._sweep)

    async def _acquainted(self) -> bool:
        """
        Before anything else: see whether a clock was set while no worker ran.

        Not one worker for all of them, because the election is by the very clock that may have been
        set back by hours.
        """
        try:
            await self._watch_clock()
        except (RedisError, StoreUnavailable) as away:
            log.debug("sweep_away", reason=str(away)[:200])
        except Exception as error:  # noqa: BLE001 - it is tried again
            log.error("sweep_failed", reason=in_short(error)[:500])  # noqa: TRY400 - says all
        else:
            return True
        return False

    async def _watch_clock(self) -> None:
        """Before claims are judged by the database's clock: see whether it was set."""
        asked = time.monotonic()
        shown = await self._recorder.run(database.now)
        self._step += self._clock.see(shown.timestamp(), asked=asked, heard=time.monotonic())
        left = await self._pair.exchange(shown, asked=asked)
        if self._since is None:
            self._since = asked
            await self._make_up_for(left)
        if self._step:
            log.warning("clock_was_set", whose="database", seconds=round(self._step, 1))
            await self._recorder.run(
                partial(lane.clock_was_set, seconds=self._step, lease_seconds=self._claim_seconds)
            )
            self._step = 0.0
        if asked - self._called_back_at > CALL_BACK_EVERY * self._interval_seconds:
            self._called_back_at = asked
            await self._recorder.run(partial(lane.call_back, lease_seconds=self._claim_seconds))

    async def _make_up_for(self, left: Step) -> None:
        """Do what a worker that had been there would have done when a clock was set."""
        if not left:
            return
        self._step += left.sql
        # Whichever it was: what Redis forgets is learned from SQL again, and does no harm.
        log.warning("clock_was_set", whose="redis or database", **asdict(left))
        await self._redis_clock.forget()

    def _clock_is_right(self, conn: Connection) -> bool:
        """Look once more in the transaction that takes claims back; it may have waited for long."""
        asked = time.monotonic()
        shown = database.now(conn)
        self._step += self._clock.see(shown.timestamp(), asked=asked, heard=time.monotonic())
        return not self._step

    def _may_take_back(self) -> bool:
        """
        Say whether a claim that has run out is one that was not renewed.

        A worker that has just begun cannot tell: the clock may have been set forward right before.
        Whoever lives has renewed its claims a full lease later.
        """
        since = self._since
        return since is not None and time.monotonic() - since > self._claim_seconds

    async def _sweep_once(self) -> Sweep:
        visits: list[str] = []
        if self._may_take_back():
            visits = await self._recorder.run(lane.abandoned_visits)
        marks = await self._begun.ask(visits)
        try:
            return await self._recorder.run(self._swept(visits, marks))
        except AlertpostError:
            raise
        except Exception:
            if not visits:
                raise
        # One row that cannot be changed must not keep all others from being taken back.
        for visit in visits:
            try:
                await self._recorder.run(self._swept([visit], marks))
            except AlertpostError:
                raise
            except Exception:
                log.exception("sweep_failed", visit=visit)
        return await self._recorder.run(self._swept([], marks))

    def _swept(self, visits: Collection[str], marks: Marks) -> Callable[[Connection], Sweep]:
        return partial(
            lane.sweep,
            bucket_seconds=self._bucket_seconds,
            begun=marks.known,
            composing=marks.composing,
            only=visits,
            unless=lambda conn: not self._clock_is_right(conn),
        )

    async def _sweep(self) -> None:
        await self._watch_clock()
        more = True
        while more:
            swept = await self._sweep_once()
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
