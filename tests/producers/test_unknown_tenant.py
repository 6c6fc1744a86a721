"""What is said about an alert for a tenant that does not exist, and what that costs the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, event

from models.alert import AlertEmail
from models.errors import NotFound
from models.vault import Vault
from producers.enqueue import Producer
from tests.models.factories import states, world_rows


def alert(tenant: str, **more: str) -> AlertEmail:
    return AlertEmail(
        tenant=tenant, to=["ops@example.com"], subject="Disk C: is full", text="Now.", **more
    )


@pytest.fixture
def producer(engine: Engine) -> Producer:
    """A producer before the tenants contoso and fabrikam."""
    for slug in ("contoso", "fabrikam"):
        world_rows(engine, slug=slug)
    return Producer(engine, Vault([Vault.new_key()]), None)


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """Collect the queries that ask for tenants."""
    seen: list[str] = []

    def note(_conn, _cursor, statement, _parameters, _context, _many) -> None:
        if "FROM tenant" in statement:
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        pytest.param(
            alert("contos"), "no tenant 'contos'; the nearest is 'contoso'", id="misspelt"
        ),
        pytest.param(alert("zzz"), "no tenant 'zzz'$", id="nothing is near"),
        pytest.param(
            alert("fabricam", mailbox="alerts@fabricam.example"), "nearest is 'fabrikam'", id="both"
        ),
        pytest.param(
            alert("contoso", mailbox="nobody@contoso.example"), "has no mailbox", id="mailbox"
        ),
    ],
)
def test_the_nearest_tenant_is_named(
    engine: Engine, producer: Producer, wanted: AlertEmail, said: str
) -> None:
    """A misspelt tenant is answered with the one that was meant, and nothing is accepted."""
    for enqueue in (producer.enqueue_many, producer.enqueue_notifications):
        with pytest.raises(NotFound, match=said):
            enqueue([alert("contoso"), wanted])

    with engine.connect() as conn:
        assert states(conn) == {}


def test_known_tenants_are_asked_for_once(engine: Engine, producer: Producer) -> None:
    """Where all tenants are known, one query finds them all, and none looks for near names."""
    with statements(engine) as seen:
        producer.enqueue_many([alert("contoso"), alert("fabrikam"), alert("contoso")])

    assert len(seen) == 1
