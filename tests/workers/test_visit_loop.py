"""The event loop is never held up: not by a storm, not by a large mail, not by a lost Redis."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from models.database import write
from tests.fixtures.redis_server import RedisServer
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, drain, listening, send, send_many, visit
from workers.visit import VisitEnd

LOCKED_SECONDS = 6.0
SLUGS = ("contoso", "fabrikam")
LARGE_BYTES = 20 * 1024 * 1024


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {
        "pacing": {"messages_per_window": 1000},
        # asyncio's debugging is slow, and time-outs are not what is looked at.
        "smtp": {"ehlo_name": "[127.0.0.1]"},
    }


@pytest.fixture(autouse=True)
def _no_rate_limit(whole: Whole) -> None:
    for slug in SLUGS:
        mailbox = whole.exchange(slug)
        mailbox.limits = replace(mailbox.limits, messages_per_window=None)


async def test_no_step_of_a_storm_holds_up_the_loop(
    whole: Whole, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waited for SQL on the loop would hold it up for as long as another has the lock."""
    for slug in SLUGS[1:]:
        await asyncio.to_thread(whole.add_tenant, slug)
    lanes = [send_many(whole, 100, tenant=slug)[0].mailbox_id for slug in SLUGS]
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = LOCKED_SECONDS / 2
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        loop.set_debug(True)
        try:
            storm = asyncio.gather(*(drain(whole, lane, seconds=90) for lane in lanes))
            await whole.until(lambda: whole.count("accepted") >= 20)
            await asyncio.to_thread(lock, whole.engine)
            await storm
        finally:
            loop.set_debug(False)

    assert whole.count("accepted") == 200
    assert [record.getMessage() for record in caplog.records if "took" in record.message] == []


def lock(engine: Engine) -> None:
    """Keep everybody else from the deliveries for a while."""
    with write(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE delivery IN ACCESS EXCLUSIVE MODE"))
        time.sleep(LOCKED_SECONDS)


class WatchedVault:
    """Opens as another vault does, and notes whether that was done on an event loop."""

    def __init__(self, vault: Any) -> None:
        self._vault = vault
        self.opened_in: set[bool] = set()

    def open(self, sealed: bytes, *, context: str) -> bytes:
        self.opened_in.add(asyncio._get_running_loop() is not None)
        return bytes(self._vault.open(sealed, context=context))


async def test_a_large_mail_is_built_beside_the_loop(whole: Whole) -> None:
    """Opening and composing twenty megabytes does not happen on the event loop."""
    content = base64.b64encode(bytes(LARGE_BYTES)).decode()
    attachment = {"name": "dump.bin", "content": content, "content_type": "application/x-dump"}
    alert = await asyncio.to_thread(whole.alert, attachments=[attachment])
    receipt = await asyncio.to_thread(whole.producer.enqueue, alert)
    whole.services.vault = watched = WatchedVault(whole.services.vault)

    await visit(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).state == "accepted"
    assert watched.opened_in == {False}
    assert whole.outbox()[0].size > LARGE_BYTES


class TestRedisOfItsOwn:
    """With a server that may die."""

    @pytest.fixture
    def redis_url(self, own_redis: RedisServer) -> str:
        return own_redis.url

    async def test_nothing_is_sent_while_redis_is_away(
        self, whole: Whole, own_redis: RedisServer
    ) -> None:
        """Without permits no mail goes out; with Redis back, empty, all of them do."""
        send_many(whole, 30)
        lane_id = whole.mailbox_id("contoso")
        async with listening(whole.settings, whole.services.visits):
            await whole.services.wake(lane_id, critical=False)
            await whole.until(lambda: whole.count("accepted") >= 3)
            own_redis.kill()
            await whole.until(lambda: whole.count("sending") == 0)
            sent = len(whole.outbox())
            assert await visit(whole, lane_id) is VisitEnd.AWAY
            assert len(whole.outbox()) == sent
            await asyncio.to_thread(own_redis.start)
            await whole.until(lambda: whole.count("accepted") == 30)

        assert whole.exchange().violations.total() == 0
        assert not whole.exchange().outbox.duplicate_message_ids()

    async def test_a_kept_connection_goes_before_its_slot(
        self, whole: Whole, own_redis: RedisServer
    ) -> None:
        """While Redis is away nobody can renew a slot, so the connection is closed in time."""
        await drain(whole, send(whole).mailbox_id)
        whole.services.connections._slot_seconds = 1.0
        own_redis.kill()

        await whole.until(lambda: whole.exchange().connections == 0, seconds=20)
        await asyncio.to_thread(own_redis.start)
