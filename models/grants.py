"""
Grants: what the consents gave, one a mailbox.

A grant's cache is sealed for the grant's own key. A new consent is a new row with a new key, so
that a worker still refreshing under the old one loses for certain.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, delete, func, insert, select, update

from models.clock import utc_after, utc_now
from models.errors import ConfigurationError, Conflict, NotFound
from models.ids import uuid7
from models.lookups import MAILBOX, REMOVED, live_mailbox
from models.tables import METADATA
from models.vault import Vault, grant_context

GRANT = METADATA.tables["grant"]

DELEGATED = "delegated"
APP_ONLY = "app_only"


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """
    A grant as it is stored.

    Attributes:
        id: Part of the context under which the cache is sealed.
        kind: ``delegated`` or ``app_only``.
        cache_encrypted: MSAL's token cache, sealed; None for ``app_only``.
        version: Grows with every write and with every consent of the mailbox.
        account: The user name that consented, as Entra gave it.
    """

    id: UUID
    mailbox_id: UUID
    kind: str
    cache_encrypted: bytes | None = field(repr=False)
    version: int
    account: str
    tenant_claim: str
    object_claim: str
    granted_at: datetime
    refreshed_at: datetime | None


def connect_mailbox(
    conn: Connection,
    vault: Vault,
    *,
    mailbox_id: UUID,
    kind: str,
    cache: str | None,
    account: str = "",
    tenant_claim: str = "",
    object_claim: str = "",
) -> StoredGrant:
    """
    Seal and store what a consent gave.

    Args:
        conn: An open transaction.
        vault: Seals the cache for the new grant's key.
        mailbox_id: Whose grant it is.
        kind: ``delegated`` or ``app_only``.
        cache: MSAL's serialised token cache; None for ``app_only``.
        account: The user name that consented, as Entra gave it.
        tenant_claim: The ``tid`` of the ID token.
        object_claim: The ``oid`` of the ID token.

    Raises:
        As ``store_grant``.
    """
    key = uuid7()
    return store_grant(
        conn,
        mailbox_id=mailbox_id,
        kind=kind,
        cache_encrypted=(
            None if cache is None else vault.seal(cache.encode(), context=grant_context(key))
        ),
        account=account,
        tenant_claim=tenant_claim,
        object_claim=object_claim,
        grant_id=key,
    )


def store_grant(
    conn: Connection,
    *,
    mailbox_id: UUID,
    kind: str,
    cache_encrypted: bytes | None,
    account: str = "",
    tenant_claim: str = "",
    object_claim: str = "",
    grant_id: UUID | None = None,
) -> StoredGrant:
    """
    Replace the mailbox's grant and mark the mailbox connected.

    It does not resume a parked mailbox: what was parked for the same cause resumes together, which
    is ``lane.resume_scope``.

    Args:
        conn: An open transaction.
        mailbox_id: Whose grant it is.
        kind: ``delegated`` or ``app_only``.
        cache_encrypted: Sealed under ``vault.grant_context(grant_id)``.
        account: The user name that consented, as Entra gave it.
        tenant_claim: The ``tid`` of the ID token.
        object_claim: The ``oid`` of the ID token.
        grant_id: The new grant's key; needed where there is a cache.

    Raises:
        ConfigurationError: The kind is unknown, or kind and cache do not belong together.
        NotFound: There is no such mailbox.
        Conflict: The mailbox was removed.
    """
    if kind not in {DELEGATED, APP_ONLY}:
        raise ConfigurationError(f"grant {kind!r}: choose '{DELEGATED}' or '{APP_ONLY}'")
    if (kind == DELEGATED) != (cache_encrypted is not None):
        raise ConfigurationError("a delegated grant has a token cache, an app-only grant has none")
    if cache_encrypted is not None and grant_id is None:
        raise ConfigurationError("a sealed cache opens only under the grant id it was sealed for")
    # The update comes first: it holds the row, so that two consents at once cannot mix.
    connected = conn.execute(
        update(MAILBOX)
        .where(MAILBOX.c.id == mailbox_id)
        .values(connected_at=func.coalesce(MAILBOX.c.connected_at, utc_now()))
        .returning(MAILBOX.c.park_reason)
    ).one_or_none()
    if connected is None:
        raise NotFound("there is no such mailbox; it may have been removed meanwhile")
    if connected.park_reason == REMOVED:
        raise Conflict("the mailbox was removed; add it again before you connect it")
    previous = conn.scalar(select(GRANT.c.version).where(GRANT.c.mailbox_id == mailbox_id))
    conn.execute(delete(GRANT).where(GRANT.c.mailbox_id == mailbox_id))
    conn.execute(
        insert(GRANT).values(
            id=grant_id or uuid7(),
            mailbox_id=mailbox_id,
            kind=kind,
            cache_encrypted=cache_encrypted,
            version=(previous or 0) + 1,
            account=account,
            tenant_claim=tenant_claim,
            object_claim=object_claim,
            granted_at=utc_now(),
        )
    )
    stored = load_grant(conn, mailbox_id)
    assert stored is not None
    return stored


def update_grant(
    conn: Connection, *, grant_id: UUID, expected_version: int, cache_encrypted: bytes
) -> bool:
    """
    Write a refreshed cache, if nobody wrote in between.

    Returns:
        False where the version has moved on or the grant was replaced: read it again, the other
        holder's tokens are good.
    """
    written = conn.execute(
        update(GRANT)
        .where(GRANT.c.id == grant_id, GRANT.c.version == expected_version)
        .values(
            cache_encrypted=cache_encrypted,
            version=expected_version + 1,
            refreshed_at=utc_now(),
        )
    )
    return written.rowcount == 1


def load_grant(conn: Connection, mailbox_id: UUID) -> StoredGrant | None:
    """Return the mailbox's grant, None before the first consent."""
    row = conn.execute(select(GRANT).where(GRANT.c.mailbox_id == mailbox_id)).one_or_none()
    return None if row is None else StoredGrant(**row._mapping)  # noqa: SLF001 - a public name


def idle_since(
    conn: Connection, *, seconds: float, but_parked_for: Collection[str] = ()
) -> list[tuple[UUID, float]]:
    """
    Find delegated grants that nobody has used for so long, of mailboxes in service.

    Args:
        conn: An open transaction.
        seconds: How long, at least.
        but_parked_for: Mailboxes that are parked for one of these reasons are left out.

    Returns:
        Their mailboxes and for how many seconds, the longest first.
    """
    used = func.coalesce(GRANT.c.refreshed_at, GRANT.c.granted_at)
    rows = conn.execute(
        select(GRANT.c.mailbox_id, used.label("used_at"), utc_now().label("now"))
        .join(MAILBOX, MAILBOX.c.id == GRANT.c.mailbox_id)
        .where(
            GRANT.c.kind == DELEGATED,
            used < utc_after(-seconds),
            live_mailbox(),
            func.coalesce(MAILBOX.c.park_reason, "").not_in(but_parked_for),
        )
        .order_by(used)
    )
    return [(row.mailbox_id, (row.now - row.used_at).total_seconds()) for row in rows]


def open_cache(vault: Vault, grant: StoredGrant) -> str | None:
    """
    Return MSAL's serialised token cache in clear, None for an app-only grant.

    Raises:
        VaultError: No key opens it.
    """
    if grant.cache_encrypted is None:
        return None
    return vault.open(grant.cache_encrypted, context=grant_context(grant.id)).decode()


def withdraw(conn: Connection, mailbox_ids: list[UUID]) -> int:
    """
    Delete grants and mark their mailboxes as not connected; their lanes wait.

    Returns:
        How many grants there were.
    """
    gone = conn.execute(delete(GRANT).where(GRANT.c.mailbox_id.in_(mailbox_ids))).rowcount
    conn.execute(update(MAILBOX).where(MAILBOX.c.id.in_(mailbox_ids)).values(connected_at=None))
    return gone
