"""The sweep: wakes what nobody looks at, takes back what dead workers held, ends what is late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from uuid import UUID

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from models import lane
from models.errors import AlertpostError, StoreUnavailable
from models.quota import DayLimits
from models.redis_keys import RedisKeys
from models.settings import SweepSettings
from workers.recorder import Recorder

log = structlog.get_logger()


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
        worker: str,
        bucket_seconds: float = DayLimits().bucket_seconds,
    ) -> None:
        self._redis = redis
        self._lock = keys.sweep_lock
        self._recorder = recorder
        self._wake = wake
        self._interval_seconds = settings.interval_seconds
        self._worker = worker
        self._bucket_seconds = bucket_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until told to stop; an outage of Redis or SQL is waited out."""
        while not stop.is_set():
            try:
                if await self._elected():
                    await self._sweep()
            except (RedisError, StoreUnavailable) as away:
                log.debug("sweep_away", reason=str(away)[:200])
            except AlertpostError as error:
                log.error("sweep_failed", reason=str(error)[:500])  # noqa: TRY400 - says all
            except Exception:
                # A worker that ended for this would end again at its next sweep.
                log.exception("sweep_failed")
            # Workers that sweep in step would all find the key taken by the same one.
            pause = self._interval_seconds * (0.8 + 0.4 * random.random())  # noqa: S311
            try:
                await asyncio.wait_for(stop.wait(), pause)
            except TimeoutError:
                continue

    async def _elected(self) -> bool:
        """Take this round, unless another worker has; the key runs out by itself."""
        milliseconds = int(self._interval_seconds * 700)
        return bool(await self._redis.set(self._lock, self._worker, nx=True, px=milliseconds))

    async def _sweep(self) -> None:
        more = True
        while more:
            swept = await self._recorder.run(
                partial(lane.sweep, bucket_seconds=self._bucket_seconds)
            )
            more = swept.more
            await self._wake(swept.due)
            if swept.recovered or swept.buried or swept.expired:
                log.warning(
                    "lane_sweep",
                    recovered=swept.recovered,
                    buried=swept.buried,
                    expired=swept.expired,
                    woken=len(swept.due),
                )
