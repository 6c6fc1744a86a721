from __future__ import annotations

from contextlib import contextmanager

import pytest
from sqlalchemy import text

from models import directory
from models.database import create_engine_from, write
from models.errors import Conflict
from tests.models.directory_parts import DIRECTORY_ID, VAULT, add_contoso


@pytest.fixture
def postgresql(postgresql_url):
    engine = create_engine_from(postgresql_url)
    yield engine
    engine.dispose()


@contextmanager
def earlier_view(engine):
    """Open a transaction that does not see what others commit from now on."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as conn:
        conn.execute(text("SELECT 1 FROM tenant")).all()
        yield conn


def add_app(conn):
    return directory.add_app(
        conn,
        VAULT,
        name="second",
        client_id="client",
        credential=directory.Credential.secret("x"),
    )


def add_tenant(conn):
    return directory.add_tenant(conn, slug="fabrikam", directory_id=DIRECTORY_ID, app="main")


def add_mailbox(conn):
    return directory.add_mailbox(conn, tenant_slug="contoso", address="alerts@contoso.example")


@pytest.mark.parametrize("add", [add_app, add_tenant, add_mailbox])
def test_of_two_who_add_the_same_at_once_one_is_told(postgresql, add):
    """Whoever comes second meets a conflict, not a fault, even if the first was not yet visible."""
    with write(postgresql) as conn:
        add_contoso(conn)
    with earlier_view(postgresql) as late:
        with write(postgresql) as conn:
            add(conn)
        with pytest.raises(Conflict):
            add(late)


def test_an_app_that_gets_a_tenant_meanwhile_stays(postgresql):
    """An app registration is not removed from under a tenant that was added just now."""
    with write(postgresql) as conn:
        add_contoso(conn)
        add_app(conn)
    with earlier_view(postgresql) as late:
        with write(postgresql) as conn:
            directory.edit_tenant(conn, "contoso", app="second")
        with pytest.raises(Conflict, match="still serves"):
            directory.remove_app(late, "second")
