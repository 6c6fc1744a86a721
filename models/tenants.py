"""Customer organisations: adding, editing, listing, removing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import Connection, case, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from models import directory_rules as rules
from models import suppressions
from models.clouds import DEFAULT_CLOUD, resolve
from models.deliveries import counted
from models.errors import ConfigurationError, Conflict
from models.grants import withdraw
from models.ids import uuid7
from models.lifecycle import State
from models.lookups import APP, MAILBOX, TENANT, app_id, live_mailbox, tenant_id
from models.mailboxes import Removal, retire
from models.moves import DELIVERY
from models.quota import external_limit
from models.quota_counts import release


@dataclass(frozen=True, slots=True)
class TenantEntry:
    """
    A tenant as lists show it; what is None holds as its cloud says.

    Attributes:
        mailboxes: How many it has.
        connected: How many of these have a grant.
        licences: Paid mail licences, from which the limit of external recipients follows.
        trial: It has none, and a limit of its own.
        accepted_domains: Whose recipients are internal; None: those of its mailboxes.
        parked: How many of these wait for a person.
        waiting: Deliveries that are queued or being sent.
    """

    id: UUID
    slug: str
    name: str
    directory_id: str
    app: str
    client_id: str
    cloud: str
    authority: str | None
    oidc_authority: str | None
    smtp_host: str | None
    smtp_port: int | None
    ca_file: str | None
    scope: str | None
    notify: dict[str, list[str]]
    uncertain_policy: str
    max_message_bytes: int | None
    licences: int | None
    trial: bool
    accepted_domains: list[str] | None
    mailboxes: int
    connected: int
    parked: int
    waiting: int
    created_at: datetime


class WouldLoseConsents(Conflict):
    """
    A change that makes given consents worthless, and that nobody forced.

    Attributes:
        changed: Names of what differs: of the tenant, and ``client_id`` for another app.
        said: What would be lost, without a word on how to do it anyway.
    """

    def __init__(self, changed: Sequence[str], said: str) -> None:
        super().__init__(f"{said}; --force changes it anyway, reconnect them afterwards")
        self.changed = tuple(changed)
        self.said = said


class TenantChanges(TypedDict, total=False):
    """What may be set of a tenant; None gives an override back to the cloud's own value."""

    name: str
    directory_id: str
    app: str
    cloud: str
    authority: str | None
    oidc_authority: str | None
    smtp_host: str | None
    smtp_port: int | None
    ca_file: str | None
    scope: str | None
    notify: Mapping[str, Sequence[str]]
    uncertain_policy: str
    max_message_bytes: int | None
    licences: int | None
    trial: bool
    accepted_domains: Sequence[str] | None


class TenantOptions(TypedDict, total=False):
    """What a new tenant may bring along; the rest holds as its cloud says."""

    name: str
    cloud: str
    authority: str | None
    oidc_authority: str | None
    smtp_host: str | None
    smtp_port: int | None
    ca_file: str | None
    scope: str | None
    notify: Mapping[str, Sequence[str]]
    uncertain_policy: str
    max_message_bytes: int | None
    licences: int | None
    trial: bool
    accepted_domains: Sequence[str] | None


_CHECKS: dict[str, Any] = {
    "name": rules.tenant_name,
    "directory_id": rules.directory_id,
    "authority": rules.authority,
    "oidc_authority": rules.oidc_authority,
    "smtp_host": rules.smtp_host,
    "smtp_port": rules.smtp_port,
    "ca_file": rules.ca_file,
    "scope": rules.scope,
    "notify": rules.notify,
    "uncertain_policy": rules.uncertain_policy,
    "max_message_bytes": rules.max_message_bytes,
    "licences": rules.licences,
    "trial": bool,
    "accepted_domains": rules.accepted_domains,
}
_REQUIRED = frozenset(
    {"name", "directory_id", "app", "cloud", "notify", "uncertain_policy", "trial"}
)
_EXTERNAL = frozenset({"licences", "trial", "accepted_domains"})
"""What the limit of external recipients follows from."""
_CONSENT = frozenset({"client_id", "authority", "oidc_authority", "cloud", "directory_id"})
"""What a consent holds for: MSAL keeps tokens by client id and authority."""


def add_tenant(
    conn: Connection,
    *,
    slug: str,
    directory_id: str,
    app: str,
    **options: Unpack[TenantOptions],
) -> TenantEntry:
    """
    Add a customer organisation.

    Args:
        conn: An open transaction.
        slug: Its short name.
        directory_id: Its Entra directory, a GUID or a domain.
        app: Name of the app registration that it trusts.
        options: Overrides of the cloud's own values, and the rest.

    Raises:
        ConfigurationError: A value is malformed, or the CA file cannot be read.
        NotFound: There is no such app registration.
        Conflict: The slug is taken.
    """
    slug = rules.slug(slug)
    taken = Conflict(
        f"tenant {slug!r} exists already; `alertpost tenants edit {slug} --help` says how to "
        "change it"
    )
    if conn.scalar(select(TENANT.c.id).where(TENANT.c.slug == slug)) is not None:
        raise taken
    values = _checked(conn, {**options, "directory_id": directory_id, "app": app})
    _check_authorities(values)
    try:
        conn.execute(
            insert(TENANT).values(
                {"id": uuid7(), "slug": slug, "cloud": DEFAULT_CLOUD, "notify": {}, **values}
            )
        )
    except IntegrityError as error:
        raise taken from error
    return tenant(conn, slug)


def edit_tenant(
    conn: Connection, slug: str, *, force: bool = False, **changes: Unpack[TenantChanges]
) -> TenantEntry:
    """
    Change a tenant.

    Args:
        conn: An open transaction.
        slug: Its short name.
        force: Withdraw the consents that a change of the app, the directory or the authority makes
            worthless. Without it such a change is refused while mailboxes are connected.
        changes: New values; None gives an override back to the cloud's own value.

    Raises:
        ConfigurationError: A new value is malformed.
        NotFound: There is no such tenant or app registration.
        Conflict: The change would make consents worthless and force was not given.
    """
    before = tenant(conn, slug)
    values = _checked(conn, changes)
    if values:
        conn.execute(update(TENANT).where(TENANT.c.id == before.id).values(values))
    if values.keys() & _EXTERNAL:
        release(conn, before.id)
    after = tenant(conn, slug)
    _check_authorities({"authority": after.authority, "oidc_authority": after.oidc_authority})
    changed = sorted(name for name in _CONSENT if getattr(before, name) != getattr(after, name))
    if not changed or not before.connected:
        return after
    if not force:
        boxes = (
            "1 connected mailbox"
            if before.connected == 1
            else (f"{before.connected} connected mailboxes")
        )
        raise WouldLoseConsents(
            changed,
            f"a change of {', '.join(changed)} makes the consents of {boxes} of tenant {slug!r} "
            "worthless",
        )
    withdraw(conn, _mailbox_ids(conn, before.id))
    return tenant(conn, slug)


def tenant(conn: Connection, slug: str) -> TenantEntry:
    """
    Return one tenant.

    Raises:
        NotFound: There is none with this slug; the text names the nearest one.
    """
    key = tenant_id(conn, slug)
    return _entry(conn.execute(_listing().where(TENANT.c.id == key)).one())


def list_tenants(conn: Connection) -> list[TenantEntry]:
    """Return all tenants by slug."""
    return [_entry(row) for row in conn.execute(_listing().order_by(TENANT.c.slug))]


def remove_tenant(conn: Connection, slug: str, *, force: bool = False) -> Removal:
    """
    Remove a tenant. One that has deliveries is taken out of service and stays as their record.

    Args:
        conn: An open transaction.
        slug: Its short name.
        force: Remove its mailboxes and grants too, and cancel what waits.

    Raises:
        NotFound: There is no such tenant.
        Conflict: It has mailboxes or deliveries and force was not given, or a mail is being sent
            at this moment.
    """
    entry = tenant(conn, slug)
    kept = _deliveries(conn, entry.id)
    if (entry.mailboxes or kept) and not force:
        raise Conflict(
            f"tenant {slug!r} has {entry.mailboxes} mailbox(es) and {kept} deliveries, of which "
            f"{entry.waiting} wait; --force cancels those, deletes the consents and takes the "
            "tenant out of service (its deliveries are kept as the record)"
        )
    retired = retire(conn, _mailbox_ids(conn, entry.id))
    # Once more: what was being accepted at that moment is there now.
    kept = _deliveries(conn, entry.id)
    # Mailboxes that moved to another tenant leave their deliveries behind, and the other way round.
    deleted = not kept and not conn.scalar(
        select(func.count()).select_from(MAILBOX).where(MAILBOX.c.tenant_id == entry.id)
    )
    suppressions.forget_tenant(conn, entry.id)
    if deleted:
        conn.execute(delete(TENANT).where(TENANT.c.id == entry.id))
    return Removal(cancelled=retired.cancelled, kept=kept, grants=retired.grants, deleted=deleted)


def _checked(conn: Connection, given: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is None and name in _REQUIRED:
            raise ConfigurationError(f"{name}: it cannot be cleared")
        if name == "app":
            values["app_registration_id"] = app_id(conn, value)
        elif name == "cloud":
            values[name] = resolve(value).name
        else:
            values[name] = None if value is None else _CHECKS[name](value)
    return values


def _check_authorities(values: Mapping[str, Any]) -> None:
    if values.get("authority") and values.get("oidc_authority"):
        raise ConfigurationError(
            "authority and OIDC authority exclude each other: the first is a base address to "
            "which the directory id is appended, the second a whole issuer"
        )


def _mailbox_ids(conn: Connection, tenant: UUID) -> list[UUID]:
    return list(
        conn.scalars(select(MAILBOX.c.id).where(MAILBOX.c.tenant_id == tenant, live_mailbox()))
    )


def _deliveries(conn: Connection, tenant: UUID) -> int:
    statement = select(func.count()).select_from(DELIVERY).where(DELIVERY.c.tenant_id == tenant)
    return conn.execute(statement).scalar_one()


def _listing() -> Any:
    boxes = (
        select(
            MAILBOX.c.tenant_id,
            func.count().label("mailboxes"),
            func.count(MAILBOX.c.connected_at).label("connected"),
            func.sum(case((MAILBOX.c.parked_at.is_not(None), 1), else_=0)).label("parked"),
        )
        .where(live_mailbox())
        .group_by(MAILBOX.c.tenant_id)
        .subquery()
    )
    waiting = counted(DELIVERY.c.tenant_id, State.QUEUED, State.SENDING)
    return (
        select(
            *(
                TENANT.c[name]
                for name in (
                    "id", "slug", "name", "directory_id", "cloud", "authority", "oidc_authority",
                    "smtp_host", "smtp_port", "ca_file", "scope", "notify", "uncertain_policy",
                    "max_message_bytes", "licences", "trial", "accepted_domains", "created_at",
                )
            ),
            APP.c.name.label("app"),
            APP.c.client_id,
            func.coalesce(boxes.c.mailboxes, 0).label("mailboxes"),
            func.coalesce(boxes.c.connected, 0).label("connected"),
            func.coalesce(boxes.c.parked, 0).label("parked"),
            func.coalesce(waiting.c.deliveries, 0).label("waiting"),
        )
        .join_from(TENANT, APP, TENANT.c.app_registration_id == APP.c.id)
        .outerjoin(boxes, boxes.c.tenant_id == TENANT.c.id)
        .outerjoin(waiting, waiting.c.key == TENANT.c.id)
    )  # fmt: skip


def external_in_force(entry: TenantEntry) -> int | None:
    """Return how many external recipients a tenant may reach in 24 hours; None: not counted."""
    return external_limit(licences=entry.licences, trial=entry.trial)


def _entry(row: Any) -> TenantEntry:
    return TenantEntry(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name begins so
