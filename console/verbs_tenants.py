"""Adding, changing and removing tenants and app registrations; each is one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from uuid import UUID

from sqlalchemy import Connection

from console import park_causes
from console.context import Context
from console.waking import wake
from models import app_registrations as apps
from models import audit, credential_commands, lane, mailboxes, tenants
from models.app_registrations import App, Credential, Given
from models.database import write
from models.errors import ConfigurationError
from models.mailboxes import Removal
from models.secret_routes import seal_route
from models.severity import Severity
from models.tenants import TenantChanges, TenantEntry, TenantOptions

_LISTS = ("default", *(severity.label for severity in Severity))
_CONNECTION = frozenset(
    {
        "app", "authority", "ca_file", "cloud", "directory_id", "oidc_authority", "scope",
        "smtp_host", "smtp_port",
    }
)  # fmt: skip
"""Changes after which a mailbox that could not connect is worth another try."""


@dataclass(frozen=True, slots=True)
class Changed:
    """
    What a change did.

    Attributes:
        resumed: Addresses of mailboxes that waited for it and go on.
        given: The credential that the app registration got; None where none was given.
    """

    tenant: TenantEntry
    app: App
    resumed: list[str]
    given: Given | None = None


def notification_lists(entries: Sequence[str]) -> dict[str, list[str]]:
    """
    Sort ``ADDRESS`` and ``SEVERITY=ADDRESS`` into the lists of a tenant.

    Args:
        entries: As given; what does not begin with a list's name is an address.
    """
    lists: dict[str, list[str]] = {}
    for entry in entries:
        name, sign, address = entry.partition("=")
        if not sign or name.strip().lower() not in _LISTS:
            name, address = "default", entry
        lists.setdefault(name.strip().lower(), []).append(address.strip())
    return lists


def add(
    context: Context,
    *,
    actor: str,
    slug: str,
    directory_id: str,
    app: str | None,
    client_id: str | None,
    credential: Credential | None,
    options: TenantOptions,
) -> Changed:
    """
    Add a tenant, with an app registration of its own unless one is named.

    Raises:
        ConfigurationError: Neither an app registration nor all that one needs was given.
        NotFound: No app registration has the name given.
        Conflict: The slug, or the name of the app registration, is taken.
    """
    if app is None and not (client_id and credential):
        raise ConfigurationError(
            "give --client-id with --client-secret-file (or a certificate: --pfx-file, "
            "--certificate-file and --private-key-file, --generate-certificate), or --app NAME to "
            "use an existing app registration"
        )
    if app is not None and (client_id or credential):
        raise ConfigurationError(
            f"app registration {app!r} brings its client id and secret along: leave those away, "
            f"or change them with `{credential_commands.new_secret(app)}`"
        )
    with write(context.engine) as conn:
        if client_id and credential:
            apps.add_app(conn, context.vault, name=slug, client_id=client_id, credential=credential)
        entry = tenants.add_tenant(
            conn, slug=slug, directory_id=directory_id, app=app or slug, **options
        )
        seal_route(conn, context.vault, entry, hosts=context.hosts, given=options.keys())
        note_added(conn, actor, entry)
        return Changed(entry, apps.app(conn, entry.app), [])


def note_added(conn: Connection, actor: str, entry: TenantEntry) -> None:
    """Write down that a tenant was added."""
    note(conn, actor, "tenant-add", entry.slug, app=entry.app, cloud=entry.cloud)


def edit(
    context: Context,
    *,
    actor: str,
    slug: str,
    changes: TenantChanges,
    credential: Credential | None,
    alone: bool = False,
    force: bool,
    resume: bool = True,
) -> Changed:
    """
    Change a tenant and, where a credential is given, give that to its app registration.

    Mailboxes that were parked for what is changed here go on.

    Args:
        context: Open resources.
        actor: Who does it.
        slug: The tenant's short name.
        changes: New values of the tenant.
        credential: Another credential of its app registration.
        alone: It replaces those that are there at once, instead of standing beside one.
        force: As ``tenants.edit_tenant``.
        resume: What waited for a credential goes on at once; False: whoever calls asks Entra first.

    Raises:
        ConfigurationError: Nothing to change, or a new value is malformed.
        NotFound: There is no such tenant or app registration.
        Conflict: The change makes consents worthless and force was not given, or the app
            registration has two credentials already.
    """
    if not changes and credential is None:
        raise ConfigurationError("nothing to change: give at least one option, see --help")
    with write(context.engine) as conn:
        before = tenants.tenant(conn, slug)
        entry = tenants.edit_tenant(conn, slug, force=force, **changes)
        seal_route(
            conn, context.vault, entry, hosts=context.hosts, before=before, given=changes.keys()
        )
        resumed: dict[UUID, str] = {}
        given = None
        if credential is not None:
            given = apps.give_credential(
                conn, context.vault, name=entry.app, credential=credential, alone=alone
            )
            if resume:
                resumed |= resume_waiting(
                    conn, app=entry.app, reasons=park_causes.cured_by_credential()
                )
        resumed |= note_changes(
            conn, actor, slug, changes, resumed=resumed, credential=credential is not None
        )
        changed = Changed(
            tenants.tenant(conn, slug), apps.app(conn, entry.app), _sorted(resumed), given
        )
    wake(context, resumed)
    return changed


def note_changes(
    conn: Connection,
    actor: str,
    slug: str,
    changes: TenantChanges,
    *,
    resumed: Mapping[UUID, str] = MappingProxyType({}),
    credential: bool = False,
) -> dict[UUID, str]:
    """
    Let mailboxes go on that were parked for what was changed, and write the change down.

    Returns:
        Those mailboxes with their addresses: wake them after the commit.
    """
    cured: dict[UUID, str] = {}
    if _CONNECTION & changes.keys():
        cured = resume_waiting(conn, tenant=slug, reasons=park_causes.cured_by_settings())
    note(
        conn,
        actor,
        "tenant-edit",
        slug,
        changed=sorted(changes),
        credential=credential,
        resumed=_sorted({**resumed, **cured}),
    )
    return cured


def remove(context: Context, *, actor: str, slug: str, force: bool) -> Removal:
    """
    Remove a tenant; its app registration goes too if it has the tenant's name and serves no other.

    Raises:
        NotFound: There is no such tenant.
        Conflict: It has mailboxes or deliveries and force was not given.
    """
    with write(context.engine) as conn:
        entry = tenants.tenant(conn, slug)
        removal = tenants.remove_tenant(conn, slug, force=force)
        if entry.app == slug and removal.deleted and not apps.app(conn, slug).tenants:
            apps.remove_app(conn, slug)
        note(conn, actor, "tenant-remove", slug, cancelled=removal.cancelled, kept=removal.kept)
    return removal


def resume_waiting(
    conn: Connection, *, reasons: frozenset[str], app: str | None = None, tenant: str | None = None
) -> dict[UUID, str]:
    """
    Let mailboxes of an app or a tenant go on that were parked for one of these reasons.

    Returns:
        Those that can send, with their addresses: one that was never connected sends nothing.
    """
    slugs = {
        entry.slug
        for entry in tenants.list_tenants(conn)
        if entry.slug == tenant or (app is not None and entry.app == app)
    }
    parked = {
        entry.id: entry
        for entry in mailboxes.list_mailboxes(conn)
        if entry.tenant_slug in slugs and entry.park_reason in reasons
    }
    resumed = lane.resume(conn, mailbox_ids=list(parked))
    return {key: parked[key].address for key in resumed if parked[key].grant_kind is not None}


def _sorted(resumed: dict[UUID, str]) -> list[str]:
    return sorted(resumed.values())


def note(conn: Connection, actor: str, action: str, subject: str, /, **detail: object) -> None:
    """Write to the audit trail who did what with a tenant or an app registration."""
    audit.write(
        conn,
        audit.Entry(
            actor=actor,
            action=action,
            subject_kind=action.partition("-")[0],
            subject=subject,
            detail=detail,
        ),
    )
