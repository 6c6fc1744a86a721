"""The sweep: one worker at a time, nothing kills it, and what it finds is woken."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis.asyncio

from models import database, lane
from models.errors import ConfigurationError, StoreUnavailable
from models.lane_sweep import Sweep
from models.redis_keys import RedisKeys
from models.settings import SweepSettings
from workers.begun import Begun
from workers.clock_watch import RedisClock
from workers.sweeper import Sweeper

NOTHING = Sweep(due=[], recovered=0, buried=0, expired=0, probes=[])


class Rounds:
    """Stands where the recorder stands: gives prepared sweeps, or fails; its clock is right."""

    def __init__(self, *results: Sweep | Exception) -> None:
        self._results = list(results)
        self.swept = 0

    async def run(self, operation: Any) -> Any:
        if operation is database.now:
            return datetime.now(UTC)
        if operation is lane.abandoned_visits:
            return []
        if getattr(operation, "func", operation) is not lane.sweep:
            return 0
        self.swept += 1
        result = self._results.pop(0) if self._results else NOTHING
        if isinstance(result, Exception):
            raise result
        return result


class Wakes:
    def __init__(self) -> None:
        self.lanes: list[tuple[UUID, bool]] = []

    async def __call__(self, lanes: Sequence[tuple[UUID, bool]]) -> None:
        self.lanes += lanes


def _sweeper(
    client: redis.asyncio.Redis, keys: RedisKeys, rounds: Rounds, wakes: Wakes, name: str = "one"
) -> Sweeper:
    return Sweeper(
        redis=client,
        keys=keys,
        recorder=rounds,  # type: ignore[arg-type]
        wake=wakes,
        settings=SweepSettings(interval_seconds=0.1),
        claim_seconds=20.0,
        worker=name,
        begun=Begun(client, keys, worker=name, memory=lambda: None),
        redis_clock=RedisClock(client, keys),
    )


async def _run_until(condition: Any, *sweepers: Sweeper) -> None:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(sweeper.run(stop)) for sweeper in sweepers]
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "failure",
    [StoreUnavailable("away"), ConfigurationError("old schema"), RuntimeError("a bug")],
    ids=["away", "expected", "unexpected"],
)
async def test_a_failed_sweep_is_followed_by_another(
    redis_async: redis.asyncio.Redis, redis_keys: RedisKeys, failure: Exception
) -> None:
    """Whatever goes wrong in one sweep, the next one comes."""
    due = (uuid4(), True)
    rounds, wakes = Rounds(failure, Sweep([due], 0, 0, 0, [])), Wakes()

    await _run_until(lambda: wakes.lanes, _sweeper(redis_async, redis_keys, rounds, wakes))

    assert wakes.lanes[0] == due


async def test_a_sweep_that_was_not_enough_goes_on_at_once(
    redis_async: redis.asyncio.Redis, redis_keys: RedisKeys
) -> None:
    """Where there is more to do than one sweep does, the same worker goes on; probes wake once."""
    due = uuid4()
    more = Sweep([(due, False)], 5000, 0, 0, [due], more=True)
    rounds, wakes = Rounds(more, more), Wakes()

    await _run_until(lambda: rounds.swept >= 3, _sweeper(redis_async, redis_keys, rounds, wakes))

    assert wakes.lanes == [(due, False)] * 2


async def test_workers_take_turns(redis_async: redis.asyncio.Redis, redis_keys: RedisKeys) -> None:
    """Many workers together sweep hardly more often than one."""
    rounds, wakes = Rounds(), Wakes()
    sweepers = [_sweeper(redis_async, redis_keys, rounds, wakes, str(n)) for n in range(5)]
    began = asyncio.get_running_loop().time()

    await _run_until(lambda: rounds.swept >= 5, *sweepers)

    assert asyncio.get_running_loop().time() - began >= 4 * 0.07
