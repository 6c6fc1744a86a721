"""
How long a person waits for a listing: 300 tenants, 200,000 deliveries, a year of life.

    python -m bench.listings --dir DIR           # makes it there (SQLite), then times each listing
    python -m bench.listings --dir DIR --only    # makes it, to look around with `--data-dir DIR`

Times are of the processor, as these processes wait for nothing else; on an idle machine they are
what a person waits. Beside each stands what it is of the time of ``import sqlmodel``, taken in
turn, so that a busy machine counts for both.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Table, insert

from console.context import opened
from console.data_dir import DataDir
from console.output import print_table
from models.database import write
from models.ids import uuid7
from models.tables import METADATA

TENANTS, DELIVERIES = 300, 200_000
CHUNK = 5_000
LISTINGS = (
    "--help", "--version", "status", "tenants list", "mailboxes list", "mailboxes list --parked",
    "mailboxes consents", "apps list", "expiries", "warnings", "deliveries list",
    "deliveries list --state dead", "dead list", "dead list --each", "dead replay --dry-run",
    "audit list", "report", "report --since 7d",
)  # fmt: skip
_YARDSTICK = [sys.executable, "-c", "import sqlmodel"]
_PAYLOAD = b"\x01" + bytes(range(256)) * 4
_ENDS = (
    ("accepted", "accepted", 92), ("dead", "recipient-unknown", 4), ("dead", "content-refused", 1),
    ("expired", None, 1), ("queued", None, 2),
)  # fmt: skip


def seed(
    engine: Engine, *, tenants: int = TENANTS, deliveries: int = DELIVERIES, chance: int = 8
) -> None:
    """
    Fill a database as life would: mostly accepted, some dead, some waiting, some mailboxes parked.

    Args:
        engine: With the tables, and nothing in them.
        tenants: Each has one mailbox, and each tenth another.
        deliveries: Over the last year, each with its attempts.
        chance: The same number gives the same rows.
    """
    random, now = Random(chance), datetime.now(UTC)
    with write(engine) as conn:
        boxes = list(_tenants(conn, tenants, now))
    for first in range(0, deliveries, CHUNK):
        rows: list[dict[str, Any]] = []
        tries: list[dict[str, Any]] = []
        for number in range(first, min(first + CHUNK, deliveries)):
            at = now - timedelta(days=365) * (1 - number / deliveries)
            row, attempts = _delivery(random, random.choice(boxes), at, number)
            rows.append(row)
            tries += attempts
        with write(engine) as conn:
            conn.execute(insert(_table("delivery")), rows)
            conn.execute(insert(_table("attempt")), tries)
    with write(engine) as conn:
        conn.exec_driver_sql("ANALYZE")


def _tenants(conn: Connection, tenants: int, now: datetime) -> Iterator[tuple[UUID, UUID, str]]:
    app = {"id": uuid7(), "name": "msp", "client_id": str(uuid7()), "created_at": now}
    conn.execute(insert(_table("app_registration")), [app])
    secret = {
        "id": uuid7(), "app_registration_id": app["id"], "number": 1,
        "client_secret_encrypted": _PAYLOAD, "expires_at": now + timedelta(days=200),
        "added_at": now,
    }  # fmt: skip
    conn.execute(insert(_table("app_credential")), [secret])
    for number in range(tenants):
        slug, tenant = f"customer-{number:03}", uuid7()
        domain = f"{slug}.northwind-traders.example"
        conn.execute(
            insert(_table("tenant")).values(
                id=tenant, slug=slug, name=f"Customer number {number} and sons",
                directory_id=domain, app_registration_id=app["id"],
                notify={"default": [f"noc@{domain}"]},
            )
        )  # fmt: skip
        for name in ("alerts", "backup-reports")[: 2 if number % 10 == 0 else 1]:
            box, address = uuid7(), f"{name}@{domain}"
            parked = number % 40 == 7
            conn.execute(
                insert(_table("mailbox")).values(
                    id=box, tenant_id=tenant, address=address, is_default=name == "alerts",
                    connected_at=now, parked_at=now if parked else None,
                    park_reason="smtp-auth-disabled-mailbox" if parked else None,
                    park_scope="mailbox" if parked else None,
                )
            )  # fmt: skip
            conn.execute(
                insert(_table("grant")).values(
                    id=uuid7(), mailbox_id=box, cache_encrypted=_PAYLOAD, account=address,
                    granted_at=now, refreshed_at=now,
                )
            )  # fmt: skip
            yield tenant, box, address


def _delivery(
    random: Random, whose: tuple[UUID, UUID, str], at: datetime, number: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    tenant, box, address = whose
    [(state, reason, _)] = random.choices(_ENDS, [share for *_, share in _ENDS])
    done = at + timedelta(seconds=random.expovariate(0.05))
    settled = None if state == "queued" else done
    key = uuid7()
    tries = 0 if state in {"queued", "expired"} else 1 + (number % 30 == 0)
    row = {
        "id": key, "tenant_id": tenant, "mailbox_id": box, "state": state,
        "severity": random.choice((0, 1, 2, 2, 2, 3)), "fingerprint": f"{number:064}",
        "idempotency_key": f"alert-{number}", "subject": f"Disk C: of SRV-{number % 900} is full",
        "recipients": [f"noc@{address.partition('@')[2]}"], "payload_encrypted": _PAYLOAD,
        "message_id": f"<{key}@{address.partition('@')[2]}>", "enqueued_at": at, "due_at": at,
        "attempts": tries, "settled_at": settled,
        "reason": reason if state == "dead" else None,
        "reply_code": {"accepted": 250, "dead": 550}.get(state),
        "reply_text": "2.0.0 OK <x@example.com> [Hostname=AM0PR01MB1234.example.com]",
    }  # fmt: skip
    attempts = [
        {
            "id": uuid7(), "delivery_id": key, "mailbox_id": box, "number": n, "stage": "body",
            "rule": reason if n == tries else "server-busy",
            "outcome": state if n == tries else "queued",
            "reply_code": 250, "reply_text": row["reply_text"], "started_at": at,
            "finished_at": done, "recipients": 1,
        }
        for n in range(1, tries + 1)
    ]  # fmt: skip
    return row, attempts


def _table(name: str) -> Table:
    return METADATA.tables[name]


def measure(directory: Path, turns: int) -> list[dict[str, Any]]:
    """Time each listing as a process of its own, in turn with the yardstick."""
    command = [sys.executable, "-c", "from console.entry import main; main()"]
    found = []
    for listing in LISTINGS:
        ours, theirs = [], []
        for _ in range(turns):
            theirs.append(_seconds(_YARDSTICK))
            ours.append(_seconds([*command, "--data-dir", str(directory), *listing.split()]))
        found.append(
            {
                "listing": listing,
                "seconds": round(min(ours), 2),
                "of import sqlmodel": round(min(ours) / min(theirs), 2),
            }
        )
    return found


def _seconds(command: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Make what is missing, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--only", action="store_true", help="do not measure")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    if not (given.dir / "alertpost.db").exists():
        _make(given.dir)
    if not given.only:
        found = measure(given.dir, given.turns)
        print_table(list(found[0]), [list(row.values()) for row in found], right=list(found[0])[1:])


def _make(directory: Path) -> None:
    os.environ["ALERTPOST_DATA_DIR"] = str(DataDir.prepare(directory).path)
    with opened(making=True) as context:
        seed(context.engine)


if __name__ == "__main__":
    main()
