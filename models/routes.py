"""Which mailbox takes an alert: the one it names, or its tenant's default one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select

from models.errors import NotFound
from models.lookups import MAILBOX, TENANT, live_mailbox, unknown_tenant

_CHUNK = 500  # SQLite has taken 999 parameters at least since it exists


@dataclass(frozen=True, slots=True)
class Route:
    """
    Where an alert goes.

    Attributes:
        notify: The tenant's notification list: addresses under ``default`` and severities.
    """

    tenant_id: UUID
    mailbox_id: UUID
    tenant_slug: str
    address: str
    display_name: str | None
    notify: dict[str, list[str]]
    max_message_bytes: int | None


class Routes:
    """All routes of some tenants, read once; for thousands of alerts without a query each."""

    def __init__(self) -> None:
        self._tenants: set[str] = set()
        self._defaults: dict[str, Route] = {}
        self._named: dict[tuple[str, str], Route] = {}

    def __len__(self) -> int:
        return len(self._named)

    def learn_tenant(self, slug: str) -> None:
        """Remember that a tenant exists, with or without mailboxes."""
        self._tenants.add(slug)

    def learn(self, route: Route, *, is_default: bool) -> None:
        """Remember one mailbox of a tenant."""
        self._named[route.tenant_slug, route.address] = route
        if is_default:
            self._defaults[route.tenant_slug] = route

    def find(self, tenant_slug: str, mailbox_address: str | None = None) -> Route:
        """
        Return the route of an alert.

        Raises:
            NotFound: The tenant is unknown, has no mailbox yet, or not this one.
        """
        if mailbox_address is not None:
            route = self._named.get((tenant_slug, mailbox_address.lower()))
        else:
            route = self._defaults.get(tenant_slug)
        if route is not None:
            return route
        if tenant_slug not in self._tenants:
            raise NotFound(f"there is no tenant {tenant_slug!r}")
        if mailbox_address is not None:
            raise NotFound(f"tenant {tenant_slug!r} has no mailbox {mailbox_address!r}")
        raise NotFound(
            f"tenant {tenant_slug!r} has no mailbox yet; "
            f"`alertpost mailboxes add {tenant_slug} ADDRESS` adds one"
        )


def routes(conn: Connection, *, slugs: Collection[str] | None = None) -> Routes:
    """
    Read the routes of these tenants, or of all.

    Args:
        conn: An open transaction.
        slugs: Tenants that the alerts name; unknown ones are no error here.
    """
    found = Routes()
    if slugs is None:
        _learn(conn, found, chunk=None)
    else:
        wanted = sorted(set(slugs))
        for start in range(0, len(wanted), _CHUNK):
            _learn(conn, found, chunk=wanted[start : start + _CHUNK])
    return found


def find_route(conn: Connection, *, tenant_slug: str, mailbox_address: str | None = None) -> Route:
    """
    Return the route of one alert.

    Raises:
        NotFound: The tenant is unknown, has no mailbox yet, or not this one.
    """
    known = routes(conn, slugs=[tenant_slug])
    try:
        return known.find(tenant_slug, mailbox_address)
    except NotFound:
        if conn.scalar(select(TENANT.c.id).where(TENANT.c.slug == tenant_slug)) is None:
            raise unknown_tenant(conn, tenant_slug) from None
        raise


def route(conn: Connection, *, tenant_slug: str, mailbox_address: str | None = None) -> UUID:
    """
    Return the key of the mailbox that takes an alert.

    Raises:
        NotFound: The tenant is unknown, has no mailbox yet, or not this one.
    """
    return find_route(conn, tenant_slug=tenant_slug, mailbox_address=mailbox_address).mailbox_id


def _learn(conn: Connection, found: Routes, *, chunk: list[str] | None) -> None:
    # Tenants first: those without a mailbox must be told apart from those that do not exist.
    statement = (
        select(
            TENANT.c.id.label("tenant_id"),
            TENANT.c.slug,
            TENANT.c.notify,
            TENANT.c.max_message_bytes,
            MAILBOX.c.id.label("mailbox_id"),
            MAILBOX.c.address,
            MAILBOX.c.display_name,
            MAILBOX.c.is_default,
        )
        .select_from(TENANT)
        .outerjoin(MAILBOX, (MAILBOX.c.tenant_id == TENANT.c.id) & live_mailbox())
    )
    if chunk is not None:
        statement = statement.where(TENANT.c.slug.in_(chunk))
    for row in conn.execute(statement):
        found.learn_tenant(row.slug)
        if row.mailbox_id is None:
            continue
        found.learn(
            Route(
                tenant_id=row.tenant_id,
                mailbox_id=row.mailbox_id,
                tenant_slug=row.slug,
                address=row.address,
                display_name=row.display_name,
                notify=row.notify,
                max_message_bytes=row.max_message_bytes,
            ),
            is_default=row.is_default,
        )
