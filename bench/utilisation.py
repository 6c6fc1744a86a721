"""
How much of what it may send a backlogged mailbox does send, over ten windows.

Twenty mailboxes, a backlog each that outlasts the run. What a mailbox may send in ten windows is
ten times what a window allows normal alerts: 30, less those kept for criticals. The server takes
700 ms for a mail, and as a permit is held until the reply, each window costs that much more;
windows and latency run ``SPEED`` times faster than life and keep their proportion.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from bench.crowd import address, crowd
from bench.deliveries import alert
from bench.table import show
from models.settings import PacingSettings

MAILBOXES = 20
SPEED = 5.0
LATENCY_SECONDS = 0.7 / SPEED
WINDOW_SECONDS = PacingSettings().window_seconds / SPEED
MAY_SEND = PacingSettings().messages_per_window - PacingSettings().critical_reserve


def measure(*, windows: int) -> dict[str, Any]:
    """Measure over so many windows from each mailbox's first mail."""
    with crowd(
        MAILBOXES,
        limits={"window_seconds": WINDOW_SECONDS},
        settings={"pacing": {"window_seconds": WINDOW_SECONDS}},
    ) as given:
        given.sandbox.tell(
            "POST",
            "/faults/exchange",
            {"name": "latency", "phase": "body", "behaviour": "slow", "seconds": LATENCY_SECONDS},
        )
        each = MAY_SEND * (windows + 1)
        given.producer.enqueue_many(
            [alert(number, slug) for slug in given.slugs for number in range(each)]
        )
        given.start_worker(0)
        given.wait_for_workers()
        time.sleep((windows + 0.2) * WINDOW_SECONDS)
        shares: list[float] = []
        bursts: list[float] = []
        for slug in given.slugs:
            moments = [
                mail["time"] for mail in given.sandbox.ask(f"/outbox?mailbox={address(slug)}")
            ]
            end = moments[0] + windows * WINDOW_SECONDS
            shares.append(sum(moment < end for moment in moments) / (windows * MAY_SEND))
            bursts.append(moments[MAY_SEND - 1] - moments[0])
        box = given.sandbox.ask("/mailboxes")
    told = {
        "windows": windows,
        "mailboxes": MAILBOXES,
        "clock_times_faster": SPEED,
        "share_median": round(median(shares), 4),
        "share_least": round(min(shares), 4),
        "first_burst_mails": MAY_SEND,
        "first_burst_seconds": round(median(bursts), 2),
        "first_burst_latencies": round(median(bursts) / LATENCY_SECONDS, 1),
        "violations": sum(box["violations"].values()),
    }
    show(
        f"Backlogged mailboxes over {windows} windows",
        ["", "of what it may send", "the least", f"the first {MAY_SEND} took, s"],
        [[f"{MAILBOXES} mailboxes, {LATENCY_SECONDS * 1000:.0f} ms a mail", told["share_median"],
          told["share_least"], told["first_burst_seconds"]]],
    )  # fmt: skip
    return told
