"""
Whether an administrator has allowed the app for a whole directory already, as far as it is known.

Of the app's own permission Entra tells at once, by the token that it gives. Of the permission to
act for users it tells nobody but the administrator's browser: what that brought back is in the
trail, and holds until a mailbox of the tenant shows the opposite.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from shlex import quote

from sqlalchemy import Connection

from console.admin_consent import ALLOWED
from console.context import Context
from console.verbs_mailboxes import known_app
from models import audit, mailboxes
from models.audit import AuditFilter
from models.errors import AlertpostError
from models.grants import DELEGATED
from models.mailboxes import MailboxEntry
from models.tenants import TenantEntry
from workers.reasons import meaning_of
from workers.verdict import Remedy

_LATEST = 10


def allowed_at(conn: Connection, tenant: TenantEntry) -> datetime | None:
    """
    Return when an administrator said that users' mailboxes may be used; None where nobody knows.

    Args:
        conn: A transaction.
        tenant: Whose directory; what was said of another app or directory counts for nothing.
    """
    for box in mailboxes.list_mailboxes(conn, tenant_slug=tenant.slug):
        meaning = meaning_of(box.park_reason)
        if meaning is not None and meaning.remedy is Remedy.ADMIN_CONSENT:
            return None
    told = AuditFilter(action=ALLOWED, subject_kind="tenant", subject=tenant.slug)
    for row in audit.find(conn, told, limit=_LATEST):
        said = row.entry.detail
        same = "." in tenant.directory_id or said.get("directory") == tenant.directory_id.lower()
        if same and said.get("kind") == DELEGATED and said.get("client_id") == tenant.client_id:
            return row.at
    return None


def how_allowed(
    context: Context, boxes: Sequence[MailboxEntry], since: datetime | None, *, app_only: bool
) -> str:
    """Say how it is known that the app is allowed; empty where it is not known."""
    if not app_only:
        return "" if since is None else f"An administrator allowed the app on {since:%Y-%m-%d}."
    if not boxes:
        return ""
    # Entra is asked for a token in the tenant's directory, as which mailbox does not matter.
    try:
        known, _ = known_app(context, boxes[0].address)
    except AlertpostError:
        return ""  # nothing can be asked with this set-up; the address can be had all the same
    if known.consent_link is not None:
        return ""
    return "The app is allowed already: the token that Entra gives it has SMTP.SendAsApp."


def after_allowed(entry: TenantEntry, boxes: Sequence[MailboxEntry], *, app_only: bool) -> str:
    """Say what is next, and how to get the address even so."""
    left = [quote(box.address) for box in boxes if box.connected_at is None]
    more = " --app-only" if app_only else ""
    again = f"`alertpost tenants link {entry.slug}{more} --again` prints the address even so."
    if not boxes:
        return f"Next: `alertpost mailboxes add {entry.slug} ADDRESS`. {again}"
    if not left:
        return f"Its mailboxes are connected; nothing is left to do. {again}"
    if not app_only:
        return f"Next: `alertpost mailboxes connect {left[0]}`. {again}"
    return (
        f"Next: `alertpost mailboxes powershell {left[0]}`, whose lines an Exchange administrator "
        f"runs, then `alertpost mailboxes connect {left[0]} --app-only`. {again}"
    )
