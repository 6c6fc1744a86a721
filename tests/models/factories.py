"""Rows to begin a test with: a tenant with its mailbox, and deliveries in its lane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, event, insert, select, update

from models import intake
from models.database import create_engine_from, write
from models.ids import uuid7
from models.intake import NewDelivery
from models.tables import METADATA

APP = METADATA.tables["app_registration"]
TENANT = METADATA.tables["tenant"]
MAILBOX = METADATA.tables["mailbox"]
DELIVERY = METADATA.tables["delivery"]
ATTEMPT = METADATA.tables["attempt"]

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_AHEAD = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """The keys of what ``world_rows`` made."""

    app_id: UUID
    tenant_id: UUID
    mailbox_id: UUID
    mailbox_ids: tuple[UUID, ...]


def world_rows(
    engine: Engine,
    *,
    mailboxes: int = 1,
    connected: bool = True,
    app_id: UUID | None = None,
    **tenant: Any,
) -> World:
    """Make a tenant with an app registration (or under a given one) and connected mailboxes."""
    mark = uuid7().hex
    app, key = app_id or uuid7(), uuid7()
    boxes = [uuid7() for _ in range(mailboxes)]
    now = datetime.now(UTC)
    with write(engine) as conn:
        if app_id is None:
            conn.execute(
                insert(APP).values(id=app, name=f"app-{mark}", client_id=mark, created_at=now)
            )
        row = {"slug": f"tenant-{mark}", "name": "Fabrikam", "directory_id": mark} | tenant
        conn.execute(insert(TENANT).values(id=key, app_registration_id=app, created_at=now, **row))
        conn.execute(
            insert(MAILBOX),
            [
                {
                    "id": box,
                    "tenant_id": key,
                    "address": f"alerts-{box.hex}@example.com",
                    "is_default": box == boxes[0],
                    "connected_at": now if connected else None,
                    "created_at": now,
                }
                for box in boxes
            ],
        )
    return World(app, key, boxes[0], tuple(boxes))


def new_delivery(world: World, **changes: Any) -> NewDelivery:
    """Make one delivery for the world's first mailbox; nothing is stored."""
    key = uuid7()
    new = NewDelivery(
        id=key,
        tenant_id=world.tenant_id,
        mailbox_id=world.mailbox_id,
        severity=2,
        fingerprint="0" * 64,
        subject="Disk C: is full on SRV-01",
        recipients=["ops@example.com"],
        payload_encrypted=b"sealed",
        message_id=f"<{key}@example.com>",
    )
    return replace(new, **changes)


def delivery_rows(engine: Engine, world: World, count: int = 1, **changes: Any) -> list[UUID]:
    """Store deliveries that are due now; return their keys in the order of the lane."""
    news = [new_delivery(world, **changes) for _ in range(count)]
    with write(engine) as conn:
        intake.insert(conn, news)
    return [new.id for new in news]


def row_of(engine: Engine, delivery_id: UUID) -> Any:
    """Read a delivery's row."""
    with engine.connect() as conn:
        return conn.execute(select(DELIVERY).where(DELIVERY.c.id == delivery_id)).one()


def states(conn: Connection) -> dict[UUID, str]:
    """Read the state of every delivery."""
    return {row.id: row.state for row in conn.execute(select(DELIVERY.c.id, DELIVERY.c.state))}


def set_delivery(engine: Engine, delivery_id: UUID, **values: Any) -> None:
    """Put a delivery into a situation that time or other parts would have brought about."""
    with write(engine) as conn:
        conn.execute(update(DELIVERY).where(DELIVERY.c.id == delivery_id).values(**values))


def set_mailbox(engine: Engine, mailbox_id: UUID, **values: Any) -> None:
    """Put a mailbox into a situation, likewise."""
    with write(engine) as conn:
        conn.execute(update(MAILBOX).where(MAILBOX.c.id == mailbox_id).values(**values))


def query_plan(url: str, part: Callable[[Connection], Any]) -> list[str]:
    """Run a part on SQLite and tell how SQLite went about each of its statements."""
    seen: list[tuple[str, Any]] = []
    engine = create_engine_from(url)
    try:
        with write(engine) as conn:
            event.listen(conn, "before_cursor_execute", lambda *a: seen.append((a[2], a[3])))
            part(conn)
            return [
                str(step[-1])
                for statement, given in list(seen)
                for step in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
            ]
    finally:
        engine.dispose()
