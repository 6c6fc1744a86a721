"""
A producer process: hands alerts in through every door and writes down what it got receipts for.

``python -m bench.chaos.producing JOB``; the job is JSON, the settings come from the environment.
What was answered is appended to a file in one write each, so that it survives this process' death.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from models.alert import AlertEmail
from models.errors import StoreUnavailable
from models.intake import Receipt
from models.settings import Settings
from producers.enqueue import Producer

THREADS = 3
PAUSE_SECONDS = 0.1
"""Between tries while SQL is away."""

Call = Callable[[], Sequence[Receipt]]


class Producing:
    """Threads that enqueue until the time is over."""

    def __init__(self, producer: Producer, job: dict[str, Any]) -> None:
        self._producer = producer
        self._job = job
        self._file = os.open(job["receipts"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._until = time.monotonic() + job["seconds"]

    def run(self) -> None:
        """Enqueue from several threads."""
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, number: int) -> None:
        chance = random.Random(f"{self._job['seed']}:{number}")
        rate = self._job["rate"] / THREADS
        slugs = self._job["tenants"]
        if number == 0:
            # A storm at the start: the limits are reached at once.
            storm = [self._alert(chance, slug) for slug in slugs for _ in range(self._job["storm"])]
            self._insist(lambda: self._producer.enqueue_many(storm))
        while time.monotonic() < self._until:
            count = chance.choice((1, 1, 1, 2, 5, 25))
            self._insist(self._call(chance, count))
            time.sleep(chance.expovariate(rate / count))

    def _call(self, chance: random.Random, count: int) -> Call:
        producer = self._producer
        if count > 2 and chance.random() < 0.5:
            alerts = [self._alert(chance) for _ in range(count)]
            return lambda: producer.enqueue_many(alerts)
        if chance.random() < 0.3:
            body = _webhook(_busy(chance, self._job["tenants"]))
            return lambda: producer.enqueue_webhook(body)
        alert = self._alert(chance)
        return lambda: [producer.enqueue(alert)]

    def _insist(self, call: Call) -> None:
        """Ask until it is accepted; what was not answered for does not count."""
        while True:
            try:
                receipts = call()
            except StoreUnavailable:
                if time.monotonic() > self._until:
                    return
                time.sleep(PAUSE_SECONDS)
            else:
                lines = "".join(f"{receipt.delivery_id}\n" for receipt in receipts)
                os.write(self._file, lines.encode())
                return

    def _alert(self, chance: random.Random, slug: str = "") -> AlertEmail:
        slug = slug or _busy(chance, self._job["tenants"])
        now = datetime.now(UTC)
        given: dict[str, Any] = {
            "tenant": slug,
            "to": [f"ops@{slug}.example"],
            "subject": f"Alert {uuid4().hex[:8]}",
            "text": "Disk C: is full\n" * chance.randint(1, 80),
            "severity": chance.choice(("critical", "elevated", "normal", "normal", "low")),
        }
        if chance.random() < 0.5:
            given["idempotency_key"] = uuid4().hex
        if chance.random() < 0.05:
            given["expires_at"] = now + timedelta(seconds=chance.uniform(1, 20))
        elif chance.random() < 0.05:
            given["not_before"] = now + timedelta(seconds=chance.uniform(0, 5))
        return AlertEmail.parse(given)


def _busy(chance: random.Random, slugs: Sequence[str]) -> str:
    """Pick a tenant; the first ones have the most to tell."""
    return slugs[min(chance.randrange(len(slugs)), chance.randrange(len(slugs)))]


def _webhook(slug: str) -> dict[str, Any]:
    """Write what Alertmanager would post."""
    name = uuid4().hex[:12]
    labels = {"alertname": "DiskFull", "instance": name, "severity": "warning", "tenant": slug}
    return {
        "version": "4",
        "status": "firing",
        "groupKey": f'{{}}:{{alertname="{name}"}}',
        "alerts": [
            {
                "status": "firing",
                "labels": labels,
                "annotations": {"summary": f"Disk full ({name})", "description": "C: is full"},
                "startsAt": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": "http://prometheus.example/graph",
                "fingerprint": name,
            }
        ],
        "groupLabels": {"alertname": name},
        "commonLabels": labels,
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example:9093",
        "truncatedAlerts": 0,
        "receiver": "hook",
    }


def main() -> int:
    """Run as a program."""
    producer = Producer.from_settings(Settings.load())
    try:
        Producing(producer, json.loads(sys.argv[1])).run()
    finally:
        producer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
