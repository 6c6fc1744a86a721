"""
What a storm at one tenant, and at twenty, costs the quiet ones.

200 mailboxes; the quiet ones get one alert a minute each. Three phases on one stage: calm; then one
mailbox is handed 20,000 alerts as fast as SQL takes them; then twenty mailboxes are handed 2,000
each. The clock is life's own.

Connections are not renewed by age while it lasts: those of the quiet ones, opened together before
the first phase, would all come of age in one and the same later phase.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bench.crowd import count, crowd, settled_at
from bench.deliveries import alert
from bench.table import percentile, show, waits_in_ms
from console.output import out
from console.stage import Stage
from models.database import create_engine_from
from models.redis_keys import RedisKeys
from models.vault import Vault
from models.waker import Waker
from producers.enqueue import Producer

MAILBOXES = 200
MINUTE_SECONDS = 60.0
AT_ONCE = 200
"""Alerts that a storm's producer commits together."""
CALLERS = 8
"""Threads that hand in the quiet ones' alerts: one that waits holds up no other."""
LONGEST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Source:
    """What a producer in a process of its own has to know."""

    database_url: str
    redis_url: str
    prefix: str
    keys: tuple[str, ...]

    @classmethod
    def of(cls, given: Stage) -> Source:
        """Read it from a stage."""
        settings = given.settings
        keys = tuple(key.get_secret_value() for key in settings.secret_keys)
        return cls(settings.sqlalchemy_url, settings.redis_url, settings.redis_prefix, keys)

    def producer(self) -> Producer:
        """Build the producer."""
        return Producer(
            create_engine_from(self.database_url),
            Vault(list(self.keys)),
            Waker(self.redis_url, RedisKeys(self.prefix)),
        )


def pour(source: Source, slugs: Sequence[str], each: int) -> None:
    """Hand in a storm, tenant by tenant in turn, as fast as SQL takes it; run in a process."""
    producer = source.producer()
    rounds = max(1, each // AT_ONCE)
    for turn in range(rounds):
        for slug in slugs:
            producer.enqueue_many(
                [alert(turn * AT_ONCE + number, slug) for number in range(AT_ONCE)]
            )
    producer.close()


def quiet(given: Stage, slugs: Sequence[str], *, seconds: float) -> list[float]:
    """
    Hand in one alert a minute for each, evenly spread; returns ms from the call to accepted.

    The clock starts when the alert should have been handed in: a producer that has to wait for
    the database, does not hide its wait.
    """
    pause = MINUTE_SECONDS / len(slugs)
    begun = time.time()

    def hand_in(number: int) -> tuple[UUID, float]:
        moment = begun + number * pause
        time.sleep(max(0.0, moment - time.time()))
        slug = slugs[number % len(slugs)]
        return given.producer.enqueue(alert(number, slug)).delivery_id, moment

    with ThreadPoolExecutor(CALLERS) as callers:
        called = dict(callers.map(hand_in, range(int(seconds / pause))))
    waited_until = time.time() + LONGEST_SECONDS
    accepted = settled_at(given, list(called))
    while len(accepted) < len(called) and time.time() < waited_until:
        time.sleep(0.1)
        accepted = settled_at(given, list(called))
    late = datetime.now(UTC)
    return [1000 * (accepted.get(key, late).timestamp() - moment) for key, moment in called.items()]


def measure(*, seconds: float, storm: int, database_url: str, name: str) -> dict[str, Any]:
    """Measure the three phases on one database."""
    settings = {"visit": {"connection_max_seconds": 3600}}
    with crowd(MAILBOXES, settings=settings, database_url=database_url) as given:
        given.start_worker(0)
        given.wait_for_workers()
        quiet(given, given.slugs, seconds=MINUTE_SECONDS)  # Tokens are read, caches are warm.
        phases = {"calm": quiet(given, given.slugs, seconds=seconds)}
        for label, storms, each in (("one_storm", 1, storm), ("twenty_storms", 20, storm // 10)):
            phases[label] = _in_storm(given, storms, each, seconds=seconds)
            out.print(f"  {name}, {label}: p95 {percentile(phases[label], 0.95):,.0f} ms")
        backlog = count(given, "queued", "sending")
        box = given.sandbox.ask("/mailboxes")
    told: dict[str, Any] = {label: waits_in_ms(waits) for label, waits in phases.items()}
    calm = told["calm"]["p95_ms"]
    told["p95_ratio_one_storm"] = round(told["one_storm"]["p95_ms"] / calm, 3)
    told["p95_ratio_twenty_storms"] = round(told["twenty_storms"]["p95_ms"] / calm, 3)
    told["p95_ratio"] = max(told["p95_ratio_one_storm"], told["p95_ratio_twenty_storms"])
    told["left_in_the_storms"] = backlog
    told["violations"] = sum(box["violations"].values())
    show(
        f"Quiet mailboxes beside a storm, {name} ({MAILBOXES} mailboxes, 1 worker process)",
        ["", "p50 ms", "p95 ms", "p99 ms", "alerts", "p95 over calm"],
        [
            [label, *(told[key][each] for each in ("p50_ms", "p95_ms", "p99_ms", "samples")), ratio]
            for label, key, ratio in (
                ("calm", "calm", ""),
                (f"one storm of {storm:,}", "one_storm", told["p95_ratio_one_storm"]),
                (f"20 storms of {storm // 10:,}", "twenty_storms", told["p95_ratio_twenty_storms"]),
            )
        ],
    )
    return told


def _in_storm(given: Stage, storms: int, each: int, *, seconds: float) -> list[float]:
    # The stormy ones are the last ones; those of one phase are not those of the other.
    end = MAILBOXES if storms == 1 else MAILBOXES - 1
    stormy = given.slugs[end - storms : end]
    others = given.slugs[: end - storms]
    pourer = multiprocessing.get_context("spawn").Process(
        target=pour, args=(Source.of(given), stormy, each)
    )
    pourer.start()
    before = count(given, "queued")
    while count(given, "queued") <= before and pourer.is_alive():
        time.sleep(0.01)
    waits = quiet(given, others, seconds=seconds)
    pourer.join()
    if pourer.exitcode:
        raise RuntimeError("the storm's producer failed")
    return waits
