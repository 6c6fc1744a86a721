"""
How fast a critical alert gets out from the middle of its own tenant's backlog.

Each of a few mailboxes has a backlog of 10,000 and sends all it may. Again and again it is handed
four criticals: for the first two there are permits, those that are kept for criticals; the others
have to wait for the next permit. Each one's wait is taken from the moment at which both the alert
and a permit were there, by the server's own clock: the mail 30 before it, plus the window.
"""

from __future__ import annotations

import time
from typing import Any

from bench.crowd import address, crowd
from bench.deliveries import alert
from bench.table import show, waits_in_ms
from console.output import out
from console.stage import Stage
from models.settings import PacingSettings
from models.severity import Severity

MAILBOXES = 5
SPEED = 5.0
LIMIT = PacingSettings().messages_per_window
WINDOW_SECONDS = PacingSettings().window_seconds / SPEED
EACH_TIME = 4
BOUND_MS = 2000.0
AT_ONCE = 5000


def measure(*, backlog: int, rounds: int) -> dict[str, Any]:
    """Measure so many rounds, a window apart, in each mailbox."""
    with crowd(
        MAILBOXES,
        limits={"window_seconds": WINDOW_SECONDS},
        settings={"pacing": {"window_seconds": WINDOW_SECONDS}},
    ) as given:
        for start in range(0, backlog * MAILBOXES, AT_ONCE):
            given.producer.enqueue_many(
                [
                    alert(number, given.slugs[number % MAILBOXES])
                    for number in range(start, min(start + AT_ONCE, backlog * MAILBOXES))
                ]
            )
        given.start_worker(0)
        given.wait_for_workers()
        handed_in: dict[str, float] = {}
        for number in range(rounds):
            # In the middle of a window the normal permits are used up.
            time.sleep(WINDOW_SECONDS * (0.5 if number == 0 else 1.0))
            for turn in range(EACH_TIME):
                for slug in given.slugs:
                    critical = alert(turn, slug).model_copy(update={"severity": Severity.CRITICAL})
                    moment = time.time()
                    receipt = given.producer.enqueue(critical)
                    handed_in[str(receipt.delivery_id)] = moment
            out.print(f"  {len(handed_in)} criticals handed in")
        time.sleep(WINDOW_SECONDS * 1.2)
        at_once, next_permit, missing = _waits(given, handed_in)
        box = given.sandbox.ask("/mailboxes")
    told: dict[str, Any] = {
        "permits_left": waits_in_ms(at_once),
        "next_permit": waits_in_ms(next_permit),
        "never_accepted": missing,
        "share_within_2_s": round(
            sum(wait <= BOUND_MS for wait in (*at_once, *next_permit)) / len(handed_in), 4
        ),
        "backlog": backlog,
        "clock_times_faster": SPEED,
        "violations": sum(box["violations"].values()),
    }
    show(
        f"A critical in the middle of its tenant's backlog of {backlog:,}",
        ["", "p50 ms", "p95 ms", "max ms", "criticals"],
        [
            [label, *(told[key][each] for each in ("p50_ms", "p95_ms", "max_ms", "samples"))]
            for label, key in (
                ("with a permit left: from the call", "permits_left"),
                ("without: from the next permit", "next_permit"),
            )
        ],
    )
    return told


def _waits(given: Stage, handed_in: dict[str, float]) -> tuple[list[float], list[float], int]:
    """Tell ms of those that found a permit, of those that had to wait, and how many are missing."""
    at_once: list[float] = []
    next_permit: list[float] = []
    for slug in given.slugs:
        mails = given.sandbox.ask(f"/outbox?mailbox={address(slug)}")
        moments = [mail["time"] for mail in mails]
        for place, mail in enumerate(mails):
            called = handed_in.get(mail["alert_id"])
            if called is None:
                continue
            permit = moments[place - LIMIT] + WINDOW_SECONDS if place >= LIMIT else 0.0
            waits = next_permit if permit > called else at_once
            waits.append(1000 * (mail["time"] - max(called, permit)))
    return at_once, next_permit, len(handed_in) - len(at_once) - len(next_permit)
