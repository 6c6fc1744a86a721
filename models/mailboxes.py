"""Sender accounts: adding, listing, removing, and which of a tenant's takes the unnamed alerts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from shlex import quote
from typing import Any, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from models import directory_rules as rules
from models import host_holds
from models.accounts import account_of, note_change
from models.clock import utc_now
from models.clouds import resolve
from models.consent_links import forget
from models.deliveries import counted
from models.errors import Conflict, NotFound
from models.grants import GRANT, withdraw
from models.host_holds import HostHold
from models.ids import uuid7
from models.lifecycle import CANCEL, State
from models.lookups import APP, MAILBOX, REMOVED, TENANT, live_mailbox, mailbox_id, tenant_id
from models.moves import DELIVERY, in_state, move

PAUSED = and_(MAILBOX.c.paused_until.is_not(None), MAILBOX.c.paused_until > utc_now()).label(
    "paused"
)
"""For a query whose rows ``standing_of`` reads."""

_REMOVED_MEANING = "This mailbox was removed. Its deliveries are kept as the record."


@dataclass(frozen=True, slots=True)
class MailboxEntry:
    """
    A mailbox as lists show it.

    Attributes:
        app: Name of its tenant's app registration.
        auth_form: In which name ``auth_user`` was seen to sign in; None: not tried yet.
        standing: ``ready``, ``not connected``, ``parked``, ``paused`` or ``held``, the worst that
            is true; held is what could send but for the hold of its server.
        held_by: The server that refuses an address of ours, see ``host_holds``; None: none does.
        held_from: Which address of ours.
        held_reason: The verdict's rule.
        held_until: When one mail tries again.
        waiting: Deliveries that are queued or being sent.
        dead: Dead letters that wait for a person.
    """

    id: UUID
    tenant_id: UUID
    tenant_slug: str
    app: str
    address: str
    display_name: str | None
    auth_user: str | None
    auth_form: str | None
    is_default: bool
    standing: str
    connected_at: datetime | None
    parked_at: datetime | None
    park_reason: str | None
    park_scope: str | None
    park_meaning: str | None
    park_next_step: str | None
    park_answer: str | None
    probe_at: datetime | None
    paused_until: datetime | None
    pause_reason: str | None
    max_recipients: int | None
    recipients_learned_at: datetime | None
    grant_kind: str | None
    account: str | None
    granted_at: datetime | None
    refreshed_at: datetime | None
    waiting: int
    dead: int
    created_at: datetime
    held_by: str | None = None
    held_from: str | None = None
    held_reason: str | None = None
    held_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """
    What a removal did.

    Attributes:
        cancelled: Queued deliveries that will not be sent.
        kept: Deliveries that stay as the record, those cancelled included.
        grants: Consents that were deleted.
        deleted: Whether the row itself is gone; False where deliveries still refer to it.
        heir: The mailbox that takes the tenant's alerts from now on that name none; None where
            that has not changed, or there is no other.
    """

    cancelled: int
    kept: int
    grants: int
    deleted: bool
    heir: str | None = None


class MailboxChanges(TypedDict, total=False):
    """What may be changed of a mailbox; None clears a value."""

    display_name: str | None
    auth_user: str | None
    max_recipients: int | None


def add_mailbox(
    conn: Connection,
    *,
    tenant_slug: str,
    address: str,
    display_name: str | None = None,
    auth_user: str | None = None,
) -> MailboxEntry:
    """
    Add a mailbox; the first of a tenant takes the alerts that name none.

    A removed mailbox comes back with its record, not connected, also for another tenant.

    Raises:
        ConfigurationError: The address or a name is malformed, or the account is a personal one.
        NotFound: There is no such tenant.
        Conflict: The mailbox exists already.
    """
    address = rules.mailbox_address(address)
    tenant = tenant_id(conn, tenant_slug)
    # The tenant's row is held, so that of two first mailboxes at once one becomes the default.
    conn.execute(select(TENANT.c.id).where(TENANT.c.id == tenant).with_for_update())
    values: dict[str, Any] = {
        "tenant_id": tenant,
        "display_name": rules.display_name(display_name) if display_name else None,
        "auth_user": rules.auth_user(auth_user) if auth_user else None,
        "auth_form": None,
        "is_default": _default_of(conn, tenant) is None,
    }
    there = conn.execute(
        select(MAILBOX.c.id, MAILBOX.c.auth_user, MAILBOX.c.park_reason, TENANT.c.slug)
        .join_from(MAILBOX, TENANT, MAILBOX.c.tenant_id == TENANT.c.id)
        .where(MAILBOX.c.address == address)
    ).one_or_none()
    if there is not None and there.park_reason != REMOVED:
        raise Conflict(
            f"mailbox {address!r} exists already, at tenant {there.slug!r}; "
            f"`alertpost mailboxes edit {quote(address)} --help` says how to change it, "
            "`alertpost mailboxes remove "
            f"{quote(address)}` frees it"
        )
    if there is not None:
        _note_account(conn, there.id, address, there.auth_user, values["auth_user"])
        conn.execute(update(MAILBOX).where(MAILBOX.c.id == there.id).values(**values, **_UNPARKED))
        return mailbox(conn, address)
    try:
        conn.execute(insert(MAILBOX).values(id=uuid7(), address=address, **values))
    except IntegrityError as error:
        raise Conflict(f"mailbox {address!r} was added by somebody else just now") from error
    return mailbox(conn, address)


def edit_mailbox(conn: Connection, address: str, **changes: Unpack[MailboxChanges]) -> MailboxEntry:
    """
    Change the names of a mailbox.

    Raises:
        ConfigurationError: A new value is malformed.
        NotFound: There is no such mailbox.
    """
    entry = mailbox(conn, address)
    values: dict[str, Any] = {}
    if "display_name" in changes:
        name = changes["display_name"]
        values["display_name"] = rules.display_name(name) if name else None
    if "auth_user" in changes:
        user = changes["auth_user"]
        values["auth_user"] = rules.auth_user(user) if user else None
        if values["auth_user"] != entry.auth_user:
            # What worked for one account says nothing of another.
            values["auth_form"] = None
        _note_account(conn, entry.id, entry.address, entry.auth_user, values["auth_user"])
    if "max_recipients" in changes:
        values |= {"max_recipients": changes["max_recipients"], "recipients_learned_at": None}
    if values:
        conn.execute(update(MAILBOX).where(MAILBOX.c.id == entry.id).values(**values))
    return mailbox(conn, address)


def learn_max_recipients(conn: Connection, *, mailbox_id: UUID, most: int) -> None:
    """Remember that a mail of this mailbox may not have more recipients, by what a server said."""
    conn.execute(
        update(MAILBOX)
        .where(
            MAILBOX.c.id == mailbox_id,
            or_(
                MAILBOX.c.max_recipients.is_(None),
                MAILBOX.c.max_recipients > most,
                MAILBOX.c.recipients_learned_at.is_not(None),
            ),
        )
        .values(max_recipients=most, recipients_learned_at=utc_now())
    )


def set_default(conn: Connection, address: str) -> MailboxEntry:
    """
    Let this mailbox take its tenant's alerts that name none.

    Raises:
        NotFound: There is no such mailbox.
    """
    entry = mailbox(conn, address)
    conn.execute(
        update(MAILBOX)
        .where(MAILBOX.c.tenant_id == entry.tenant_id)
        .values(is_default=MAILBOX.c.id == entry.id)
    )
    return mailbox(conn, address)


def mailbox(conn: Connection, address: str) -> MailboxEntry:
    """
    Return one mailbox.

    Raises:
        NotFound: There is none with this address, or it was removed.
    """
    key = mailbox_id(conn, address)
    row = conn.execute(_listing().where(MAILBOX.c.id == key)).one_or_none()
    if row is None:
        raise NotFound(
            f"mailbox {address!r} was removed; `alertpost mailboxes add "
            f"TENANT {quote(address)}` brings it back"
        )
    return _entry(row, _holds(conn))


def list_mailboxes(conn: Connection, *, tenant_slug: str | None = None) -> list[MailboxEntry]:
    """
    Return mailboxes by tenant and address; removed ones are left out.

    Raises:
        NotFound: There is no such tenant.
    """
    statement = _listing().order_by(TENANT.c.slug, MAILBOX.c.address)
    if tenant_slug is not None:
        statement = statement.where(MAILBOX.c.tenant_id == tenant_id(conn, tenant_slug))
    holds = _holds(conn)
    return [_entry(row, holds) for row in conn.execute(statement)]


def standing_of(row: Any) -> str:
    """
    Say the worst that is true of a mailbox, see ``MailboxEntry``.

    Args:
        row: With ``connected_at``, ``parked_at`` and ``PAUSED``.
    """
    if row.connected_at is None:
        return "not connected"
    if row.parked_at is not None:
        return "parked"
    return "paused" if row.paused else "ready"


def remove_mailbox(conn: Connection, address: str, *, force: bool = False) -> Removal:
    """
    Remove a mailbox with its grant; its deliveries are the record and stay.

    Args:
        conn: An open transaction.
        address: Its address.
        force: Cancel what still waits. Without it a mailbox with waiting work is refused.

    Raises:
        NotFound: There is no such mailbox.
        Conflict: Work waits and force was not given, or a mail is being sent at this moment.
    """
    entry = mailbox(conn, address)
    if entry.waiting and not force:
        raise Conflict(
            f"{entry.waiting} deliveries still wait in {address!r}; --force cancels them"
        )
    removal = retire(conn, [entry.id])
    heir = conn.execute(
        select(MAILBOX.c.id, MAILBOX.c.address)
        .where(MAILBOX.c.tenant_id == entry.tenant_id, live_mailbox())
        # One that can send, if there is one.
        .order_by(MAILBOX.c.connected_at.is_(None), MAILBOX.c.parked_at.is_not(None), MAILBOX.c.id)
        .limit(1)
    ).one_or_none()
    if not entry.is_default or heir is None:
        return removal
    conn.execute(update(MAILBOX).where(MAILBOX.c.id == heir.id).values(is_default=True))
    return replace(removal, heir=heir.address)


def retire(conn: Connection, mailbox_ids: list[UUID]) -> Removal:
    """
    Take mailboxes out of service: cancel, withdraw grants, delete rows without deliveries.

    Raises:
        Conflict: A worker holds one of their deliveries; nothing was changed, once the caller's
            transaction is rolled back.
    """
    # Whoever is accepting an alert for them comes before this, or finds them removed.
    conn.execute(
        select(MAILBOX.c.id)
        .where(MAILBOX.c.id.in_(mailbox_ids))
        .order_by(MAILBOX.c.id)
        .with_for_update()
    )
    # First the mailboxes, so that nothing is claimed from them any more; then what is left.
    conn.execute(
        update(MAILBOX)
        .where(MAILBOX.c.id.in_(mailbox_ids))
        .values(
            is_default=False,
            parked_at=utc_now(),
            park_reason=REMOVED,
            park_scope="mailbox",
            park_meaning=_REMOVED_MEANING,
            park_next_step="To send from it again, add and connect it.",
            park_answer=None,
            park_count=0,
            probe_at=None,
            paused_until=None,
            pause_reason=None,
            pause_count=0,
        )
    )
    cancelled = conn.execute(
        move(CANCEL)
        .where(DELIVERY.c.mailbox_id.in_(mailbox_ids))
        .values(settled_at=utc_now(), reason="mailbox-removed")
    ).rowcount
    in_hand = conn.scalar(
        select(func.count())
        .select_from(DELIVERY)
        .where(DELIVERY.c.mailbox_id.in_(mailbox_ids), in_state(State.SENDING))
    )
    if in_hand:
        raise Conflict(
            f"{in_hand} deliveries are in a worker's hands at this moment; try again in a minute"
        )
    used = conn.execute(
        select(DELIVERY.c.mailbox_id, func.count().label("deliveries"))
        .where(DELIVERY.c.mailbox_id.in_(mailbox_ids))
        .group_by(DELIVERY.c.mailbox_id)
    ).all()
    grants = withdraw(conn, mailbox_ids)
    forget(conn, mailbox_ids)
    unused = set(mailbox_ids) - {row.mailbox_id for row in used}
    conn.execute(delete(MAILBOX).where(MAILBOX.c.id.in_(unused)))
    return Removal(
        cancelled=cancelled,
        kept=sum(row.deliveries for row in used),
        grants=grants,
        deleted=not used,
    )


def _note_account(
    conn: Connection, key: UUID, address: str, before: str | None, after: str | None
) -> None:
    """Keep who signed in until now, where it is somebody else from now on."""
    account = account_of(address, before)
    if account != account_of(address, after):
        note_change(conn, mailbox_id=key, before=account)


_UNPARKED: dict[str, Any] = {
    "connected_at": None,
    "parked_at": None,
    "park_reason": None,
    "park_scope": None,
    "park_meaning": None,
    "park_next_step": None,
    "park_answer": None,
    "park_count": 0,
    "probe_at": None,
}


def _default_of(conn: Connection, tenant: UUID) -> UUID | None:
    key: UUID | None = conn.scalar(
        select(MAILBOX.c.id).where(
            MAILBOX.c.tenant_id == tenant, MAILBOX.c.is_default, live_mailbox()
        )
    )
    return key


def _listing() -> Any:
    waiting = counted(DELIVERY.c.mailbox_id, State.QUEUED, State.SENDING)
    dead = counted(DELIVERY.c.mailbox_id, State.DEAD)
    return (
        select(
            MAILBOX.c.id,
            MAILBOX.c.tenant_id,
            TENANT.c.slug.label("tenant_slug"),
            APP.c.name.label("app"),
            MAILBOX.c.address,
            MAILBOX.c.display_name,
            MAILBOX.c.auth_user,
            MAILBOX.c.auth_form,
            MAILBOX.c.is_default,
            MAILBOX.c.connected_at,
            MAILBOX.c.parked_at,
            MAILBOX.c.park_reason,
            MAILBOX.c.park_scope,
            MAILBOX.c.park_meaning,
            MAILBOX.c.park_next_step,
            MAILBOX.c.park_answer,
            MAILBOX.c.probe_at,
            MAILBOX.c.paused_until,
            MAILBOX.c.pause_reason,
            MAILBOX.c.max_recipients,
            MAILBOX.c.recipients_learned_at,
            MAILBOX.c.created_at,
            PAUSED,
            TENANT.c.smtp_host,
            TENANT.c.cloud,
            GRANT.c.kind.label("grant_kind"),
            GRANT.c.account,
            GRANT.c.granted_at,
            GRANT.c.refreshed_at,
            func.coalesce(waiting.c.deliveries, 0).label("waiting"),
            func.coalesce(dead.c.deliveries, 0).label("dead"),
        )
        .join_from(MAILBOX, TENANT, MAILBOX.c.tenant_id == TENANT.c.id)
        .join(APP, TENANT.c.app_registration_id == APP.c.id)
        .outerjoin(GRANT, GRANT.c.mailbox_id == MAILBOX.c.id)
        .outerjoin(waiting, waiting.c.key == MAILBOX.c.id)
        .outerjoin(dead, dead.c.key == MAILBOX.c.id)
        .where(live_mailbox())
    )


def _holds(conn: Connection) -> dict[str, HostHold]:
    """Give for each server the hold that lasts longest, of whichever address of ours."""
    holds = sorted(host_holds.all_holds(conn), key=lambda hold: hold.probe_at)
    return {hold.smtp_host: hold for hold in holds}


def _entry(row: Any, holds: Mapping[str, HostHold]) -> MailboxEntry:
    fields = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name begins so
    for name in ("paused", "smtp_host", "cloud"):
        del fields[name]
    standing = standing_of(row)
    hold = holds.get(row.smtp_host or resolve(row.cloud).smtp_host)
    if hold is None:
        return MailboxEntry(standing=standing, **fields)
    return MailboxEntry(
        standing="held" if standing == "ready" else standing,
        held_by=hold.smtp_host,
        held_from=hold.sends_from,
        held_reason=hold.rule,
        held_until=hold.probe_at,
        **fields,
    )
