from __future__ import annotations

import pytest

from models import directory
from models.clouds import CLOUDS
from models.database import read, write
from models.errors import NotFound
from models.ids import uuid7
from tests.models.directory_parts import DIRECTORY_ID, VAULT, add_contoso, connect

ALERTS = "alerts@contoso.example"


def contoso(engine, *, address=ALERTS, **options):
    with write(engine) as conn:
        add_contoso(conn, **options)
        return directory.add_mailbox(conn, tenant_slug="contoso", address=address).id


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=list(CLOUDS))
def test_a_cloud_fills_in_what_the_tenant_leaves_open(engine, cloud):
    """A tenant that names its cloud needs to name nothing else."""
    key = contoso(engine, cloud=cloud.name)
    with read(engine) as conn:
        sender = directory.sender(conn, key)

    assert sender.authority_url == f"{cloud.authority}/{DIRECTORY_ID}"
    assert (sender.smtp_host, sender.smtp_port) == (cloud.smtp_host, cloud.smtp_port)
    assert sender.scopes == (cloud.delegated_scope,)
    assert (sender.auth_user, sender.tenant_slug) == (ALERTS, "contoso")
    assert (sender.connected, sender.grant_id, sender.grant_version) == (False, None, 0)


def test_a_tenants_own_values_win(engine):
    """Every host, address and scope can be another than the cloud's."""
    key = contoso(
        engine,
        authority="https://localhost:8443",
        smtp_host="localhost",
        smtp_port=2525,
        scope="a b",
        max_message_bytes=20_000,
        uncertain_policy="hold",
    )
    with write(engine) as conn:
        directory.edit_mailbox(conn, ALERTS, auth_user="svc@contoso.example")
        sender = directory.sender(conn, key)

    assert sender.authority_url == f"https://localhost:8443/{DIRECTORY_ID}"
    assert (sender.smtp_host, sender.smtp_port) == ("localhost", 2525)
    assert sender.scopes == ("a", "b")
    assert (sender.max_message_bytes, sender.uncertain_policy) == (20_000, "hold")
    assert sender.auth_user == "svc@contoso.example"


def test_a_whole_issuer_stands_instead_of_the_authority(engine):
    """With an OIDC authority no directory id is appended to anything."""
    key = contoso(engine, oidc_authority="https://id.example/realms/a")
    with read(engine) as conn:
        sender = directory.sender(conn, key)

    assert (sender.authority_url, sender.oidc_authority) == (None, "https://id.example/realms/a")


def test_the_grants_kind_chooses_the_scope(engine):
    """Application permissions are asked for by the resource's default scope."""
    key = contoso(engine)
    with write(engine) as conn:
        delegated = connect(conn, ALERTS)
        sender = directory.sender(conn, key)
        assert (sender.connected, sender.grant_id) == (True, delegated.id)
        assert sender.scopes == ("https://outlook.office.com/SMTP.Send",)

        directory.connect_mailbox(conn, VAULT, mailbox_id=key, kind="app_only", cache=None)
        sender = directory.sender(conn, key)
        assert sender.scopes == ("https://outlook.office365.com/.default",)
        assert directory.senders(conn, tenant_id=sender.tenant_id) == [sender]


def test_no_mailbox_no_sender(engine):
    """A wake-up for a mailbox that is gone finds nothing, and that is no error."""
    with read(engine) as conn:
        assert directory.sender(conn, uuid7()) is None


def test_routes_know_what_single_questions_know(engine):
    """Routes read once for thousands of alerts answer as a query for each would."""
    key = contoso(engine, notify={"default": ["ops@contoso.example"]})
    with write(engine) as conn:
        other = directory.add_mailbox(
            conn, tenant_slug="contoso", address="backup@contoso.example"
        ).id
        add_contoso(conn, slug="empty")
        for routes in (
            directory.routes(conn),
            directory.routes(conn, slugs=["contoso", "empty", "nobody"]),
        ):
            assert routes.find("contoso").mailbox_id == key
            assert routes.find("contoso", "BACKUP@contoso.example").mailbox_id == other
            assert routes.find("contoso").notify == {"default": ["ops@contoso.example"]}
            assert len(routes) == 2
            for slug, address, part in (
                ("nobody", None, "there is no tenant 'nobody'"),
                ("empty", None, "'empty' has no mailbox yet"),
                ("contoso", "x@contoso.example", "has no mailbox 'x@contoso.example'"),
            ):
                with pytest.raises(NotFound, match=part):
                    routes.find(slug, address)
                with pytest.raises(NotFound, match=part):
                    directory.route(conn, tenant_slug=slug, mailbox_address=address)
        found = directory.find_route(conn, tenant_slug="contoso")
        assert found == directory.routes(conn).find("contoso")


def test_a_misspelt_tenant_is_answered_with_the_nearest(engine):
    """Whoever hands in one alert for a misspelt tenant reads the right name."""
    contoso(engine)
    with read(engine) as conn, pytest.raises(NotFound, match="nearest is 'contoso'"):
        directory.route(conn, tenant_slug="contosso")
