"""How fast ``enqueue_many`` commits, with durability on (``synchronous=FULL``)."""

from __future__ import annotations

import tempfile
import time
from statistics import median
from typing import Any

from bench.deliveries import alert
from bench.table import show
from models import app_registrations, mailboxes, schema, tenants
from models.database import create_engine_from, write
from models.vault import Vault
from producers.enqueue import Producer

TENANTS = 12


def measure(*, alerts: int, runs: int) -> dict[str, Any]:
    """Commit so many alerts of 2 KB in one call, several times over."""
    rates: list[float] = []
    with tempfile.TemporaryDirectory(prefix="alertpost-bench-") as directory:
        engine = create_engine_from(f"sqlite:///{directory}/bench.db")
        schema.upgrade(engine)
        vault = Vault([Vault.new_key()])
        slugs = [f"tenant{number}" for number in range(TENANTS)]
        with write(engine) as connection:
            credential = app_registrations.Credential.secret("bench-secret")
            app_registrations.add_app(
                connection, vault, name="bench", client_id="bench", credential=credential
            )
            for slug in slugs:
                tenants.add_tenant(
                    connection, slug=slug, directory_id=f"{slug}.example", app="bench"
                )
                mailboxes.add_mailbox(
                    connection, tenant_slug=slug, address=f"alerts@{slug}.example"
                )
        producer = Producer(engine, vault, None)
        prepared = [alert(number, slugs[number % TENANTS]) for number in range(alerts)]
        for _ in range(runs):
            begun = time.perf_counter()
            producer.enqueue_many(prepared)
            rates.append(alerts / (time.perf_counter() - begun))
        engine.dispose()
    told = {"alerts_per_second": round(median(rates)), "alerts": alerts, "runs": runs}
    show(
        "enqueue_many on SQLite, durability on",
        ["", "alerts/s"],
        [[f"{alerts:,} alerts of 2 KB, median of {runs}", f"{told['alerts_per_second']:,}"]],
    )
    return told
