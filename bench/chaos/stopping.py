"""SIGTERM: with 500 visits open, and to one worker after the other under load."""

from __future__ import annotations

import time
from functools import partial

from bench.chaos.trial import NO_LIMITS, alert, copies, ground, states, uncertain, wait_until
from console.output import out
from console.stage import Stage

LONGEST_STOP_SECONDS = 15.0
VISITS = 500
TENANTS = 250
"""Two visits each, as no critical is among the mails."""

MAILS_EACH = 10
WORKERS = 4
ROLLED_MAILS = 6_000
LONGEST_SECONDS = 180.0


def stop_with_visits_open(database: str, *, silent: bool) -> bool:
    """
    Stop a worker while a server keeps 500 visits waiting.

    Args:
        database: ``sqlite`` or ``postgresql``.
        silent: The server never answers; else each mail takes it five seconds.
    """
    behaviour = {"behaviour": "stall"} if silent else {"behaviour": "slow", "seconds": 5.0}
    with ground(database, tenants=TENANTS, limits=NO_LIMITS) as given:
        stage = given.stage
        stage.sandbox.tell(
            "POST", "/faults/exchange", {"name": "wait", "phase": "body", **behaviour}
        )
        stage.start_worker(0)
        stage.wait_for_workers()
        # What arrives while a visit is at a mailbox wakes the second one.
        for open_by_then in (TENANTS, VISITS):
            stage.producer.enqueue_many(
                [alert(slug, number) for number in range(MAILS_EACH) for slug in stage.slugs]
            )
            wait_until(partial(_are_open, stage, open_by_then), seconds=LONGEST_SECONDS)
        process = stage.workers[0]
        begun = time.monotonic()
        process.terminate()
        process.wait(60)
        took = time.monotonic() - begun
        found, (taken, twice), doubtful = states(stage), copies(stage), uncertain(stage)
    # What is in hand of a server that stays silent is left to the sweep, one for each connection.
    good = process.returncode == 0 and took <= LONGEST_STOP_SECONDS and not twice
    good = good and found["sending"] <= (VISITS if silent else 0)
    out.print(
        f"{database}, {VISITS} visits open at a {'silent' if silent else 'slow'} server: exit "
        f"{process.returncode} after {took:.1f} s; {found['accepted']} accepted, {taken} taken by "
        f"Exchange, {found['queued']} queued again, {found['sending']} left in doubt, {doubtful} "
        f"marked, {twice} twice: {'good' if good else 'BROKEN'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return good


def roll_under_load(database: str) -> bool:
    """Restart four workers one after the other, three times, while there is work for all."""
    with ground(database, tenants=40, limits=NO_LIMITS, settings=_FAST) as given:
        stage = given.stage
        stage.sandbox.tell(
            "POST", "/faults/exchange",
            {"name": "slow", "phase": "body", "behaviour": "slow", "seconds": 0.2},
        )  # fmt: skip
        for number in range(WORKERS):
            stage.start_worker(number)
        stage.wait_for_workers()
        handed_in = [alert(stage.slugs[n % 40], n) for n in range(ROLLED_MAILS)]
        stage.producer.enqueue_many(handed_in)
        stops = [_roll(stage, number) for _ in range(3) for number in range(WORKERS)]
        wait_until(lambda: states(stage)["accepted"] == ROLLED_MAILS, seconds=LONGEST_SECONDS)
        (taken, twice), doubtful = copies(stage), uncertain(stage)
    good = taken == ROLLED_MAILS and not twice and not doubtful
    good = good and max(stops) <= LONGEST_STOP_SECONDS
    out.print(
        f"{database}, {WORKERS} workers, {len(stops)} graceful restarts under load: "
        f"{ROLLED_MAILS} enqueued, {taken} taken by Exchange, {twice} twice, {doubtful} in doubt, "
        f"longest stop {max(stops):.1f} s: {'good' if good else 'BROKEN'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return good


_FAST = {"pacing": {"messages_per_window": 100_000}}


def _roll(stage: Stage, number: int) -> float:
    process = stage.workers[number]
    begun = time.monotonic()
    process.terminate()
    process.wait(60)
    took = time.monotonic() - begun
    stage.start_worker(number)
    wait_until(lambda: stage.workers[number].poll() is None, seconds=1)
    return took


def _are_open(stage: Stage, connections: int) -> bool:
    mailboxes = stage.sandbox.ask("/mailboxes")["mailboxes"].values()
    return sum(mailbox["connections"] for mailbox in mailboxes) >= connections
