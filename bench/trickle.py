"""
Mailboxes whose server sends a byte a second do not delay the rest.

64 mailboxes with a backlog meet a server that trickles each of its replies; 136 others get an alert
each every few seconds. Their waits are taken before the trickle begins and while it lasts.
"""

from __future__ import annotations

import time
from typing import Any

from bench.crowd import crowd
from bench.deliveries import alert
from bench.storm import quiet
from bench.table import percentile, show, waits_in_ms
from console.stage import Stage

MAILBOXES = 200
SLOW = 64
BACKLOG = 100
BYTE_SECONDS = 1.0
MEETING_SECONDS = 20.0


def measure(*, seconds: float) -> dict[str, Any]:
    """Measure the quiet mailboxes' waits without and with slow neighbours."""
    with crowd(MAILBOXES) as given:
        given.start_worker(0)
        given.wait_for_workers()
        slow, others = given.slugs[:SLOW], given.slugs[SLOW:]
        quiet(given, others, seconds=12.0)
        calm = quiet(given, others, seconds=seconds)
        for number, slug in enumerate(slow):
            given.sandbox.tell(
                "POST",
                "/faults/exchange",
                {"name": f"trickle-{number}", "phase": "*", "behaviour": "trickle",
                 "interval_seconds": BYTE_SECONDS, "mailbox": f"*@{slug}.example"},
            )  # fmt: skip
        given.producer.enqueue_many(
            [alert(number, slug) for slug in slow for number in range(BACKLOG)]
        )
        _all_met(given)
        beside = quiet(given, others, seconds=seconds)
        struck = _struck(given)
    told: dict[str, Any] = {"calm": waits_in_ms(calm), "beside_slow_servers": waits_in_ms(beside)}
    told["p95_ratio"] = round(percentile(beside, 0.95) / percentile(calm, 0.95), 3)
    told["replies_trickled"] = struck
    show(
        f"{MAILBOXES - SLOW} mailboxes beside {SLOW} whose server sends a byte a second",
        ["", "p50 ms", "p95 ms", "p99 ms", "alerts", "p95 over calm"],
        [
            [label, *(told[key][each] for each in ("p50_ms", "p95_ms", "p99_ms", "samples")), ratio]
            for label, key, ratio in (
                ("without", "calm", ""),
                ("with", "beside_slow_servers", told["p95_ratio"]),
            )
        ],
    )
    return told


def _all_met(given: Stage) -> None:
    """Wait until each of the slow ones has met its server: opening connections is not the point."""
    deadline = time.monotonic() + MEETING_SECONDS
    while _struck(given) < SLOW and time.monotonic() < deadline:
        time.sleep(0.2)


def _struck(given: Stage) -> int:
    return sum(given.sandbox.ask("/faults")["exchange_struck"].values())
