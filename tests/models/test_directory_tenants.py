from __future__ import annotations

import pytest

from models import directory
from models.database import read, write
from models.errors import ConfigurationError, Conflict, NotFound
from tests.models.directory_parts import CERTIFICATE, DIRECTORY_ID, VAULT, add_contoso, connect
from tests.models.factories import World, delivery_rows, row_of, set_delivery

ALERTS = "alerts@contoso.example"


def contoso_with_mailbox(engine):
    with write(engine) as conn:
        tenant = add_contoso(conn)
        mailbox = directory.add_mailbox(conn, tenant_slug="contoso", address=ALERTS)
        connect(conn, ALERTS)
    return World(mailbox.id, tenant.id, mailbox.id, (mailbox.id,))


def test_a_tenant_needs_only_a_directory_and_an_app(engine):
    """What is not said holds as the cloud says."""
    with write(engine) as conn:
        tenant = add_contoso(conn)

    assert (tenant.slug, tenant.directory_id, tenant.app) == ("contoso", DIRECTORY_ID, "main")
    assert (tenant.cloud, tenant.authority, tenant.smtp_host) == ("worldwide", None, None)
    assert (tenant.mailboxes, tenant.connected, tenant.parked, tenant.waiting) == (0, 0, 0, 0)
    assert tenant.notify == {}


def test_everything_can_be_overridden(engine, tmp_path):
    """All of a cloud's values can be replaced for one tenant, and given back."""
    ca = tmp_path / "ca.pem"
    ca.write_text(CERTIFICATE.pem)
    given = {
        "name": "Contoso Ltd",
        "cloud": "china",
        "authority": "https://localhost:8443",
        "smtp_host": "localhost",
        "smtp_port": 2525,
        "ca_file": str(ca),
        "scope": "a b",
        "notify": {"default": ["ops@contoso.example"]},
        "uncertain_policy": "hold",
        "max_message_bytes": 1_000_000,
    }
    with write(engine) as conn:
        tenant = add_contoso(conn, **given)

        assert {name: getattr(tenant, name) for name in given} == given
        tenant = directory.edit_tenant(
            conn, "contoso", authority=None, oidc_authority="https://id.example/a", smtp_port=None
        )
        assert (tenant.authority, tenant.smtp_port) == (None, None)
        assert tenant.oidc_authority == "https://id.example/a"
        assert directory.list_tenants(conn) == [tenant]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"cloud": "moon"}, "worldwide, gcc"),
        ({"cloud": None}, "cannot be cleared"),
        ({"authority": "https://a", "oidc_authority": "https://b"}, "exclude each other"),
        ({"smtp_port": 0}, "65535"),
        ({"ca_file": "/nowhere.pem"}, "cannot be read"),
    ],
    ids=str,
)
def test_a_bad_value_changes_nothing(engine, changes, part):
    """Neither adding nor editing lets an invalid value in."""
    with write(engine) as conn:
        before = add_contoso(conn)
    with pytest.raises(ConfigurationError, match=part), write(engine) as conn:
        directory.edit_tenant(conn, "contoso", **changes)
    with pytest.raises(ConfigurationError, match=part), write(engine) as conn:
        add_contoso(conn, slug="other", **changes)

    with read(engine) as conn:
        assert directory.list_tenants(conn) == [before]


def test_a_slug_is_taken_once(engine):
    """A second tenant of the same slug is refused, with the way out."""
    with write(engine) as conn:
        add_contoso(conn)
        with pytest.raises(Conflict, match="tenants edit contoso"):
            add_contoso(conn)


def test_unknown_names_are_answered_with_the_nearest(engine):
    """Whoever misspells a tenant or an app reads the right one."""
    with write(engine) as conn:
        add_contoso(conn)
        with pytest.raises(NotFound, match="nearest is 'contoso'"):
            directory.tenant(conn, "contosso")
        with pytest.raises(NotFound, match="nearest is 'main'"):
            directory.edit_tenant(conn, "contoso", app="mainn")


def test_a_change_that_voids_consents_needs_force(engine):
    """A tenant's connected mailboxes are not cut off by a slip of the keyboard."""
    contoso_with_mailbox(engine)
    other = "00000000-0000-4000-8000-000000000001"
    with pytest.raises(Conflict, match="directory_id"), write(engine) as conn:
        directory.edit_tenant(conn, "contoso", directory_id=other)
    with write(engine) as conn:
        assert directory.tenant(conn, "contoso").directory_id == DIRECTORY_ID
        tenant = directory.edit_tenant(conn, "contoso", directory_id=other, force=True)

        assert (tenant.directory_id, tenant.connected) == (other, 0)
        assert directory.mailbox(conn, ALERTS).standing == "not connected"


def test_another_app_with_the_same_client_id_keeps_the_consents(engine):
    """What does not touch a consent needs no force."""
    contoso_with_mailbox(engine)
    with write(engine) as conn:
        directory.add_app(
            conn,
            VAULT,
            name="again",
            client_id=directory.app(conn, "main").client_id,
            credential=directory.Credential.secret("x"),
        )
        tenant = directory.edit_tenant(conn, "contoso", app="again", name="New name")

        assert directory.edit_tenant(conn, "contoso") == tenant

    assert (tenant.app, tenant.name, tenant.connected) == ("again", "New name", 1)


def test_an_empty_tenant_is_removed_whole(engine):
    """A tenant without mailboxes and deliveries leaves nothing behind."""
    with write(engine) as conn:
        add_contoso(conn)
        removal = directory.remove_tenant(conn, "contoso")

        assert removal.deleted
        assert directory.list_tenants(conn) == []


def test_a_tenant_with_mailboxes_needs_force(engine):
    """Consents are not thrown away by a slip of the keyboard."""
    contoso_with_mailbox(engine)
    with write(engine) as conn:
        with pytest.raises(Conflict, match="1 mailbox"):
            directory.remove_tenant(conn, "contoso")
        removal = directory.remove_tenant(conn, "contoso", force=True)

        assert (removal.deleted, removal.grants, removal.kept) == (True, 1, 0)
        assert directory.list_tenants(conn) == []


def test_removal_cancels_what_waits_and_keeps_the_record(engine):
    """Deliveries outlive their tenant's service: queued ones cancelled, settled ones as they are."""
    world = contoso_with_mailbox(engine)
    waits, done = delivery_rows(engine, world, 2)
    set_delivery(engine, done, state="accepted")
    with write(engine) as conn:
        removal = directory.remove_tenant(conn, "contoso", force=True)

        assert (removal.cancelled, removal.kept, removal.deleted) == (1, 2, False)
        assert directory.tenant(conn, "contoso").mailboxes == 0
        assert directory.list_mailboxes(conn) == []
        with pytest.raises(NotFound, match="no mailbox yet"):
            directory.route(conn, tenant_slug="contoso")
    assert row_of(engine, waits).state == "cancelled"
    assert row_of(engine, waits).settled_at is not None
    assert row_of(engine, done).state == "accepted"


def test_nothing_is_removed_under_a_workers_hands(engine):
    """A mail that is being sent is settled first."""
    world = contoso_with_mailbox(engine)
    waits, sends = delivery_rows(engine, world, 2)
    set_delivery(engine, sends, state="sending", claimed_by="w")
    with pytest.raises(Conflict, match="in a worker's hands"), write(engine) as conn:
        directory.remove_tenant(conn, "contoso", force=True)

    assert row_of(engine, waits).state == "queued"
    with read(engine) as conn:
        assert directory.tenant(conn, "contoso").connected == 1
