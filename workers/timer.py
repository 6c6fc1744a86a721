from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from models.errors import AlertpostError
from models.redis_trouble import explained
from workers.clock_watch import RedisClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    import redis.asyncio
    from redis.commands.core import AsyncScript

    from models.redis_keys import RedisKeys

_log = structlog.get_logger()

_LONGEST_SLEEP_SECONDS = 0.2
"""Alarms that another process sets are seen this late at most; the setter itself is on time."""

PIECE_MS = 250
"""Retries of one lane that come due in the same piece of time share an alarm."""

_MOST_AT_ONCE = 100
_AWAY_SECONDS = 1.0
_CONNECTIONS = 4

_SET = """
local time = redis.call('TIME')
local moment = time[1] * 1000 + math.ceil(time[2] / 1000) + tonumber(ARGV[2])
return redis.call('ZADD', KEYS[1], 'LT', string.format('%.0f', moment), ARGV[1])
"""

# Of several in one piece of time the last is told, which is too early for none of them.
_SET_EACH = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.ceil(time[2] / 1000)
for i = 3, #ARGV do
    local moment = now + tonumber(ARGV[i])
    local member = ARGV[1] .. ':' .. string.format('%.0f', math.floor(moment / tonumber(ARGV[2])))
    redis.call('ZADD', KEYS[1], 'GT', string.format('%.0f', moment), member)
end
"""

_POP = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now),
    'LIMIT', 0, tonumber(ARGV[1]))
for _, mailbox in ipairs(due) do redis.call('ZREM', KEYS[1], mailbox) end
local next = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {due, next[2] and math.max(0, tonumber(next[2]) - now) or -1, now}
"""


class Timer:
    """
    The alarm clock of lanes that wait for a permit, the end of a pause, or a retry.

    Alarms are hints as wake-ups are: one that is lost is made good by the sweep.

    Args:
        client: Redis.
        keys: Names of the keys.
        clock: Told the time several times a second, so that a step is noticed also at rest.
    """

    def __init__(
        self, client: redis.asyncio.Redis, keys: RedisKeys, *, clock: RedisClock | None = None
    ) -> None:
        self._alarms = keys.alarms
        self._clock = clock or RedisClock(client, keys)
        self._set = client.register_script(_SET)
        self._set_each = client.register_script(_SET_EACH)
        self._pop = client.register_script(_POP)
        # Hundreds of visits may end together; each call takes a connection of its own.
        self._turn = asyncio.Semaphore(_CONNECTIONS)
        self._earlier = asyncio.Event()
        # Apart from each other: a full Redis lets alarms be taken out and none be put in.
        self._unset = self._unheard = False

    async def set(self, mailbox_id: UUID, delay_ms: int) -> None:
        """
        Wake this lane after a while; an earlier alarm that is set already stays.

        While Redis is away the alarm is lost, and the sweep will wake the lane.

        Args:
            mailbox_id: Whose lane.
            delay_ms: From now, by Redis' clock.
        """
        await self._call(self._set, str(mailbox_id), max(0, delay_ms))

    async def set_each(self, mailbox_id: UUID, delays_ms: Iterable[int]) -> None:
        """
        Wake this lane after each of these whiles, whatever else is set.

        For retries: who looks at the first one finds nothing of the second, so that nobody would
        set an alarm for it again.

        Args:
            mailbox_id: Whose lane.
            delays_ms: From now, by Redis' clock. No alarm is early; those of one ``PIECE_MS`` ring
                together, with the last.
        """
        await self._call(
            self._set_each, str(mailbox_id), PIECE_MS, *(max(0, delay) for delay in delays_ms)
        )

    async def _call(self, script: AsyncScript, *args: str | int) -> None:
        try:
            async with self._turn:
                await script(keys=[self._alarms], args=args)
        except RedisError as error:
            self._lost(error)
            self._unset = True
        else:
            if self._unset and not self._unheard:
                self._back()
            self._earlier.set()

    async def run(
        self, stop: asyncio.Event, *, wake: Callable[[list[UUID]], Awaitable[None]]
    ) -> None:
        """
        Wake lanes as their alarms come due, until told to stop. Several workers may run this.

        Args:
            stop: Ends the run within moments.
            wake: Told which lanes to wake.
        """
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                self._earlier.clear()
                sleep_seconds = await self._ring(wake)
                if sleep_seconds > 0:
                    await self._sleep(sleep_seconds, stopped)
        finally:
            stopped.cancel()

    async def _ring(self, wake: Callable[[list[UUID]], Awaitable[None]]) -> float:
        """Wake what is due; return how long to sleep."""
        asked = time.monotonic()
        try:
            due, next_ms, shown_ms = await self._pop(keys=[self._alarms], args=[_MOST_AT_ONCE])
            await self._clock.was_set(shown_ms, asked=asked)
        except RedisError as error:
            self._lost(error)
            self._unheard = True
            return _AWAY_SECONDS
        if self._unheard:
            self._back()
        if due:
            try:
                lanes = (member.decode().partition(":")[0] for member in due)
                await wake([UUID(mailbox) for mailbox in dict.fromkeys(lanes)])
            except (AlertpostError, OSError) as error:
                # The clock must go on; the sweep wakes these lanes.
                _log.warning("alarms_unheard", reason=str(error), mailboxes=len(due))
        if next_ms < 0:
            return _LONGEST_SLEEP_SECONDS
        return min(_LONGEST_SLEEP_SECONDS, int(next_ms) / 1000)

    async def _sleep(self, seconds: float, stopped: asyncio.Future[Any]) -> None:
        earlier = asyncio.ensure_future(self._earlier.wait())
        try:
            await asyncio.wait(
                (earlier, stopped), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            earlier.cancel()

    def _lost(self, error: RedisError) -> None:
        if not (self._unset or self._unheard):
            _log.warning(
                "alarms_stopped", reason=explained(error).text, next_step="the sweep wakes lanes"
            )

    def _back(self) -> None:
        self._unset = self._unheard = False
        _log.info("alarms_resumed")
