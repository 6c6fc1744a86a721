"""Connections that are open while Redis forgets them: nobody opens a fourth beside them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis

from console import borrowed_slot
from console.context import Context
from console.dialogue_lines import untold
from models import lane, senders
from models.database import read
from models.redis_keys import RedisKeys
from tests.fixtures.whole import Whole
from tests.workers.pacing_parts import party_of
from tests.workers.visit_parts import IMPATIENT, another_worker, flush, send
from workers.memories import SqlMemories
from workers.pacing import FORGOTTEN_SECONDS, Pacer, PacingLimits, Party
from workers.services import Services

ALERTS = "alerts@contoso.example"


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    """Give a window that is over when connections have idled for some moments."""
    return IMPATIENT | {
        "pacing": {"window_seconds": 0.2},
        "sweep": {"interval_seconds": 3600},
    }


def nothing_in_the_window(whole: Whole) -> bool:
    with read(whole.engine) as conn:
        recent = lane.recent_submissions(conn, account=ALERTS, window_seconds=0.2)
    return not recent.ages_ms


async def three_idle(whole: Whole, *workers: Services) -> None:
    """Let three workers keep a connection each, with nothing sent for longer than the window."""
    for services in workers:
        mailbox_id = send(whole, severity="critical").mailbox_id
        await services.visits.run(mailbox_id, critical=True)
    assert whole.exchange().connections == 3
    await whole.until(lambda: nothing_in_the_window(whole))


async def test_a_flush_when_connections_have_idled_for_longer_than_a_window(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """SQL shows no mail of the window, and yet three connections are open."""
    async with (
        another_worker(whole) as second,
        another_worker(whole) as third,
        another_worker(whole) as fourth,
    ):
        await three_idle(whole, whole.services, second, third)
        receipt = send(whole, severity="critical")
        party = party_of(whole, receipt.mailbox_id)
        flush(redis_client, redis_keys)

        slot = fourth.slot(party, "the-first-to-come", critical=True, held=False)
        entry = await slot.enter()
        assert (entry.known, entry.slot) == (True, False)
        assert entry.wait_ms > 0

        async with asyncio.timeout(30):
            while whole.row(receipt.delivery_id).state != "accepted":
                await fourth.visits.run(receipt.mailbox_id, critical=True)
                await asyncio.sleep(0.02)

    assert whole.exchange().max_connections == 3
    assert not whole.exchange().violations


async def test_a_command_opens_none_either(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """What a command borrows is entered as a visit enters it."""
    async with another_worker(whole) as second, another_worker(whole) as third:
        await three_idle(whole, whole.services, second, third)
        with read(whole.engine) as conn:
            sender = senders.sender(conn, whole.mailbox_id("contoso"))
        assert sender is not None
        context = Context(whole.settings, whole.engine, whole.vault, None)
        async with borrowed_slot.redis_client(context) as client:
            flush(redis_client, redis_keys)
            began = time.monotonic()

            async with borrowed_slot.borrowed(context, client, sender, untold):
                waited = time.monotonic() - began
                open_then = whole.exchange().connections

    assert waited >= FORGOTTEN_SECONDS
    assert open_then <= 2


async def test_what_a_command_holds_counts_when_redis_forgets(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """A connection that a command has borrowed is in SQL, for whoever teaches Redis again."""
    mailbox_id = whole.mailbox_id("contoso")
    with read(whole.engine) as conn:
        sender = senders.sender(conn, mailbox_id)
    assert sender is not None
    context = Context(whole.settings, whole.engine, whole.vault, None)
    async with borrowed_slot.redis_client(context) as client:
        async with borrowed_slot.borrowed(context, client, sender, untold) as permit:
            await permit(["ops@contoso.example"])
            flush(redis_client, redis_keys)
            with read(whole.engine) as conn:
                held = lane.recent_submissions(conn, account=ALERTS, window_seconds=60)
        with read(whole.engine) as conn:
            after = lane.recent_submissions(conn, account=ALERTS, window_seconds=60)

    assert [one.mailbox_id for one in held.in_hand] == [mailbox_id]
    assert not after.in_hand
    assert len(after.ages_ms) == 1


async def test_a_slot_that_is_lost_before_its_connection_opens_none(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Redis forgets between the claim and the handshake: the visit asks once more, and leaves."""
    mailbox_id = send(whole).mailbox_id
    get = whole.services.leases.get

    async def get_and_lose(*given: Any, **named: Any) -> Any:
        found = await get(*given, **named)
        flush(redis_client, redis_keys)
        return found

    whole.services.leases.get = get_and_lose  # type: ignore[method-assign]

    await whole.services.visits.run(mailbox_id, critical=False)

    assert whole.exchange().max_connections == 0
    assert whole.count("queued") == 1


async def test_closed_slots_are_for_nobody(
    whole: Whole, redis_keys: RedisKeys, redis_async: Any
) -> None:
    """While somebody may hold what was forgotten, neither a normal nor a critical gets a slot."""
    pacer = Pacer(redis_async, redis_keys, SqlMemories(whole.engine), PacingLimits())
    party = Party(ALERTS, whole.mailbox_id("contoso"))
    era = (await pacer.enter(party, "a", critical=True)).era
    await pacer.seed(party, ages_ms=[], holders=[], era=era, closed_ms=300)

    entry = await pacer.enter(party, "a", critical=True)
    assert (entry.known, entry.slot, entry.permits, entry.critical_permits) == (True, False, 0, 0)
    assert 0 < entry.wait_ms <= 301
    await asyncio.sleep(entry.wait_ms / 1000)

    assert (await pacer.enter(party, "a", critical=True)).slot
