"""Deadlines that are past: refused at every door, by the database's clock, with the reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from models import database
from models.alert import AlertEmail
from models.errors import InvalidAlert, PastDeadline
from models.vault import Vault
from producers.enqueue import Producer
from tests.models.factories import row_of, set_delivery, states, world_rows


@pytest.fixture
def producer(engine: Engine) -> Producer:
    world_rows(engine, slug="contoso")
    return Producer(engine, Vault([Vault.new_key()]), None)


def alert(**changes: object) -> AlertEmail:
    return AlertEmail(
        **{"tenant": "contoso", "to": "a@x.example", "subject": "s", "text": "t", **changes}
    )


def now(engine: Engine) -> datetime:
    with database.read(engine) as conn:
        return database.now(conn)


@pytest.mark.parametrize(
    "past",
    [
        timedelta(seconds=0), timedelta(seconds=1), timedelta(minutes=5), timedelta(days=3),
        datetime(1970, 1, 1, tzinfo=UTC), datetime(1601, 1, 1, tzinfo=UTC),
        datetime(2, 1, 1, tzinfo=UTC),
    ],
)  # fmt: skip
def test_a_past_deadline_is_refused(
    engine: Engine, producer: Producer, past: timedelta | datetime
) -> None:
    """However long it is past, nothing is accepted, and field and both times are told."""
    moment = past if isinstance(past, datetime) else now(engine) - past

    for enqueue in (producer.enqueue_many, producer.enqueue_notifications):
        with pytest.raises(InvalidAlert, match="the database's clock says") as refused:
            enqueue([alert(expires_at=moment)])
        assert refused.value.field == "expires_at"

    with engine.connect() as conn:
        assert states(conn) == {}


def test_a_deadline_to_come_is_kept(engine: Engine, producer: Producer) -> None:
    """A deadline that is not past is stored as it was given."""
    moment = now(engine) + timedelta(hours=1)

    receipt = producer.enqueue(alert(expires_at=moment))

    assert row_of(engine, receipt.delivery_id).expires_at == moment


def test_of_many_the_late_ones_are_named(engine: Engine, producer: Producer) -> None:
    """Of alerts that come together all or none are accepted; which are late is said."""
    late = now(engine) - timedelta(hours=1)

    with pytest.raises(PastDeadline, match="alert 2 of 4") as refused:
        producer.enqueue_many(
            [alert(), alert(expires_at=late), alert(), alert(expires_at=late, subject="x")]
        )

    assert refused.value.positions == (1, 3)
    with engine.connect() as conn:
        assert states(conn) == {}


@pytest.mark.parametrize("notification", [True, False])
def test_what_was_accepted_in_time_stays_accepted(
    engine: Engine, producer: Producer, notification: bool
) -> None:
    """A producer that asks once more under its key hears that it was accepted, deadline or not."""
    enqueue = producer.enqueue_notifications if notification else producer.enqueue_many
    moment = now(engine) + timedelta(hours=1)
    (first,) = enqueue([alert(idempotency_key="k", expires_at=moment)])
    late = now(engine) - timedelta(minutes=1)
    set_delivery(engine, first.delivery_id, expires_at=late)

    (again,) = enqueue([alert(idempotency_key="k", expires_at=late)])

    assert (again.created, again.delivery_id) == (False, first.delivery_id)
    with pytest.raises(PastDeadline):
        enqueue([alert(idempotency_key="other", expires_at=late)])
