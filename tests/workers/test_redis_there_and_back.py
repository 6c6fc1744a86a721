"""Redis is another server for a while, and then the former one again: what it knows is too old."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from models.database import read
from models.redis_memory import known_memory
from tests.fixtures.redis_server import RedisServer
from tests.fixtures.redis_switch import RedisSwitch, switched
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, another_worker, send, send_many
from workers.services import Services


@pytest.fixture
def other_redis(redis_server_with: Any) -> RedisServer:
    server: RedisServer = redis_server_with()
    return server


@pytest.fixture
def switch(own_redis: RedisServer) -> Iterator[RedisSwitch]:
    with switched(own_redis) as proxy:
        yield proxy


@pytest.fixture
def redis_url(switch: RedisSwitch) -> str:
    return switch.url


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"sweep": {"interval_seconds": 3600}}


async def sent(whole: Whole, services: Services, mailbox_id: UUID, number: int) -> None:
    """Look at the lane until so many mails were accepted in all."""
    async with asyncio.timeout(60):
        while whole.count("accepted") < number:
            await services.visits.run(mailbox_id, critical=False)
            await asyncio.sleep(0.05)


async def looked(services: Services, mailbox_id: UUID) -> None:
    """Look until Redis has been taught, and then some."""
    for _ in range(60):
        await services.visits.run(mailbox_id, critical=False)
        await asyncio.sleep(0.05)


def generation(whole: Whole) -> int:
    with read(whole.engine) as conn:
        known = known_memory(conn)
    assert known is not None
    return known.generation


async def test_there_and_back_within_a_window(
    whole: Whole, switch: RedisSwitch, own_redis: RedisServer, other_redis: RedisServer
) -> None:
    """What was sent by the other server's word counts when the first one is back."""
    mailbox_id = send_many(whole, 10)[0].mailbox_id
    await sent(whole, whole.services, mailbox_id, 10)
    switch.to(other_redis)
    send_many(whole, 18)
    await sent(whole, whole.services, mailbox_id, 28)
    switch.to(own_redis)
    send_many(whole, 30)

    await looked(whole.services, mailbox_id)

    assert whole.exchange().violations.total() == 0
    assert whole.exchange().max_sent_in_window == 28
    assert whole.exchange().max_connections <= 3
    assert generation(whole) == 3


async def test_back_before_a_worker_noticed(
    whole: Whole, switch: RedisSwitch, own_redis: RedisServer, other_redis: RedisServer
) -> None:
    """A worker that slept meanwhile takes the first server for the same; others know better."""
    async with another_worker(whole) as second:
        mailbox_id = send_many(whole, 10)[0].mailbox_id
        await sent(whole, second, mailbox_id, 5)
        await sent(whole, whole.services, mailbox_id, 10)
        # It keeps no connection for which it would ask now and then.
        await second.connections.close()
        switch.to(other_redis)
        send_many(whole, 18)
        await sent(whole, whole.services, mailbox_id, 28)
        switch.to(own_redis)
        send_many(whole, 30)

        await looked(second, mailbox_id)

    assert whole.exchange().violations.total() == 0
    assert whole.exchange().max_sent_in_window == 28


async def test_a_split_brain_that_heals(
    whole: Whole, switch: RedisSwitch, own_redis: RedisServer, other_redis: RedisServer
) -> None:
    """One worker never left the first server; what another one did by the second one counts."""
    async with another_worker(whole, redis_url=own_redis.url) as second:
        mailbox_id = send_many(whole, 10)[0].mailbox_id
        await sent(whole, second, mailbox_id, 10)
        await second.connections.close()
        switch.to(other_redis)
        send_many(whole, 18)
        await sent(whole, whole.services, mailbox_id, 28)
        switch.to(own_redis)
        await whole.until(lambda: second.pacer._memory is None)
        send_many(whole, 30)

        await looked(second, mailbox_id)

    assert whole.exchange().violations.total() == 0
    assert whole.exchange().max_sent_in_window == 28


async def test_many_switches_in_a_storm(
    whole: Whole, switch: RedisSwitch, own_redis: RedisServer, other_redis: RedisServer
) -> None:
    """Whenever it happens, no window holds a mail too many and no mail goes twice."""
    mailbox_id = send_many(whole, 60)[0].mailbox_id
    async with another_worker(whole) as second:
        for n, least in enumerate((5, 12, 16, 22)):
            await asyncio.gather(
                sent(whole, whole.services, mailbox_id, least),
                sent(whole, second, mailbox_id, least),
            )
            switch.to(own_redis if n % 2 else other_redis)
        await asyncio.gather(looked(whole.services, mailbox_id), looked(second, mailbox_id))

    assert whole.exchange().violations.total() == 0
    assert not whole.exchange().outbox.duplicate_message_ids()


async def test_the_first_use_of_all_waits_for_nobody(whole: Whole) -> None:
    """Nobody can hold a connection that Redis forgot: the first mail goes at once."""
    receipt = send(whole)

    await whole.services.visits.run(receipt.mailbox_id, critical=False)

    assert whole.row(receipt.delivery_id).state == "accepted"
    assert generation(whole) == 1
