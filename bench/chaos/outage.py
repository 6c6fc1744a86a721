"""Redis, or SQL, away for minutes while alerts keep coming: who is told what, and what follows."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress

from sqlalchemy import text

from bench.chaos.servers import Valkey
from bench.chaos.trial import (
    NO_LIMITS,
    Ground,
    alert,
    copies,
    ground,
    states,
    uncertain,
    wait_until,
)
from console.output import out
from console.stage import Stage
from console.supervisor import Guard
from models.database import create_engine_from
from models.errors import StoreUnavailable
from models.vault import Vault
from producers.enqueue import Producer

WORKERS = 2
EVERY_SECONDS = 0.5
"""An alert so often."""

BEFORE_SECONDS = 5.0
FLOWS_SECONDS = 60.0
"""In which all that was accepted must have gone, once the server is back: 40 s and the backlog."""

_NO_RATE = {"pacing": {"messages_per_window": 100_000}}
_SLOW = {"name": "slow", "phase": "body", "behaviour": "slow", "seconds": 0.3}
"""So that mails are on their way when it begins."""


def redis_away(database: str, seconds: float) -> bool:
    """Kill Redis and start it again later; it comes back with nothing."""
    # Without the rate limit, or what gathers in five minutes takes as long to go out.
    with ground(database, limits=NO_LIMITS, settings=_NO_RATE) as given, Guard() as guard:
        stage = given.stage
        valkey = Valkey(stage.settings.data_dir / "redis", stage.settings.redis_url, guard)
        _begin(stage)
        sent_before, _ = _enqueue_for(stage, BEFORE_SECONDS)
        valkey.kill()
        sent, refused = _enqueue_for(stage, seconds)
        valkey.start()
        valkey.flush()
        good = _flows_again(stage, sent_before + sent)
        valkey.close()
    good = good and not refused
    out.print(
        f"{database}, Redis away for {seconds:.0f} s: {sent} alerts accepted meanwhile, "
        f"{sum(refused.values())} refused: {'good' if good else 'BROKEN'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return good


def sql_away(database: str, seconds: float) -> bool:
    """Stop PostgreSQL, or lock SQLite's file, and undo it later."""
    with ground(database, limits=NO_LIMITS) as given:
        stage = given.stage
        _begin(stage)
        sent_before, _ = _enqueue_for(stage, BEFORE_SECONDS)
        # So that mails are under way when it begins.
        stage.producer.enqueue_many([alert(stage.slugs[n % 4], n) for n in range(40)])
        time.sleep(1.0)
        taken_before, sent, refused, taken = _without_sql(given, seconds)
        good = _flows_again(stage, 40 + sent_before + sent)
    # One mail for each open connection may have been on its way: three a mailbox at most.
    stopped = taken - taken_before <= 3 * len(stage.slugs)
    good = good and stopped and not sent
    out.print(
        f"{database}, SQL away for {seconds:.0f} s: {sent} alerts accepted meanwhile, "
        f"{sum(refused.values())} refused ({', '.join(refused)}), {taken - taken_before} mails "
        f"still reached Exchange: {'good' if good else 'BROKEN'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return good


def _without_sql(given: Ground, seconds: float) -> tuple[int, int, Counter[str], int]:
    stage = given.stage
    if given.postgresql is not None:
        taken_before, _ = copies(stage)
        given.postgresql.stop(kill=False)
        sent, refused = _enqueue_for(stage, seconds)
        taken, _ = copies(stage)
        given.postgresql.start()
        return taken_before, sent, refused, taken
    other = create_engine_from(stage.settings.sqlalchemy_url)
    with other.connect() as connection:
        connection.execute(text("SELECT 1"))  # begins with BEGIN IMMEDIATE: the one write lock
        taken_before, _ = copies(stage)
        sent, refused = _enqueue_for(stage, seconds)
        taken, _ = copies(stage)
    other.dispose()
    return taken_before, sent, refused, taken


def _begin(stage: Stage) -> None:
    stage.sandbox.tell("POST", "/faults/exchange", _SLOW)
    for number in range(WORKERS):
        stage.start_worker(number)
    stage.wait_for_workers()


def _enqueue_for(stage: Stage, seconds: float) -> tuple[int, Counter[str]]:
    """Hand an alert in now and then; gives how many were accepted, and why the others were not."""
    # A producer of its own that does not wait long: the caller's patience is not what is tested.
    engine = create_engine_from(stage.settings.sqlalchemy_url, busy_seconds=2.0)
    keys = [key.get_secret_value() for key in stage.settings.secret_keys]
    producer = Producer(engine, Vault(keys), stage.producer._waker)  # noqa: SLF001
    sent, refused = 0, Counter[str]()
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        try:
            producer.enqueue(alert(stage.slugs[sent % len(stage.slugs)], sent))
        except StoreUnavailable as away:
            refused[str(away).split(" (")[0]] += 1
        else:
            sent += 1
        time.sleep(EVERY_SECONDS)
    engine.dispose()
    return sent, refused


def _flows_again(stage: Stage, alerts: int) -> bool:
    """Wait until all is accepted, without anybody's help; say how long it took."""
    took = float("inf")
    with suppress(TimeoutError):
        took = wait_until(lambda: states(stage)["accepted"] == alerts, seconds=FLOWS_SECONDS)
    taken, twice = copies(stage)
    living = all(process.poll() is None for process in stage.workers.values())
    out.print(
        f"    all {alerts} accepted {took:.1f} s after its return, {taken} taken by Exchange, "
        f"{twice} twice, {uncertain(stage)} in doubt, workers "
        f"{'the same as before' if living else 'ENDED'}; then {dict(states(stage))}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return living and took <= FLOWS_SECONDS and taken == alerts + twice and not twice
