"""
Never above the limits, by the server's own clock at the final dot.

Backlogged mailboxes, four worker processes that are killed and restarted, Redis that is flushed and
fails over to a copy that is some seconds old, and a line that holds every piece back, at times for
up to two seconds each way. Windows are Exchange's own: 30 mails in 60 s, 3 connections.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import update

from bench.chaos.network import Line
from bench.chaos.servers import Valkey
from bench.proofs.told import Claim
from console.stage import Stage
from console.supervisor import Guard
from models.alert import AlertEmail
from models.database import write
from models.tables import METADATA

WORKERS = 4
MAILBOXES = 8
BACKLOG = 400
MOST_DELAY_SECONDS = 2.0
DELAY_SHARES = (0.0, 0.0, 0.05, 0.25, 1.0)
"""Drawn anew for each trouble: with the longest alone too little would be sent to break a limit."""

MESSAGES, WINDOW_SECONDS, CONNECTIONS = 30, 60.0, 3


def never_above(
    *,
    seconds: float,
    seed: int,
    window: float = WINDOW_SECONDS,
    workers: int = WORKERS,
    mailboxes: int = MAILBOXES,
    most_delay: float = MOST_DELAY_SECONDS,
    database_url: str = "",
) -> Iterator[Claim]:
    """Break what can be broken while everything is backlogged, and read Exchange's books."""
    chance = random.Random(seed)
    slugs = [f"tenant{number}" for number in range(mailboxes)]
    settings = {"pacing": {"window_seconds": window}}
    with tempfile.TemporaryDirectory(prefix="alertpost-proof-") as name, ExitStack() as stack:
        directory = Path(name)
        stage = stack.enter_context(
            Stage(
                directory,
                slugs,
                limits={"window_seconds": window},
                database_url=database_url,
                settings=settings,
            )
        )
        stage.add_tenants()
        facts = stage.sandbox.facts
        line = stack.enter_context(Line((facts["smtp_host"], facts["smtp_port"]), seed=str(seed)))
        with write(stage.engine) as connection:
            connection.execute(update(METADATA.tables["tenant"]).values(smtp_port=line.port))
        for _ in stage.connect_all():
            pass
        stage.sandbox.tell("POST", "/reset")
        guard = stack.enter_context(Guard())
        redis = Valkey(directory / "redis", stage.settings.redis_url, guard)
        stack.callback(redis.close)
        stage.producer.enqueue_many(
            [_alert(slug, number) for slug in slugs for number in range(BACKLOG)]
        )
        for number in range(workers):
            stage.start_worker(number)
        stage.wait_for_workers()
        done = _break_things(
            stage, redis, line, directory / "redis", chance, seconds=seconds, most_delay=most_delay
        )
        mails = stage.sandbox.ask("/outbox")
        violations = stage.sandbox.ask("/violations")
        counted = [_fullest(mails, f"alerts@{slug}.example", window) for slug in slugs]
        boxes = [stage.sandbox.ask(f"/mailboxes/alerts@{slug}.example") for slug in slugs]
        connections = [box["max_connections"] for box in boxes]
        copies = len(mails) - len({mail["alert_id"] for mail in mails})
        yield Claim(
            f"never above {MESSAGES} in {window:g} s nor {CONNECTIONS} connections",
            bound=f"{MESSAGES} in any window, {CONNECTIONS} connections, by the server's clock",
            figures={
                "mails": len(mails),
                "fullest_window": max(counted),
                "most_connections": max(connections),
                "violations": len(violations),
                "copies": copies,
            }
            | done,
            holds=bool(mails)
            and max(counted) <= MESSAGES
            and max(connections) <= CONNECTIONS
            and not violations,
        )


def _break_things(
    stage: Stage,
    redis: Valkey,
    line: Line,
    folder: Path,
    chance: random.Random,
    *,
    seconds: float,
    most_delay: float,
) -> dict[str, int]:
    done = dict.fromkeys(("kills", "restarts", "flushes", "failovers"), 0)
    copy = folder.with_name("redis-copy")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        _copy(folder, copy)
        line.delay(most_delay * chance.choice(DELAY_SHARES))
        time.sleep(chance.uniform(2.0, 10.0))
        what = chance.choice(tuple(done))
        done[what] += 1
        worker = chance.choice(sorted(stage.workers))
        match what:
            case "kills":
                stage.kill_worker(worker)
                stage.start_worker(worker)
            case "restarts":
                process = stage.workers[worker]
                process.terminate()
                process.wait()
                stage.start_worker(worker)
            case "flushes":
                redis.flush()
            case _:
                # Another server takes over, with what it had heard until some seconds ago.
                redis.kill()
                _copy(copy, folder)
                redis.start()
        slug = chance.choice(stage.slugs)
        stage.producer.enqueue_many([_alert(slug, 0, severity="critical") for _ in range(3)])
    return done


def _copy(source: Path, target: Path) -> None:
    """Copy a server's append-only file, as a replica would have it."""
    for entry in source.glob("appendonly*"):
        where = target / entry.name
        shutil.rmtree(where, ignore_errors=True)
        if entry.is_dir():
            shutil.copytree(entry, where)
        else:
            target.mkdir(exist_ok=True)
            shutil.copy2(entry, where)


def _fullest(mails: list[dict[str, Any]], mailbox: str, window: float) -> int:
    """Count the mails of a mailbox in its fullest window, from the outbox alone."""
    times = sorted(float(mail["time"]) for mail in mails if mail["mailbox"] == mailbox)
    most = first = 0
    for number, moment in enumerate(times):
        while moment - times[first] >= window:
            first += 1
        most = max(most, number - first + 1)
    return most


def _alert(slug: str, number: int, *, severity: str = "normal") -> AlertEmail:
    return AlertEmail.parse(
        {
            "tenant": slug,
            "to": [f"ops@{slug}.example"],
            "subject": f"Alert {number}",
            "text": "Only 1 % is left.",
            "severity": severity,
        }
    )
