"""Whoever can write a tenant's row cannot send its secret or its tokens anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select, update

from models import rotation, senders, tenants
from models.database import read, write
from models.errors import ConfigurationError
from models.lookups import TENANT
from models.secret_routes import AllowedHosts, RouteGuard, seal_route
from models.tenants import TenantEntry
from models.vault import Vault
from tests.fixtures.foreign_provider import Provider
from tests.fixtures.whole import Whole
from tests.models.directory_parts import add_contoso
from tests.workers.test_foreign_provider import sender
from tests.workers.visit_parts import IMPATIENT, change, send, visit
from workers.entra import Entra
from workers.visit import VisitEnd

GUID = "11111111-2222-3333-4444-555555555555"
OTHERS = AllowedHosts(frozenset({"id.example", "mail.example", "evil.example"}))
EVERY = AllowedHosts(frozenset({*OTHERS.named, "unnamed.example"}))
ROUTE: dict[str, Any] = {"authority": "https://id.example", "smtp_host": "mail.example"}


@pytest.fixture
def vault() -> Vault:
    return Vault([Vault.new_key()])


@pytest.fixture
def mailbox_id(engine: Engine, vault: Vault) -> UUID:
    """A tenant whose hosts are neither Microsoft's nor ours, given as commands give them."""
    from models import mailboxes

    with write(engine) as conn:
        entry = add_contoso(conn, **ROUTE)
        seal_route(conn, vault, entry, hosts=OTHERS, given=ROUTE.keys())
        return mailboxes.add_mailbox(
            conn, tenant_slug="contoso", address="alerts@contoso.example"
        ).id


@pytest.fixture
def checked(engine: Engine, mailbox_id: UUID) -> Callable[[Vault], None]:
    def check(vault: Vault) -> None:
        with read(engine) as conn:
            found = senders.sender(conn, mailbox_id)
        assert found is not None
        RouteGuard(vault, OTHERS).check(found)

    return check


def _write(engine: Engine, **values: Any) -> None:
    with write(engine) as conn:
        conn.execute(update(TENANT).values(**values))


def _edit(engine: Engine, vault: Vault, **changes: Any) -> TenantEntry:
    with write(engine) as conn:
        before = tenants.tenant(conn, "contoso")
        entry = tenants.edit_tenant(conn, "contoso", **changes)
        seal_route(conn, vault, entry, hosts=EVERY, before=before, given=changes.keys())
        return entry


def test_what_was_given_through_alertpost_is_followed(
    checked: Callable[[Vault], None], vault: Vault
) -> None:
    """Hosts that the settings name, sealed when they were given."""
    checked(vault)


@pytest.mark.parametrize(
    "written",
    [
        {"smtp_host": "evil.example"},
        {"smtp_port": 2525},
        {"authority": "https://evil.example"},
        {"authority": None, "oidc_authority": "https://evil.example/realm"},
        {"directory_id": GUID},
        {"ca_file": "/tmp/theirs.pem"},
        {"route_encrypted": None},
        {"route_encrypted": b"\x01forged"},
    ],
    ids=str,
)
def test_what_was_written_into_the_row_is_not(
    engine: Engine, checked: Callable[[Vault], None], vault: Vault, written: dict[str, Any]
) -> None:
    """Also hosts that are allowed for another tenant: the row says something else than its seal."""
    _write(engine, **written)

    with pytest.raises(ConfigurationError, match="tenants edit contoso"):
        checked(vault)


def test_a_seal_does_not_serve_another_tenant(
    engine: Engine, checked: Callable[[Vault], None], vault: Vault
) -> None:
    """Whoever copies a whole row's addresses copies no seal."""
    with write(engine) as conn:
        other = add_contoso(conn, slug="fabrikam", **ROUTE)
        seal_route(conn, vault, other, hosts=OTHERS, given=ROUTE.keys())
        theirs = conn.scalar(select(TENANT.c.route_encrypted).where(TENANT.c.slug == "fabrikam"))
        conn.execute(
            update(TENANT).where(TENANT.c.slug == "contoso").values(route_encrypted=theirs)
        )

    with pytest.raises(ConfigurationError):
        checked(vault)


def test_an_edit_of_something_else_blesses_nothing(
    engine: Engine, checked: Callable[[Vault], None], vault: Vault
) -> None:
    """Only giving each foreign address again does; an honest row stays sealed over its edits."""
    _edit(engine, vault, smtp_port=2587)
    checked(vault)
    _write(engine, smtp_host="evil.example")

    _edit(engine, vault, smtp_port=587)
    with pytest.raises(ConfigurationError):
        checked(vault)
    _edit(engine, vault, smtp_host="mail.example")
    with pytest.raises(ConfigurationError):
        checked(vault)

    _edit(engine, vault, **ROUTE)
    checked(vault)


def test_microsofts_own_hosts_need_no_seal_and_others_need_leave(
    engine: Engine, checked: Callable[[Vault], None], vault: Vault, mailbox_id: UUID
) -> None:
    """A tenant of a cloud, as nearly all are, has nothing that an update could bend."""
    _edit(engine, vault, authority=None, smtp_host=None)
    _write(engine, route_encrypted=None)
    checked(vault)

    _edit(engine, vault, smtp_host="unnamed.example")
    with pytest.raises(ConfigurationError, match="ALERTPOST_ALLOWED_HOSTS"):
        checked(vault)


def test_a_rotation_of_keys_takes_the_seals_along(
    engine: Engine, checked: Callable[[Vault], None], vault: Vault
) -> None:
    """Or every such tenant would stop when the old key goes."""
    old = next(iter(vault._keys.values()))
    new = Vault.new_key()

    report = rotation.rotate(engine, Vault([new, old]))

    assert report.resealed["tenant addresses"] == 1
    checked(Vault([new]))


class TestAWorker:
    @pytest.fixture
    def settings_changes(self) -> dict[str, Any]:
        return IMPATIENT | {"allowed_hosts": ("evil.example",)}

    @pytest.mark.parametrize(
        "written",
        [
            {"smtp_host": "evil.example"},
            {"authority": "https://evil.example"},
            {"authority": "https://unnamed.example"},
        ],
        ids=str,
    )
    async def test_it_follows_no_row_that_was_bent(
        self, whole: Whole, written: dict[str, Any]
    ) -> None:
        """The mailbox is parked with the reason, though its token is at hand; nobody is asked."""
        first = send(whole)
        await visit(whole, first.mailbox_id)
        await whole.services.connections.close()
        asked = whole.sandbox.world.ledger.by_grant_type.total()
        change(whole, TENANT, **written)
        receipt = send(whole)

        end = await visit(whole, receipt.mailbox_id)

        box = whole.mailbox(receipt.mailbox_id)
        assert (end, box.park_reason) == (VisitEnd.HALTED, "misconfigured")
        assert "ALERTPOST_ALLOWED_HOSTS" in box.park_answer or "tenants edit" in box.park_answer
        assert whole.sandbox.world.ledger.by_grant_type.total() == asked
        assert whole.row(receipt.delivery_id).state == "queued"

    async def test_a_token_does_not_move_with_its_mailbox(self, whole: Whole) -> None:
        """A row that puts a mailbox under another tenant takes no cached token there."""
        receipt = send(whole)
        await visit(whole, receipt.mailbox_id)
        with read(whole.engine) as conn:
            here = senders.sender(conn, receipt.mailbox_id)
        assert here is not None
        lease = await whole.services.leases.get(here)
        import time
        from dataclasses import replace
        from uuid import uuid4

        moved = replace(here, tenant_id=uuid4())

        assert lease.serves(here, other_than=None, now=time.monotonic())
        assert not lease.serves(moved, other_than=None, now=time.monotonic())


def test_a_provider_cannot_send_the_secret_on(provider: Provider, sandbox_directory: Any) -> None:
    """Its discovery document may name any endpoint; only allowed hosts are asked."""
    from sandbox.authority import throwaway_authority

    ca_file = throwaway_authority(sandbox_directory).ca_file
    entra = Entra(ca_file=str(ca_file), timeout_seconds=10)
    with pytest.raises(ConfigurationError, match=r"'elsewhere\.example'.*ALERTPOST_ALLOWED_HOSTS"):
        entra._http.call().post("https://elsewhere.example/token", data={})
    with pytest.raises(ConfigurationError, match=r"elsewhere\.example"):
        entra.begin(
            sender(oidc_authority="https://elsewhere.example/realm"), _secret(), redirect_uri="x"
        )


def _secret() -> Any:
    from models.app_registrations import Credential

    return Credential.secret("s")
