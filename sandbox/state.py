"""
What of a world outlives a restart, as a value that goes into JSON and comes back.

That is all that somebody set up or was given: tenants, accounts, consents, apps and their secrets,
mailboxes and their switches, limits, grants with their refresh tokens, the clock's lead. The books
are not part of it (outboxes, counts, violations, lock-outs, faults), nor are sign-ins under way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from pydantic import TypeAdapter

from sandbox.apps import AppCertificate, AppRegistration, ClientSecret
from sandbox.directory import Directory
from sandbox.grants import KeptGrant
from sandbox.limits import Limits
from sandbox.mailboxes import Mailbox, MailboxStore, Organisation
from sandbox.world import World


@dataclass(frozen=True, slots=True)
class KeptTenant:
    """A tenant on both sides, Entra's and Exchange's."""

    directory: Directory
    organisation: Organisation


@dataclass(frozen=True, slots=True)
class KeptMailbox:
    """A mailbox; see ``mailboxes.Mailbox``. Limits are None where it has those of all."""

    address: str
    tenant_id: str
    limits: Limits | None
    smtp_auth: bool | None
    licensed: bool
    conditional_access: bool
    send_as: set[str]
    quota_bytes: int | None
    used_bytes: int
    full_access: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class KeptApp:
    """An app registration; see ``apps.AppRegistration``. Certificates are PEM."""

    client_id: str
    name: str
    home_tenant_id: str
    client_secrets: list[ClientSecret]
    certificates: list[str]
    redirect_uris: list[str]
    multi_tenant: bool
    public: bool
    any_loopback_path: bool
    permissions: set[str]
    roles: set[str]


@dataclass(frozen=True, slots=True)
class State:
    """
    What outlives a restart.

    Attributes:
        version: Of this form.
        described: Stands for the description that the world was begun from.
        ahead_seconds: How far the clock was let jump.
        limits: For mailboxes that have none of their own.
    """

    version: Literal[1]
    described: str
    ahead_seconds: float
    limits: Limits
    tenants: list[KeptTenant]
    apps: list[KeptApp]
    mailboxes: list[KeptMailbox]
    grants: list[KeptGrant]


_STATE: TypeAdapter[State] = TypeAdapter(State)


def state_of(world: World, *, described: str) -> State:
    """Give a world's state; it shares values with the world, so write it before time goes on."""
    store = world.mailboxes
    return State(
        version=1,
        described=described,
        ahead_seconds=world.ahead_seconds,
        limits=store.limits,
        tenants=[
            KeptTenant(directory, store.organisation(directory.tenant_id))
            for directory in world.directories.values()
        ],
        apps=[_kept_app(app) for app in world.apps.values()],
        mailboxes=[_kept_mailbox(mailbox, store) for mailbox in store],
        grants=world.grants.kept(),
    )


def written(state: State) -> bytes:
    """
    Write a state as JSON.

    Raises:
        ValueError: It holds text that no file can hold.
    """
    return _STATE.dump_json(state)


def read(raw: bytes) -> State:
    """
    Read what ``written`` gave.

    Raises:
        ValueError: It is damaged, or of another version.
    """
    return _STATE.validate_json(raw)


def restore(world: World, state: State) -> None:
    """
    Bring an empty world to where another one was; its parts pass to the world.

    Raises:
        ValueError: Something is there twice, or a certificate cannot be read.
    """
    store = world.mailboxes
    world.advance(state.ahead_seconds)
    store.limits = state.limits
    for tenant in state.tenants:
        world.add_directory(tenant.directory)
        organisation = store.organisation(tenant.directory.tenant_id)
        organisation.smtp_auth = tenant.organisation.smtp_auth
        organisation.conditional_access = tenant.organisation.conditional_access
        organisation.accepted_domains = tenant.organisation.accepted_domains
        organisation.external_recipients_per_day = tenant.organisation.external_recipients_per_day
        organisation.trial = tenant.organisation.trial
    for mailbox in state.mailboxes:
        store.add(**{each.name: getattr(mailbox, each.name) for each in fields(KeptMailbox)})
    for app in state.apps:
        given = {each.name: getattr(app, each.name) for each in fields(KeptApp)}
        given["certificates"] = [AppCertificate.from_pem(pem) for pem in app.certificates]
        world.add_app(AppRegistration(**given))
    world.grants.take_back(state.grants)


def _kept_mailbox(mailbox: Mailbox, store: MailboxStore) -> KeptMailbox:
    return KeptMailbox(
        address=mailbox.address,
        tenant_id=mailbox.organisation.tenant_id,
        limits=None if mailbox.limits == store.limits else mailbox.limits,
        smtp_auth=mailbox.smtp_auth,
        licensed=mailbox.licensed,
        conditional_access=mailbox.conditional_access,
        send_as=mailbox.send_as,
        quota_bytes=mailbox.quota_bytes,
        used_bytes=mailbox.used_bytes,
        full_access=mailbox.full_access,
    )


def _kept_app(app: AppRegistration) -> KeptApp:
    given = {each.name: getattr(app, each.name) for each in fields(KeptApp)}
    given["certificates"] = [certificate.as_pem() for certificate in app.certificates]
    return KeptApp(**given)
