"""
The way of an administrator's consent for a whole directory, there and back.

Entra tells of it by sending the browser back, which anybody could do by hand; so nothing is decided
by it. What comes back belongs to one of our links only with a ``state`` that the vault made.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from console.consent import admin_consent_link
from console.public_address import callback_address
from models.clouds import resolve
from models.errors import VaultError
from models.grants import APP_ONLY, DELEGATED
from models.senders import Sender, authority_url, scopes
from models.settings import Settings
from models.tenants import TenantEntry
from models.vault import Vault

LASTS = timedelta(days=14)
"""How long an address that was given out leads back to us: an administrator may be on leave."""
ALLOWED = "admin-consent"
"""In the audit trail: an administrator came back and the app is allowed."""

_CONTEXT = "admin-consent"
_LONGEST = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """
    What an administrator was asked for.

    Attributes:
        tenant_slug: For which tenant.
        link_id: The consent link on whose page it was; None: from the command line.
        kind: Of the grants to come: what was asked for is theirs alone.
        mark: Tells the address that was given out from every other one; empty before it is.
    """

    tenant_slug: str
    link_id: UUID | None
    kind: str = DELEGATED
    mark: str = ""


def address_for_tenant(
    settings: Settings, vault: Vault, tenant: TenantEntry, *, kind: str = DELEGATED
) -> str | None:
    """
    Give the address at which a tenant's administrator allows the app.

    Args:
        settings: With a public address the answer comes back to us, else to localhost.
        vault: Makes the state.
        tenant: Whose directory.
        kind: Of the grants to come, ``delegated`` or ``app_only``.

    Returns:
        None where the sign-in service is another one than Entra.
    """
    cloud = resolve(tenant.cloud)
    authority = authority_url(
        cloud=cloud,
        directory_id=tenant.directory_id,
        authority=tenant.authority,
        oidc_authority=tenant.oidc_authority,
    )
    if authority is None:
        return None
    asked = scopes(cloud=cloud, grant_kind=kind, override=tenant.scope)
    if kind == APP_ONLY:
        # App permissions are given with a resource's ".default" only, whatever the tenant's scope.
        asked = (cloud.app_scope,)
    return _address(
        settings,
        vault,
        Asked(tenant.slug, None, kind),
        authority=authority,
        client_id=tenant.client_id,
        asked_scopes=asked,
    )


def address_for_link(settings: Settings, vault: Vault, sender: Sender, link_id: UUID) -> str | None:
    """Do the same for the page of a consent link, to which it leads back."""
    if sender.authority_url is None:
        return None
    return _address(
        settings,
        vault,
        Asked(sender.tenant_slug, link_id),
        authority=sender.authority_url,
        client_id=sender.client_id,
        asked_scopes=sender.scopes,
    )


def read_state(vault: Vault, state: str) -> Asked | None:
    """Read a state that came back; None: it is not one of these, or too old."""
    if not state.isascii() or len(state) > _LONGEST:
        return None
    try:
        sealed = base64.b64decode(state + "=" * (-len(state) % 4), altchars=b"-_", validate=True)
        inside = json.loads(vault.open(sealed, context=_CONTEXT))
    except (binascii.Error, ValueError, VaultError):
        return None
    if datetime.fromisoformat(inside["until"]) <= datetime.now(UTC):
        return None
    link = inside["link"]
    mark = hashlib.sha256(sealed).hexdigest()[:16]
    return Asked(
        inside["tenant"],
        None if link is None else UUID(link),
        # One that was given out before the kind was in it tells of none.
        kind=inside.get("kind", ""),
        mark=mark,
    )


def _address(
    settings: Settings,
    vault: Vault,
    asked: Asked,
    *,
    authority: str,
    client_id: str,
    asked_scopes: tuple[str, ...],
) -> str:
    scope = " ".join(asked_scopes)
    if not settings.public_url:
        return admin_consent_link(authority, client_id=client_id, scope=scope)
    inside = {
        "tenant": asked.tenant_slug,
        "link": None if asked.link_id is None else str(asked.link_id),
        "kind": asked.kind,
        "until": (datetime.now(UTC) + LASTS).isoformat(timespec="seconds"),
    }
    sealed = vault.seal(json.dumps(inside).encode(), context=_CONTEXT)
    return admin_consent_link(
        authority,
        client_id=client_id,
        scope=scope,
        redirect_uri=callback_address(settings),
        state=base64.urlsafe_b64encode(sealed).decode("ascii").rstrip("="),
    )
