"""The recorder: groups commit together, one failure stays alone, an outage forgets no outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, event, select, text

from models import lane
from models.errors import NotFound, StoreUnavailable
from models.lifecycle import RETRY
from workers.recorder import Recorder


@pytest.fixture
async def recorder(engine: Engine) -> AsyncIterator[Recorder]:
    recorder = Recorder(engine, asyncio.get_running_loop())
    recorder.start()
    yield recorder
    await asyncio.to_thread(recorder.stop)


@pytest.fixture
def commits(engine: Engine) -> list[int]:
    counted: list[int] = []
    event.listen(engine, "commit", lambda _: counted.append(1))
    return counted


class Outage:
    """Makes every transaction fail as a database that is away does."""

    def __init__(self, engine: Engine) -> None:
        self.on = False
        self.tries = 0
        event.listen(engine, "begin", self._begin)

    def _begin(self, _: Any) -> None:
        if self.on:
            self.tries += 1
            raise StoreUnavailable("away")


@pytest.fixture
def outage(engine: Engine) -> Outage:
    return Outage(engine)


def _one(connection: Connection) -> int:
    return int(connection.execute(select(text("1"))).scalar_one())


def _fails(_: Connection) -> int:
    raise NotFound("there is no such thing")


def _breaks(connection: Connection) -> None:
    connection.execute(text("SELECT * FROM nowhere_at_all WHERE 1 = 'x' LIMIT"))


def _outcome() -> lane.Outcome:
    # Of a delivery that is gone: nothing changes, and nothing fails.
    return lane.Outcome(
        delivery_id=uuid4(), mailbox_id=uuid4(), claimed_by="somebody", transition=RETRY
    )


async def test_what_gathers_is_committed_together(recorder: Recorder, commits: list[int]) -> None:
    """A hundred operations that come at once need a handful of commits."""
    results = await asyncio.gather(*(recorder.run(_one) for _ in range(100)))

    assert results == [1] * 100
    assert 1 <= len(commits) <= 10


async def test_one_failure_does_not_fail_its_group(recorder: Recorder) -> None:
    """Only the operation at fault hears of it, whatever kind of fault it is."""
    good = [recorder.run(_one) for _ in range(5)]
    bad, broken, outcome = recorder.run(_fails), recorder.run(_breaks), recorder.settle(_outcome())
    more = [recorder.run(_one) for _ in range(5)]

    results = await asyncio.gather(*good, bad, broken, outcome, *more, return_exceptions=True)

    assert results[:5] == results[8:] == [1] * 5
    assert isinstance(results[5], NotFound)
    assert isinstance(results[6], Exception)
    assert results[7] is False


async def test_those_who_ask_the_same_are_served_together(recorder: Recorder) -> None:
    """One call for the items that gathered; each gets its own result, and one failure stays alone."""
    calls: list[int] = []

    def double(connection: Connection, items: list[int]) -> list[int]:
        calls.append(len(items))
        if 13 in items:
            _fails(connection)
        return [2 * item * _one(connection) for item in items]

    good = await asyncio.gather(*(recorder.together(double, item) for item in range(10)))
    rounds = len(calls)
    mixed = await asyncio.gather(
        *(recorder.together(double, item) for item in range(10, 16)), return_exceptions=True
    )

    assert good == [2 * item for item in range(10)]
    assert rounds <= 3
    assert mixed[:3] == [20, 22, 24]
    assert isinstance(mixed[3], NotFound)
    assert mixed[4:] == [28, 30]


async def test_a_stop_commits_what_is_pending(engine: Engine) -> None:
    """What was handed in before the stop is done after it."""
    recorder = Recorder(engine, asyncio.get_running_loop())
    pending = [recorder.run(_one) for _ in range(300)]
    recorder.start()

    await asyncio.to_thread(recorder.stop)

    assert await asyncio.gather(*pending) == [1] * 300
    with pytest.raises(StoreUnavailable):
        recorder.settle(_outcome())


async def test_an_outage_keeps_outcomes_and_refuses_the_rest(
    recorder: Recorder, outage: Outage
) -> None:
    """While SQL is away an outcome waits for its return; who only asks is told at once."""
    outage.on = True
    outcome = recorder.settle(_outcome())
    with pytest.raises(StoreUnavailable):
        await recorder.run(_one)
    # Also while an outcome is held back.
    async with asyncio.timeout(1):
        with pytest.raises(StoreUnavailable):
            await recorder.run(_one)
    assert not outcome.done()
    assert recorder.available is False

    outage.on = False

    assert await outcome is False
    assert recorder.available is True


async def test_an_outage_is_not_hammered(recorder: Recorder, outage: Outage) -> None:
    """Tries while SQL is away keep growing distances."""
    outage.on = True
    outcome = recorder.settle(_outcome())
    await asyncio.sleep(0.8)
    assert outage.tries <= 5
    outage.on = False
    await outcome


async def test_a_stop_during_an_outage_ends(engine: Engine, outage: Outage) -> None:
    """A stop does not wait for a database that does not come back; who waits is told."""
    recorder = Recorder(engine, asyncio.get_running_loop())
    recorder.start()
    outage.on = True
    outcome = recorder.settle(_outcome())

    await asyncio.to_thread(recorder.stop, timeout_seconds=2)

    with pytest.raises(StoreUnavailable):
        await outcome
