"""Workers that live are known, those that are gone are missed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
import redis
import redis.asyncio
from structlog.testing import capture_logs

from models.presence import ALIVE_SECONDS, Presence, living
from models.redis_keys import RedisKeys
from tests.fixtures.whole import Whole
from workers.heartbeat import Heartbeat

ONE = Presence.of_this_process("one", concurrency=7)


async def _beat_once(client: redis.asyncio.Redis, keys: RedisKeys, who: Presence) -> Heartbeat:
    heartbeat, stop = Heartbeat(client, keys, who), asyncio.Event()
    beating = asyncio.create_task(heartbeat.run(stop))
    async with asyncio.timeout(5):
        while await client.zscore(keys.workers, who.as_text()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        stop.set()
        await beating
    return heartbeat


async def test_a_worker_says_who_it_is(
    redis_async: redis.asyncio.Redis, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """What comes back is what it said; at a clean stop it is gone at once."""
    heartbeat = await _beat_once(redis_async, redis_keys, ONE)

    assert living(redis_client, redis_keys) == [ONE]
    assert ONE.version[0].isdigit()
    await heartbeat.end()
    assert living(redis_client, redis_keys) == []


async def test_a_worker_that_was_killed_is_missed(
    redis_async: redis.asyncio.Redis, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Its time runs out by Redis' clock, also where others keep the set alive."""
    await _beat_once(redis_async, redis_keys, ONE)
    left_ms = redis_client.pttl(redis_keys.workers)
    assert 0 < left_ms <= ALIVE_SECONDS * 1000
    seconds, _ = redis_client.time()
    redis_client.zadd(redis_keys.workers, {ONE.as_text(): seconds * 1000 - 1})
    assert living(redis_client, redis_keys) == []

    two = replace(ONE, name="two")
    await _beat_once(redis_async, redis_keys, two)

    assert living(redis_client, redis_keys) == [two]
    assert redis_client.zcard(redis_keys.workers) == 1


async def test_a_lost_redis_ends_no_worker(own_redis: object, redis_keys: RedisKeys) -> None:
    """A beat that nobody hears is no fault; neither is the last one."""
    client = redis.asyncio.Redis.from_url(own_redis.url)  # type: ignore[attr-defined]
    heartbeat, stop = Heartbeat(client, redis_keys, ONE), asyncio.Event()
    own_redis.kill()  # type: ignore[attr-defined]
    beating = asyncio.create_task(heartbeat.run(stop))
    await asyncio.sleep(0.05)
    assert not beating.done()
    stop.set()

    await asyncio.wait_for(beating, 5)
    await heartbeat.end()
    await client.aclose()


def test_a_later_version_may_say_more() -> None:
    """While versions are mixed, each can be read by the other."""
    said = json.loads(ONE.as_text()) | {"mood": "fine"}

    assert Presence.from_text(json.dumps(said)) == ONE


@pytest.mark.parametrize("database_kind", ["sqlite"])
async def test_services_beat_until_they_close(whole: Whole, redis_client: redis.Redis) -> None:
    """The name is the one that stands in claims and attempts."""
    keys = RedisKeys(whole.settings.redis_prefix)

    await whole.until(lambda: bool(living(redis_client, keys)), seconds=10)

    [one] = living(redis_client, keys)
    assert one.name == whole.services.worker
    assert one.concurrency == whole.settings.worker.concurrency
    whole.services.visits.stop()
    await whole.services.close()
    assert living(redis_client, keys) == []


async def test_a_redis_that_refuses_is_told_when_it_begins_and_when_it_ends(
    own_redis: Any, redis_keys: RedisKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice in all, however long it lasts, with what is refused and what to do."""
    monkeypatch.setattr("workers.heartbeat.BEAT_SECONDS", 0.01)
    client = redis.asyncio.Redis.from_url(own_redis.url, retry=None)
    stop = asyncio.Event()
    with capture_logs() as logs:
        beating = asyncio.create_task(Heartbeat(client, redis_keys, ONE).run(stop))
        async with asyncio.timeout(20):
            await client.config_set("maxmemory", 1)
            refused = (await client.info("stats"))["total_error_replies"]
            while (await client.info("stats"))["total_error_replies"] < refused + 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await client.config_set("maxmemory", 0)
            while await client.zscore(redis_keys.workers, ONE.as_text()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            stop.set()
            await beating
    await client.aclose()

    assert [log["event"] for log in logs] == ["redis_unusable", "redis_usable"]
    assert "memory is full" in logs[0]["reason"]
    assert logs[0]["next_step"]
