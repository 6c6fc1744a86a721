from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
from redis.exceptions import RedisError

from models.presence import ALIVE_SECONDS, BEAT_SECONDS, Presence
from models.redis_trouble import explained
from workers.rounds import rest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    import redis.asyncio

    from models.redis_keys import RedisKeys
    from models.unrecorded import Unrecorded

log = structlog.get_logger()

# Whoever beats also tidies up after those that were killed: afterwards, since a script that has
# deleted something may write to a full Redis, and the others could not.
_BEAT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return now
"""


class Heartbeat:
    """
    Says that this worker lives, for ``models.presence``; its loop does, or nothing would be said.

    While Redis is away nothing is said, and whoever asks cannot hear either. That it is away, or
    refuses, is logged when it begins and when it ends: here, because this worker writes here at
    rest as well.

    Args:
        client: Redis.
        keys: Names of the keys.
        presence: Who lives.
        unrecorded: Tells what it cannot record.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keys: RedisKeys,
        presence: Presence,
        *,
        unrecorded: Callable[[], Unrecorded | None] = lambda: None,
    ) -> None:
        self._client = client
        self._key = keys.workers
        self._name = presence.name
        self._unrecorded_key = keys.unrecorded
        self._unrecorded = unrecorded
        self._told = False
        self._says = presence.as_text()
        self._beat = client.register_script(_BEAT)

    async def run(self, stop: asyncio.Event) -> None:
        """Beat until told to stop."""
        unusable = False
        while not stop.is_set():
            try:
                await self._beat(keys=[self._key], args=[self._says, round(ALIVE_SECONDS * 1000)])
                await self._tell()
            except RedisError as error:
                if not unusable:
                    trouble = explained(error)
                    log.warning("redis_unusable", reason=trouble.text, next_step=trouble.next_step)
                unusable = True
            else:
                if unusable:
                    log.info("redis_usable")
                unusable = False
            await rest(stop, BEAT_SECONDS)

    async def _tell(self) -> None:
        """Say what cannot be recorded, once more while it lasts and that it is over."""
        found = self._unrecorded()
        if found is not None:
            # Before it is there: an answer that does not come may have been a success.
            self._told = True
            await self._client.hset(self._unrecorded_key, self._name, found.as_text())
        elif self._told:
            await self._client.hdel(self._unrecorded_key, self._name)
            self._told = False

    async def end(self) -> None:
        """Say that it lives no more; who is killed is missed after ``ALIVE_SECONDS``."""
        with suppress(RedisError):
            await self._client.zrem(self._key, self._says)
            await self._client.hdel(self._unrecorded_key, self._name)
