"""Redis away in the middle, and back without its memory: nothing is refused, nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sandbox.faults import Fault, Slow
from tests.fixtures.redis_server import RedisServer
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, listening, send_many


@pytest.fixture
def redis_url(own_redis: RedisServer) -> str:
    return own_redis.url


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"pacing": {"slot_seconds": 1.0}, "visit": {"claim_seconds": 1.0}}


async def test_redis_away_refuses_nobody_and_all_flows_when_it_is_back(
    whole: Whole, own_redis: RedisServer
) -> None:
    """Producers go on while nothing is sent; the same worker sends it all once Redis is back."""
    whole.sandbox.exchange.inject(Fault("slow", "body", Slow(0.05)))
    send_many(whole, 10)
    async with listening(whole.settings, whole.services.visits):
        await whole.services.wake(whole.mailbox_id("contoso"), critical=False)
        await whole.until(lambda: whole.count("accepted") >= 2)
        own_redis.kill()
        later = send_many(whole, 5)
        await whole.until(lambda: whole.exchange().connections == 0)
        accepted = whole.count("accepted")
        await asyncio.sleep(0.5)
        assert whole.count("accepted") == accepted < 15
        assert [whole.row(receipt.delivery_id).state for receipt in later] == ["queued"] * 5

        own_redis.start()
        await whole.until(lambda: whole.count("accepted") == 15)

    assert len(whole.outbox()) == 15
    assert whole.exchange().violations.total() == 0
