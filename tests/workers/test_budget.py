"""The budget for contents: first come, first served, criticals first, and no circle to wait in."""

from __future__ import annotations

import asyncio

from workers.budget import CRITICAL_SHARE, Budget


async def waiting(budget: Budget, octets: int, *, critical: bool = False) -> asyncio.Task[int]:
    """Ask, and be in the queue."""
    task = asyncio.create_task(budget.take(octets, critical=critical))
    await asyncio.sleep(0)
    return task


async def test_first_come_first_served() -> None:
    """A large one is not overtaken by the small ones that would fit."""
    budget = Budget(100)
    held = await budget.take(60, critical=False)
    large = await waiting(budget, 80)
    small = await waiting(budget, 10)
    assert not small.done()
    budget.give(held)

    assert await large == 80
    assert await small == 10
    assert budget.in_hand == 90


async def test_criticals_come_first_and_have_a_reserve() -> None:
    """They wait neither behind others nor for the last octet that others left."""
    budget = Budget(80)
    held = await budget.take(80, critical=False)
    other = await waiting(budget, 10)
    assert await budget.take(80 // CRITICAL_SHARE, critical=True) == 10
    critical = await waiting(budget, 40, critical=True)
    assert not critical.done()
    budget.give(held)

    assert await critical == 40
    assert await other == 10


async def test_more_than_there_is_waits_until_it_is_alone() -> None:
    """It goes when nothing else is in hand, instead of never."""
    budget = Budget(100)
    held = await budget.take(1, critical=False)
    huge = await waiting(budget, 10_000)
    assert not huge.done()
    budget.give(held)

    assert await huge == 100
    budget.give(100)
    assert budget.in_hand == 0


async def test_who_gives_up_lets_the_next_one_pass() -> None:
    """A visit that is cut short while it waits holds nobody up and keeps nothing."""
    budget = Budget(100)
    held = await budget.take(50, critical=False)
    cut_short = await waiting(budget, 90)
    after = await waiting(budget, 50)
    cut_short.cancel()

    assert await after == 50
    assert budget.in_hand == 100
    also = await waiting(budget, 10)
    budget.give(held)
    # Given and cancelled at the same moment.
    also.cancel()
    await asyncio.gather(also, return_exceptions=True)
    assert budget.in_hand == 50


async def test_closed() -> None:
    """A process that stops begins no more, and nobody is left waiting."""
    budget = Budget(100)
    await budget.take(100, critical=False)
    tasks = [await waiting(budget, 50, critical=critical) for critical in (True, False)]
    budget.close()

    assert await asyncio.gather(*tasks) == [0, 0]
    assert await budget.take(1, critical=True) == 0
