"""Connections kept between visits: used again, and let go in time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from models.redis_keys import RedisKeys
from sandbox.faults import Close, Fault, Stall
from tests.fixtures.whole import Whole
from tests.workers.pacing_parts import party_of
from tests.workers.visit_parts import (
    IMPATIENT,
    another_worker,
    flush,
    listening,
    send,
    send_many,
    visit,
)
from workers.pacing import FORGOTTEN_SECONDS
from workers.visit import VisitEnd


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"visit": {"connection_idle_seconds": 30}}


def _opened(whole: Whole) -> int:
    accepted: int = whole.sandbox.exchange.snapshot()["accepted"]
    return accepted


async def test_the_next_alert_uses_the_same_connection(whole: Whole) -> None:
    """Between two alerts of a mailbox no handshake and no sign-in is repeated."""
    for _ in range(3):
        await visit(whole, send(whole).mailbox_id)

    assert (whole.count("accepted"), _opened(whole)) == (3, 1)
    assert whole.exchange().connections == 1


@pytest.mark.parametrize(
    "settings_changes", [IMPATIENT | {"visit": {"connection_idle_seconds": 0.1}}]
)
async def test_an_idle_connection_is_let_go(whole: Whole) -> None:
    """A connection that nobody needs gives its slot back after its idle time."""
    await visit(whole, send(whole).mailbox_id)

    await whole.until(lambda: whole.exchange().connections == 0, seconds=20)

    assert not whole.services.connections._kept


@pytest.mark.parametrize(
    "settings_changes", [IMPATIENT | {"visit": {"connection_max_messages": 2}}]
)
async def test_a_connection_takes_only_so_many_mails(whole: Whole) -> None:
    """A used-up connection is replaced in the middle of a visit, and two are never open."""
    receipts = send_many(whole, 5)

    await visit(whole, receipts[0].mailbox_id)

    assert (whole.count("accepted"), _opened(whole)) == (5, 3)
    assert whole.exchange().max_connections == 1


async def test_a_goodbye_between_two_alerts_costs_nothing(whole: Whole) -> None:
    """After a 421 while idle, the next alert goes out over a new connection without a try lost."""
    await visit(whole, send(whole).mailbox_id)
    (session,) = whole.sandbox.exchange._front.sessions
    session.time_out()
    await whole.until(lambda: whole.exchange().connections == 0)
    receipt = send(whole)

    await visit(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).state == "accepted"
    assert len(whole.attempts(receipt.delivery_id)) == 1


async def test_a_server_that_hung_up_unseen_costs_nothing(whole: Whole) -> None:
    """A kept connection that breaks at MAIL has told nothing: the mail goes out over another."""
    await visit(whole, send(whole).mailbox_id)
    whole.sandbox.exchange.inject(Fault("cut", "mail", Close(), times=1))
    receipt = send(whole)

    await visit(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.attempts, row.uncertain) == ("accepted", 1, False)
    assert len(whole.attempts(receipt.delivery_id)) == 1


async def test_kept_connections_give_way_to_whoever_waits(whole: Whole) -> None:
    """Two idle connections hold both normal slots; a third worker gets one within a second."""
    lane_id = send(whole).mailbox_id
    async with another_worker(whole) as second, another_worker(whole) as third:
        await visit(whole, lane_id)
        send(whole)
        assert await second.visits.run(lane_id, critical=False) is VisitEnd.LANE_EMPTY
        assert whole.exchange().connections == 2
        waiting = send(whole)

        assert await third.visits.run(lane_id, critical=False) is VisitEnd.NO_SLOT
        async with listening(whole.settings, third.visits):
            await whole.until(
                lambda: whole.row(waiting.delivery_id).state == "accepted", seconds=20
            )

    assert whole.exchange().violations.total() == 0


async def test_a_lost_slot_closes_the_connection_at_once(whole: Whole) -> None:
    """A kept connection whose slot others took is not used, nor kept any longer."""
    lane_id = send(whole).mailbox_id
    await visit(whole, lane_id)
    (kept,) = whole.services.connections._kept.values()
    pacer = whole.services.pacer
    ours = party_of(whole, lane_id)
    await pacer.leave(ours, kept.visit_id, stamp=False)
    for name in ("first", "second"):
        assert (await pacer.enter(ours, name, critical=False)).slot
    send(whole)

    assert await visit(whole, lane_id) is VisitEnd.NO_SLOT

    assert not whole.services.connections._kept
    await whole.until(lambda: whole.exchange().connections == 0)


async def test_a_flush_closes_what_is_kept(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Nobody else knows of it: once Redis forgot its slot, others may open a connection."""
    await visit(whole, send(whole).mailbox_id)
    (kept,) = whole.services.connections._kept.values()
    await whole.until(lambda: bool(kept.memory), seconds=20)

    flush(redis_client, redis_keys)

    await whole.until(lambda: whole.exchange().connections == 0, seconds=FORGOTTEN_SECONDS)


async def test_a_stop_closes_what_is_kept(whole: Whole) -> None:
    """After a stop neither a connection nor a slot is left behind."""
    async with another_worker(whole) as worker:
        lane_id = send(whole).mailbox_id
        await worker.visits.run(lane_id, critical=False)
        assert whole.exchange().connections == 1

    await whole.until(lambda: whole.exchange().connections == 0)
    for name in ("first", "second"):
        assert (
            await whole.services.pacer.enter(party_of(whole, lane_id), name, critical=False)
        ).slot


async def test_a_stop_cuts_short_what_the_server_holds_up(whole: Whole) -> None:
    """The mail in hand stays in doubt for the sweep, all others are queued again at once."""
    whole.sandbox.exchange.inject(Fault("stall", "body", Stall()))
    receipts = send_many(whole, 4)
    async with another_worker(whole) as worker:
        run = asyncio.create_task(worker.visits.run(receipts[0].mailbox_id, critical=False))
        await whole.until(lambda: whole.sandbox.exchange.faults.struck["stall"] == 1)
        assert whole.count("sending") == 4

    with pytest.raises(asyncio.CancelledError):
        await run
    states = [whole.row(receipt.delivery_id).state for receipt in receipts]
    assert states == ["sending", "queued", "queued", "queued"]
