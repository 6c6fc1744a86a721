"""
A producer process: hands alerts in through every door and writes down what it got receipts for.

``python -m bench.chaos.producing JOB``; the job is JSON, the settings come from the environment.
What was answered is appended to a file in one write each, so that it survives this process' death:
the delivery's id, or, where the door tells no ids, a word of the subject.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from models.alert import AlertEmail
from models.errors import StoreUnavailable
from models.settings import Settings
from producers.enqueue import Producer

THREADS = 3
PAUSE_SECONDS = 0.1
"""Between tries while SQL is away."""

CLI_PAUSE_SECONDS = 3.0
"""Between commands: each is a process of its own, and starting one costs half a second of CPU."""

CLI_SECONDS = 60

Call = Callable[[], Sequence[str] | None]
"""Hands something in; gives what was answered, None where the answer was "not now"."""


class Producing:
    """Threads that enqueue until the time is over."""

    def __init__(self, producer: Producer, job: dict[str, Any]) -> None:
        self._producer = producer
        self._job = job
        self._file = os.open(job["receipts"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._until = time.monotonic() + job["seconds"]

    def run(self) -> None:
        """Enqueue from several threads, one of which uses the command line."""
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(THREADS)]
        threads.append(threading.Thread(target=self._command))
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
            self._insist(lambda: self._many(storm))
        while time.monotonic() < self._until:
            count = chance.choice((1, 1, 1, 2, 5, 25))
            self._insist(self._call(chance, count))
            time.sleep(chance.expovariate(rate / count))

    def _command(self) -> None:
        """Hand in through ``alertpost send`` and ``alertpost enqueue``, in both formats."""
        chance = random.Random(f"{self._job['seed']}:command")
        while time.monotonic() < self._until:
            self._insist(self._cli(chance))
            time.sleep(CLI_PAUSE_SECONDS)

    # -- doors -------------------------------------------------------------------------------

    def _call(self, chance: random.Random, count: int) -> Call:
        if count > 2 and chance.random() < 0.5:
            alerts = [self._alert(chance) for _ in range(count)]
            return lambda: self._many(alerts)
        if chance.random() < 0.3:
            body = _webhook(_busy(chance, self._job["tenants"]), uuid4().hex[:12])
            return lambda: self._ids(lambda: self._producer.enqueue_webhook(body))
        alert = self._alert(chance)
        return lambda: self._ids(lambda: [self._producer.enqueue(alert)])

    def _many(self, alerts: Sequence[AlertEmail]) -> list[str] | None:
        return self._ids(lambda: self._producer.enqueue_many(alerts))

    @staticmethod
    def _ids(enqueue: Callable[[], Sequence[Any]]) -> list[str] | None:
        try:
            return [str(receipt.delivery_id) for receipt in enqueue()]
        except StoreUnavailable:
            return None

    def _cli(self, chance: random.Random) -> Call:
        slug = _busy(chance, self._job["tenants"])
        words = [uuid4().hex[:12] for _ in range(chance.randint(2, 8))]
        door = chance.choice(("send", "alerts", "alertmanager"))
        if door == "send":
            argv = (
                "send", "--tenant", slug, "--to", f"ops@{slug}.example", "--subject",
                f"Alert {words[0]}", "--text", "Disk C: is full", "--key", words[0],
            )  # fmt: skip
            return lambda: words[:1] if _alertpost(argv) else None
        if door == "alerts":
            bodies = [
                {
                    "tenant": slug,
                    "to": [f"ops@{slug}.example"],
                    "subject": f"Alert {word}",
                    "text": "Disk C: is full",
                    "idempotency_key": word,
                }
                for word in words
            ]
        else:
            bodies = [_webhook(slug, word) for word in words]
        lines = "".join(json.dumps(body) + "\n" for body in bodies)
        argv = ("enqueue", "-", "--format", door)
        return lambda: words if _alertpost(argv, lines) else None

    # -- what is handed in -------------------------------------------------------------------

    def _insist(self, call: Call) -> None:
        """Ask until it is accepted; what was not answered for does not count."""
        while True:
            answered = call()
            if answered is not None:
                os.write(self._file, "".join(f"{word}\n" for word in answered).encode())
                return
            if time.monotonic() > self._until:
                return
            time.sleep(PAUSE_SECONDS)

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
        # Moments are given by the producer's own clock; where that is wrong they would be too.
        if not self._job["clock_may_be_wrong"]:
            if chance.random() < 0.05:
                given["expires_at"] = now + timedelta(seconds=chance.uniform(1, 20))
            elif chance.random() < 0.05:
                given["not_before"] = now + timedelta(seconds=chance.uniform(0, 5))
        return AlertEmail.parse(given)


def _alertpost(arguments: Sequence[str], given: str = "") -> bool:
    """Run a command; tells whether it took everything."""
    program = Path(sys.executable).with_name("alertpost")
    done = subprocess.run(
        (program, *arguments), input=given, text=True, capture_output=True, timeout=CLI_SECONDS,
        check=False,
    )  # fmt: skip
    if done.returncode:
        sys.stderr.write(f"{arguments[0]}: {done.returncode}: {done.stderr[-300:]}\n")
    return done.returncode == 0


def _busy(chance: random.Random, slugs: Sequence[str]) -> str:
    """Pick a tenant; the first ones have the most to tell."""
    return slugs[min(chance.randrange(len(slugs)), chance.randrange(len(slugs)))]


def _webhook(slug: str, name: str) -> dict[str, Any]:
    """Write what Alertmanager would post; the name is found in the subject again."""
    labels = {"alertname": name, "instance": "pc-1", "severity": "warning", "tenant": slug}
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
