"""From enqueue to accepted on an idle system, by the database's clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import redis
from sqlalchemy import select

from bench.deliveries import alert, stage
from bench.table import show, waits_in_ms
from console.stage import Stage
from models.database import read
from models.redis_keys import RedisKeys
from models.tables import METADATA

PAUSE_SECONDS = 0.05
LONGEST_SECONDS = 20.0

_D = METADATA.tables["delivery"].c


def one_after_the_other(
    given: Stage, slugs: Sequence[str], *, forget_tokens: bool = False
) -> list[float]:
    """Send one alert for each slug, each when the one before was accepted; returns ms."""
    waits: list[float] = []
    for number, slug in enumerate(slugs):
        if forget_tokens:
            _forget_token(given, slug)
        receipt = given.producer.enqueue(alert(number, slug))
        waits.append(_accepted_after_ms(given, receipt.delivery_id))
        time.sleep(PAUSE_SECONDS)
    return waits


def _forget_token(given: Stage, slug: str) -> None:
    """Take away the token that the consent brought: the worker has to ask Entra."""
    with redis.Redis.from_url(given.settings.redis_url) as client:
        client.delete(RedisKeys(given.settings.redis_prefix).token(given.mailbox_id(slug)))


def _accepted_after_ms(given: Stage, delivery_id: UUID) -> float:
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        with read(given.engine) as connection:
            row = connection.execute(
                select(_D.state, _D.enqueued_at, _D.settled_at).where(_D.id == delivery_id)
            ).one()
        if row.state == "accepted":
            return float((row.settled_at - row.enqueued_at).total_seconds() * 1000)
        time.sleep(0.002)
    raise RuntimeError("an alert on an idle system was not accepted in time")


def measure(*, first: int, further: int) -> dict[str, Any]:
    """Measure with nothing open, and with connection and token open."""
    with stage(tenants=first) as given:
        given.start_worker(0)
        given.wait_for_workers()
        cold = one_after_the_other(given, given.slugs, forget_tokens=True)
        warm = one_after_the_other(given, [given.slugs[0]] * (further + 5))[5:]
    told = {
        name: waits_in_ms(values)
        for name, values in (("nothing_open", cold), ("connection_open", warm))
    }
    show(
        "Enqueue to accepted on an idle system, SQLite, 1 worker process",
        ["", "p50 ms", "p95 ms", "p99 ms", "max ms", "samples"],
        [
            [label, *told[name].values()]
            for label, name in (
                ("neither connection nor token open", "nothing_open"),
                ("connection and token open", "connection_open"),
            )
        ],
    )
    return told
