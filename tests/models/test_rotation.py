from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, insert, select, update

from models import database, rotation
from models.ids import uuid7
from models.rotation import rotate
from models.tables import METADATA
from models.vault import (
    Vault,
    app_key_context,
    app_secret_context,
    delivery_context,
    grant_context,
)

APPS, CREDENTIALS, TENANTS, MAILBOXES, GRANTS, DELIVERIES = (
    METADATA.tables[name]
    for name in ("app_registration", "app_credential", "tenant", "mailbox", "grant", "delivery")
)
OLD, NEW = Vault.new_key(), Vault.new_key()
BEFORE, BOTH, AFTER = Vault([OLD]), Vault([NEW, OLD]), Vault([NEW])
NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Stock:
    """One app with two credentials, one mailbox with a grant, some deliveries: old key."""

    def __init__(self, engine: Engine, *, deliveries: int = 0, size: int = 10) -> None:
        self.engine = engine
        self.app, self.tenant, self.mailbox, self.grant = (uuid7() for _ in range(4))
        self.secret, self.certificate = uuid7(), uuid7()
        self.deliveries = [uuid7() for _ in range(deliveries)]
        with database.write(engine) as conn:
            conn.execute(
                insert(APPS).values(
                    id=self.app, name="msp", client_id="c", version=1, created_at=NOW,
                )
            )  # fmt: skip
            conn.execute(
                insert(CREDENTIALS).values(
                    id=self.secret, app_registration_id=self.app, number=1, added_at=NOW,
                    client_secret_encrypted=BEFORE.seal(
                        b"s", context=app_secret_context(self.secret)
                    ),
                )
            )  # fmt: skip
            conn.execute(
                insert(CREDENTIALS).values(
                    id=self.certificate, app_registration_id=self.app, number=2, added_at=NOW,
                    private_key_encrypted=BEFORE.seal(
                        b"k", context=app_key_context(self.certificate)
                    ),
                )
            )  # fmt: skip
            conn.execute(
                insert(TENANTS).values(
                    id=self.tenant, slug="contoso", name="", directory_id="d", cloud="worldwide",
                    app_registration_id=self.app, notify={}, uncertain_policy="resend",
                    created_at=NOW,
                )
            )  # fmt: skip
            conn.execute(
                insert(MAILBOXES).values(
                    id=self.mailbox, tenant_id=self.tenant, address="a@contoso.example",
                    is_default=True, park_count=0, pause_count=0, created_at=NOW,
                )
            )  # fmt: skip
            conn.execute(
                insert(GRANTS).values(
                    id=self.grant, mailbox_id=self.mailbox, kind="delegated", version=3,
                    account="", tenant_claim="", object_claim="", granted_at=NOW,
                    cache_encrypted=BEFORE.seal(b"cache", context=grant_context(self.grant)),
                )
            )  # fmt: skip
            for number, delivery in enumerate(self.deliveries):
                self.add(conn, delivery, self.sealed(BEFORE, delivery, number, size))

    @staticmethod
    def sealed(vault: Vault, delivery: UUID, number: int, size: int = 10) -> bytes:
        return vault.seal(f"{number}".encode().ljust(size), context=delivery_context(delivery))

    def add(self, conn: Connection, delivery: UUID, payload: bytes) -> None:
        conn.execute(
            insert(DELIVERIES).values(
                id=delivery, tenant_id=self.tenant, mailbox_id=self.mailbox, state="queued",
                severity=2, fingerprint="f", subject="s", recipients=[], refused={},
                payload_encrypted=payload, message_id="m", enqueued_at=NOW, due_at=NOW,
                attempts=0, claims=0, uncertain=False, replayed=0,
            )
        )  # fmt: skip

    def payloads(self) -> dict[UUID, bytes]:
        with database.read(self.engine) as conn:
            rows = conn.execute(select(DELIVERIES.c.id, DELIVERIES.c.payload_encrypted))
            return {row[0]: row[1] for row in rows}


def test_everything_moves_to_the_new_key(engine: Engine) -> None:
    """After a rotation the old key can be removed: all of it opens with the new one alone."""
    stock = Stock(engine, deliveries=7)
    told: list[tuple[str, int, int]] = []
    report = rotate(engine, BOTH, batch=3, progress=lambda *step: told.append(step))

    assert report.resealed == {
        "app secrets": 1, "app keys": 1, "grants": 1, "consent links": 0, "deliveries": 7,
        "large contents": 0, "tenant addresses": 0,
    }  # fmt: skip
    assert report.complete
    assert report.unreadable == ()
    assert told[-3:] == [("deliveries", 3, 7), ("deliveries", 6, 7), ("deliveries", 7, 7)]
    with database.read(engine) as conn:
        (secret, _), (_, key) = conn.execute(
            select(
                CREDENTIALS.c.client_secret_encrypted, CREDENTIALS.c.private_key_encrypted
            ).order_by(CREDENTIALS.c.number)
        ).all()
        cache, version = conn.execute(select(GRANTS.c.cache_encrypted, GRANTS.c.version)).one()
    assert AFTER.open(secret, context=app_secret_context(stock.secret)) == b"s"
    assert AFTER.open(key, context=app_key_context(stock.certificate)) == b"k"
    assert AFTER.open(cache, context=grant_context(stock.grant)) == b"cache"
    assert version == 3
    for number, delivery in enumerate(stock.deliveries):
        opened = AFTER.open(stock.payloads()[delivery], context=delivery_context(delivery))
        assert opened == f"{number}".encode().ljust(10)


def test_a_second_run_has_nothing_to_do(engine: Engine) -> None:
    """What is under the first key already is not written again."""
    stock = Stock(engine, deliveries=2)
    rotate(engine, BOTH)
    before = stock.payloads()
    report = rotate(engine, BOTH)

    assert not any(report.resealed.values())
    assert stock.payloads() == before


def test_an_empty_database(engine: Engine) -> None:
    """Where nothing is, nothing is left."""
    report = rotate(engine, BOTH)

    assert report.complete
    assert not any(report.resealed.values())


def test_empty_columns_are_left_alone(engine: Engine) -> None:
    """An app without a key, or a payload that was removed, has nothing to rotate."""
    stock = Stock(engine, deliveries=1)
    with database.write(engine) as conn:
        conn.execute(update(CREDENTIALS).values(private_key_encrypted=None))
        conn.execute(update(DELIVERIES).values(payload_encrypted=b""))
    report = rotate(engine, BOTH)

    assert report.resealed["app keys"] == report.resealed["deliveries"] == 0
    assert report.complete
    assert stock.payloads() == {stock.deliveries[0]: b""}


def test_what_no_key_opens_stays(engine: Engine) -> None:
    """A damaged value is reported with its id and does not stop the others."""
    stock = Stock(engine, deliveries=3)
    damaged = BEFORE.seal(b"x", context="elsewhere")
    with database.write(engine) as conn:
        conn.execute(
            update(DELIVERIES)
            .where(DELIVERIES.c.id == stock.deliveries[1])
            .values(payload_encrypted=damaged)
        )
    report = rotate(engine, BOTH, batch=1)

    assert report.resealed["deliveries"] == 2
    assert report.left == {
        "app secrets": 0, "app keys": 0, "grants": 0, "consent links": 0, "deliveries": 1,
        "large contents": 0, "tenant addresses": 0,
    }  # fmt: skip
    assert not report.complete
    (unreadable,) = report.unreadable
    assert (unreadable.kind, unreadable.id) == ("deliveries", stock.deliveries[1])
    assert "does not open" in unreadable.reason
    assert stock.payloads()[stock.deliveries[1]] == damaged


class Racing(Vault):
    """A vault in whose hands a value takes so long that a worker refreshes the grant meanwhile."""

    __slots__ = ("stock", "writes_with")

    def __init__(self, stock: Stock, writes_with: Vault) -> None:
        super().__init__([NEW, OLD])
        self.stock, self.writes_with = stock, [writes_with]

    def reseal(self, sealed: bytes, *, context: str) -> bytes:
        if context == grant_context(self.stock.grant) and self.writes_with:
            fresh = self.writes_with.pop().seal(b"refreshed", context=context)
            with database.write(self.stock.engine) as conn:
                conn.execute(update(GRANTS).values(cache_encrypted=fresh, version=4))
        return super().reseal(sealed, context=context)


@pytest.mark.parametrize(("writer", "resealed"), [(BOTH, 0), (BEFORE, 1)], ids=["new", "old"])
def test_a_refresh_at_the_same_moment_is_not_lost(
    engine: Engine, writer: Vault, resealed: int
) -> None:
    """A token that a worker stored meanwhile stays, and moves too if it has the old key only."""
    stock = Stock(engine)
    report = rotate(engine, Racing(stock, writer))

    with database.read(engine) as conn:
        cache, version = conn.execute(select(GRANTS.c.cache_encrypted, GRANTS.c.version)).one()
    assert AFTER.open(cache, context=grant_context(stock.grant)) == b"refreshed"
    assert version == 4
    assert report.resealed["grants"] == resealed
    assert report.complete


def test_what_comes_in_meanwhile_is_moved_too(engine: Engine) -> None:
    """A producer that still has the old key first is no reason to run it again."""
    stock = Stock(engine, deliveries=2)
    late = [uuid7()]

    def enqueue(kind: str, _done: int, _total: int) -> None:
        if kind == "deliveries" and late:
            delivery = late.pop()
            with database.write(engine) as conn:
                stock.add(conn, delivery, stock.sealed(BEFORE, delivery, 9))

    report = rotate(engine, BOTH, batch=1, progress=enqueue)

    assert report.resealed["deliveries"] == 3
    assert report.complete


def test_large_values_do_not_share_a_transaction(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deliveries with attachments are written a few at a time."""
    monkeypatch.setattr(rotation, "_TRANSACTION_BYTES", 2500)
    stock = Stock(engine, deliveries=5, size=1000)
    done: list[int] = []
    rotate(
        engine, BOTH, progress=lambda kind, n, _: done.append(n) if kind == "deliveries" else None
    )

    assert done == [2, 4, 5]
    assert not any(map(BOTH.needs_rotation, stock.payloads().values()))
