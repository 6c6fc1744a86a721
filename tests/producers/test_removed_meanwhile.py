"""Alerts for a mailbox or a tenant that is removed while they are being accepted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from models import mailboxes, tenants
from models.alert import AlertEmail
from models.database import write
from models.errors import Conflict, NotFound
from models.lookups import REMOVED
from models.vault import Vault
from producers.enqueue import Producer
from tests.models.factories import DELIVERY, MAILBOX, TENANT, delivery_rows, world_rows


class _SlowVault(Vault):
    """Does something before it seals: after the mailbox was looked up, before the row is stored."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def seal(self, *given: Any, **more: Any) -> Any:
        act, self.meanwhile = self.meanwhile, lambda: None
        act()
        return super().seal(*given, **more)


@pytest.fixture
def vault() -> _SlowVault:
    return _SlowVault([Vault.new_key()])


@pytest.fixture
def producer(engine: Engine, vault: Vault) -> Producer:
    return Producer(engine, vault, None)


def alert(**changes: Any) -> AlertEmail:
    return AlertEmail(
        **{"tenant": "contoso", "to": "a@x.example", "subject": "s", "text": "t", **changes}
    )


def addresses(engine: Engine) -> list[str]:
    with engine.connect() as conn:
        return list(conn.scalars(select(MAILBOX.c.address).order_by(MAILBOX.c.id)))


def remove(engine: Engine, address: str) -> None:
    with write(engine) as conn:
        mailboxes.remove_mailbox(conn, address, force=True)


def left_behind(engine: Engine) -> int:
    """Count what is queued where nothing is ever sent from."""
    with engine.connect() as conn:
        return conn.scalar(
            select(func.count())
            .select_from(DELIVERY.join(MAILBOX, MAILBOX.c.id == DELIVERY.c.mailbox_id))
            .where(DELIVERY.c.state == "queued", MAILBOX.c.park_reason == REMOVED)
        )


@pytest.mark.parametrize("used", [True, False], ids=["with a history", "without one"])
@pytest.mark.parametrize("notification", [True, False])
def test_a_mailbox_that_went_meanwhile(
    engine: Engine, producer: Producer, vault: _SlowVault, used: bool, notification: bool
) -> None:
    """Removed after it was looked up, it takes nothing more; the producer hears that it is gone."""
    world = world_rows(engine, slug="contoso")
    if used:
        delivery_rows(engine, world)
    [address] = addresses(engine)
    vault.meanwhile = lambda: remove(engine, address)
    enqueue = producer.enqueue_notifications if notification else producer.enqueue_many

    with pytest.raises(NotFound, match="has no mailbox"):
        enqueue([alert(idempotency_key="k")])

    assert left_behind(engine) == 0


def test_the_new_default_takes_it(engine: Engine, producer: Producer, vault: _SlowVault) -> None:
    """An alert that names no mailbox goes to the one that takes the removed one's place."""
    world = world_rows(engine, slug="contoso", mailboxes=2)
    first, _ = addresses(engine)
    vault.meanwhile = lambda: remove(engine, first)

    receipt = producer.enqueue(alert())

    assert receipt.mailbox_id == world.mailbox_ids[1]


def test_a_tenant_that_went_meanwhile(
    engine: Engine, producer: Producer, vault: _SlowVault
) -> None:
    """So it is with a whole tenant."""
    world_rows(engine, slug="contoso")

    def gone() -> None:
        with write(engine) as conn:
            tenants.remove_tenant(conn, "contoso", force=True)

    vault.meanwhile = gone

    with pytest.raises(NotFound, match="no tenant 'contoso'"):
        producer.enqueue(alert())


def test_a_mailbox_that_went_to_another_tenant(
    engine: Engine, producer: Producer, vault: _SlowVault
) -> None:
    """One customer's alert never goes out from another's mailbox."""
    world = world_rows(engine, slug="contoso")
    delivery_rows(engine, world)
    world_rows(engine, slug="fabrikam", app_id=world.app_id)
    address, _ = addresses(engine)

    def moved() -> None:
        remove(engine, address)
        with write(engine) as conn:
            mailboxes.add_mailbox(conn, tenant_slug="fabrikam", address=address)

    vault.meanwhile = moved

    with pytest.raises(NotFound, match="'contoso' has no mailbox"):
        producer.enqueue(alert(mailbox=address))


def test_removals_and_alerts_at_once(engine: Engine, producer: Producer) -> None:
    """In whatever order they come: each receipt is sent or cancelled, nobody meets an SQL error."""
    world_rows(engine, slug="contoso", mailboxes=2)
    first, second = addresses(engine)
    stop = threading.Event()
    receipts = []

    def keep_enqueuing() -> None:
        while not stop.is_set():
            for address in (first, second, None):
                with suppress(NotFound):
                    receipts.extend(producer.enqueue_many([alert(mailbox=address)] * 3))

    with ThreadPoolExecutor(3) as pool:
        busy = [pool.submit(keep_enqueuing) for _ in range(3)]
        try:
            for address in (first, second) * 6:
                remove(engine, address)
                assert left_behind(engine) == 0
                with write(engine) as conn:
                    mailboxes.add_mailbox(conn, tenant_slug="contoso", address=address)
            for address in (first, second):
                remove(engine, address)
        finally:
            stop.set()
        for one in busy:
            one.result()

    assert left_behind(engine) == 0
    with engine.connect() as conn:
        assert conn.scalar(select(func.count()).select_from(DELIVERY)) == len(receipts)
        assert set(conn.scalars(select(DELIVERY.c.state))) <= {"cancelled"}


def test_a_tenant_is_removed_while_alerts_come(engine: Engine, producer: Producer) -> None:
    """The same for a tenant that has sent nothing before: its rows are deleted, or kept whole."""
    for round_number in range(6):
        slug = f"t{round_number}"
        world_rows(engine, slug=slug)
        began = threading.Event()

        def enqueue(slug: str = slug, began: threading.Event = began) -> int:
            began.set()
            try:
                return len(producer.enqueue_many([alert(tenant=slug)] * 20))
            except NotFound:
                return 0

        with ThreadPoolExecutor(1) as pool:
            accepted = pool.submit(enqueue)
            began.wait()
            try:
                with write(engine) as conn:
                    tenants.remove_tenant(conn, slug, force=True)
            except Conflict as refused:
                raise AssertionError(slug) from refused
            number = accepted.result()

        with engine.connect() as conn:
            kept = conn.scalar(
                select(func.count())
                .select_from(DELIVERY.join(TENANT, TENANT.c.id == DELIVERY.c.tenant_id))
                .where(TENANT.c.slug == slug)
            )
        assert kept == number
        assert left_behind(engine) == 0
