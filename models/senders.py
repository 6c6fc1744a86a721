"""What a visit needs to know about its mailbox, with the cloud's own values filled in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Connection, Uuid, bindparam, case, exists, null, select

from models.accounts import account_of
from models.auth_forms import AuthForm
from models.clock import utc_after
from models.clouds import Cloud, resolve
from models.grants import APP_ONLY, GRANT
from models.lookups import APP, MAILBOX, TENANT
from models.quota import external_limit
from models.tables import METADATA

if TYPE_CHECKING:
    from models.tenants import TenantEntry


LEARNED_SECONDS = 30 * 86_400.0
"""After so long a limit that a server taught us is tried anew: it may have been raised."""

_SUPPRESSION = METADATA.tables["suppression"]


@dataclass(frozen=True, slots=True)
class Sender:
    """
    One mailbox, its tenant, its app registration and its grant, joined.

    Attributes:
        auth_user: Whose token it is; the mailbox itself unless it is a shared one.
        auth_form: In which name that user signs in; see ``signs_in_as``.
        app_version: Grows with the app's credential.
        authority_url: ``https://host/<directory id>``; None where ``oidc_authority`` is given.
        oidc_authority: A whole issuer, instead of ``authority_url``.
        ca_file: Trusted certificates for both Entra and SMTP; None: those of the settings.
        scopes: What to ask Entra for, by the grant's kind or as the tenant says.
        uncertain_policy: ``resend`` or ``hold``.
        max_message_bytes: None: the limit of the settings.
        connected: Whether there is a grant to send under.
        external_limit: External recipients a day of the tenant; None: they are not counted.
        grant_version: 0 where there is no grant.
        route_sealed: What vouches for the addresses; see ``secret_routes``.
        max_recipients: Of one mail; None: no limit is known.
        suppresses: Whether addresses of the tenant are counted or suppressed, see ``suppressions``.
    """

    mailbox_id: UUID
    tenant_id: UUID
    tenant_slug: str
    address: str
    display_name: str | None
    auth_user: str
    app_id: UUID
    client_id: str
    app_version: int
    directory_id: str
    authority_url: str | None
    oidc_authority: str | None
    smtp_host: str
    smtp_port: int
    ca_file: str | None
    scopes: tuple[str, ...]
    uncertain_policy: str
    max_message_bytes: int | None
    connected: bool
    parked_at: datetime | None
    park_reason: str | None
    park_scope: str | None
    park_count: int
    resume_count: int
    probe_at: datetime | None
    paused_until: datetime | None
    pause_reason: str | None
    pause_count: int
    external_limit: int | None
    grant_id: UUID | None
    grant_kind: str | None
    grant_version: int
    auth_form: AuthForm = AuthForm.DELEGATE
    route_sealed: bytes | None = None
    max_recipients: int | None = None
    suppresses: bool = False

    @property
    def account(self) -> str:
        """Who signs in, as Microsoft's limits count it."""
        return account_of(self.address, self.auth_user)

    @property
    def is_shared(self) -> bool:
        """Whether another account authenticates for this mailbox."""
        return self.auth_user.lower() != self.address.lower()

    @property
    def signs_in_as(self) -> str:
        """The user that AUTH names."""
        return self.address if self.auth_form is AuthForm.MAILBOX else self.auth_user

    @property
    def credential(self) -> tuple[UUID | None, int]:
        """What Entra and Exchange judge at sign-in: which consent, under which secret."""
        return self.grant_id, self.app_version


def sender(conn: Connection, mailbox_id: UUID) -> Sender | None:
    """
    Return everything a visit needs about one mailbox, None if there is no such mailbox.

    Raises:
        ConfigurationError: The tenant's cloud is one that this version does not know.
    """
    row = conn.execute(_ONE, {"mailbox": mailbox_id}).one_or_none()
    return None if row is None else _sender(row)


def senders_by_mailbox(conn: Connection, mailbox_ids: Collection[UUID]) -> dict[UUID, Sender]:
    """Return the same about many mailboxes in one statement; unknown ones are missing."""
    if not mailbox_ids:
        return {}
    rows = conn.execute(_MANY, {"mailboxes": list(mailbox_ids)})
    return {row.mailbox_id: _sender(row) for row in rows}


def senders(conn: Connection, *, tenant_id: UUID) -> list[Sender]:
    """Return the senders of one tenant by address; for checks over all of its mailboxes."""
    rows = conn.execute(_JOINED.where(MAILBOX.c.tenant_id == tenant_id).order_by(MAILBOX.c.address))
    return [_sender(row) for row in rows]


def authority_url(
    *, cloud: Cloud, directory_id: str, authority: str | None, oidc_authority: str | None
) -> str | None:
    """Return the authority with the directory id, None where a whole issuer stands for it."""
    return None if oidc_authority else f"{authority or cloud.authority}/{directory_id}"


def sign_in_address(tenant: TenantEntry) -> str:
    """Return the address of the service that a tenant signs in at."""
    authority = tenant.authority or resolve(tenant.cloud).authority
    return tenant.oidc_authority or authority


def scopes(*, cloud: Cloud, grant_kind: str | None, override: str | None) -> tuple[str, ...]:
    """Return what to ask Entra for."""
    if override:
        return tuple(override.split())
    return (cloud.app_scope if grant_kind == APP_ONLY else cloud.delegated_scope,)


_JOINED = (
    select(
        MAILBOX.c.id.label("mailbox_id"),
        TENANT.c.id.label("tenant_id"),
        TENANT.c.slug.label("tenant_slug"),
        MAILBOX.c.address,
        MAILBOX.c.display_name,
        MAILBOX.c.auth_user,
        MAILBOX.c.auth_form,
        APP.c.id.label("app_id"),
        APP.c.client_id,
        APP.c.version.label("app_version"),
        TENANT.c.directory_id,
        TENANT.c.cloud,
        TENANT.c.authority,
        TENANT.c.oidc_authority,
        TENANT.c.smtp_host,
        TENANT.c.smtp_port,
        TENANT.c.ca_file,
        TENANT.c.route_encrypted,
        TENANT.c.scope,
        TENANT.c.uncertain_policy,
        TENANT.c.max_message_bytes,
        MAILBOX.c.connected_at,
        MAILBOX.c.parked_at,
        MAILBOX.c.park_reason,
        MAILBOX.c.park_scope,
        MAILBOX.c.park_count,
        MAILBOX.c.resume_count,
        MAILBOX.c.probe_at,
        MAILBOX.c.paused_until,
        MAILBOX.c.pause_reason,
        MAILBOX.c.pause_count,
        case(
            (MAILBOX.c.recipients_learned_at < utc_after(-LEARNED_SECONDS), null()),
            else_=MAILBOX.c.max_recipients,
        ).label("max_recipients"),
        # By a column: `SELECT *` asks for the right to read all of them.
        exists(_SUPPRESSION.c.tenant_id)
        .where(_SUPPRESSION.c.tenant_id == TENANT.c.id)
        .correlate(TENANT)
        .label("suppresses"),
        TENANT.c.licences,
        TENANT.c.trial,
        GRANT.c.id.label("grant_id"),
        GRANT.c.kind.label("grant_kind"),
        GRANT.c.version.label("grant_version"),
    )
    .join_from(MAILBOX, TENANT, MAILBOX.c.tenant_id == TENANT.c.id)
    .join(APP, TENANT.c.app_registration_id == APP.c.id)
    .outerjoin(GRANT, GRANT.c.mailbox_id == MAILBOX.c.id)
)


_ONE = _JOINED.where(MAILBOX.c.id == bindparam("mailbox", type_=Uuid()))
_MANY = _JOINED.where(MAILBOX.c.id.in_(bindparam("mailboxes", type_=Uuid(), expanding=True)))


def _sender(row: Any) -> Sender:
    cloud = resolve(row.cloud)
    return Sender(
        mailbox_id=row.mailbox_id,
        tenant_id=row.tenant_id,
        tenant_slug=row.tenant_slug,
        address=row.address,
        display_name=row.display_name,
        auth_user=row.auth_user or row.address,
        auth_form=_auth_form(row.auth_form),
        app_id=row.app_id,
        client_id=row.client_id,
        app_version=row.app_version,
        directory_id=row.directory_id,
        authority_url=authority_url(
            cloud=cloud,
            directory_id=row.directory_id,
            authority=row.authority,
            oidc_authority=row.oidc_authority,
        ),
        oidc_authority=row.oidc_authority,
        smtp_host=row.smtp_host or cloud.smtp_host,
        smtp_port=row.smtp_port or cloud.smtp_port,
        ca_file=row.ca_file,
        scopes=scopes(cloud=cloud, grant_kind=row.grant_kind, override=row.scope),
        uncertain_policy=row.uncertain_policy,
        max_message_bytes=row.max_message_bytes,
        connected=row.connected_at is not None and row.grant_id is not None,
        parked_at=row.parked_at,
        park_reason=row.park_reason,
        park_scope=row.park_scope,
        park_count=row.park_count,
        resume_count=row.resume_count,
        probe_at=row.probe_at,
        paused_until=row.paused_until,
        pause_reason=row.pause_reason,
        pause_count=row.pause_count,
        external_limit=external_limit(licences=row.licences, trial=row.trial),
        grant_id=row.grant_id,
        grant_kind=row.grant_kind,
        grant_version=row.grant_version or 0,
        route_sealed=row.route_encrypted,
        max_recipients=row.max_recipients,
        suppresses=bool(row.suppresses),
    )


def _auth_form(stored: str | None) -> AuthForm:
    return AuthForm.MAILBOX if stored == AuthForm.MAILBOX else AuthForm.DELEGATE
