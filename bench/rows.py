"""
What a mail costs in SQL, with 1,000 and with 1,000,000 rows in the table.

A table as life fills it: four fifths are history, accepted, with their attempts; one fifth waits,
half of that in the one lane that is measured. Then alerts are taken in, claimed ten at a time as a
visit does, with what a visit reads beside, and settled fifty at a time as the recorder does. The
small and the large database take turns, and ratios are taken turn by turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, insert, text

from bench.table import show
from console.output import out
from models import intake, lane, schema, senders
from models.database import create_engine_from, write
from models.ids import uuid7
from models.intake import NewDelivery
from models.lane import AttemptRecord, Outcome
from models.lifecycle import ACCEPT
from models.tables import METADATA

SMALL = 1_000
LARGE = 1_000_000
LANES = 200
PAYLOAD_BYTES = 1024
EACH_TURN = 1_000
CLAIM = 10
SETTLE = 50
STEPS = ("take_in", "claim", "settle", "sweep")

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


def measure(*, large: int, turns: int, urls: dict[str, str]) -> dict[str, Any]:
    """
    Measure on each database.

    Args:
        large: Rows of the large table.
        turns: Of which the median counts.
        urls: Name of a server to the URL of one that may be filled; SQLite needs none.
    """
    told: dict[str, Any] = {}
    for name in ("sqlite", *urls):
        with _engines(urls.get(name, "")) as (small_engine, large_engine):
            small, big = Table(small_engine, SMALL), Table(large_engine, large)
            for table in (small, big):
                table.turn()  # Statements are compiled, pages are in memory.
            pairs = [(small.turn(), big.turn()) for _ in range(turns)]
        told[name] = _figures(pairs) | {"rows": [SMALL, large], "turns": turns}
        show(
            f"SQL by rows in the table, {name} (median of {turns} turns of {EACH_TURN:,} mails)",
            ["", f"{SMALL:,} rows, µs a mail", f"{large:,} rows, µs a mail", "ratio"],
            [
                [step, *(round(each) for each in told[name][step]["us_per_mail"]),
                 told[name][step]["ratio"]]
                for step in (*STEPS, "claim_and_settle")
            ],
        )  # fmt: skip
    told["cost_ratio_1m_rows"] = max(told[name]["claim_and_settle"]["ratio"] for name in
                                     ("sqlite", *urls))  # fmt: skip
    return told


def _figures(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    for pair in pairs:
        for seconds in pair:
            seconds["claim_and_settle"] = seconds["claim"] + seconds["settle"]
    told: dict[str, Any] = {}
    for step in (*STEPS, "claim_and_settle"):
        small = median(pair[0][step] for pair in pairs)
        big = median(pair[1][step] for pair in pairs)
        per_mail = [1e6 * seconds / EACH_TURN for seconds in (small, big)]
        told[step] = {
            "us_per_mail": [round(each, 1) for each in per_mail],
            "per_second": [round(1e6 / each) for each in per_mail],
            "ratio": round(median(pair[1][step] / pair[0][step] for pair in pairs), 3),
        }
    return told


@contextmanager
def _engines(url: str) -> Iterator[tuple[Engine, Engine]]:
    with TemporaryDirectory(prefix="alertpost-bench-") as directory:
        engines = []
        for name in ("small", "large"):
            if url:
                server = create_engine_from(url)
                with server.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
                    conn.execute(text(f"CREATE DATABASE bench_{name}"))
                server.dispose()
                # The path of the URL is the database, whatever follows it.
                head, mark, query = url.partition("?")
                given = f"{head.rpartition('/')[0]}/bench_{name}{mark}{query}"
            else:
                given = f"sqlite:///{Path(directory) / name}.db"
            engines.append(create_engine_from(given))
        try:
            yield engines[0], engines[1]
        finally:
            for engine in engines:
                engine.dispose()


class Table:
    """A database with so many deliveries, and turns of work on it."""

    def __init__(self, engine: Engine, rows: int) -> None:
        self._engine = engine
        schema.upgrade(engine)
        self._lanes = _lanes(engine)
        begun = time.perf_counter()
        _fill(engine, rows)
        out.print(f"  {engine.dialect.name}: {rows:,} rows in {time.perf_counter() - begun:.0f} s")
        self._payload = os.urandom(PAYLOAD_BYTES)

    def turn(self) -> dict[str, float]:
        """Take in, claim and settle; returns seconds for each step."""
        return {
            "take_in": _timed(self._take_in),
            "claim": _timed(self._claim),
            "settle": _timed(self._settle),
            # One a turn: what it costs beside a thousand mails.
            "sweep": _timed(self._sweep),
        }

    def _take_in(self) -> None:
        tenant, mailbox = self._lanes[0]
        for _ in range(EACH_TURN // 100):
            news = [_new(tenant, mailbox, self._payload) for _ in range(100)]
            with write(self._engine) as conn:
                intake.insert(conn, news)

    def _claim(self) -> None:
        _, mailbox = self._lanes[0]
        self._claimed: list[tuple[UUID, str]] = []
        for _ in range(EACH_TURN // CLAIM):
            visit = uuid7().hex
            with write(self._engine) as conn:
                senders.sender(conn, mailbox)
                rows = lane.claim(
                    conn, mailbox_id=mailbox, claimed_by=visit, limit=CLAIM, lease_seconds=600
                )
            self._claimed += [(row.id, visit) for row in rows]
        if len(self._claimed) != EACH_TURN:
            raise RuntimeError(f"{len(self._claimed)} of {EACH_TURN} could be claimed")

    def _settle(self) -> None:
        _, mailbox = self._lanes[0]
        for start in range(0, EACH_TURN, SETTLE):
            outcomes = [
                Outcome(key, mailbox, visit, ACCEPT, counted=True, attempt=TRY)
                for key, visit in self._claimed[start : start + SETTLE]
            ]
            with write(self._engine) as conn:
                lane.settle(conn, outcomes)

    def _sweep(self) -> None:
        with write(self._engine) as conn:
            lane.sweep(conn)


def _timed(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _new(tenant: UUID, mailbox: UUID, payload: bytes) -> NewDelivery:
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
    )


def _lanes(engine: Engine) -> list[tuple[UUID, UUID]]:
    app, now = uuid7(), datetime.now(UTC)
    # The measured lane is the first one, of the lowest key.
    pairs = sorted(((uuid7(), uuid7()) for _ in range(LANES)), key=lambda pair: pair[1])
    rows: dict[str, list[dict[str, Any]]] = {
        "app_registration": [{"id": app, "name": "bench", "client_id": "c", "created_at": now}],
        "tenant": [
            {"id": tenant, "slug": tenant.hex, "directory_id": "d", "app_registration_id": app,
             "created_at": now}
            for tenant, _ in pairs
        ],
        "mailbox": [
            {"id": mailbox, "tenant_id": tenant, "address": f"{mailbox.hex}@example.com",
             "connected_at": now, "created_at": now}
            for tenant, mailbox in pairs
        ],
    }  # fmt: skip
    with write(engine) as conn:
        for table, those in rows.items():
            conn.execute(insert(METADATA.tables[table]), those)
    return pairs


_SERIES = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :rows)",
    "postgresql": "WITH n AS (SELECT generate_series(0, CAST(:rows AS integer) - 1) AS i)",
}
_PIECES = {
    "sqlite": {
        "id": "printf('%012x{kind}8000%012x', 1750000000000 + i, i)",
        "moment": "strftime('%Y-%m-%d %H:%M:%f000', 'now', "
        "printf('-%.3f seconds', (:rows - i) * 2500000.0 / :rows))",
        "payload": f"randomblob({PAYLOAD_BYTES})",
        "no": "0",
    },
    "postgresql": {
        "id": "CAST(lpad(to_hex(1750000000000 + i), 12, '0') || '{kind}8000' "
        "|| lpad(to_hex(i), 12, '0') AS uuid)",
        "moment": "now() - interval '2500000 seconds' * (CAST(:rows AS float) - i) / :rows",
        "payload": f"decode(repeat(md5(CAST(i AS text)), {PAYLOAD_BYTES // 16}), 'hex')",
        "no": "false",
    },
}
# Of ten rows two wait, one of them in the measured lane. SQLite keeps to the order of a CROSS JOIN;
# left to itself it would make the whole series anew for each of the places.
_ROWS = """
INSERT INTO delivery (id, tenant_id, mailbox_id, state, severity, fingerprint, subject, recipients,
    refused, taken, payload_encrypted, message_id, enqueued_at, due_at, attempts, first_attempt_at,
    claims, uncertain, settled_at, reply_code, replayed)
{series}, planned AS (
    SELECT i, {moment} AS moment, i % 5 = 4 AS waits FROM n
)
SELECT {id}, tenant_id, places.id, CASE WHEN waits THEN 'queued' ELSE 'accepted' END, i / 10 % 4,
    'f', 'Disk C: is full on SRV-01', '["ops@example.com"]', '{{}}', '{{}}', {payload}, '<m@x>',
    moment, moment, CASE WHEN waits THEN 0 ELSE 1 END, CASE WHEN waits THEN NULL ELSE moment END,
    0, {no}, CASE WHEN waits THEN NULL ELSE moment END, CASE WHEN waits THEN NULL ELSE 250 END, 0
FROM planned CROSS JOIN places
    WHERE place = CASE WHEN i % 10 = 4 THEN 0 ELSE 1 + i % CAST(:others AS integer) END
"""
_PLACES = (
    """CREATE TEMPORARY TABLE places AS
    SELECT id, tenant_id, row_number() OVER (ORDER BY id) - 1 AS place FROM mailbox""",
    "CREATE UNIQUE INDEX places_by_place ON places (place)",
)
_ATTEMPTS = """
INSERT INTO attempt (id, delivery_id, mailbox_id, number, counted, stage, rule, outcome, reply_code,
    enhanced_code, reply_text, smtp_host, worker, started_at, finished_at, took_permit, recipients,
    uncertain)
{series}
SELECT {attempt_id}, delivery.id, delivery.mailbox_id, 1, NOT {no}, 'body', 'accepted', 'accepted',
    250, '2.0.0', '2.0.0 OK <0123456789@example.com> [Hostname=AM0PR01MB1234.example.com]',
    'smtp.office365.com', 'bench-1', enqueued_at, enqueued_at, NOT {no}, 1, {no}
FROM n JOIN delivery ON delivery.id = {id} AND delivery.state = 'accepted'
"""


def _fill(engine: Engine, rows: int) -> None:
    """Write history and backlog, oldest first, as they would have come."""
    dialect = engine.dialect.name
    pieces = _PIECES[dialect]
    filled = {
        "series": _SERIES[dialect],
        "moment": pieces["moment"],
        "payload": pieces["payload"],
        "no": pieces["no"],
        "id": pieces["id"].replace("{kind}", "7000"),
        "attempt_id": pieces["id"].replace("{kind}", "7001"),
    }
    given = {"rows": rows, "others": LANES - 1}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        if dialect == "postgresql":
            conn.execute(text("SET statement_timeout = 0"))
        for statement in (*_PLACES, _ROWS, _ATTEMPTS):
            sql = statement.format(**filled)
            conn.execute(text(sql), {key: given[key] for key in given if f":{key}" in sql})
        if dialect == "postgresql":
            # As autovacuum does by itself after so much.
            conn.execute(text("VACUUM ANALYZE"))
        # It has lost its time-outs and has a table of its own: nothing for the work to come.
        conn.invalidate()
