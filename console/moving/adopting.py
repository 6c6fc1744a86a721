"""
Taking over a found grant: proved by Entra first, stored afterwards, with what it needs beside it.

What is missing (tenant, app registration, mailbox) is made from what the file knows. That is tried
out in a transaction that is taken back, so that nothing at all is stored of a grant that Entra
refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from shlex import quote

from sqlalchemy import Connection

from console import verbs_mailboxes as verbs
from console.context import Context
from console.moving.found import FoundGrant, one_host
from console.refusals import explained
from console.verbs_mailboxes import Account, Connected
from console.verbs_tenants import note_added
from models import app_registrations, grants, mailboxes, senders, tenants
from models import directory_rules as rules
from models.database import write
from models.errors import (
    AlertpostError,
    ConfigurationError,
    Conflict,
    CredentialRejected,
    NotFound,
)
from models.mailboxes import MailboxEntry
from models.senders import Sender
from models.tenants import TenantEntry, TenantOptions
from workers.credential_turns import CredentialTurns
from workers.entra import Consent

_GUID_LENGTH = 36
_NEVER_ISSUED = frozenset({70000, 700025})
"""What Entra says of a token that it gave to another app, or to this one without a secret."""


@dataclass(frozen=True, slots=True)
class Wish:
    """
    How a grant is to be taken over.

    Attributes:
        tenant: For a mailbox that is not here yet; made if there is none.
        directory_id: For a new tenant whose file names no directory.
        auth_user: The account that consented, where it is another than the mailbox.
        again: Also where the mailbox is connected already.
    """

    tenant: str | None = None
    directory_id: str | None = None
    auth_user: str | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What taking a grant over comes to.

    Attributes:
        who: The mailbox as it will be; its ids hold only where it is here already.
        made: What is made or changed besides, for people.
        connected: The mailbox is connected already, so nothing is to be done.
    """

    who: Account
    made: tuple[str, ...]
    connected: bool


class _Rehearsed(Exception):  # noqa: N818 - ends a rehearsal, no error
    """Takes back what was only tried."""


def rehearse(context: Context, found: FoundGrant, wish: Wish) -> Plan:
    """
    Find out what ``adopt`` would do; asks nobody and stores nothing.

    Raises:
        ConfigurationError: It cannot work; says what to do.
        Conflict: Something of it is there already, otherwise.
        NotFound: There is no such mailbox, and no tenant was named for it.
    """
    (plan,) = rehearse_all(context, [found], wish)
    if not isinstance(plan, Plan):
        raise plan
    return plan


def rehearse_all(
    context: Context, found: Sequence[FoundGrant], wish: Wish
) -> list[Plan | AlertpostError]:
    """
    Find out what ``adopt`` would do with one grant after the other; later ones see what earlier do.

    Returns:
        For each its plan, or why there is none.
    """
    plans: list[Plan | AlertpostError] = []
    with suppress(_Rehearsed), write(context.engine) as conn:
        for one in found:
            try:
                with conn.begin_nested():
                    made = _prepare(context, conn, one, wish, actor="rehearsal")
                    plans.append(_plan(context, conn, one, wish, made))
            except (ConfigurationError, Conflict, NotFound) as refusal:
                plans.append(refusal)
        raise _Rehearsed
    return plans


def adopt(context: Context, found: FoundGrant, wish: Wish, *, actor: str) -> tuple[Plan, Connected]:
    """
    Prove a grant by one token from Entra, and store what came back.

    Args:
        context: Open resources.
        found: The grant.
        wish: How.
        actor: Who, for the audit trail.

    Returns:
        What was made besides, and what came of it.

    Raises:
        As ``rehearse``, and
        CredentialRejected: Entra refuses the grant, or it is another account's; says what to do.
        TokenUnavailable: Entra cannot answer now; nothing was stored.
    """
    plan = rehearse(context, found, wish)
    if plan.connected:
        raise Conflict(
            f"mailbox {found.address} is connected already, by {plan.who.entry.account}; --again "
            "replaces that"
        )
    consent = _proved(context, found, plan.who)

    def prepare(conn: Connection) -> None:
        _prepare(context, conn, found, wish, actor=actor)

    connected = verbs.store_grant(
        context,
        found.address,
        actor=actor,
        kind=found.kind,
        tokens=consent.tokens,
        account=consent.account,
        tenant_claim=consent.tenant_claim,
        object_claim=consent.object_claim,
        prepare=prepare,
        imported_from=found.program,
    )
    return plan, replace(connected, doubt=consent.doubt)


def _proved(context: Context, found: FoundGrant, who: Account) -> Consent:
    client = verbs.entra(context, who.sender)
    try:
        if found.refresh_token is None:
            tokens = client.client_credentials(who.sender, who.credential)
            return Consent(tokens, who.sender.client_id, who.sender.directory_id, "")
        return client.adopt(who.sender, who.credential, refresh_token=found.refresh_token)
    except CredentialRejected as refused:
        plain = explained(refused, who.entry)
        raise CredentialRejected(
            plain.error,
            codes=plain.codes,
            description=f"{plain.description} {_advice(plain, found)}".strip(),
            suberror=plain.suberror,
            http_status=plain.http_status,
        ) from refused


def _advice(refused: CredentialRejected, found: FoundGrant) -> str:
    """Say what a refusal means for a grant of another program."""
    kept = f"Nothing was stored; {found.program}'s files are as they were."
    connect = f"`alertpost mailboxes connect {quote(found.address)}`"
    if refused.error == "wrong_account":
        return (
            f"This grant is that account's. Where {found.address} is a shared mailbox that it may "
            f"send for, name it with --auth-user; else ask for consent: {connect}. {kept}"
        )
    if found.kind == grants.APP_ONLY:
        return kept
    if _NEVER_ISSUED & set(refused.codes):
        return (
            "Such a token works only for the app registration that it was issued to, with a "
            f"secret only where it was issued under one. {connect} asks for consent. {kept}"
        )
    return f"If the grant itself has ended or covers too little, {connect} gets a new one. {kept}"


def _prepare(
    context: Context, conn: Connection, found: FoundGrant, wish: Wish, *, actor: str
) -> list[str]:
    """Make what is missing, and check that the grant fits."""
    made: list[str] = []
    try:
        entry = mailboxes.mailbox(conn, found.address)
    except NotFound:
        slug = wish.tenant
        if slug is None:
            raise NotFound(
                f"mailbox {found.address} is not here yet: say with --tenant SLUG whose it is "
                "(a new tenant is made from the file)"
            ) from None
        made += _tenant(context, conn, found, wish, slug=slug, actor=actor)
        mailboxes.add_mailbox(
            conn, tenant_slug=slug, address=found.address, auth_user=wish.auth_user
        )
        made.append("mailbox")
        entry = mailboxes.mailbox(conn, found.address)
        verbs.note(conn, actor, "mailbox-add", entry.address, tenant=slug)
    if wish.tenant is not None and entry.tenant_slug != wish.tenant:
        raise Conflict(
            f"mailbox {entry.address} belongs to tenant {entry.tenant_slug}, not to {wish.tenant}"
        )
    if wish.auth_user is not None and entry.auth_user != rules.auth_user(wish.auth_user):
        mailboxes.edit_mailbox(conn, entry.address, auth_user=wish.auth_user)
        made.append(f"{wish.auth_user} authenticates")
        verbs.note(conn, actor, "mailbox-edit", entry.address, changed=["auth_user"])
    _check_fit(found, tenants.tenant(conn, entry.tenant_slug))
    return made


def _tenant(
    context: Context,
    conn: Connection,
    found: FoundGrant,
    wish: Wish,
    *,
    slug: str,
    actor: str,
) -> list[str]:
    """Make a tenant from what the file knows, unless it is here; says what was made."""
    with suppress(NotFound):
        tenants.tenant(conn, slug)
        return []
    made: list[str] = []
    directory_id = wish.directory_id or found.endpoint.directory
    if directory_id is None:
        raise ConfigurationError(
            f"tenant {slug} is new, and its token endpoint names no directory: give the "
            "customer's with --directory-id"
        )
    app = next(
        (
            one.name
            for one in app_registrations.list_apps(conn)
            if one.client_id.lower() == found.client_id.lower()
        ),
        None,
    )
    if app is None:
        if found.credential is None:
            raise ConfigurationError(
                f"tenant {slug} is new, and the file holds no client secret of its app "
                f"{found.client_id}: `alertpost tenants add {slug} --directory-id {directory_id} "
                f"--client-id {found.client_id} --client-secret-file FILE`, then again"
            )
        app = app_registrations.add_app(
            conn,
            context.vault,
            name=slug,
            client_id=found.client_id,
            credential=found.credential,
        ).name
        made.append(f"app registration {app}")
    options: TenantOptions = {}
    if found.endpoint.cloud is None:
        options["authority"] = found.endpoint.authority
    else:
        options["cloud"] = found.endpoint.cloud
    entry = tenants.add_tenant(conn, slug=slug, directory_id=directory_id, app=app, **options)
    note_added(conn, actor, entry)
    return [*made, f"tenant {slug}"]


def _check_fit(found: FoundGrant, tenant: TenantEntry) -> None:
    """
    Check that a grant can work for a tenant: same app, same directory, same sign-in service.

    Raises:
        ConfigurationError: It cannot.
    """
    connect = f"ask for consent: `alertpost mailboxes connect {quote(found.address)}`"
    if tenant.client_id.lower() != found.client_id.lower():
        raise ConfigurationError(
            f"the grant was given to app {found.client_id}, but tenant {tenant.slug} uses app "
            f"{tenant.client_id}; a refresh token works only for the app it was issued to. Either "
            f"let the tenant use that app (`alertpost apps add NAME --client-id {found.client_id} "
            f"--client-secret-file FILE`, then `alertpost tenants edit {tenant.slug} --app NAME`), "
            f"or {connect}"
        )
    directory = found.endpoint.directory
    if (
        directory is not None
        and _is_guid(directory)
        and _is_guid(tenant.directory_id)
        and directory != tenant.directory_id.lower()
    ):
        raise ConfigurationError(
            f"its tokens come from directory {directory}, but tenant {tenant.slug} is directory "
            f"{tenant.directory_id}: it is another customer's"
        )
    ours = one_host(senders.sign_in_address(tenant))
    if found.endpoint.host != ours:
        raise ConfigurationError(
            f"its tokens come from {found.endpoint.host}, but tenant {tenant.slug} signs in at "
            f"{ours}: another cloud, or another service; `alertpost tenants edit {tenant.slug} "
            f"--cloud NAME` (or --authority) if the tenant is wrong, else {connect}"
        )


def _plan(
    context: Context, conn: Connection, found: FoundGrant, wish: Wish, made: list[str]
) -> Plan:
    entry = mailboxes.mailbox(conn, found.address)
    sender = senders.sender(conn, entry.id)
    assert sender is not None
    app = app_registrations.open_app(conn, context.vault, sender.app_id)
    tenant = tenants.tenant(conn, entry.tenant_slug)
    connected = not wish.again and _serves(entry, sender)
    who = Account(entry, verbs.for_kind(sender, tenant, found.kind), CredentialTurns(app))
    return Plan(who, tuple(made), connected)


def _serves(entry: MailboxEntry, sender: Sender) -> bool:
    return sender.connected and entry.parked_at is None


def _is_guid(text: str) -> bool:
    return len(text) == _GUID_LENGTH and text.count("-") == 4  # noqa: PLR2004
