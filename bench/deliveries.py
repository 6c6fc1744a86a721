"""
Mails a second through the whole path, beside the bare loop, on the same sandbox in the same run.

The whole path: row, claim, lease, permit, compose, TLS, XOAUTH2, outcome committed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import psutil
import redis
from sqlalchemy import func, select

from bench.table import Sample, rates, show
from console.output import out
from console.stage import Stage
from models.alert import AlertEmail
from models.database import read
from models.redis_keys import RedisKeys
from models.tables import METADATA
from models.vault import token_context
from workers.compose import compose

MAILBOXES = 50
OPEN_LIMITS = {
    "messages_per_window": None,
    "connections": None,
    "recipients_per_day": None,
    "recipients_per_message": None,
    "lock_out_errors": None,
}
SETTINGS: dict[str, Any] = {
    # Recipients are counted, as in life, but the limit is never reached.
    "pacing": {
        "messages_per_window": 1_000_000,
        "connections_per_mailbox": 3,
        "recipients_per_day": 1_000_000_000,
    },
    "visit": {"claim_batch": 20, "connection_max_messages": 1_000_000},
}
LONGEST_SECONDS = 120.0

_D = METADATA.tables["delivery"].c


@contextmanager
def stage(
    *, database_url: str = "", tenants: int = MAILBOXES, visit: Mapping[str, Any] | None = None
) -> Iterator[Stage]:
    """Set the stage with open limits, everybody connected; ``visit`` are settings of that name."""
    with tempfile.TemporaryDirectory(prefix="alertpost-bench-") as directory:
        slugs = [f"tenant{number}" for number in range(tenants)]
        with Stage(
            Path(directory),
            slugs,
            limits=OPEN_LIMITS,
            database_url=database_url,
            settings=SETTINGS | {"visit": SETTINGS["visit"] | dict(visit or {})},
        ) as given:
            given.add_tenants()
            for _ in given.connect_all():
                pass
            yield given


def alert(number: int, slug: str) -> AlertEmail:
    """Make an alert of 2 KB, text and HTML."""
    lines = "\n".join(
        f"{line:02} disk usage on host-{number % 97:04} is over the threshold" for line in range(16)
    )
    return AlertEmail(
        tenant=slug,
        to=["ops@bench.example"],
        subject=f"[FIRING:1] warning DiskWillFillIn24Hours on host-{number % 97:04}",
        text=lines,
        html=f"<pre>{lines}</pre>",
    )


def bare_loop(given: Stage, mails: int) -> Sample:
    """Measure the mark."""
    facts = given.sandbox.facts
    mail = compose(
        alert(1, "tenant0"),
        message_id="<bench@bench.example>",
        sender="alerts@tenant0.example",
        sender_name=None,
        delivery_id=uuid4(),
        date=datetime.now(UTC),
        server_has_smtputf8=True,
        server_has_8bitmime=True,
    )
    job = {
        "host": facts["smtp_host"],
        "port": facts["smtp_port"],
        "ca_file": facts["ca_file"],
        "mails": mails,
        "mail": mail.data.decode("ascii"),
        "mail_from": "alerts@tenant0.example",
        "accounts": [
            {"address": f"alerts@{slug}.example", "token": shared_token(given, slug)}
            for slug in given.slugs
        ],
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.bare_loop"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the bare loop failed: {done.stderr[-1000:]}")
    return Sample(**json.loads(done.stdout))


def shared_token(given: Stage, slug: str) -> str:
    """Take the token that the workers share."""
    mailbox_id = given.mailbox_id(slug)
    with redis.Redis.from_url(given.settings.redis_url) as client:
        sealed = client.get(RedisKeys(given.settings.redis_prefix).token(mailbox_id))
    value = json.loads(given.vault.open(sealed, context=token_context(mailbox_id)))
    return str(value["token"])


def whole_path(given: Stage, mails: int, *, processes: int = 1) -> Sample:
    """Measure alertpost: workers wait, the mails are committed at once, then everything drains."""
    for number in range(processes):
        given.start_worker(number)
    given.wait_for_workers()
    watched = [psutil.Process(process.pid) for process in given.workers.values()]
    try:
        before = sum(_cpu(process) for process in watched)
        given.producer.enqueue_many(
            [alert(number, given.slugs[number % len(given.slugs)]) for number in range(mails)]
        )
        begun = time.monotonic()
        while _open(given):
            if time.monotonic() - begun > LONGEST_SECONDS:
                raise RuntimeError("the mails did not drain in time")
            time.sleep(0.1)
        cpu = sum(_cpu(process) for process in watched) - before
        peak = max(process.memory_info().rss for process in watched) / 1e6
    finally:
        given.stop_workers()
    with read(given.engine) as connection:
        newest = select(_D.settled_at).order_by(_D.enqueued_at.desc()).limit(mails).subquery()
        moment = newest.c.settled_at
        first, last = connection.execute(
            select(func.min(moment, type_=moment.type), func.max(moment, type_=moment.type))
        ).one()
    return Sample(mails, (last - first).total_seconds(), cpu, peak)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _open(given: Stage) -> bool:
    with read(given.engine) as connection:
        for state in ("queued", "sending"):
            found = connection.execute(select(_D.id).where(_D.state == state).limit(1)).first()
            if found is not None:
                return True
    return False


def measure(*, mails: int, runs: int, database_url: str, name: str) -> dict[str, Any]:
    """Measure both in turn, on one stage; print and return the medians."""
    bare: list[Sample] = []
    one: list[Sample] = []
    two: list[Sample] = []
    with stage(database_url=database_url) as given:
        whole_path(given, mails // 5)  # Leases are taken, caches are warm.
        for number in range(runs):
            bare.append(bare_loop(given, mails))
            one.append(whole_path(given, mails))
            two.append(whole_path(given, mails, processes=2))
            out.print(
                f"  {name}, run {number + 1} of {runs}: bare loop {bare[-1].rate:,.0f}/s, "
                f"alertpost {one[-1].rate:,.0f}/s, with 2 processes {two[-1].rate:,.0f}/s"
            )
    told: dict[str, Any] = {
        "bare_loop": rates(bare),
        "alertpost_1_process": rates(one),
        "alertpost_2_processes": rates(two),
    }
    # Pair by pair: a machine whose speed drifts moves both of a pair.
    pairs = [ours.rate / mark.rate for mark, ours in zip(bare, one, strict=True)]
    told["ratio_to_bare_loop"] = round(median(pairs), 3)
    told["mails_per_run"] = mails
    show(
        f"Deliveries through the whole path, {name} (median of {runs} runs of {mails:,} mails)",
        ["", "mails/s", "CPU s per 1,000", "mails per CPU s", "peak MB"],
        [
            [label, f"{row['mails_per_second']:,.0f}", f"{row['cpu_seconds_per_1000']:.3f}",
             f"{row['mails_per_cpu_second']:,.0f}", f"{row['peak_mb']:,.0f}"]
            for label, row in (
                ("bare aiosmtplib loop, 1 process", told["bare_loop"]),
                ("alertpost, 1 worker process", told["alertpost_1_process"]),
                ("alertpost, 2 worker processes", told["alertpost_2_processes"]),
            )
        ],
    )  # fmt: skip
    out.print(
        f"alertpost with one process reaches {told['ratio_to_bare_loop']:.2f} of the bare loop"
    )
    return told
