"""From enqueue to accepted, on an idle system and a loaded one, by the database's clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any
from uuid import UUID

import redis
from sqlalchemy import select

from bench.crowd import count
from bench.deliveries import alert, stage
from bench.table import show, waits_in_ms
from console.stage import Stage
from models.database import read
from models.redis_keys import RedisKeys
from models.tables import METADATA

PAUSE_SECONDS = 0.05
LONGEST_SECONDS = 20.0
LOAD = 3_000
"""Mails that other mailboxes send meanwhile, as fast as the worker can."""

IDLE_SECONDS = 20.0
"""How long connections are kept here: a run has to wait until they are closed."""

LABELS = {
    "nothing_open": "idle, neither connection nor token open",
    "connection_open": "idle, connection and token open",
    "loaded": "while others send all they can",
}

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


def under_load(given: Stage, slugs: Sequence[str], backlog: int) -> list[float]:
    """Send alerts of quiet mailboxes while others have a backlog and no limit; returns ms."""
    busy = given.slugs[len(slugs) :]
    given.producer.enqueue_many(
        [alert(number, busy[number % len(busy)]) for number in range(backlog)]
    )
    waits: list[float] = []
    while count(given, "queued", "sending") and len(waits) < len(slugs):
        receipt = given.producer.enqueue(alert(len(waits), slugs[len(waits)]))
        waits.append(_accepted_after_ms(given, receipt.delivery_id))
    while count(given, "queued", "sending"):
        time.sleep(0.1)
    return waits


def measure(*, first: int, further: int, runs: int) -> dict[str, Any]:
    """Measure with nothing open, with connection and token open, and under full load."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in LABELS}
    with stage(tenants=first, visit={"connection_idle_seconds": IDLE_SECONDS}) as given:
        given.start_worker(0)
        given.wait_for_workers()
        for _ in range(runs):
            samples["nothing_open"].append(
                waits_in_ms(one_after_the_other(given, given.slugs, forget_tokens=True))
            )
            one = [given.slugs[0]] * (further // runs + 5)
            samples["connection_open"].append(waits_in_ms(one_after_the_other(given, one)[5:]))
            quiet = given.slugs[: first // 2]
            samples["loaded"].append(waits_in_ms(under_load(given, quiet, LOAD)))
            # Connections that are kept are closed after a while; the next run finds none.
            time.sleep(IDLE_SECONDS + 1)
    told: dict[str, Any] = {
        name: {key: round(median(run[key] for run in of), 1) for key in of[0]} | {"runs": len(of)}
        for name, of in samples.items()
    }
    show(
        f"Enqueue to accepted, SQLite, 1 worker process (medians of {runs} runs)",
        ["", "p50 ms", "p95 ms", "p99 ms", "max ms", "samples a run"],
        [
            [label, *(told[name][key] for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms",
                                                  "samples"))]
            for name, label in LABELS.items()
        ],
    )  # fmt: skip
    return told
