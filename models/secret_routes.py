"""
Where secrets and tokens may go: whoever can write a row cannot send them anywhere else.

A tenant's row says to which sign-in service its client secret is posted, and to which server its
access tokens are shown. Two locks keep that from being decided by an UPDATE alone:

* Hosts. Those of Microsoft's clouds and this machine itself are always good; any other one must be
  named in ALERTPOST_ALLOWED_HOSTS, which is not in the database.
* Seals. Whoever names another host through alertpost leaves a seal beside it, made with a key that
  is not in the database either. A row that says something else than its seal is not followed.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import Connection, select, update

from models.clouds import CLOUDS, resolve
from models.errors import ConfigurationError, VaultError
from models.lookups import TENANT
from models.senders import authority_url
from models.vault import route_context

if TYPE_CHECKING:
    from models.senders import Sender
    from models.tenants import TenantEntry
    from models.vault import Vault

OVERRIDES = ("authority", "oidc_authority", "smtp_host")
"""Of a tenant: what names a host."""

_ROUTE = frozenset({*OVERRIDES, "app", "ca_file", "cloud", "directory_id", "scope", "smtp_port"})
"""Of a tenant: what a seal is made over."""


def _host(address: str) -> str:
    return (urlsplit(address).hostname or "") if "//" in address else address.lower()


_MICROSOFT = frozenset(
    host for cloud in CLOUDS.values() for host in (_host(cloud.authority), cloud.smtp_host)
)


def is_own(host: str) -> bool:
    """Say whether a host is Microsoft's or this machine itself: such a one needs no leave."""
    if host in _MICROSOFT or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """
    The hosts that secrets and tokens may go to.

    Attributes:
        named: Beside those that are always good; in lower case, as in the settings.
    """

    named: Collection[str] = frozenset()

    def __contains__(self, host: str) -> bool:
        """Say whether a host is one of them."""
        return is_own(host) or host.lower() in self.named

    def check(self, address: str, *, what: str) -> None:
        """
        Refuse an address, or the name of a host, that is none of them.

        Raises:
            ConfigurationError: Names the host and the setting.
        """
        host = _host(address)
        if host not in self:
            raise ConfigurationError(
                f"{what} {host!r} is neither Microsoft's nor this machine, and secrets go to no "
                "other host than those that ALERTPOST_ALLOWED_HOSTS names: if it is right, add it "
                "there for all processes"
            )


NO_OTHERS = AllowedHosts()
"""Nothing but what is always good."""


class RouteGuard:
    """
    Checks a sender before its secret or token is used.

    Args:
        vault: Opens seals.
        hosts: Which are allowed.
    """

    def __init__(self, vault: Vault, hosts: AllowedHosts) -> None:
        self._vault = vault
        self._hosts = hosts

    def check(self, sender: Sender) -> None:
        """
        Make sure that its addresses were given through alertpost, and are allowed.

        Raises:
            ConfigurationError: They are not; says what to do.
        """
        sign_in = _host(sender.oidc_authority or sender.authority_url or "")
        for host in (sign_in, sender.smtp_host.lower()):
            self._hosts.check(host, what=f"tenant {sender.tenant_slug}: the host")
        if is_own(sign_in) and is_own(sender.smtp_host.lower()):
            return
        if not _is_sealed(self._vault, sender.tenant_id, sender.route_sealed, _of_sender(sender)):
            raise ConfigurationError(
                f"the addresses of tenant {sender.tenant_slug} were not given through alertpost, "
                "or its row was changed since: nothing goes there. Look at them with `alertpost "
                f"tenants show {sender.tenant_slug}`; if they are right, give them again: "
                f"`alertpost tenants edit {sender.tenant_slug} --help` says how"
            )


def seal_route(
    conn: Connection,
    vault: Vault,
    entry: TenantEntry,
    *,
    hosts: AllowedHosts,
    before: TenantEntry | None = None,
    given: Collection[str],
) -> None:
    """
    Seal a tenant's addresses as they are now, where they are allowed and may be trusted.

    They may if they were sealed before the change, or if the change gives each of them: an edit of
    something else must not bless what somebody wrote into the row.

    Args:
        conn: The transaction of the change.
        vault: Seals.
        entry: The tenant, as it is after the change.
        hosts: Which are allowed.
        before: The same before the change; None: it is new.
        given: Names of the values that the change gives.

    Raises:
        ConfigurationError: The change gives a host that is not allowed.
    """
    if not _ROUTE.intersection(given):
        return
    foreign = {
        name
        for name in OVERRIDES
        if (value := getattr(entry, name)) is not None and not is_own(_host(value))
    }
    for name in sorted(foreign.intersection(given)):
        hosts.check(getattr(entry, name), what=name.replace("_", " "))
    old = conn.scalar(select(TENANT.c.route_encrypted).where(TENANT.c.id == entry.id))
    trusted = foreign <= set(given) or (
        before is not None and _is_sealed(vault, before.id, old, _of_tenant(before))
    )
    sealed = None
    if foreign and trusted:
        sealed = vault.seal(_of_tenant(entry).encode(), context=route_context(entry.id))
    conn.execute(update(TENANT).where(TENANT.c.id == entry.id).values(route_encrypted=sealed))


def _is_sealed(vault: Vault, tenant_id: UUID, sealed: bytes | None, route: str) -> bool:
    if sealed is None:
        return False
    try:
        return vault.open(sealed, context=route_context(tenant_id)) == route.encode()
    except VaultError:
        return False


def _of_sender(sender: Sender) -> str:
    return json.dumps(
        [
            sender.client_id, sender.directory_id, sender.authority_url, sender.oidc_authority,
            sender.smtp_host, sender.smtp_port, sender.ca_file,
        ]
    )  # fmt: skip


def _of_tenant(entry: TenantEntry) -> str:
    cloud = resolve(entry.cloud)
    url = authority_url(
        cloud=cloud,
        directory_id=entry.directory_id,
        authority=entry.authority,
        oidc_authority=entry.oidc_authority,
    )
    return json.dumps(
        [
            entry.client_id, entry.directory_id, url, entry.oidc_authority,
            entry.smtp_host or cloud.smtp_host, entry.smtp_port or cloud.smtp_port, entry.ca_file,
        ]
    )  # fmt: skip
