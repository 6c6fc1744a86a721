"""What a worker process costs that has 1,000 tenants and nothing to do."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench.table import show
from console.stage import Stage
from models import grants
from models.database import write

SETTLE_SECONDS = 5.0


def measure(*, tenants: int, seconds: float) -> dict[str, Any]:
    """Measure resident memory and CPU of one idle worker."""
    with tempfile.TemporaryDirectory(prefix="alertpost-bench-") as directory:
        slugs = [f"tenant{number}" for number in range(tenants)]
        with Stage(Path(directory), slugs) as given:
            given.add_tenants()
            with write(given.engine) as connection:
                for mailbox_id in given.mailbox_ids(connection):
                    grants.store_grant(
                        connection, mailbox_id=mailbox_id, kind=grants.APP_ONLY,
                        cache_encrypted=None,
                    )  # fmt: skip
            process = psutil.Process(given.start_worker(0))
            given.wait_for_workers()
            time.sleep(SETTLE_SECONDS)
            before = process.cpu_times()
            time.sleep(seconds)
            after = process.cpu_times()
            cpu = after.user + after.system - before.user - before.system
            told = {
                "tenants": tenants,
                "resident_mb": round(process.memory_info().rss / 1e6, 1),
                "cpu_percent_of_a_core": round(100 * cpu / seconds, 2),
            }
    show(
        "An idle worker process",
        ["", "resident MB", "% of a core"],
        [[f"{tenants:,} tenants", told["resident_mb"], told["cpu_percent_of_a_core"]]],
    )
    return told
