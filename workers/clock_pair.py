"""
The last readings of the deciding clocks, kept in Redis for workers that begin.

A worker that runs sees a clock being set beside its own monotonic one. One that begins has only
what others left: the moments of SQL and of Redis at one time, with that of the machine that read
them. What has passed since must be the same by both.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workers.clock_watch import TOLERANCE_SECONDS

if TYPE_CHECKING:
    from datetime import datetime

    import redis.asyncio

    from models.redis_keys import RedisKeys

DRIFT: Final = 0.0005
"""By so much of the time that has passed two clocks that nobody sets may differ."""

_EXCHANGE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local before = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], string.format('%.0f', now) .. ' ' .. ARGV[1] .. ' ' .. ARGV[2])
return {string.format('%.0f', now), before or ''}
"""


@dataclass(frozen=True, slots=True)
class Readings:
    """Three clocks at one time, in seconds."""

    redis: float
    sql: float
    machine: float


@dataclass(frozen=True, slots=True)
class Step:
    """
    By how much clocks were set while nobody looked; 0.0 where they were not.

    Attributes:
        sql: The database's; positive where it was set forward.
        redis: That of Redis.
    """

    sql: float = 0.0
    redis: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.sql or self.redis)


def compare(before: Readings, now: Readings, *, doubt_seconds: float) -> Step:
    """
    Tell which clock was set between two readings.

    Where what has passed differs between SQL and Redis, the one that agrees with the machines is
    taken to be right. Where both clocks are those of one machine they are set together, and nothing
    shows here.

    Args:
        before: As somebody read them.
        now: As they are.
        doubt_seconds: How long the present reading took.
    """
    sql, kept = now.sql - before.sql, now.redis - before.redis
    machine = now.machine - before.machine
    tolerance = TOLERANCE_SECONDS + doubt_seconds + DRIFT * abs(min(sql, kept, key=abs))
    if abs(sql - kept) <= tolerance:
        return Step()
    if abs(sql - machine) > abs(kept - machine):
        return Step(sql=sql - kept)
    return Step(redis=kept - sql)


class ClockPair:
    """Keeps the readings, and compares them with those that were left."""

    def __init__(self, client: redis.asyncio.Redis, keys: RedisKeys) -> None:
        self._exchange = client.register_script(_EXCHANGE)
        self._key = keys.clocks

    async def exchange(self, shown: datetime, *, asked: float) -> Step:
        """
        Leave a reading of the database's clock with one of Redis', for whoever comes next.

        Args:
            shown: What the database's clock showed.
            asked: Monotonic seconds before it was asked.

        Returns:
            What was set since the readings that were left before.

        Raises:
            RedisError: Redis is away.
        """
        machine = time.time()
        moment, left = await self._exchange(
            keys=[self._key], args=[f"{shown.timestamp():.3f}", f"{machine:.3f}"]
        )
        now = Readings(float(moment) / 1000, shown.timestamp(), machine)
        before = left.split()
        if len(before) != len(Readings.__dataclass_fields__):
            return Step()
        known = Readings(float(before[0]) / 1000, float(before[1]), float(before[2]))
        return compare(known, now, doubt_seconds=time.monotonic() - asked)
