"""Work that comes round again: who takes a round, and that nothing ends the rounds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio
from structlog.testing import capture_logs

from models.errors import ConfigurationError, StoreUnavailable
from workers.rounds import Rounds, about, rest


def rounds(client: redis.asyncio.Redis, *, worker: str = "one", seconds: float = 0.02) -> Rounds:
    return Rounds(redis=client, key="test-rounds", worker=worker, seconds=seconds, name="work")


async def test_a_rest_ends_at_once_when_told_to_stop() -> None:
    """And says whether to go on."""
    stop = asyncio.Event()
    assert await rest(stop, 0.001)
    stop.set()

    async with asyncio.timeout(5):
        assert not await rest(stop, 60)


def test_rests_differ() -> None:
    """About the time that was given, and not all of them alike."""
    times = {about(10.0) for _ in range(50)}

    assert len(times) > 10
    assert all(8 <= one <= 12 for one in times)


async def test_one_takes_a_round(redis_async: redis.asyncio.Redis) -> None:
    """The others find it taken, until the key has run out."""
    await redis_async.delete("test-rounds")
    taken: list[int] = []
    stop = asyncio.Event()

    async def work(who: int) -> None:
        taken.append(who)

    running = [
        asyncio.create_task(
            rounds(redis_async, worker=str(n), seconds=60).run(stop, lambda n=n: work(n))
        )
        for n in range(4)
    ]
    async with asyncio.timeout(10):
        while not taken:  # noqa: ASYNC110 - work rings no bell
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*running)

    assert len(taken) == 1
    assert 0 < await redis_async.pttl("test-rounds") <= 42_000
    await redis_async.delete("test-rounds")


@pytest.mark.parametrize(
    ("error", "level", "event"),
    [
        (StoreUnavailable("away"), "debug", "work_away"),
        (redis.ConnectionError("away"), "debug", "work_away"),
        (ConfigurationError("no such cloud"), "error", "work_failed"),
        (RuntimeError("a fault"), "error", "work_failed"),
    ],
    ids=["sql", "redis", "expected", "fault"],
)
async def test_what_fails_comes_round_again(
    redis_async: redis.asyncio.Redis, error: Exception, level: str, event: str
) -> None:
    """Said in the log, by how odd it is."""
    await redis_async.delete("test-rounds")
    stop = asyncio.Event()
    times = 0

    async def work() -> Any:
        nonlocal times
        times += 1
        if times == 3:
            stop.set()
        raise error

    with capture_logs() as lines:
        async with asyncio.timeout(10):
            await rounds(redis_async).run_later(stop, work)

    assert times == 3
    assert {(line["log_level"], line["event"]) for line in lines} == {(level, event)}
