"""
What large mails cost: the memory of a worker, the time for which SQL is locked, quiet neighbours.

Lanes full of mails with a large file each are drained while other mailboxes get a small alert each
every few seconds. Their waits are taken before, too. How long the worker's transactions hold
SQLite's one lock is asked by a writer of our own that wants it again and again, and does nothing
with it: no wait of it can be longer than the longest transaction before it. What the disk takes to
commit is asked in the calm.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psutil
from sqlalchemy import text, update

from bench.crowd import count, crowd, mailbox_ids, settled_at
from bench.storm import quiet
from bench.table import percentile, show, waits_in_ms
from console.output import out
from console.stage import Stage
from models.alert import AlertEmail
from models.clock import utc_now
from models.database import create_engine_from, write
from models.tables import METADATA

QUIET = 100
LIMITS = {"messages_per_window": None}
"""The box's: how fast large mails go is not asked, only what they cost."""

SETTINGS: dict[str, Any] = {"pacing": {"messages_per_window": 10_000}}
LOOK_SECONDS = 0.02
LONGEST_SECONDS = 3600.0
LATER = datetime(2100, 1, 1, tzinfo=UTC)
_D = METADATA.tables["delivery"]


def measure(*, lanes: int, each: int, megabytes: int, seconds: float) -> dict[str, Any]:
    """
    Measure it on SQLite, with one worker process.

    Args:
        lanes: Mailboxes with a backlog of large mails.
        each: Mails in each of them.
        megabytes: Of the file in each mail.
        seconds: How long the quiet ones are watched in the calm.
    """
    with crowd(lanes + QUIET, limits=LIMITS, settings=SETTINGS) as given:
        large, small = given.slugs[:lanes], given.slugs[lanes:]
        process = psutil.Process(given.start_worker(0))
        given.wait_for_workers()
        quiet(given, small, seconds=12.0)  # Tokens are read, connections open, caches warm.
        idle_mb = process.memory_info().rss / 1e6
        with _asking_for_the_lock(given) as calm_locks:
            calm = quiet(given, small, seconds=seconds)
        ids, handed_in = _backlog(given, large, each=each, megabytes=megabytes)
        begun = time.monotonic()
        beside: list[float] = []
        with _watching(process) as peak, _asking_for_the_lock(given) as locks:
            _let_go(given)
            given.wake([(box, False) for slug, box in mailbox_ids(given).items() if slug in large])
            while count(given, "queued", "sending") and time.monotonic() - begun < LONGEST_SECONDS:
                beside += quiet(given, small, seconds=min(12.0, seconds))
        drained = time.monotonic() - begun
        accepted = len(settled_at(given, ids))
        box = given.sandbox.ask("/mailboxes")
    told: dict[str, Any] = {
        "lanes": lanes,
        "mails": lanes * each,
        "accepted": accepted,
        "megabytes_each": megabytes,
        "idle_mb": round(idle_mb, 1),
        "peak_mb": round(peak[0], 1),
        "above_idle_mb": round(peak[0] - idle_mb, 1),
        "drained_seconds": round(drained, 1),
        "handed_in_ms": waits_in_ms(handed_in),
        "calm": waits_in_ms(calm),
        "beside_large_mails": waits_in_ms(beside),
        "calm_lock": waits_in_ms(calm_locks),
        "lock": waits_in_ms(locks),
        "violations": sum(box["violations"].values()),
    }
    told["p95_ratio"] = round(percentile(beside, 0.95) / percentile(calm, 0.95), 3)
    told["longest_lock_ms"] = told["lock"]["max_ms"]
    show(
        f"{lanes} lanes of {each} mails with {megabytes} MB each (SQLite, 1 worker process)",
        ["", "small p50 ms", "small p95 ms", "p95 over calm", "lock p99 ms", "lock max ms", "MB"],
        [
            ["calm", told["calm"]["p50_ms"], told["calm"]["p95_ms"], "",
             told["calm_lock"]["p99_ms"], told["calm_lock"]["max_ms"], told["idle_mb"]],
            ["beside large mails", told["beside_large_mails"]["p50_ms"],
             told["beside_large_mails"]["p95_ms"], told["p95_ratio"], told["lock"]["p99_ms"],
             told["lock"]["max_ms"], told["peak_mb"]],
        ],
    )  # fmt: skip
    return told


def _backlog(
    given: Stage, slugs: Sequence[str], *, each: int, megabytes: int
) -> tuple[list[UUID], list[float]]:
    """Hand in the large mails, one by one; tells how many ms each took."""
    content = base64.b64encode(os.urandom(megabytes * 1_000_000)).decode()
    ids, took = [], []
    for _ in range(each):
        for slug in slugs:
            alert = AlertEmail(
                tenant=slug,
                to=["ops@bench.example"],
                subject="The nightly log",
                text="See the file.",
                attachments=[{"name": "log.zip", "content": content}],
                not_before=LATER,
            )
            begun = time.monotonic()
            ids.append(given.producer.enqueue(alert).delivery_id)
            took.append(1000 * (time.monotonic() - begun))
    out.print(f"  {len(took):,} large mails wait")
    return ids, took


def _let_go(given: Stage) -> None:
    """Make due what was held back until all of it was handed in."""
    with write(given.engine) as connection:
        connection.execute(update(_D).where(_D.c.due_at >= LATER).values(due_at=utc_now()))


@contextmanager
def _watching(process: psutil.Process) -> Iterator[list[float]]:
    """Look at a process' memory again and again; gives the largest, in MB."""
    peak = [0.0]

    def look() -> None:
        peak[0] = max(peak[0], process.memory_info().rss / 1e6)

    with _again_and_again(look):
        yield peak


@contextmanager
def _asking_for_the_lock(given: Stage) -> Iterator[list[float]]:
    """Ask for SQLite's lock again and again; gives how many ms each took, commit included."""
    engine = create_engine_from(given.settings.sqlalchemy_url)
    waits: list[float] = []

    def ask() -> None:
        begun = time.monotonic()
        with write(engine) as connection:
            connection.execute(text("SELECT 1"))
        waits.append(1000 * (time.monotonic() - begun))

    try:
        with _again_and_again(ask):
            yield waits
    finally:
        engine.dispose()


@contextmanager
def _again_and_again(look: Callable[[], object]) -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(LOOK_SECONDS):
            look()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
