from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from models.presence import ALIVE_SECONDS, BEAT_SECONDS, Presence
from workers.rounds import rest

if TYPE_CHECKING:
    import asyncio

    import redis.asyncio

    from models.redis_keys import RedisKeys

# Whoever beats also tidies up after those that were killed.
_BEAT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return now
"""


class Heartbeat:
    """
    Says that this worker lives, for ``models.presence``; its loop does, or nothing would be said.

    While Redis is away nothing is said, and whoever asks cannot hear either.

    Args:
        client: Redis.
        keys: Names of the keys.
        presence: Who lives.
    """

    def __init__(self, client: redis.asyncio.Redis, keys: RedisKeys, presence: Presence) -> None:
        self._client = client
        self._key = keys.workers
        self._says = presence.as_text()
        self._beat = client.register_script(_BEAT)

    async def run(self, stop: asyncio.Event) -> None:
        """Beat until told to stop."""
        while not stop.is_set():
            with suppress(RedisError):
                await self._beat(keys=[self._key], args=[self._says, round(ALIVE_SECONDS * 1000)])
            await rest(stop, BEAT_SECONDS)

    async def end(self) -> None:
        """Say that it lives no more; who is killed is missed after ``ALIVE_SECONDS``."""
        with suppress(RedisError):
            await self._client.zrem(self._key, self._says)
