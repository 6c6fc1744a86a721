"""
A thousand backlogged mailboxes at a server that takes 700 ms for each mail.

The limits allow 30 mails in any 60 s to each: 500 mails/s in all. The clock is life's own. The
first window is not counted: in it everybody may send 30 at once. Then so many windows are counted
in which each permit has to be waited for. No permits are kept for criticals here, or 2 of the 30
would stay unused by design.
"""

from __future__ import annotations

import time
from typing import Any

from bench.crowd import count, crowd, mailbox_ids
from bench.deliveries import alert
from bench.resources import Resources
from bench.table import show
from console.output import out
from console.stage import Stage
from models.settings import PacingSettings

LATENCY_SECONDS = 0.7
PROCESSES = 1
"""One writes to SQLite best, and leaves the other core to the sandbox."""
LIMIT = PacingSettings().messages_per_window
WINDOW_SECONDS = PacingSettings().window_seconds
AT_ONCE = 5_000


def allowed_share(*, mailboxes: int, speed: float, windows: int) -> dict[str, Any]:
    """
    Measure which share of the mails that the limits allow is sent.

    Args:
        mailboxes: All with a backlog.
        speed: Window and latency are so many times shorter than in life.
        windows: Counted after the first.
    """
    window = WINDOW_SECONDS / speed
    with crowd(
        mailboxes,
        limits={"window_seconds": window},
        settings={"pacing": {"window_seconds": window, "critical_reserve": 0}},
    ) as given:
        _be_slow(given, LATENCY_SECONDS / speed)
        _backlog(given, LIMIT * (windows + 2))
        workers = [given.start_worker(number) for number in range(PROCESSES)]
        given.wait_for_workers()
        given.wake([(mailbox, False) for mailbox in mailbox_ids(given).values()])
        # The first mail opens everybody's first window.
        begun = _first_accepted(given)
        watched = Resources(workers)
        box = Resources([given.sandbox.facts["pid"]])
        _until(begun + window, watched, box)
        before, first = _taken(given), time.monotonic()
        cpu, box_cpu = watched.look().cpu_seconds, box.look().cpu_seconds
        _until(first + windows * window, watched, box)
        sent, seconds = _taken(given) - before, time.monotonic() - first
        cpu = watched.look().cpu_seconds - cpu
        box_cpu = box.look().cpu_seconds - box_cpu
        state = given.sandbox.ask("/mailboxes")
    allowed = mailboxes * LIMIT / window
    told = {
        "mailboxes": mailboxes,
        "clock_times_faster": speed,
        "windows": windows,
        "allowed_per_second": round(allowed, 1),
        "mails_per_second": round(sent / seconds, 1),
        "first_window_mails": before,
        "share": round(sent / seconds / allowed, 4),
        "workers_peak_mb": round(watched.peak_mb, 1),
        "workers_cpu_share_of_a_core": round(cpu / seconds, 3),
        "sandbox_cpu_share_of_a_core": round(box_cpu / seconds, 3),
        "violations": sum(state["violations"].values()),
        "max_sent_in_window": state["max_sent_in_window"],
    }
    show(
        f"{mailboxes:,} backlogged mailboxes, {LATENCY_SECONDS / speed * 1000:.0f} ms a mail, "
        f"{PROCESSES} worker process",
        ["", "mails/s", "allowed/s", "share", "worker MB", "worker cores", "sandbox cores"],
        [[
            f"{windows} windows of {window:g} s after the first", told["mails_per_second"],
            told["allowed_per_second"], told["share"], told["workers_peak_mb"],
            told["workers_cpu_share_of_a_core"], told["sandbox_cpu_share_of_a_core"],
        ]],
    )  # fmt: skip
    return told


def many_tenants(*, tenants: int, with_work: int) -> dict[str, Any]:
    """Measure how long one alert to each of those with work takes, beside many that have none."""
    with crowd(tenants, with_tokens=with_work) as given:
        _be_slow(given, LATENCY_SECONDS)
        workers = [given.start_worker(number) for number in range(PROCESSES)]
        given.wait_for_workers()
        watched = Resources(workers)
        begun = time.monotonic()
        given.producer.enqueue_many(
            [alert(number, given.slugs[number]) for number in range(with_work)]
        )
        while count(given, "queued", "sending"):
            watched.look()
            time.sleep(0.1)
        seconds = time.monotonic() - begun
        cpu = watched.look().cpu_seconds
        time.sleep(5.0)  # Connections are given back, the machine comes to rest.
        idle_from, idle_cpu = time.monotonic(), watched.look().cpu_seconds
        time.sleep(10.0)
        idle = (watched.look().cpu_seconds - idle_cpu) / (time.monotonic() - idle_from)
    told = {
        "tenants": tenants,
        "with_work": with_work,
        "seconds": round(seconds, 1),
        "mails_per_second": round(with_work / seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "workers_peak_mb": round(watched.peak_mb, 1),
        "idle_cpu_share_of_a_core": round(idle, 4),
    }
    show(
        f"One alert each for {with_work:,} of {tenants:,} tenants, {PROCESSES} worker process",
        ["", "seconds", "mails/s", "CPU s", "worker MB", "cores when idle again"],
        [["each opens a connection of its own", told["seconds"], told["mails_per_second"],
          told["cpu_seconds"], told["workers_peak_mb"], told["idle_cpu_share_of_a_core"]]],
    )  # fmt: skip
    return told


def _be_slow(given: Stage, seconds: float) -> None:
    given.sandbox.tell(
        "POST",
        "/faults/exchange",
        {"name": "latency", "phase": "body", "behaviour": "slow", "seconds": seconds},
    )


def _backlog(given: Stage, each: int) -> None:
    """Commit the backlog before the first worker starts."""
    per_call = max(1, AT_ONCE // len(given.slugs))
    for turn in range(0, each, per_call):
        given.producer.enqueue_many(
            [
                alert(turn + number, slug)
                for slug in given.slugs
                for number in range(min(per_call, each - turn))
            ]
        )
    out.print(f"  {each * len(given.slugs):,} alerts wait")


def _taken(given: Stage) -> int:
    return count(given, "accepted")


def _first_accepted(given: Stage) -> float:
    while not _taken(given):
        time.sleep(0.05)
    return time.monotonic()


def _until(moment: float, *watched: Resources) -> None:
    while (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        for one in watched:
            one.look()
