"""A clock that was set while no worker looked: whoever begins sees it, and takes nothing back."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
import redis.asyncio
from sqlalchemy import update

from models.database import write
from models.moves import DELIVERY
from models.redis_keys import RedisKeys
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, another_worker, send_many
from workers.clock_pair import ClockPair, Readings, Step, compare

HOUR = 3600.0
BEFORE = Readings(redis=1000.0, sql=2000.0, machine=1500.0)


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"visit": {"claim_seconds": 3.0}}


def _later(seconds: float = 60.0, **ahead: float) -> Readings:
    return Readings(
        **{
            name: getattr(BEFORE, name) + seconds + ahead.get(name, 0.0)
            for name in ("redis", "sql", "machine")
        }
    )


@pytest.mark.parametrize(
    ("now", "step"),
    [
        (_later(), Step()),
        (_later(sql=0.4), Step()),
        (_later(sql=HOUR), Step(sql=HOUR)),
        (_later(sql=-HOUR), Step(sql=-HOUR)),
        (_later(redis=HOUR), Step(redis=HOUR)),
        (_later(redis=-HOUR), Step(redis=-HOUR)),
        # Another machine reads them, and its own clock is wrong.
        (_later(machine=-HOUR), Step()),
        (_later(machine=300.0, sql=HOUR), Step(sql=HOUR)),
        # All of them at once: one machine, and nothing to see it by.
        (_later(sql=HOUR, redis=HOUR, machine=HOUR), Step()),
        # A week that no worker ran: clocks drift.
        (_later(7 * 86_400, sql=20.0), Step()),
    ],
)
def test_which_clock_was_set(now: Readings, step: Step) -> None:
    """What has passed differs by the step, and the machine tells whose it was."""
    assert compare(BEFORE, now, doubt_seconds=0.0) == step


def test_a_slow_answer_is_no_step() -> None:
    """What may have passed while it was asked is no difference."""
    assert compare(BEFORE, _later(sql=2.0), doubt_seconds=3.0) == Step()


async def test_readings_are_left_for_whoever_comes_next(
    redis_async: redis.asyncio.Redis, redis_keys: RedisKeys
) -> None:
    """The first to come finds none; the second compares."""
    asked = time.monotonic()
    first, second = (ClockPair(redis_async, redis_keys) for _ in range(2))

    assert not await first.exchange(datetime.now(UTC), asked=asked)
    asked = time.monotonic()
    found = await second.exchange(datetime.now(UTC) + timedelta(hours=1), asked=asked)

    assert found.sql == pytest.approx(HOUR, abs=10.0)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.02)


async def test_a_fresh_worker_takes_nothing_back_before_a_lease_has_passed(whole: Whole) -> None:
    """
    A claim that a step of the clock let run out is renewed by its visit meanwhile.

    One that nobody renews is taken back all the same, a lease later.
    """
    sent = send_many(whole, 2)
    await whole.services.close()
    with write(whole.engine) as conn:
        conn.execute(
            update(DELIVERY).values(
                state="sending",
                claimed_by="elsewhere/1",
                claimed_until=datetime.now(UTC) - timedelta(minutes=1),
            )
        )
    began = time.monotonic()
    async with another_worker(whole):
        await _until(lambda: whole.count("sending") == 0)
        taken_back = time.monotonic() - began

    assert taken_back > whole.settings.visit.claim_seconds
    assert {whole.row(one.delivery_id).claims for one in sent} == {0, 1}


@pytest.mark.parametrize("whose", ["sql", "redis"])
async def test_a_fresh_worker_makes_up_for_a_step(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys, whose: str
) -> None:
    """What was left by readings an hour away is noticed: Redis forgets, claims get another lease."""
    await whole.services.close()
    marker = f"{redis_keys.prefix}:permits:somebody"
    redis_client.set(marker, "1")
    left = {name: time.time() for name in ("redis", "sql", "machine")}
    left[whose] += HOUR
    redis_client.set(redis_keys.clocks, " ".join(f"{one:.3f}" for one in left.values()))

    async with another_worker(whole):
        await _until(lambda: not redis_client.exists(marker))
        await _until(lambda: redis_client.exists(redis_keys.clocks))


async def test_a_sweep_lock_from_the_future_stops_no_fresh_worker(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Redis' clock was set back by an hour while nobody ran: elections end then, but for this."""
    await whole.services.close()
    now = time.time()
    redis_client.set(redis_keys.sweep_lock, "somebody", px=3_600_000)
    redis_client.set(redis_keys.clocks, f"{now + HOUR:.3f} {now:.3f} {now:.3f}")
    send_many(whole, 1)
    redis_client.delete(redis_keys.wake(whole.mailbox_id("contoso"), critical=False))

    async with another_worker(whole):
        await _until(lambda: redis_client.get(redis_keys.sweep_lock) != b"somebody")
