"""What tests of visits share: sending, looking again until nothing is left, a stand-in for workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import redis.asyncio
from dramatiq import Message
from sqlalchemy import Table, update

from models import wakeup
from models.database import write
from models.intake import Receipt
from models.redis_keys import RedisKeys
from models.settings import Settings
from tests.fixtures.whole import Whole
from workers.services import Services
from workers.visit import VisitEnd
from workers.visits import Visits

IMPATIENT: dict[str, Any] = {
    "smtp": {"ehlo_name": "[127.0.0.1]"},
    "retry": {"soon_seconds": 0.05, "first_seconds": 0.05, "max_attempts": 4, "jitter_share": 0.0},
    "sweep": {"interval_seconds": 0.2},
}
"""Settings under which tries follow each other quickly; a slow machine is no silent server."""

QUICK_TO_GIVE_UP: dict[str, Any] = IMPATIENT | {
    "smtp": IMPATIENT["smtp"]
    | {
        "connect_timeout_seconds": 1.0,
        "command_timeout_seconds": 1.0,
        "data_timeout_seconds": 1.0,
    },
}
"""And silence is noticed soon: only for servers that are silent."""


def send(whole: Whole, **changes: Any) -> Receipt:
    """Enqueue one alert."""
    return whole.producer.enqueue(whole.alert(**changes))


def send_many(whole: Whole, number: int, **changes: Any) -> list[Receipt]:
    """Enqueue several alerts at once."""
    alerts = [whole.alert(subject=f"Alert {n}", **changes) for n in range(number)]
    return whole.producer.enqueue_many(alerts)


async def visit(whole: Whole, mailbox_id: UUID, *, critical: bool = False) -> VisitEnd:
    """Look at a lane once."""
    return await whole.services.visits.run(mailbox_id, critical=critical)


async def drain(whole: Whole, mailbox_id: UUID, *, seconds: float = 60.0) -> None:
    """Look at a lane again and again, until nothing in it is queued or in hand."""
    async with asyncio.timeout(seconds):
        while whole.count("queued") + whole.count("sending"):
            await visit(whole, mailbox_id)
            await asyncio.sleep(0.01)


def change(whole: Whole, table: Table, **values: Any) -> None:
    """Change all rows of a table behind everybody's back."""
    with write(whole.engine) as connection:
        connection.execute(update(table).values(**values))


def flush(client: redis.Redis, keys: RedisKeys) -> None:
    """Let Redis forget all that is this test's; other tests share the server."""
    for key in client.scan_iter(f"{keys.prefix}:*", count=1000):
        client.delete(key)


@asynccontextmanager
async def another_worker(whole: Whole, **changes: Any) -> AsyncIterator[Services]:
    """Run the services of a second worker beside those of ``whole``."""
    settings: Settings = whole.settings.model_copy(update=changes)
    services = Services(settings, whole.engine)
    services.start()
    try:
        yield services
    finally:
        services.visits.stop()
        await services.close()


@asynccontextmanager
async def listening(settings: Settings, *workers: Visits) -> AsyncIterator[None]:
    """Take wake-ups from Redis and run visits, each at one of the workers in turn."""
    keys = RedisKeys(settings.redis_prefix)
    client = redis.asyncio.Redis.from_url(settings.redis_url)
    running: set[asyncio.Task[Any]] = set()
    # Not by cancelling: the client may take that for a lost connection and swallow it.
    stop = asyncio.Event()

    async def listen() -> None:
        turn = 0
        while not stop.is_set():
            for queue in (wakeup.CRITICAL_QUEUE, wakeup.QUEUE):
                try:
                    found = await client.lpop(keys.queue(queue))
                    raw = found and await client.hget(keys.queue_messages(queue), found)
                except redis.RedisError:
                    await asyncio.sleep(0.05)
                    continue
                if raw:
                    message = Message.decode(raw)
                    turn += 1
                    task = asyncio.create_task(
                        workers[turn % len(workers)].run(
                            UUID(message.args[0]), critical=queue == wakeup.CRITICAL_QUEUE
                        )
                    )
                    running.add(task)
                    task.add_done_callback(running.discard)
            await asyncio.sleep(0.005)

    listener = asyncio.create_task(listen())
    try:
        yield
    finally:
        stop.set()
        await listener
        await asyncio.gather(*running, return_exceptions=True)
        await client.aclose()
