"""Consent links as the service provider sees them: made, withdrawn, and how far each came."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection

from console import park_causes
from console.audit_note import note
from console.context import Context
from console.public_address import consent_address, public_base
from models import consent_links, database, mailboxes
from models.consent_links import Link, Standing
from models.database import read, write
from models.errors import Conflict
from models.expiries import GRANT_IDLE
from models.grants import APP_ONLY
from models.mailboxes import MailboxEntry


class Progress(StrEnum):
    """How far a mailbox' consent has come."""

    NOT_ASKED = "not asked"
    ASKED = "asked"
    OPENED = "opened"
    REFUSED = "refused"
    LINK_ENDED = "link ended"
    CONSENTED = "consented"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class MadeLink:
    """A link to be handed to a customer's administrator; whoever has it may use it."""

    tenant: str
    mailbox: str
    link: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Consent:
    """
    How far a mailbox' consent has come.

    Attributes:
        by: Who consented; the client id for an app-only grant.
        at: When.
        link_made_by: Who made the last link; None where there is none.
        opened_at: When somebody, or a mail scanner, opened it first.
        refusal: Why the last sign-in by it brought nothing.
        why: Where the consent is lost: for what the mailbox is parked.
    """

    tenant: str
    mailbox: str
    consent: Progress
    by: str | None
    at: datetime | None
    link_made_at: datetime | None
    link_made_by: str | None
    link_until: datetime | None
    opened_at: datetime | None
    refusal: str | None
    why: str | None


def make_link(
    context: Context, address: str, *, lasts: timedelta, note_text: str, actor: str
) -> MadeLink:
    """
    Make a link for one mailbox; earlier ones are worth nothing from now on.

    Raises:
        ConfigurationError: There is no public address, or it would hold too long.
        NotFound: There is no such mailbox.
    """
    public_base(context.settings)
    with write(context.engine) as conn:
        entry = mailboxes.mailbox(conn, address)
        return _made(context, conn, entry, lasts=lasts, note_text=note_text, actor=actor)


def links_for_missing(
    context: Context,
    *,
    tenants: Collection[str],
    lasts: timedelta,
    anew: bool,
    actor: str,
) -> list[MadeLink]:
    """
    Give a link for each mailbox without a consent, or whose consent is lost.

    Args:
        context: Open resources.
        tenants: Slugs; empty: all.
        lasts: How long new links hold.
        anew: Also replace links that still hold; else those are given again as they are.
        actor: Who asks.

    Raises:
        ConfigurationError: There is no public address, or they would hold too long.
        NotFound: There is no such tenant.
    """
    public_base(context.settings)
    given: list[MadeLink] = []
    with write(context.engine) as conn:
        known = consent_links.latest(conn)
        now = database.now(conn)
        for entry in _listed(conn, tenants):
            link = known.get(entry.id)
            if _progress(entry, link, now) is Progress.CONSENTED:
                continue
            if link is not None and link.standing is Standing.HOLDS and not anew:
                token = consent_links.token_of(conn, context.vault, link.id)
                given.append(_shown(context, entry, link, token))
            else:
                given.append(_made(context, conn, entry, lasts=lasts, note_text="", actor=actor))
    return given


def withdraw_links(context: Context, address: str, *, actor: str) -> None:
    """
    End the link of a mailbox.

    Raises:
        NotFound: There is no such mailbox.
        Conflict: None of its links holds.
    """
    with write(context.engine) as conn:
        entry = mailboxes.mailbox(conn, address)
        if not consent_links.withdraw(conn, [entry.id]):
            raise Conflict(
                f"no consent link of {entry.address} holds; `alertpost mailboxes consents` shows "
                "what became of the last one"
            )
        note(conn, actor, "consent-link-withdraw", entry.address)


def consents(context: Context, *, tenants: Collection[str] = ()) -> list[Consent]:
    """
    Tell how far the consent of each mailbox has come.

    Raises:
        NotFound: There is no such tenant.
    """
    with read(context.engine) as conn:
        known = consent_links.latest(conn)
        now = database.now(conn)
        return [_told(entry, known.get(entry.id), now) for entry in _listed(conn, tenants)]


def links_to_look_after(
    known: Collection[Consent], *, unopened: bool, ends_by: datetime | None
) -> list[Consent]:
    """
    Pick the links that hold and may come to nothing; the one that ends first comes first.

    Args:
        known: All of them.
        unopened: Those that nobody has opened yet.
        ends_by: Those that end by this moment, too.
    """
    holding = {Progress.ASKED, Progress.OPENED, Progress.REFUSED}
    found = [
        (one.link_until, one)
        for one in known
        if one.consent in holding and one.link_until is not None
    ]
    return [
        one
        for until, one in sorted(found, key=lambda pair: (pair[0], pair[1].mailbox))
        if (unopened and one.consent is Progress.ASKED)
        or (ends_by is not None and until <= ends_by)
    ]


def _listed(conn: Connection, tenants: Collection[str]) -> list[MailboxEntry]:
    if not tenants:
        return mailboxes.list_mailboxes(conn)
    return [
        entry
        for slug in dict.fromkeys(tenants)
        for entry in mailboxes.list_mailboxes(conn, tenant_slug=slug)
    ]


def _made(
    context: Context,
    conn: Connection,
    entry: MailboxEntry,
    *,
    lasts: timedelta,
    note_text: str,
    actor: str,
) -> MadeLink:
    link, token = consent_links.make(
        conn, context.vault, mailbox_id=entry.id, lasts=lasts, made_by=actor, note=note_text
    )
    note(
        conn,
        actor,
        "consent-link-make",
        entry.address,
        tenant=entry.tenant_slug,
        link=str(link.id),
        until=link.expires_at.isoformat(timespec="seconds"),
    )
    return _shown(context, entry, link, token)


def _shown(context: Context, entry: MailboxEntry, link: Link, token: str) -> MadeLink:
    address = consent_address(context.settings, token)
    return MadeLink(entry.tenant_slug, entry.address, address, link.expires_at)


def _told(entry: MailboxEntry, link: Link | None, now: datetime) -> Consent:
    progress = _progress(entry, link, now)
    return Consent(
        tenant=entry.tenant_slug,
        mailbox=entry.address,
        consent=progress,
        by=entry.account,
        at=entry.granted_at,
        link_made_at=link.created_at if link else None,
        link_made_by=link.made_by if link else None,
        link_until=link.expires_at if link else None,
        opened_at=link.opened_at if link else None,
        refusal=link.refusal if link else None,
        why=(entry.park_reason or "idle") if progress is Progress.LOST else None,
    )


def _progress(entry: MailboxEntry, link: Link | None, now: datetime) -> Progress:
    if entry.granted_at is not None and entry.connected_at is not None:
        return Progress.LOST if _is_lost(entry, now) else Progress.CONSENTED
    if link is None or link.standing in {Standing.WITHDRAWN, Standing.CONNECTED}:
        return Progress.NOT_ASKED
    if link.standing is Standing.ENDED:
        return Progress.LINK_ENDED
    if link.refused_at is not None and link.refused_at >= (link.started_at or link.refused_at):
        return Progress.REFUSED
    return Progress.ASKED if link.opened_at is None else Progress.OPENED


def _is_lost(entry: MailboxEntry, now: datetime) -> bool:
    if entry.grant_kind == APP_ONLY:
        # Nobody signed in for it, so nobody's sign-in would mend it.
        return False
    if entry.park_reason in park_causes.lost_consent():
        return True
    used_at = entry.refreshed_at or entry.granted_at
    return used_at is not None and used_at + GRANT_IDLE <= now
