"""
What a consent link's page does: show who asks for what, start a sign-in, take its callback.

Whoever has the link is let in, so it is asked again at each step whether the link still holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from console import admin_consent
from console import verbs_mailboxes as verbs
from console.app_allowed import allowed_at
from console.context import Context
from console.public_address import callback_address, consent_address
from console.refusals import Explanation, explanation
from console.verbs_mailboxes import Connected, note
from models import audit, consent_links, database, grants, mailboxes, senders, sign_ins, tenants
from models.audit import AuditFilter
from models.consent_links import Link, Standing
from models.database import read, write
from models.errors import (
    AlertpostError,
    Conflict,
    CredentialRejected,
    NotFound,
    TokenUnavailable,
    VaultError,
)
from models.mailboxes import MailboxEntry
from models.senders import Sender
from models.sign_ins import SignIn, Unusable
from models.tenants import TenantEntry
from workers.credential_turns import record_now
from workers.verdict import Remedy, Verdict

ACTOR = "web:consent-link"
"""In the audit trail: somebody who had the link; who consented is in the entry's detail."""

_LONGEST_STATE = 1024

_ADMIN_ENTRIES = 10
"""So many returns of each kind are written down of a tenant in a day, however many there are."""

_DECLINED = 65004
"""AADSTS: the user declined the consent."""

_ADMIN_REFUSED = "The administrator's consent was not given, or was given for another directory."
_DIRECTORY = re.compile(r"[0-9a-f-]{36}|[a-z0-9.-]{1,100}")
_ERROR = re.compile(r"[a-z_]{1,50}")


class TooManySignIns(AlertpostError):  # noqa: N818 - reads as what it is
    """A link was used so often within a minute that it has to wait."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """
    A link that holds, with what it asks for.

    Attributes:
        tenant_name: The customer's name, for people; its short name where it has none.
        admin_address: Where an administrator allows the app for the whole directory; None where
            the sign-in service is another one than Entra.
        allowed: An administrator did so, as far as is known.
    """

    link: Link
    entry: MailboxEntry
    sender: Sender
    tenant_name: str
    admin_address: str | None
    allowed: bool = False


@dataclass(frozen=True, slots=True)
class Dead:
    """
    A link that is worth nothing.

    Attributes:
        standing: Why; None: its mailbox was removed.
        entry: Its mailbox, None where that was removed.
    """

    standing: Standing | None
    entry: MailboxEntry | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """
    A sign-in that brought nothing; the link goes on holding.

    Attributes:
        words: What it means and what to do, for operators.
        error: Entra's word for it, or the name of our own check.
        detail: Entra's own code and trace id; empty where it said nothing.
        again: The consent link.
        admin_address: Where an administrator allows the app, if that is what is missing.
        verdict: What it was taken for; None where one of our own checks refused.
    """

    entry: MailboxEntry
    words: str
    detail: str
    again: str
    admin_address: str | None = None
    verdict: Verdict | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Away:
    """The sign-in service does not answer now."""

    entry: MailboxEntry
    again: str


@dataclass(frozen=True, slots=True)
class AdminReturned:
    """
    An administrator came back from allowing the app for a directory.

    Attributes:
        tenant_name: The customer's name.
        refusal: Why it was not allowed; empty where Entra said that it is.
        again: The consent link on whose page it began and which still holds; None elsewhere.
        verdict: What Microsoft's answer was taken for; None where it was not a refusal of theirs.
    """

    tenant_name: str
    refusal: str
    again: str | None
    verdict: Verdict | None = None


Ending = Connected | Refused | Away | Dead | Unusable | AdminReturned


def look(context: Context, token: str, *, remember: bool) -> Invitation | Dead:
    """
    Look at a link.

    Args:
        context: Open resources.
        token: What the link ends with.
        remember: Note that it was opened.

    Raises:
        NotFound: This is no token of ours.
    """
    with read(context.engine) as conn:
        found = _invitation(context, conn, consent_links.find(conn, context.vault, token))
    if isinstance(found, Dead) or not remember or found.link.opened_at is not None:
        return found
    with write(context.engine) as conn:
        if consent_links.note_opened(conn, found.link.id):
            _note(conn, found, "consent-link-open")
    return found


def start(context: Context, token: str) -> str | Dead | Refused | Away:
    """
    Begin a sign-in by a link.

    Returns:
        The address to send the browser to, or why there is none.

    Raises:
        NotFound: This is no token of ours.
        TooManySignIns: Too many were begun by it a moment ago.
    """
    with read(context.engine) as conn:
        found = _invitation(context, conn, consent_links.find(conn, context.vault, token))
        if isinstance(found, Dead):
            return found
        if sign_ins.is_busy(conn, found.link.id):
            raise TooManySignIns("too many sign-ins were begun by this link a moment ago")
    who = verbs.account(context, found.entry.address, kind=grants.DELEGATED)
    client = verbs.entra(context, who.sender)
    try:
        flow = client.begin(
            who.sender, who.credential, redirect_uri=callback_address(context.settings)
        )
    except CredentialRejected as refused:
        return _refused(context, found, refused)
    except TokenUnavailable:
        return Away(found.entry, consent_address(context.settings, token))
    with write(context.engine) as conn:
        sign_ins.begin(conn, context.vault, link_id=found.link.id, flow=flow)
        _note(conn, found, "consent-link-start")
    return str(flow["auth_uri"])


def finish(context: Context, callback: Mapping[str, str]) -> Ending:
    """
    Take what the sign-in service sends a browser back with.

    Args:
        context: Open resources.
        callback: Its parameters.
    """
    state = callback.get("state", "")
    asked = admin_consent.read_state(context.vault, state)
    if asked is not None:
        return _admin_returned(context, asked, callback)
    if not state or len(state) > _LONGEST_STATE:
        return Unusable.UNKNOWN
    try:
        with write(context.engine) as conn:
            taken = sign_ins.take(conn, context.vault, state)
    except VaultError:
        # The key under which it was begun was taken away within these ten minutes.
        return Unusable.ENDED
    if isinstance(taken, Unusable):
        return taken
    with read(context.engine) as conn:
        found = _invitation(context, conn, consent_links.by_id(conn, taken.link_id))
    if isinstance(found, Dead):
        return found
    return _redeemed(context, found, taken, callback)


def _redeemed(
    context: Context, found: Invitation, taken: SignIn, callback: Mapping[str, str]
) -> Ending:
    try:
        who = verbs.account(context, found.entry.address, kind=grants.DELEGATED)
        client = verbs.entra(context, who.sender)
        try:
            consent = client.complete(
                who.sender, who.credential, flow=taken.flow, callback=callback
            )
        finally:
            record_now(context.engine, who.credential)
        return verbs.keep(context, who, consent, actor=ACTOR)
    except CredentialRejected as refused:
        return _refused(context, found, refused)
    except TokenUnavailable:
        return Away(found.entry, _again(context, found.link))
    except (NotFound, Conflict):
        # It was removed while somebody signed in.
        return Dead(None)


def _refused(context: Context, found: Invitation, refused: CredentialRejected) -> Refused:
    said: Explanation = explanation(refused)
    verdict = said.verdict
    with write(context.engine) as conn:
        consent_links.note_refused(conn, found.link.id, said.words)
        _note(
            conn,
            found,
            "consent-refused",
            reason=said.words,
            error=refused.error[:100],
            codes=list(refused.codes),
        )
    wants_admin = verdict is not None and verdict.remedy is Remedy.ADMIN_CONSENT
    return Refused(
        entry=found.entry,
        words=said.words,
        detail=verdict.detail if verdict else "",
        again=_again(context, found.link),
        admin_address=found.admin_address if wants_admin else None,
        verdict=verdict,
        error=refused.error,
    )


def _admin_returned(
    context: Context, asked: admin_consent.Asked, callback: Mapping[str, str]
) -> AdminReturned | Dead:
    """Tell what an administrator brought back; nothing is decided by it, since it can be forged."""
    with write(context.engine) as conn:
        try:
            tenant = tenants.tenant(conn, asked.tenant_slug)
        except NotFound:
            return Dead(None)
        refusal, verdict = _admin_refusal(tenant.directory_id, callback)
        _record_admin(conn, tenant, asked, callback, refusal)
        link = consent_links.by_id(conn, asked.link_id) if asked.link_id else None
        holds = link is not None and link.standing is Standing.HOLDS
        token = consent_links.token_of(conn, context.vault, link.id) if link and holds else None
    again = consent_address(context.settings, token) if token else None
    return AdminReturned(tenant.name or tenant.slug, refusal, again, verdict)


def _record_admin(
    conn: Connection,
    tenant: TenantEntry,
    asked: admin_consent.Asked,
    callback: Mapping[str, str],
    refusal: str,
) -> None:
    """
    Write into the audit trail what an administrator brought back.

    Once for each address that was given out and each way it can end: whoever has the address may
    call it as often as they like, and may put into it what they like.
    """
    action = "admin-consent-refused" if refusal else admin_consent.ALLOWED
    told = AuditFilter(action=action, subject_kind="tenant", subject=tenant.slug)
    known = audit.find(conn, told, limit=_ADMIN_ENTRIES)
    if any(row.entry.detail.get("asked") == asked.mark for row in known):
        return
    if len(known) == _ADMIN_ENTRIES and known[-1].at > database.now(conn) - timedelta(days=1):
        return
    directory = callback.get("tenant", "").lower()
    audit.write(
        conn,
        audit.Entry(
            actor=ACTOR,
            action=action,
            subject_kind="tenant",
            subject=tenant.slug,
            # Our own words; of the caller's only a code that has the form of one.
            reason=_ADMIN_REFUSED if refusal else None,
            detail={
                "asked": asked.mark,
                "directory": directory if _DIRECTORY.fullmatch(directory) else "",
                "error": _word(callback.get("error", "")),
                "kind": asked.kind,
                "client_id": tenant.client_id,
            },
        ),
    )


def _word(text: str) -> str:
    return text if _ERROR.fullmatch(text) else ""


def _admin_refusal(directory_id: str, callback: Mapping[str, str]) -> tuple[str, Verdict | None]:
    """Say why the app is not allowed; empty where it is. The verdict is on Microsoft's answer."""
    if callback.get("admin_consent", "").lower() == "true" and "error" not in callback:
        directory = callback.get("tenant", "").lower()
        # Written as a domain it cannot be compared.
        if "." in directory_id or directory == directory_id.lower():
            return "", None
        words = (
            f"The app was allowed for another directory, {directory[:40]}: sign in as an "
            f"administrator of {directory_id}."
        )
        return words, None
    error = callback.get("error", "access_denied")[:100]
    refused = CredentialRejected(
        error,
        # On this page nobody but the one who pressed it denies access.
        codes=(_DECLINED,) if error == "access_denied" else (),
        description=callback.get("error_description", "")[:1000],
    )
    said = explanation(refused)
    return said.words, said.verdict


def _invitation(context: Context, conn: Connection, link: Link | None) -> Invitation | Dead:
    if link is None:
        return Dead(None)
    sender = senders.sender(conn, link.mailbox_id)
    if sender is None:
        return Dead(None)
    entry = mailboxes.mailbox(conn, sender.address)
    if link.standing is not Standing.HOLDS:
        return Dead(link.standing, entry)
    tenant = tenants.tenant(conn, sender.tenant_slug)
    return Invitation(
        link=link,
        entry=entry,
        sender=verbs.for_kind(sender, tenant, grants.DELEGATED),
        tenant_name=tenant.name or tenant.slug,
        admin_address=admin_consent.address_for_link(
            context.settings,
            context.vault,
            verbs.for_kind(sender, tenant, grants.DELEGATED),
            link.id,
        ),
        allowed=allowed_at(conn, tenant) is not None,
    )


def _again(context: Context, link: Link) -> str:
    with read(context.engine) as conn:
        token = consent_links.token_of(conn, context.vault, link.id)
    return consent_address(context.settings, token)


def _note(
    conn: Connection, found: Invitation, action: str, reason: str | None = None, **detail: Any
) -> None:
    note(
        conn,
        ACTOR,
        action,
        found.entry.address,
        reason=reason,
        link=str(found.link.id),
        link_made_by=found.link.made_by,
        **detail,
    )
