"""
Worlds as data: read from a JSON file or a control request, checked, and built.

Ids, secrets and passwords that are not given are derived from names, so that a sandbox that is
started again is the same world and whoever was configured for it still fits.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from sandbox.apps import AppCertificate, AppRegistration, ClientSecret
from sandbox.directory import LIFETIME_SECONDS, Directory, User
from sandbox.mailboxes import Limits, MailboxStore
from sandbox.world import SMTP_PERMISSION, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sandbox.tokens import TokenSigner

_NAMESPACE = uuid.UUID("5a4d1c8e-2b7f-5c60-9d3e-a1b2c3d4e5f6")
_SECRET_DAYS = 180.0
APP_ROLE = "https://outlook.office365.com/SMTP.SendAsApp"

Address = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$", to_lower=True)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
Guid = Annotated[
    str,
    StringConstraints(
        pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", to_lower=True
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class UserSpec(_Strict):
    """One account; see ``directory.User``."""

    address: Address
    password: str = "sandbox"  # noqa: S105 - a sandbox's default
    display_name: str = ""
    enabled: bool = True
    admin: bool = False
    mfa: bool = False


class MailboxSpec(_Strict):
    """One mailbox; see ``mailboxes.MailboxStore.add``."""

    address: Address
    smtp_auth: bool | None = None
    licensed: bool = True
    conditional_access: bool = False
    send_as: tuple[Address, ...] = ()
    full_access: tuple[Address, ...] = ()
    quota_bytes: int | None = Field(default=None, ge=0)
    used_bytes: int = Field(default=0, ge=0)


class PresenceSpec(_Strict):
    """What a tenant allowed an app; see ``directory.EnterpriseApp``."""

    client_id: Guid
    permissions: tuple[str, ...] = (SMTP_PERMISSION,)
    roles: tuple[str, ...] = ()
    mailboxes: tuple[Address, ...] = ()
    scope: tuple[str, ...] = ()


class TenantSpec(_Strict):
    """One tenant; see ``directory.Directory``. Users without a mailbox are given one."""

    slug: Slug
    tenant_id: Guid | None = None
    display_name: str = ""
    domains: tuple[str, ...] = ()
    users: tuple[UserSpec, ...] | None = None
    mailboxes: tuple[MailboxSpec, ...] = ()
    apps: tuple[PresenceSpec, ...] = ()
    access_token_seconds: tuple[int, int] = LIFETIME_SECONDS
    strict_rotation: bool = False
    user_consent_allowed: bool = True
    smtp_auth: bool = True
    external_recipients_per_day: int | None = None
    trial: bool = False


class SecretSpec(_Strict):
    """One client secret; it ends so many days from now."""

    value: str = ""
    ends_in_days: float = _SECRET_DAYS


class AppSpec(_Strict):
    """One app registration; see ``apps.AppRegistration``. One without credentials gets a secret."""

    name: str = "Alert mailer"
    client_id: Guid | None = None
    home_tenant: str = ""
    secrets: tuple[SecretSpec, ...] = ()
    certificates: tuple[str, ...] = ()
    redirect_uris: tuple[str, ...] = ("http://localhost/", "http://127.0.0.1/")
    multi_tenant: bool = True
    public: bool = False
    any_loopback_path: bool = True
    permissions: tuple[str, ...] = (SMTP_PERMISSION,)
    roles: tuple[str, ...] = (APP_ROLE,)


class WorldSpec(_Strict):
    """A whole world."""

    tenants: tuple[TenantSpec, ...] = ()
    apps: tuple[AppSpec, ...] = ()
    limits: Limits | None = None


def derived_id(kind: str, name: str) -> str:
    """Give the GUID that a name stands for where none is given."""
    return str(uuid.uuid5(_NAMESPACE, f"{kind}:{name}"))


def contoso_and_friends(slugs: Sequence[str], *, app_per_tenant: bool = False) -> WorldSpec:
    """
    Describe tenants with the usual furniture.

    Each has the domain ``<slug>.example``, the mailbox ``alerts@`` and the administrator
    ``admin@``, both with the password ``sandbox``.

    Args:
        slugs: Short names of the tenants; the first is home to the app.
        app_per_tenant: One single-tenant app registration for each, instead of one for all.
    """
    apps: tuple[AppSpec, ...] = (AppSpec(home_tenant=slugs[0] if slugs else ""),)
    if app_per_tenant:
        apps = tuple(
            AppSpec(name=f"Alert mailer of {slug}", home_tenant=slug, multi_tenant=False)
            for slug in slugs
        )
    return WorldSpec(tenants=tuple(TenantSpec(slug=slug) for slug in slugs), apps=apps)


def load_world(path: Path) -> WorldSpec:
    """
    Read a world from a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON or not a world; pydantic's text names the place.
    """
    return WorldSpec.model_validate_json(path.read_bytes())


def build_world(
    spec: WorldSpec,
    *,
    signer: TokenSigner | None = None,
    clock: Callable[[], float] | None = None,
    mailboxes: MailboxStore | None = None,
) -> World:
    """
    Build a world.

    Args:
        spec: What is in it.
        signer: None makes a new key.
        clock: None for the computer's.
        mailboxes: A store made elsewhere; None makes one with the world's limits.

    Raises:
        ValueError: Something is there twice, or names what is not there.
    """
    given = {} if clock is None else {"clock": clock}
    world = World(signer=signer, limits=spec.limits, mailboxes=mailboxes, **given)
    for tenant in spec.tenants:
        add_tenant(world, tenant)
    for app in spec.apps:
        add_app(world, app)
    return world


def add_what_is_new(world: World, spec: WorldSpec) -> None:
    """
    Add the tenants and apps of a description that a world does not have yet.

    Those that it has stay as they are, whatever is said about them.

    Raises:
        ValueError: What is new contradicts what is there.
    """
    for tenant in spec.tenants:
        known = world.directory_named(tenant_id_of(tenant)) or world.directory_named(tenant.slug)
        if known is None:
            add_tenant(world, tenant)
    for app in spec.apps:
        if client_id_of(app) not in world.apps:
            add_app(world, app)


def tenant_id_of(spec: TenantSpec) -> str:
    """Give a tenant's id, derived from its name where none is given."""
    return spec.tenant_id or derived_id("tenant", spec.slug)


def client_id_of(spec: AppSpec) -> str:
    """Give an app's id, derived from its home and name where none is given."""
    return spec.client_id or derived_id("app", f"{spec.home_tenant}/{spec.name}")


def add_tenant(world: World, spec: TenantSpec) -> Directory:
    """
    Add a tenant with its users, mailboxes and allowed apps.

    Raises:
        ValueError: It, or one of its mailboxes, is there already.
    """
    least, most = spec.access_token_seconds
    if not 0 < least <= most:
        raise ValueError("access_token_seconds must be two numbers above 0, the smaller one first")
    domains = spec.domains or (f"{spec.slug}.example",)
    if world.directory_named(spec.slug) is not None:
        raise ValueError(f"tenant {spec.slug} exists")
    directory = world.add_directory(
        Directory(
            tenant_id=tenant_id_of(spec),
            slug=spec.slug,
            display_name=spec.display_name or spec.slug.replace("-", " ").title(),
            domains=domains,
            access_token_seconds=spec.access_token_seconds,
            strict_rotation=spec.strict_rotation,
            user_consent_allowed=spec.user_consent_allowed,
        )
    )
    organisation = world.mailboxes.organisation(directory.tenant_id)
    organisation.smtp_auth = spec.smtp_auth
    organisation.accepted_domains = frozenset(domain.lower() for domain in domains)
    organisation.external_recipients_per_day = spec.external_recipients_per_day
    organisation.trial = spec.trial
    users = spec.users
    if users is None:
        users = (
            UserSpec(address=f"alerts@{domains[0]}", display_name="Alerts"),
            UserSpec(address=f"admin@{domains[0]}", display_name="Admin", admin=True),
        )
    for mailbox in spec.mailboxes:
        add_mailbox(world, directory, mailbox)
    for user in users:
        add_user(world, directory, user)
    for app in spec.apps:
        presence = directory.admit(app.client_id)
        presence.consent(app.permissions)
        presence.roles |= set(app.roles)
        presence.mailboxes |= set(app.mailboxes)
        presence.scope |= set(app.scope)
    return directory


def add_user(world: World, directory: Directory, spec: UserSpec) -> User:
    """
    Add an account, and a mailbox if it has none.

    Raises:
        ValueError: It is there already, or its domain is not the tenant's.
    """
    if directory.user(spec.address) is not None:
        raise ValueError(f"user {spec.address} exists")
    if world.home_of(spec.address) is not directory:
        raise ValueError(f"the domain of {spec.address} is not verified in {directory.slug}")
    if world.mailboxes.get(spec.address) is None:
        world.mailboxes.add(spec.address, tenant_id=directory.tenant_id)
    return directory.add_user(
        User(
            address=spec.address,
            password=spec.password,
            object_id=derived_id("user", spec.address),
            display_name=spec.display_name,
            enabled=spec.enabled,
            admin=spec.admin,
            mfa=spec.mfa,
        )
    )


def add_mailbox(world: World, directory: Directory, spec: MailboxSpec) -> None:
    """
    Add a mailbox.

    Raises:
        ValueError: It is there already.
    """
    world.mailboxes.add(
        spec.address,
        tenant_id=directory.tenant_id,
        smtp_auth=spec.smtp_auth,
        licensed=spec.licensed,
        conditional_access=spec.conditional_access,
        send_as=spec.send_as,
        full_access=spec.full_access,
        quota_bytes=spec.quota_bytes,
        used_bytes=spec.used_bytes,
    )


def add_app(world: World, spec: AppSpec) -> AppRegistration:
    """
    Add an app registration.

    Raises:
        ValueError: It is there already, its home is unknown or a certificate cannot be read.
    """
    home = world.directory_named(spec.home_tenant) if spec.home_tenant else None
    if spec.home_tenant and home is None:
        raise ValueError(f"there is no tenant {spec.home_tenant}")
    if home is None and not spec.multi_tenant:
        raise ValueError("a single-tenant app needs a home_tenant")
    app = AppRegistration(
        client_id=client_id_of(spec),
        name=spec.name,
        home_tenant_id=home.tenant_id if home else "",
        certificates=[AppCertificate.from_pem(pem) for pem in spec.certificates],
        redirect_uris=list(spec.redirect_uris),
        multi_tenant=spec.multi_tenant,
        public=spec.public,
        any_loopback_path=spec.any_loopback_path,
        permissions=set(spec.permissions),
        roles=set(spec.roles),
    )
    secrets = spec.secrets
    if not secrets and not spec.certificates and not spec.public:
        secrets = (SecretSpec(value=f"sbx~{derived_id('secret', app.client_id)}"),)
    for secret in secrets:
        ends_at = world.clock() + secret.ends_in_days * 86400
        if secret.value:
            app.client_secrets.append(ClientSecret(value=secret.value, ends_at=ends_at))
        else:
            app.add_secret(ends_at=ends_at)
    return world.add_app(app)
