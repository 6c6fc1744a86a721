from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
import redis.asyncio
from structlog.testing import capture_logs

from models.errors import StoreUnavailable
from workers.timer import PIECE_MS, Timer


class Bell:
    """Hears which lanes are waked, and when."""

    def __init__(self) -> None:
        self.heard: dict[object, list[float]] = {}
        self._rung = asyncio.Event()

    async def __call__(self, mailboxes) -> None:
        for mailbox in mailboxes:
            self.heard.setdefault(mailbox, []).append(time.monotonic())
        self._rung.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.heard) < count:
                self._rung.clear()
                await self._rung.wait()

    async def until_last(self, mailbox, moment: float) -> None:
        async with asyncio.timeout(30):
            while self.heard.get(mailbox, [0.0])[-1] < moment:
                self._rung.clear()
                await self._rung.wait()


@asynccontextmanager
async def _running(timer, wake):
    stop = asyncio.Event()
    task = asyncio.create_task(timer.run(stop, wake=wake))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, timeout=1)


@pytest.fixture
def timer(redis_async, redis_keys):
    return Timer(redis_async, redis_keys)


async def test_alarms_ring_on_time(timer):
    """Never early, and less than 100 ms late, whatever else is set."""
    bell = Bell()
    delays_ms = [150, 40, 90, 0, 260]
    due: dict[object, float] = {}

    async with _running(timer, bell):
        await asyncio.sleep(0)
        for delay_ms in delays_ms:
            mailbox = uuid4()
            due[mailbox] = time.monotonic() + delay_ms / 1000
            await timer.set(mailbox, delay_ms)
        await bell.until(len(due))

    late = [bell.heard[mailbox][0] - moment for mailbox, moment in due.items()]
    assert min(late) >= 0
    assert sorted(late)[len(late) // 2] < 0.1


@pytest.mark.parametrize("delays_ms", [(60_000, 20), (20, 60_000)], ids=["earlier", "later"])
async def test_the_earliest_alarm_of_a_lane_stays(timer, delays_ms, redis_async, redis_keys):
    """A lane has one alarm; a second one can only bring it forward."""
    bell = Bell()
    mailbox = uuid4()
    for delay_ms in delays_ms:
        await timer.set(mailbox, delay_ms)

    async with _running(timer, bell):
        await bell.until(1)

    assert await redis_async.zcard(redis_keys.alarms) == 0


async def test_each_retry_of_a_lane_has_its_alarm(timer, redis_async, redis_keys):
    """None is early, none is lost for an earlier one, and those that come together share one."""
    bell = Bell()
    mailbox = uuid4()
    delays_ms = [40, *range(900, 1000, 10), 1800]
    began = time.monotonic()
    await timer.set_each(mailbox, delays_ms)
    await timer.set(mailbox, 20)
    assert await redis_async.zcard(redis_keys.alarms) in {4, 5}

    async with _running(timer, bell):
        await bell.until_last(mailbox, began + 1.8)

    rings = [moment - began for moment in bell.heard[mailbox]]
    assert len(rings) in {4, 5}
    for delay_ms in delays_ms:
        assert any(0 <= ring - delay_ms / 1000 < PIECE_MS / 1000 + 0.2 for ring in rings)


async def test_many_alarms_ring_once_each_over_all_workers(redis_async, redis_keys):
    """Two clocks share the alarms; no lane is waked twice, none is left out."""
    timers = [Timer(redis_async, redis_keys) for _ in range(2)]
    bell = Bell()
    mailboxes = [uuid4() for _ in range(350)]
    await asyncio.gather(*(timers[0].set(mailbox, 5) for mailbox in mailboxes))

    async with _running(timers[0], bell), _running(timers[1], bell):
        await bell.until(350)

    assert {len(times) for times in bell.heard.values()} == {1}


async def test_redis_that_is_away_is_said_once(own_redis, redis_keys):
    """The clock goes on when Redis is back; setting an alarm meanwhile raises nothing."""
    client = redis.asyncio.Redis.from_url(own_redis.url, retry=None)
    timer = Timer(client, redis_keys)
    bell = Bell()
    own_redis.kill()

    with capture_logs() as logs:
        await timer.set(uuid4(), 0)
        async with _running(timer, bell):
            await timer.set(uuid4(), 0)
            own_redis.start()
            await timer.set(uuid4(), 0)
            await bell.until(1)

    await client.aclose()
    assert [log["event"] for log in logs] == ["alarms_stopped", "alarms_resumed"]


async def test_a_wake_that_fails_does_not_stop_the_clock(timer):
    """Other lanes are waked although the store was away for some."""
    bell = Bell()
    failed = asyncio.Event()

    async def wake(mailboxes) -> None:
        if not failed.is_set():
            failed.set()
            raise StoreUnavailable("away")
        await bell(mailboxes)

    with capture_logs() as logs:
        async with _running(timer, wake):
            await timer.set(uuid4(), 0)
            await failed.wait()
            await timer.set(uuid4(), 0)
            await bell.until(1)

    assert [log["event"] for log in logs] == ["alarms_unheard"]


async def test_a_full_redis_is_said_once(own_redis, redis_keys):
    """It lets alarms be taken out and none be put in: that is one outage, not one a look."""
    client = redis.asyncio.Redis.from_url(own_redis.url, retry=None)
    timer = Timer(client, redis_keys)
    bell = Bell()

    with capture_logs() as logs:
        async with _running(timer, bell):
            await timer.set(uuid4(), 0)
            await bell.until(1)
            await client.config_set("maxmemory", 1)
            for _ in range(3):
                await timer.set(uuid4(), 0)
                await timer._ring(bell)
            await client.config_set("maxmemory", 0)
            await timer.set(uuid4(), 0)
            await bell.until(2)

    await client.aclose()
    assert [log["event"] for log in logs] == ["alarms_stopped", "alarms_resumed"]
    assert "memory is full" in logs[0]["reason"]
