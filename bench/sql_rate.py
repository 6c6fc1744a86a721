"""
How fast SQL takes deliveries in, hands them to visits and records outcomes.

    python bench/sql_rate.py --url sqlite:////tmp/rate.db --url postgresql://localhost/rate

Give databases that may be filled; the tables are made where they are missing.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, insert, text

from models import intake, lane
from models.database import create_engine_from, write
from models.ids import uuid7
from models.intake import NewDelivery
from models.lane import AttemptRecord, Outcome
from models.lifecycle import ACCEPT
from models.schema import upgrade
from models.tables import METADATA

TRY = AttemptRecord(
    stage="body",
    rule="accepted",
    reply_code=250,
    enhanced_code="2.0.0",
    reply_text="2.0.0 OK <0123456789@example.com> [Hostname=AM0PR01MB1234.example.com]",
    smtp_host="smtp.office365.com",
    worker="bench-1",
    duration_ms=120.0,
    took_permit=True,
    recipients=1,
)


@dataclass(frozen=True)
class Figure:
    """One row of the printed table."""

    step: str
    rows: int
    seconds: float
    calls: int


def _mailbox(engine: Engine) -> tuple[UUID, UUID]:
    app, tenant, mailbox = uuid7(), uuid7(), uuid7()
    tables, now = METADATA.tables, datetime.now(UTC)
    with write(engine) as conn:
        conn.execute(
            insert(tables["app_registration"]).values(
                id=app, name=app.hex, client_id=app.hex, created_at=now
            )
        )
        conn.execute(
            insert(tables["tenant"]).values(
                id=tenant, slug=tenant.hex, directory_id="d", app_registration_id=app,
                created_at=now,
            )
        )  # fmt: skip
        conn.execute(
            insert(tables["mailbox"]).values(
                id=mailbox, tenant_id=tenant, address=f"{mailbox.hex}@example.com",
                connected_at=now, created_at=now,
            )
        )  # fmt: skip
    return tenant, mailbox


def _new(tenant: UUID, mailbox: UUID, payload: bytes, *, keyed: bool) -> NewDelivery:
    key = uuid7()
    return NewDelivery(
        id=key,
        tenant_id=tenant,
        mailbox_id=mailbox,
        severity=2,
        fingerprint="0" * 64,
        subject="Disk C: is full on SRV-01",
        recipients=["ops@example.com"],
        payload_encrypted=payload,
        message_id=f"<{key}@example.com>",
        idempotency_key=key.hex if keyed else None,
    )


def _timed(step: str, rows: int, calls: int, work: Callable[[], object]) -> Figure:
    began = time.perf_counter()
    work()
    return Figure(step, rows, time.perf_counter() - began, calls)


def _measure(engine: Engine, options: argparse.Namespace) -> list[Figure]:
    tenant, mailbox = _mailbox(engine)
    payload = os.urandom(options.payload)
    figures = []

    def take_in(count: int, *, keyed: bool) -> Callable[[], None]:
        news = [_new(tenant, mailbox, payload, keyed=keyed) for _ in range(count)]

        def work() -> None:
            with write(engine) as conn:
                intake.insert(conn, news)

        return work

    # Statements are compiled and prepared once a process; that is not what is asked here.
    take_in(500, keyed=False)()
    take_in(500, keyed=True)()
    work = take_in(options.rows, keyed=False)
    figures.append(_timed("intake, one transaction", options.rows, 1, work))
    work = take_in(options.rows, keyed=True)
    figures.append(_timed("intake, idempotency keys", options.rows, 1, work))
    for start in range(0, options.backlog, 10_000):
        take_in(min(10_000, options.backlog - start), keyed=False)()
    if engine.dialect.name == "postgresql":
        with write(engine) as conn:
            conn.execute(text("ANALYZE"))

    claimed: list[tuple[UUID, str]] = []

    def claim(turns: int, start: int) -> None:
        for turn in range(start, start + turns):
            visit = f"visit-{turn}"
            with write(engine) as conn:
                rows = lane.claim(
                    conn, mailbox_id=mailbox, claimed_by=visit, limit=10, lease_seconds=600
                )
            claimed.extend((row.id, visit) for row in rows)

    turns = options.settle // 10
    claim(50, 0)
    figures.append(_timed("claim of 10", turns * 5, turns // 2, lambda: claim(turns // 2, 1000)))
    figures.append(
        _timed("claim of 10, later", turns * 5, turns // 2, lambda: claim(turns // 2, 9_000_000))
    )

    def settle(pairs: list[tuple[UUID, str]]) -> None:
        for start in range(0, len(pairs), options.group):
            outcomes = [
                Outcome(key, mailbox, visit, ACCEPT, counted=True, attempt=TRY)
                for key, visit in pairs[start : start + options.group]
            ]
            with write(engine) as conn:
                lane.settle(conn, outcomes)

    settle(claimed[:500])
    rest = claimed[500:]
    calls = -(-len(rest) // options.group)
    figures.append(
        _timed(f"settle, {options.group} a commit", len(rest), calls, lambda: settle(rest))
    )

    def sweep() -> None:
        with write(engine) as conn:
            lane.sweep(conn)

    figures.append(_timed("sweep", 1, 1, sweep))
    return figures


def _print(name: str, figures: list[Figure]) -> None:
    table = Table("step", "rows", "rows/s", "ms a call", title=name)
    for figure in figures:
        table.add_row(
            figure.step,
            f"{figure.rows:,}",
            f"{figure.rows / figure.seconds:,.0f}",
            f"{1000 * figure.seconds / figure.calls:,.2f}",
        )
    Console().print(table)


def main() -> None:
    """Measure on each database that was named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--url", action="append", required=True, help="a database to fill")
    parser.add_argument("--rows", type=int, default=10_000, help="deliveries taken in at once")
    parser.add_argument("--payload", type=int, default=2048, help="bytes of a delivery")
    parser.add_argument("--backlog", type=int, default=100_000, help="deliveries that wait")
    parser.add_argument("--settle", type=int, default=10_000, help="outcomes recorded")
    parser.add_argument("--group", type=int, default=50, help="outcomes in a transaction")
    options = parser.parse_args()
    for url in options.url:
        engine = create_engine_from(url)
        try:
            upgrade(engine)
            _print(engine.dialect.name, _measure(engine, options))
        finally:
            engine.dispose()


if __name__ == "__main__":
    main()
