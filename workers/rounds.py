"""
Work that comes round again: the rest between two rounds, and who of all workers takes a round.

    rounds = Rounds(redis=…, key=keys.sweep_lock, worker=…, seconds=5.0, name="sweep")
    await rounds.run(stop, sweep)      # until told to stop
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from models.errors import AlertpostError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis.asyncio

log = structlog.get_logger()

_SHARE_HELD = 0.7
"""Of the time between rounds, for which a round that was taken is nobody else's."""


async def rest(stop: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until told to stop; says whether to go on."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return not stop.is_set()


def about(seconds: float) -> float:
    """Give about so long: workers in step would all find each round taken by the same one."""
    return seconds * (0.8 + 0.4 * random.random())  # noqa: S311


class Rounds:
    """
    Rounds that one worker at a time takes, elected by a key in Redis that runs out by itself.

    Where Redis forgets, two may take the same round; what they do in it must bear that.

    Args:
        redis: Where the election is.
        key: Of the election.
        worker: Who this is.
        seconds: About how long from round to round.
        name: Of the work, for the log.
    """

    def __init__(
        self, *, redis: redis.asyncio.Redis, key: str, worker: str, seconds: float, name: str
    ) -> None:
        self._redis = redis
        self._key = key
        self._worker = worker
        self._seconds = seconds
        self._away, self._failed = f"{name}_away", f"{name}_failed"

    async def run(self, stop: asyncio.Event, work: Callable[[], Awaitable[object]]) -> None:
        """Take rounds until told to stop, the first one at once."""
        while not stop.is_set():
            await self._take(work)
            await rest(stop, about(self._seconds))

    async def run_later(self, stop: asyncio.Event, work: Callable[[], Awaitable[object]]) -> None:
        """Do the same, the first one after a rest: workers that begin together do not crowd."""
        while await rest(stop, about(self._seconds)):
            await self._take(work)

    async def _take(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do the work, unless another worker has this round; an outage is waited out."""
        try:
            milliseconds = int(self._seconds * 1000 * _SHARE_HELD)
            if await self._redis.set(self._key, self._worker, nx=True, px=milliseconds):
                await work()
        except (RedisError, StoreUnavailable) as away:
            log.debug(self._away, reason=str(away)[:200])
        except AlertpostError as error:
            log.error(self._failed, reason=str(error)[:500])  # noqa: TRY400 - says all
        except Exception:
            # A worker that ended for this would end again at its next round.
            log.exception(self._failed)
