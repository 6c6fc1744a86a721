"""Fast, but never too fast: windows, slots, order, deadlines, over several workers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import update

from models.database import write
from models.redis_keys import RedisKeys
from sandbox.faults import Fault, Slow
from sandbox.limits import Limits
from tests.fixtures.whole import DELIVERY, Whole
from tests.workers.pacing_parts import party_of
from tests.workers.visit_parts import (
    IMPATIENT,
    another_worker,
    drain,
    flush,
    listening,
    send,
    send_many,
    visit,
)
from workers.pacing import FORGOTTEN_SECONDS
from workers.visit import VisitEnd

WINDOW = 1.5
LONG = IMPATIENT | {"pacing": {"window_seconds": 60.0}}
"""No test outlasts such a window, however slow the machine is."""


@pytest.fixture(autouse=True)
def _short_window(whole: Whole) -> None:
    whole.exchange().limits = replace(Limits(), window_seconds=WINDOW)


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"pacing": {"window_seconds": WINDOW}}


@pytest.mark.parametrize("settings_changes", [IMPATIENT | {"pacing": {"window_seconds": 4.0}}])
async def test_two_workers_keep_to_one_window(whole: Whole) -> None:
    """A backlog goes out at the full rate, and no window sees a mail or a connection too many."""
    window = whole.settings.pacing.window_seconds
    whole.exchange().limits = replace(Limits(), window_seconds=window)
    send_many(whole, 70)
    began = asyncio.get_running_loop().time()
    async with another_worker(whole) as second:
        visits = (whole.services.visits, second.visits)
        async with listening(whole.settings, *visits):
            lane_id = whole.mailbox_id("contoso")
            await whole.services.wake_many([(lane_id, False), (lane_id, True)])
            await whole.until(lambda: whole.count("accepted") == 70)
    took = asyncio.get_running_loop().time() - began

    exchange = whole.exchange()
    assert exchange.violations.total() == 0
    assert exchange.max_sent_in_window >= 28
    assert exchange.max_connections <= 3
    # 28 at once, then two more windows; a worker that slept through one would need a third.
    assert took < 3 * window
    assert not exchange.outbox.duplicate_message_ids()


async def test_a_flushed_redis_changes_no_limit(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """What Redis forgets in the middle of a storm, SQL knows."""
    send_many(whole, 60)
    async with (
        another_worker(whole) as second,
        listening(whole.settings, whole.services.visits, second.visits),
    ):
        await whole.services.wake(whole.mailbox_id("contoso"), critical=False)
        for accepted in (10, 20, 40):
            await whole.until(lambda least=accepted: whole.count("accepted") >= least)
            # There may be none: visits are quick, and the last flush may just have been.
            flush(redis_client, redis_keys)
        await whole.until(lambda: whole.count("accepted") == 60)

    assert whole.exchange().violations.total() == 0
    assert not whole.exchange().outbox.duplicate_message_ids()


class TestPermitsOneByOne:
    """A mailbox that may send one mail in a second, so that each permit is waited for."""

    @pytest.fixture
    def settings_changes(self) -> dict[str, Any]:
        changes = {"window_seconds": 1.0, "messages_per_window": 1, "critical_reserve": 0}
        return IMPATIENT | {"pacing": changes}

    @pytest.fixture(autouse=True)
    def _one_by_one(self, whole: Whole, _short_window: None) -> None:
        whole.exchange().limits = replace(Limits(), window_seconds=1.0, messages_per_window=1)

    async def test_a_visit_waits_for_a_permit_that_is_near(self, whole: Whole) -> None:
        """It sends the next mail over its open connection, instead of ending for each."""
        lane_id = send_many(whole, 3)[0].mailbox_id

        assert await visit(whole, lane_id) is VisitEnd.LANE_EMPTY

        assert whole.count("accepted") == 3
        assert whole.exchange().violations.total() == 0
        assert whole.exchange().max_connections == 1

    async def test_one_visit_waits_and_the_other_leaves(self, whole: Whole) -> None:
        """A second one would only compete for the same permit."""
        lane_id = send_many(whole, 3)[0].mailbox_id

        ends = await asyncio.gather(visit(whole, lane_id), visit(whole, lane_id))

        assert sorted(ends) == [VisitEnd.LANE_EMPTY, VisitEnd.NO_PERMIT]
        assert whole.count("accepted") == 3
        assert whole.exchange().violations.total() == 0


async def test_the_most_severe_goes_first(whole: Whole) -> None:
    """A lane is drained by severity, then by age."""
    for severity in ("low", "normal", "critical", "elevated", "normal"):
        receipt = send(whole, severity=severity, subject=severity)

    await visit(whole, receipt.mailbox_id)

    subjects = [mail.subject for mail in whole.outbox()]
    assert subjects == ["critical", "elevated", "normal", "normal", "low"]


@pytest.mark.parametrize("settings_changes", [LONG])
async def test_a_critical_overtakes_a_backlog_that_used_up_the_window(whole: Whole) -> None:
    """The reserve lets criticals through when no other mail may go."""
    receipts = send_many(whole, 40)
    lane_id = receipts[0].mailbox_id
    assert await visit(whole, lane_id) is VisitEnd.NO_PERMIT
    assert whole.count("accepted") == 28
    critical = send(whole, severity="critical")

    end = await visit(whole, lane_id, critical=True)

    assert whole.row(critical.delivery_id).state == "accepted"
    assert end is VisitEnd.NO_PERMIT
    assert whole.count("accepted") == 29


async def test_a_critical_has_a_slot_while_others_hold_theirs(whole: Whole) -> None:
    """Two normal visits that take long leave the third slot to a critical."""
    whole.sandbox.exchange.inject(Fault("slow", "body", Slow(0.4), times=2))
    async with another_worker(whole) as second:
        lane_id = send_many(whole, 30)[0].mailbox_id
        others = [
            asyncio.create_task(visits.run(lane_id, critical=False))
            for visits in (whole.services.visits, second.visits)
        ]
        await whole.until(lambda: whole.sandbox.exchange.faults.struck["slow"] == 2)
        critical = send(whole, severity="critical")
        third = asyncio.create_task(second.visits.run(lane_id, critical=True))

        await whole.until(lambda: whole.row(critical.delivery_id).state == "accepted", seconds=2)

        await asyncio.gather(*others, third)
    assert whole.exchange().violations.total() == 0


async def test_a_slow_server_gets_a_second_connection(whole: Whole) -> None:
    """What one visit has claimed does not wait in its hands while permits and a slot are free."""
    whole.sandbox.exchange.inject(Fault("slow", "body", Slow(0.4)))
    lane_id = send_many(whole, 8)[0].mailbox_id
    async with listening(whole.settings, whole.services.visits):
        await whole.services.wake(lane_id, critical=False)
        await whole.until(lambda: whole.count("accepted") == 8)

    assert whole.exchange().max_connections == 2
    assert whole.exchange().violations.total() == 0
    assert not whole.exchange().outbox.duplicate_message_ids()


def _set_deadline(whole: Whole, delivery_id: UUID, moment: datetime) -> None:
    with write(whole.engine) as connection:
        connection.execute(
            update(DELIVERY).where(DELIVERY.c.id == delivery_id).values(expires_at=moment)
        )


async def test_what_is_late_in_the_queue_is_never_sent(whole: Whole) -> None:
    """An alert whose time is over before anybody looks expires."""
    receipt = send(whole)
    # Not handed in so: a deadline that is past when it arrives is refused.
    _set_deadline(whole, receipt.delivery_id, datetime.now(UTC) - timedelta(seconds=1))

    await visit(whole, receipt.mailbox_id)
    await whole.until(lambda: whole.row(receipt.delivery_id).state == "expired", seconds=20)

    assert not whole.outbox()


async def test_what_gets_late_in_hand_is_never_sent(whole: Whole) -> None:
    """An alert whose time runs out behind a slow mail expires, although it was claimed before."""
    whole.sandbox.exchange.inject(Fault("slow", "body", Slow(0.45), times=1))
    first = send(whole, severity="critical")
    receipt = send(whole)
    _set_deadline(whole, receipt.delivery_id, datetime.now(UTC) + timedelta(seconds=0.4))

    await visit(whole, receipt.mailbox_id)

    assert whole.row(first.delivery_id).state == "accepted"
    row = whole.row(receipt.delivery_id)
    assert (row.state, row.reason) == ("expired", "expired")
    assert len(whole.outbox()) == 1


async def test_a_worker_whose_clock_is_wrong_expires_nothing(whole: Whole) -> None:
    """Deadlines count by the database's clock, not by that of a host."""
    whole.services.now = lambda: datetime.now(UTC) + timedelta(hours=5)
    receipt = send(whole, expires_at=datetime.now(UTC) + timedelta(hours=1))

    await visit(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).state == "accepted"


async def test_a_wake_up_that_meets_a_stopping_worker_is_passed_on(whole: Whole) -> None:
    """A worker that stops hands on what it was told, or the lane would sleep."""
    receipt = send(whole)
    async with another_worker(whole) as stopping:
        stopping.visits.stop()
        # The producer's own wake-up is taken off the queue, its key stays.
        async with listening(whole.settings, stopping.visits):
            await asyncio.sleep(0.05)
        assert whole.row(receipt.delivery_id).state == "queued"

        async with listening(whole.settings, whole.services.visits):
            await whole.until(
                lambda: whole.row(receipt.delivery_id).state == "accepted", seconds=20
            )


async def test_a_permit_whose_answer_is_lost_counts(whole: Whole) -> None:
    """Redis goes away after a mail was sent: the mail stays counted when the visit leaves."""
    from workers.pacing import PacingUnavailable

    receipts = send_many(whole, 2)
    lane_id = receipts[0].mailbox_id
    pacer = whole.services.pacer
    asked = pacer.permit

    async def away_at_the_second(*given: Any, stamp: bool, **named: Any) -> Any:
        if stamp:
            raise PacingUnavailable("away")
        return await asked(*given, stamp=stamp, **named)

    pacer.permit = away_at_the_second
    assert await visit(whole, lane_id) is VisitEnd.AWAY
    pacer.permit = asked

    assert whole.count("accepted") == 1
    await whole.services.connections.close()
    assert (await pacer.enter(party_of(whole, lane_id), "look", critical=False)).permits == 27
    await pacer.leave(party_of(whole, lane_id), "look", stamp=False)
    await drain(whole, lane_id)


async def _spread(whole: Whole, lane_id: UUID) -> None:
    """Let the window be full of mails that left one by one, as in a backlog that lasts."""
    seconds = whole.settings.pacing.window_seconds
    ages = [int(seconds * 1000 * n / 28) for n in range(28)]
    ours = party_of(whole, lane_id)
    entry = await whole.services.pacer.enter(ours, "before", critical=False)
    await whole.services.pacer.seed(ours, ages_ms=ages, holders=[], era=entry.era)


async def test_a_visit_waits_for_a_permit_that_is_near(whole: Whole) -> None:
    """Six mails whose permits come one by one are one visit, on one connection."""
    lane_id = send_many(whole, 6)[0].mailbox_id
    pacing = whole.settings.pacing
    await _spread(whole, lane_id)
    near = asyncio.get_running_loop().time() + pacing.window_seconds / pacing.messages_per_window

    end = await visit(whole, lane_id)

    # Nothing is open yet that would be worth waiting with; a slow machine finds the first permit.
    assert end is VisitEnd.NO_PERMIT or asyncio.get_running_loop().time() > near
    send(whole, severity="critical")
    await visit(whole, lane_id, critical=True)
    assert await visit(whole, lane_id) is VisitEnd.LANE_EMPTY
    assert whole.count("accepted") == 7
    assert whole.exchange().max_connections == 1


async def _at_the_door(whole: Whole) -> asyncio.Task[VisitEnd]:
    """Let a visit wait with its connection open for as long as one ever does."""
    lane_id = send_many(whole, 3)[0].mailbox_id
    await _spread(whole, lane_id)
    send(whole, severity="critical")
    await visit(whole, lane_id, critical=True)
    waiting = asyncio.create_task(visit(whole, lane_id))
    await whole.until(lambda: lane_id in whole.services.visits.at_the_door)
    return waiting


@pytest.mark.parametrize("settings_changes", [LONG])
async def test_a_stop_ends_the_wait_for_a_permit(whole: Whole) -> None:
    """Nobody who stops a worker waits for a permit with it."""
    waiting = await _at_the_door(whole)

    whole.services.visits.stop()

    async with asyncio.timeout(1):
        assert await waiting is VisitEnd.NO_PERMIT
    assert whole.count("queued") == 3


@pytest.mark.parametrize("settings_changes", [LONG])
async def test_the_sweep_leaves_lanes_alone_whose_next_permit_is_waited_for(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Each such wake-up would be a visit that ends at once; a critical alert has its own."""
    await asyncio.to_thread(whole.add_tenant, "fabrikam")
    waiting = await _at_the_door(whole)
    normal, critical = (
        redis_keys.wake(whole.mailbox_id("contoso"), critical=critical)
        for critical in (False, True)
    )
    other = redis_keys.wake(whole.mailbox_id("fabrikam"), critical=False)
    send(whole, tenant="fabrikam")

    redis_client.delete(normal, critical, other)
    await whole.until(lambda: bool(redis_client.exists(other)))
    assert not redis_client.exists(normal, critical)

    send(whole, severity="critical")
    redis_client.delete(critical)
    await whole.until(lambda: bool(redis_client.exists(critical)))
    whole.services.visits.stop()
    await waiting


@pytest.mark.parametrize("settings_changes", [LONG])
async def test_a_flush_closes_connections_that_wait_for_a_permit(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Once Redis forgot its slot, others may open a connection: ours has to be gone by then."""
    waiting = await _at_the_door(whole)
    assert whole.exchange().connections == 1
    (visiting,) = whole.services.visits._open
    # Only what happens after the slot was looked at once is a loss that has to be noticed.
    await whole.until(lambda: bool(visiting.slot_memory), seconds=20)

    flush(redis_client, redis_keys)

    await whole.until(lambda: whole.exchange().connections == 0, seconds=FORGOTTEN_SECONDS)
    whole.services.visits.stop()
    await waiting
