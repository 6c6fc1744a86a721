"""Who gets an alert that names nobody: its tenant's notification list."""

from __future__ import annotations

from models.addresses import parse_address
from models.alert import AlertEmail
from models.errors import InvalidAlert
from models.routes import Route


def with_recipients(alert: AlertEmail, route: Route) -> AlertEmail:
    """
    Give an alert that names nobody the list of its severity, else the tenant's default one.

    Args:
        alert: As it was handed in.
        route: Where it goes.

    Raises:
        InvalidAlert: It names nobody, and neither does the tenant.
    """
    if alert.to or alert.cc or alert.bcc:
        return alert
    told = route.notify.get(alert.severity.label) or route.notify.get("default")
    if not told:
        raise InvalidAlert(
            "to",
            f"names nobody, and tenant {route.tenant_slug!r} has no notification list for it; "
            "give at least one recipient in to, cc or bcc, or set the list: `alertpost tenants "
            f"edit {route.tenant_slug} --notify ADDRESS`",
        )
    return alert.model_copy(update={"to": tuple(map(parse_address, told))})
