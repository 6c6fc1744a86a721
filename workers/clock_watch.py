"""
Clocks that decide, and what is done when one of them is set.

Claims, due times and pauses count by the database's clock, permits, slots and marks by Redis'.
Such a clock may be set: by hand, by a virtual machine that was asleep, by a failover to a machine
whose clock differs. A worker sees that beside its own monotonic clock, which nobody can set.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    import redis.asyncio

    from models.redis_keys import RedisKeys

log = structlog.get_logger()

TOLERANCE_SECONDS: Final = 0.5
"""A difference that is no step: rounding, and clocks that are slowly put right."""

# Workers notice one after the other; what was forgotten for the first is not forgotten again. The
# moment stands in the mark, because its time to live goes by the clock that was set.
_FORGET: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mark = redis.call('GET', KEYS[1])
if mark and math.abs(now - tonumber(mark)) < tonumber(ARGV[2]) then return 0 end
local cursor = '0'
repeat
    local page = redis.call('SCAN', cursor, 'MATCH', ARGV[1], 'COUNT', 1000)
    cursor = page[1]
    for _, key in ipairs(page[2]) do redis.call('DEL', key) end
until cursor == '0'
redis.call('SET', KEYS[1], string.format('%.0f', now), 'PX', ARGV[2])
return 1
"""

_FORGOTTEN_MS: Final = 2000


@dataclass(slots=True)
class ClockWatch:
    """Compares a clock with the monotonic one."""

    _least: float | None = None
    _most: float = 0.0

    def see(self, shown: float, *, asked: float, heard: float) -> float:
        """
        Take a reading; the first one only makes acquainted.

        Args:
            shown: What the clock showed, in seconds.
            asked: Monotonic seconds before it was asked.
            heard: Monotonic seconds after its answer.

        Returns:
            By how many seconds it was set since the last reading; 0.0 if it was not.
        """
        # The reading was taken at some moment between the two.
        least, most = shown - heard, shown - asked
        known_least, known_most = self._least, self._most
        self._least, self._most = least, most
        if known_least is None:
            return 0.0
        if least > known_most + TOLERANCE_SECONDS or most < known_least - TOLERANCE_SECONDS:
            return (least + most - known_least - known_most) / 2
        if max(least, known_least) <= min(most, known_most):
            # Each reading narrows it down; a slow answer adds nothing.
            self._least, self._most = max(least, known_least), min(most, known_most)
        return 0.0


class RedisClock:
    """
    Watches the clock of Redis. When it was set, Redis is made to forget all that is ours.

    Every moment that it keeps would be wrong: permits would run out at once and open a second
    burst, or not for as long as the clock was set back; so would slots, marks and locks. What is
    forgotten is learned from SQL again, as after any loss.
    """

    def __init__(self, client: redis.asyncio.Redis, keys: RedisKeys) -> None:
        self._watch = ClockWatch()
        self._forget = client.register_script(_FORGET)
        self._mark = keys.clock_set
        self._ours = re.sub(r"([*?\[\]\\^])", r"\\\1", keys.prefix) + ":*"

    async def was_set(self, shown_ms: float, *, asked: float) -> bool:
        """
        Take a reading; what the same answer said beside it is void where this is true.

        Raises:
            RedisError: It was set, and Redis is away now.
        """
        step = self._watch.see(shown_ms / 1000, asked=asked, heard=time.monotonic())
        if not step:
            return False
        log.warning("clock_was_set", whose="redis", seconds=round(step, 1))
        await self.forget()
        return True

    async def forget(self) -> None:
        """
        Make Redis forget all that is ours.

        Raises:
            RedisError: Redis is away.
        """
        await self._forget(keys=[self._mark], args=[self._ours, _FORGOTTEN_MS])
