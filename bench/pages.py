"""
The figures in docs/benchmarks.md, written from bench/results/latest.json.

They stand between two marks. ``make bench`` writes them, and a test compares them with the results,
so that no page quotes what was not measured. By hand: ``python -m bench.pages``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.picture import BOUNDS, CONTENDERS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "latest.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures from bench/results/latest.json -->", "<!-- end of figures -->"
NOT_YET = "not measured yet"

MORE = (
    (
        "mails a second through the whole path, SQLite",
        "sqlite.alertpost_1_process.mails_per_second",
    ),
    ("the same, PostgreSQL", "postgresql.alertpost_1_process.mails_per_second"),
    ("the same with 2 worker processes", "postgresql.alertpost_2_processes.mails_per_second"),
    ("alerts a second into SQLite, `enqueue_many`, durability on", "enqueue.alerts_per_second"),
    ("claims a second, 1,000,000 rows, SQLite", "rows.sqlite.claim.per_second.1"),
    ("outcomes settled a second, 1,000,000 rows, SQLite", "rows.sqlite.settle.per_second.1"),
    ("claims a second, 1,000,000 rows, PostgreSQL", "rows.postgresql.claim.per_second.1"),
    ("outcomes settled a second, the same", "rows.postgresql.settle.per_second.1"),
    ("enqueue to accepted, idle, connection open, p50 ms", "latency.connection_open.p50_ms"),
    ("the same, p99 ms", "latency.connection_open.p99_ms"),
    ("nothing open: token, TLS, AUTH, p50 ms", "latency.nothing_open.p50_ms"),
    ("while others send all they can, p95 ms", "latency.loaded.p95_ms"),
    ("one storm of 20,000: quiet p95 over calm", "storm.p95_ratio_one_storm"),
    ("20 storms: quiet p95 over calm", "storm.p95_ratio_twenty_storms"),
    ("beside 64 servers that send a byte a second: p95 over calm", "slow_servers.p95_ratio"),
    ("a critical in its backlog, permits left, p95 ms", "critical.permits_left.p95_ms"),
    ("the same, after the next permit came free, p95 ms", "critical.next_permit.p95_ms"),
    ("share used of what a mailbox may send, ten windows, least", "utilisation.share_least"),
    ("1,000 mailboxes: worker MB", "many_mailboxes.workers_peak_mb"),
    ("1,000 mailboxes: worker cores", "many_mailboxes.workers_cpu_share_of_a_core"),
    ("10,000 tenants, one alert each for 2,000: seconds", "many_tenants.seconds"),
    ("an idle worker with 1,000 tenants, MB", "idle.resident_mb"),
    ("the same, % of a core", "idle.cpu_percent_of_a_core"),
)
"""What is told beside the figures that have a bound: a label, and where it stands."""


def render(told: Mapping[str, Any]) -> str:
    """Write the tables."""
    lines = [f"Machine: {told.get('machine', NOT_YET)}.", "", "| figure | measured | bound | |",
             "|---|---|---|---|"]  # fmt: skip
    for key, bound in BOUNDS.items():
        sign = "at least" if bound.at_least else "at most"
        figure = told.get(key)
        shown = NOT_YET if figure is None else f"{figure:g}"
        kept = "" if figure is None else "kept" if bound.kept(figure) else "**falls short**"
        lines.append(f"| {bound.label} | {shown} | {sign} {bound.value:g} | {kept} |")
    lines += ["", "| beside it | mails/s | CPU s for 1,000 mails | peak MB |", "|---|---|---|---|"]
    for name, label in CONTENDERS.items():
        row = told.get("peers", {}).get(name, {})
        if "mails_per_second" in row:
            cells = (row["mails_per_second"], row["cpu_seconds_per_1000"], row["peak_mb"])
            lines.append(f"| {label} | {cells[0]:,.0f} | {cells[1]:.2f} | {cells[2]:,.0f} |")
        else:
            lines.append(f"| {label} | {row.get('not_measured', NOT_YET)} | | |")
    lines += ["", "| what | figure |", "|---|---|"]
    for label, path in MORE:
        figure = _at(told, path)
        lines.append(f"| {label} | {NOT_YET if figure is None else f'{figure:,}'} |")
    return "\n".join(lines)


def write(told: Mapping[str, Any]) -> None:
    """Put the tables into the page, between their marks."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{render(told)}\n{END}{after}", "utf-8")


def _at(told: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(told, list):
            told = told[int(name)] if int(name) < len(told) else None
        elif isinstance(told, Mapping):
            told = told.get(name)
        else:
            return None
    return told


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text("utf-8")))
