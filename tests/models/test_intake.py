"""Intake: what is stored, and each idempotency key once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError

from models import intake
from models.database import now, read, write
from models.ids import uuid7
from models.intake import NewDelivery, Receipt
from tests.models.factories import (
    DELIVERY,
    FAR_AHEAD,
    LONG_AGO,
    new_delivery,
    row_of,
    set_delivery,
    world_rows,
)


def insert(engine: Engine, *news: NewDelivery, chunk: int = 500) -> list[Receipt]:
    with write(engine) as conn:
        return intake.insert(conn, news, chunk=chunk)


def stored(engine: Engine) -> int:
    with engine.connect() as conn:
        return conn.execute(select(func.count()).select_from(DELIVERY)).scalar_one()


def test_stores(engine: Engine) -> None:
    """A new delivery is queued, due at once, by the database's clock."""
    world = world_rows(engine)
    new = new_delivery(world, alert_id="a-1", recipients=("a@example.com", "b@example.com"))
    with read(engine) as conn:
        before = now(conn)

    [receipt] = insert(engine, new)

    row = row_of(engine, new.id)
    assert receipt == Receipt(new.id, world.mailbox_id, True, True, "queued", 2)
    assert (row.state, row.alert_id, row.payload_encrypted) == ("queued", "a-1", b"sealed")
    assert (row.recipients, row.refused) == (["a@example.com", "b@example.com"], {})
    assert (row.attempts, row.claims, row.replayed, row.uncertain) == (0, 0, 0, False)
    assert before - timedelta(seconds=1) < row.due_at <= row.enqueued_at + timedelta(seconds=1)


@pytest.mark.parametrize(("not_before", "waits"), [(FAR_AHEAD, True), (LONG_AGO, False)])
def test_not_before(engine: Engine, not_before, waits: bool) -> None:
    """A delivery waits for its time; a time that has passed does not let it overtake."""
    new = new_delivery(world_rows(engine), not_before=not_before)

    insert(engine, new)

    row = row_of(engine, new.id)
    assert (row.due_at == FAR_AHEAD) is waits
    assert row.due_at >= row.enqueued_at


def test_receipts_in_order(engine: Engine) -> None:
    """Receipts stand in the order given, with and without keys, over chunks."""
    world = world_rows(engine)
    news = [
        new_delivery(world, idempotency_key=f"k{97 * n % 20}" if n % 2 else None) for n in range(20)
    ]

    receipts = insert(engine, *news, chunk=3)

    assert [receipt.delivery_id for receipt in receipts] == [new.id for new in news]
    assert stored(engine) == 20


@pytest.mark.parametrize(("fingerprint", "same"), [("0" * 64, True), ("1" * 64, False)])
def test_repetition(engine: Engine, fingerprint: str, same: bool) -> None:
    """A key used before creates nothing; the receipt names the first, as it stands now."""
    world = world_rows(engine)
    first = new_delivery(world, idempotency_key="k", severity=1)
    insert(engine, first)
    set_delivery(engine, first.id, state="accepted")

    [receipt] = insert(engine, new_delivery(world, idempotency_key="k", fingerprint=fingerprint))

    assert receipt == Receipt(first.id, world.mailbox_id, False, same, "accepted", 1)
    assert stored(engine) == 1


def test_repetition_within_batch(engine: Engine) -> None:
    """Of repetitions within one batch the first is taken."""
    world = world_rows(engine)
    news = [new_delivery(world, idempotency_key="k", fingerprint=c * 64) for c in "001"]

    receipts = insert(engine, *news)

    assert {receipt.delivery_id for receipt in receipts} == {news[0].id}
    assert [(r.created, r.same_content) for r in receipts] == [
        (True, True), (False, True), (False, False),
    ]  # fmt: skip


def test_keys_are_the_tenants(engine: Engine) -> None:
    """Two tenants may use the same key."""
    news = [new_delivery(world_rows(engine), idempotency_key="k") for _ in range(2)]

    assert [receipt.created for receipt in insert(engine, *news)] == [True, True]


def test_concurrent_callers(engine: Engine) -> None:
    """Fifty callers with one key and different bodies create one delivery, and all learn it."""
    world = world_rows(engine)
    news = [new_delivery(world, idempotency_key="k", fingerprint=f"{n:064}") for n in range(50)]

    with ThreadPoolExecutor(50) as pool:
        receipts = [receipt for [receipt] in pool.map(lambda new: insert(engine, new), news)]

    assert sum(receipt.created for receipt in receipts) == 1
    assert len({receipt.delivery_id for receipt in receipts}) == 1
    assert sum(receipt.same_content for receipt in receipts) == 1
    assert stored(engine) == 1


def test_concurrent_batches(engine: Engine) -> None:
    """Batches with the same keys in opposite orders do not block each other for ever."""
    world = world_rows(engine)
    keys = [f"k{n}" for n in range(60)]

    def send(turn: int) -> list[Receipt]:
        order = keys if turn % 2 else keys[::-1]
        return insert(engine, *(new_delivery(world, idempotency_key=key) for key in order), chunk=7)

    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(send, range(16)))

    assert sum(receipt.created for batch in batches for receipt in batch) == 60
    assert stored(engine) == 60


def test_all_or_none(engine: Engine) -> None:
    """A batch with one impossible delivery stores nothing."""
    world = world_rows(engine)
    good, bad = new_delivery(world), new_delivery(world, tenant_id=uuid7())

    with pytest.raises(IntegrityError):
        insert(engine, good, bad)

    assert stored(engine) == 0


def test_nothing(engine: Engine) -> None:
    """No deliveries are no work."""
    assert insert(engine) == []


def test_rows_bound_before_are_the_same(engine: Engine) -> None:
    """What was given the driver's form beforehand is stored as what was not."""
    world = world_rows(engine)
    plain, bound = (
        new_delivery(world, subject="العربية 🚨", recipients=["ä@bücher.example"], alert_id="a")
        for _ in range(2)
    )
    rows = intake.bind(engine.dialect, [bound])
    with write(engine) as conn:
        intake.insert(conn, [plain])
        intake.insert(conn, [bound], rows=rows)

    one, other = row_of(engine, plain.id), row_of(engine, bound.id)
    same = {"subject", "recipients", "severity", "state", "alert_id", "refused", "uncertain"}
    assert {name: getattr(one, name) for name in same} == {
        name: getattr(other, name) for name in same
    }
