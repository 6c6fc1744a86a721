"""A clock that decides is set: it is noticed, and what Redis knew by it is forgotten."""

from __future__ import annotations

import time

import pytest
import redis
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from models.redis_keys import RedisKeys
from tests.workers.pacing_parts import OneMemory, some_party
from workers.clock_watch import TOLERANCE_SECONDS, ClockWatch, RedisClock
from workers.pacing import Pacer, PacingUnavailable

HOUR_MS = 3_600_000


@given(
    start=st.floats(0, 2e9),
    readings=st.lists(
        st.tuples(st.floats(0, 30), st.floats(0, 30), st.floats(0, 20)), min_size=1, max_size=20
    ),
)
def test_slow_answers_are_no_step(start: float, readings: list[tuple[float, float, float]]) -> None:
    """A clock that nobody sets is never said to be set, however late its answers are heard."""
    watch, moment = ClockWatch(), 0.0
    for way_there, way_back, pause in readings:
        asked = moment
        moment += way_there
        shown = start + moment
        moment += way_back
        assert watch.see(shown, asked=asked, heard=moment) == 0.0
        moment += pause


@given(step=st.floats(-7200, 7200), delay=st.floats(0, 0.2))
def test_a_step_is_seen(step: float, delay: float) -> None:
    """A step is told once, with its size."""
    watch = ClockWatch()
    watch.see(1000.0, asked=0.0, heard=delay)
    seen = watch.see(1010.0 + step, asked=10.0, heard=10.0 + delay)

    if abs(step) > TOLERANCE_SECONDS + 2 * delay:
        assert seen == pytest.approx(step, abs=2 * delay + 0.001)
    assert watch.see(1020.0 + step, asked=20.0, heard=20.0 + delay) == 0.0


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, -HOUR_MS], ids=["forward", "back"])
async def test_what_redis_knows_by_a_clock_that_was_set_is_forgotten(
    redis_async: redis.asyncio.Redis,
    redis_client: redis.Redis,
    redis_keys: RedisKeys,
    ahead_ms: int,
) -> None:
    """No permit is given on the word of such a clock: Redis is taught again first."""
    clock = RedisClock(redis_async, redis_keys)
    pacer = Pacer(redis_async, redis_keys, OneMemory(), clock=clock)
    mailbox_id = some_party()
    era = (await pacer.enter(mailbox_id, "one", critical=False)).era
    await pacer.seed(mailbox_id, ages_ms=[100] * 28, holders=[], era=era)
    await pacer.enter(mailbox_id, "one", critical=False)
    foreign = f"{redis_keys.prefix}-of-another"
    redis_client.set(foreign, "1", ex=60)
    # As if the clock had shown something else until now.
    seconds, microseconds = redis_client.time()
    asked = time.monotonic()
    other = RedisClock(redis_async, redis_keys)
    pacer._clock = other
    await other.was_set(seconds * 1000 + microseconds / 1000 - ahead_ms, asked=asked)

    with pytest.raises(PacingUnavailable, match="clock"):
        await pacer.permit(mailbox_id, "one", critical=False, stamp=False)

    assert not (await pacer.enter(mailbox_id, "one", critical=False)).known
    assert redis_client.get(foreign) == b"1"
