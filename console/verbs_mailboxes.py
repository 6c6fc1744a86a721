"""Connecting, parking and resuming mailboxes: what both doors of the console do, unprinted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from shlex import quote
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from console import audit_note, park_causes
from console.admin_consent import address_for_tenant
from console.context import Context
from console.exchange_powershell import App
from console.refusals import explained
from console.token_claims import read_claims
from console.waking import wake
from models import (
    app_registrations,
    consent_links,
    grants,
    lane,
    mailboxes,
    senders,
    tenants,
)
from models.clouds import resolve
from models.database import read, write
from models.errors import Conflict, CredentialRejected, NotFound, TokenUnavailable
from models.lane_park import concerned
from models.lookups import BY_HAND
from models.mailboxes import MailboxEntry
from models.proxies import Proxies
from models.redis_keys import RedisKeys
from models.secret_routes import RouteGuard
from models.senders import Sender
from models.tenants import TenantEntry
from workers import first_token
from workers.credential_turns import CredentialTurns, record_now
from workers.entra import Consent, Entra, Tokens
from workers.tls_contexts import TlsContexts

note = audit_note.note


@dataclass(frozen=True, slots=True)
class Account:
    """A mailbox with what is needed to get a token for it, the app's credentials in turn."""

    entry: MailboxEntry
    sender: Sender
    credential: CredentialTurns


@dataclass(frozen=True, slots=True)
class Connected:
    """
    What a consent brought.

    Attributes:
        account: Who consented; the client id for an app-only grant.
        doubt: What could not be checked about the account; empty where everything was.
        resumed: Addresses of mailboxes that waited for it and go on.
        still_parked: The mailbox waits for something that a consent does not cure.
    """

    address: str
    account: str
    resumed: list[str]
    still_parked: MailboxEntry | None
    doubt: str = ""


def account(context: Context, address: str, *, kind: str | None = None) -> Account:
    """
    Look a mailbox up.

    Args:
        context: Open resources.
        address: The mailbox.
        kind: Ask for the scopes of this kind of grant; None: of the grant that is there.

    Raises:
        NotFound: There is no such mailbox.
    """
    with read(context.engine) as conn:
        entry = mailboxes.mailbox(conn, address)
        sender = senders.sender(conn, entry.id)
        if sender is None:
            raise NotFound(f"mailbox {address!r} was removed just now")
        tenant = tenants.tenant(conn, entry.tenant_slug)
        app = app_registrations.open_app(conn, context.vault, sender.app_id)
    if kind is not None:
        sender = for_kind(sender, tenant, kind)
    return Account(entry, sender, CredentialTurns(app))


def for_kind(sender: Sender, tenant: TenantEntry, kind: str) -> Sender:
    """Give a sender with the scopes of another kind of grant than it may have now."""
    scopes = senders.scopes(cloud=resolve(tenant.cloud), grant_kind=kind, override=tenant.scope)
    return replace(sender, scopes=scopes)


def entra(context: Context, sender: Sender) -> Entra:
    """Give the client for the sender's sign-in service."""
    return Entra(
        ca_file=TlsContexts(context.settings.ca_file).ca_file(sender.ca_file),
        timeout_seconds=context.settings.lease.request_timeout_seconds,
        hosts=context.hosts,
        guard=RouteGuard(context.vault, context.hosts),
        proxies=Proxies.of(context.settings.https_proxy),
    )


def begin(client: Entra, who: Account, *, redirect_uri: str) -> dict[str, Any]:
    """
    Start a sign-in.

    Returns:
        What ``complete`` needs; its ``auth_uri`` is the address to open.

    Raises:
        CredentialRejected: The directory is unknown to the sign-in service.
        TokenUnavailable: The sign-in service cannot be reached.
    """
    try:
        return client.begin(who.sender, who.credential, redirect_uri=redirect_uri)
    except CredentialRejected as refused:
        raise explained(refused, who.entry) from refused


def complete(
    context: Context,
    client: Entra,
    who: Account,
    *,
    flow: dict[str, Any],
    callback: Mapping[str, str],
    actor: str,
) -> Connected:
    """
    Redeem a callback, store the grant, and let go on what waited for it.

    Raises:
        CredentialRejected: Declined, given by another account, or refused; says what to do.
        TokenUnavailable: Entra cannot answer now.
    """
    try:
        consent = client.complete(who.sender, who.credential, flow=flow, callback=callback)
    except CredentialRejected as refused:
        raise explained(refused, who.entry) from refused
    finally:
        record_now(context.engine, who.credential)
    return keep(context, who, consent, actor=actor)


def keep(context: Context, who: Account, consent: Consent, *, actor: str) -> Connected:
    """
    Store what a person's consent brought, and let go on what waited for it.

    Raises:
        NotFound: The mailbox was removed meanwhile.
        Conflict: The same.
    """
    # Whoever consents reads it in other words.
    doubt: dict[str, Any] = {"not_checked": consent.doubt} if consent.doubt else {}
    connected = store_grant(
        context,
        who.entry.address,
        actor=actor,
        kind=grants.DELEGATED,
        tokens=consent.tokens,
        account=consent.account,
        tenant_claim=consent.tenant_claim,
        object_claim=consent.object_claim,
        **doubt,
    )
    return replace(connected, doubt=consent.doubt)


def connect_app_only(context: Context, address: str, *, actor: str) -> Connected:
    """
    Connect a mailbox under the app's own permission (``SMTP.SendAsApp``), after getting a token.

    Raises:
        CredentialRejected: Entra gives the app no token; says what to do.
        TokenUnavailable: Entra cannot answer now.
    """
    who = account(context, address, kind=grants.APP_ONLY)
    try:
        tokens = entra(context, who.sender).client_credentials(who.sender, who.credential)
    except CredentialRejected as refused:
        raise explained(refused, who.entry) from refused
    finally:
        record_now(context.engine, who.credential)
    return store_grant(
        context,
        who.entry.address,
        actor=actor,
        kind=grants.APP_ONLY,
        tokens=tokens,
        account=who.sender.client_id,
        tenant_claim=who.sender.directory_id,
        object_claim="",
    )


def known_app(context: Context, address: str) -> tuple[App, str]:
    """
    Find out how a mailbox' directory knows the app, to write down what allows it to submit.

    Returns:
        The app, and why its object id is not known; empty where it is.
    """
    who = account(context, address, kind=grants.APP_ONLY)
    with read(context.engine) as conn:
        tenant = tenants.tenant(conn, who.sender.tenant_slug)
    link = address_for_tenant(context.settings, context.vault, tenant, kind=grants.APP_ONLY)
    app = App(who.sender.client_id, None, link)
    try:
        tokens = entra(context, who.sender).client_credentials(who.sender, who.credential)
    except (CredentialRejected, TokenUnavailable) as error:
        return app, str(error)
    # Only to be shown: nothing that decides is read from a token.
    claims = read_claims(tokens.access_token)
    if claims is not None and "SMTP.SendAsApp" in claims.rights:
        app = replace(app, consent_link=None)
    if claims is None or not claims.object_id:
        return app, "the token that Entra gave does not tell it"
    return replace(app, object_id=claims.object_id), ""


@dataclass(frozen=True, slots=True)
class Parked:
    """
    What a park by hand did.

    Attributes:
        parked: Mailboxes whose lanes wait now.
        kept: Those that were parked already, and whose cause would be forgotten.
    """

    parked: tuple[MailboxEntry, ...]
    kept: tuple[MailboxEntry, ...]


def park(
    context: Context,
    addresses: Sequence[str],
    *,
    tenant: str | None = None,
    text: str,
    actor: str,
    seconds: float | None = None,
) -> Parked:
    """
    Let lanes wait until somebody resumes them, or until a maintenance window is over.

    Where an end is given, a mailbox that is parked by hand already gets the new one.

    Args:
        context: Open resources.
        addresses: Of mailboxes.
        tenant: All mailboxes of this one as well.
        text: Why, for whoever looks.
        actor: Who, for the audit trail.
        seconds: After which they send again by themselves; None: never.

    Raises:
        NotFound: There is no such mailbox or tenant.
    """
    with write(context.engine) as conn:
        entries = {entry.id: entry for entry in map(partial(mailboxes.mailbox, conn), addresses)}
        if tenant is not None:
            found = mailboxes.list_mailboxes(conn, tenant_slug=tenant)
            entries |= {entry.id: entry for entry in found}
        free = {None} if seconds is None else {None, BY_HAND}
        kept = [one for one in entries.values() if one.park_reason not in free]
        parked = [one for one in entries.values() if one not in kept]
        for entry in parked:
            lane.park(
                conn,
                mailbox_id=entry.id,
                scope="mailbox",
                reason=BY_HAND,
                meaning=text or "Somebody parked it by hand.",
                next_step="When it may send again: `alertpost mailboxes resume "
                f"{quote(entry.address)}`.",
                answer="",
                probe_after_seconds=seconds,
            )
            note(conn, actor, "mailbox-park", entry.address, reason=text or None, seconds=seconds)
        return Parked(
            tuple(mailboxes.mailbox(conn, entry.address) for entry in parked), tuple(kept)
        )


def same_cause(context: Context, address: str) -> list[str]:
    """
    Name the mailboxes that wait for the same cause as this one, itself included.

    Raises:
        NotFound: There is no such mailbox.
        Conflict: It is not parked.
    """
    with read(context.engine) as conn:
        entry = mailboxes.mailbox(conn, address)
        if entry.parked_at is None:
            alone = ", and continues by itself" if entry.standing in {"paused", "held"} else ""
            raise Conflict(f"mailbox {entry.address} is not parked; it is {entry.standing}{alone}")
        scope: lane.Scope = "mailbox"
        if entry.park_scope in {"tenant", "app"}:
            scope = "tenant" if entry.park_scope == "tenant" else "app"
        within = set(concerned(conn, entry.id, scope))
        return [
            box.address
            for box in mailboxes.list_mailboxes(conn)
            if box.id in within
            and (box.park_reason, box.park_scope) == (entry.park_reason, entry.park_scope)
        ]


def resume(context: Context, address: str, *, actor: str, reason: str | None = None) -> list[str]:
    """
    Let a mailbox send again, and all that were parked for the same cause.

    Returns:
        The addresses of those that are connected; none where it was not parked.

    Raises:
        NotFound: There is no such mailbox.
    """
    with write(context.engine) as conn:
        entry = mailboxes.mailbox(conn, address)
        resumed = lane.resume_scope(conn, mailbox_id=entry.id)
        addresses = _addresses(conn, resumed)
        if resumed:
            note(conn, actor, "mailbox-resume", entry.address, reason=reason, resumed=addresses)
    wake(context, resumed)
    return addresses


def store_grant(
    context: Context,
    address: str,
    *,
    actor: str,
    kind: str,
    tokens: Tokens,
    account: str,
    tenant_claim: str,
    object_claim: str,
    prepare: Callable[[Connection], None] | None = None,
    **detail: Any,
) -> Connected:
    """
    Store what a sign-in or another program's grant brought, and let go on what waited for it.

    Args:
        context: Open resources.
        address: The mailbox.
        actor: Who, for the audit trail.
        kind: As ``grants.connect_mailbox``, like the next four.
        tokens: Likewise.
        account: Likewise.
        tenant_claim: Likewise.
        object_claim: Likewise.
        prepare: What is to be done in the same transaction, before.
        detail: More for the audit trail.
    """
    with write(context.engine) as conn:
        if prepare is not None:
            prepare(conn)
        key = mailboxes.mailbox(conn, address).id
        grant = grants.connect_mailbox(
            conn,
            context.vault,
            mailbox_id=key,
            kind=kind,
            cache=tokens.cache if kind == grants.DELEGATED else None,
            account=account,
            tenant_claim=tenant_claim,
            object_claim=object_claim,
        )
        consent_links.note_connected(conn, key)
        entry = mailboxes.mailbox(conn, address)
        resumed: list[UUID] = []
        if entry.park_reason in park_causes.cured_by_consent():
            resumed = lane.resume_scope(conn, mailbox_id=key)
        addresses = _addresses(conn, resumed)
        note(
            conn,
            actor,
            "mailbox-connect",
            entry.address,
            kind=kind,
            account=account,
            resumed=addresses,
            **detail,
        )
        entry = mailboxes.mailbox(conn, address)
    if context.settings.redis_url:
        keys = RedisKeys(context.settings.redis_prefix)
        first_token.share(
            context.settings.redis_url, keys, context.vault, grant=grant, tokens=tokens
        )
    # Also where nothing was parked: before its first consent a lane waits without that.
    wake(context, {key, *resumed})
    still_parked = entry if entry.parked_at is not None else None
    return Connected(entry.address, account, addresses, still_parked)


def _addresses(conn: Connection, keys: list[UUID]) -> list[str]:
    """Name those of these mailboxes that are connected; the others send nothing anyhow."""
    chosen = set(keys)
    return [
        box.address
        for box in mailboxes.list_mailboxes(conn)
        if box.id in chosen and box.grant_kind is not None
    ]
