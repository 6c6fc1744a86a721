"""Alertmanager's retries and reminders, hour after hour, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine, select, update

from models.alert import AlertEmail
from models.database import write
from models.vault import Vault
from producers.enqueue import Producer
from tests.models.factories import DELIVERY, world_rows


@pytest.fixture
def producer(engine: Engine) -> Producer:
    world_rows(engine, slug="contoso")
    return Producer(engine, Vault([Vault.new_key()]), None)


def notification(key: str = "am-0123") -> AlertEmail:
    return AlertEmail(
        tenant="contoso", to="ops@example.com", subject="Disk", text="full", idempotency_key=key
    )


def later(engine: Engine, wait: timedelta) -> None:
    """Let time pass: what was accepted is so much older now."""
    with write(engine) as conn:
        rows = conn.execute(select(DELIVERY.c.id, DELIVERY.c.enqueued_at)).all()
        for row in rows:
            conn.execute(
                update(DELIVERY)
                .where(DELIVERY.c.id == row.id)
                .values(enqueued_at=row.enqueued_at - wait)
            )


@pytest.mark.parametrize("reminders", [6, 12])
def test_each_reminder_makes_a_mail(engine: Engine, producer: Producer, reminders: int) -> None:
    """Six reminders four hours apart make six mails, and a retry of each makes none."""
    made = []
    for _ in range(reminders):
        (first,) = producer.enqueue_notifications([notification()])
        (retry,) = producer.enqueue_notifications([notification()])
        assert (retry.created, retry.delivery_id) == (False, first.delivery_id)
        made.append(first.created)
        later(engine, timedelta(hours=4))

    assert made == [True] * reminders


def test_keys_that_begin_alike_are_different(engine: Engine, producer: Producer) -> None:
    """What only begins with a key, and is no generation of it, is another notification."""
    keys = ["am-1*", "am-1 ", "am-1", "am-12", "am-1x", "am-1,5", "am-1-", "AM-1"]

    receipts = [producer.enqueue_notifications([notification(key)])[0] for key in keys]

    assert all(receipt.created for receipt in receipts)
