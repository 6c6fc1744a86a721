"""Who is looked at, and how many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import Connection

from console.context import Context
from console.dialogue import alert_for_test
from console.doctor import access, tenant
from console.doctor.access import Wish
from console.doctor.checks import Chain, Finding, failed
from console.doctor.places import Places
from console.doctor.tenant import Party
from console.verbs_mailboxes import Account
from models import app_registrations, mailboxes, senders, tenants
from models.database import read
from models.errors import ConfigurationError, NotFound, VaultError
from models.grants import APP_ONLY
from models.mailboxes import MailboxEntry
from models.senders import Sender
from models.vault import Vault
from workers.credential_turns import CredentialTurns
from workers.tls_contexts import TlsContexts

AT_ONCE = 8
"""Mailboxes and hosts that are looked at together; Exchange sees no more than a small worker."""


@dataclass(frozen=True, slots=True)
class Tick:
    """How far the doctor is: mailboxes that are done, and all of them."""

    done: int
    of: int


def concerned(context: Context, target: str | None) -> list[Party]:
    """
    Find out who is meant.

    Args:
        context: Open resources.
        target: A mailbox by its address, a tenant by its short name; None: everybody.

    Raises:
        NotFound: There is no such mailbox or tenant.
    """
    with read(context.engine) as conn:
        if target is not None and "@" in target:
            entries = [mailboxes.mailbox(conn, target)]
        else:
            entries = mailboxes.list_mailboxes(conn, tenant_slug=target)
        known = senders.senders_by_mailbox(conn, [entry.id for entry in entries])
        pairs = [(entry, known[entry.id]) for entry in entries if entry.id in known]
        return [
            _party(conn, context.vault, slug, list(group))
            for slug, group in groupby(pairs, key=lambda pair: pair[0].tenant_slug)
        ]


def check_app_only(parties: Sequence[Party]) -> None:
    """
    Check that the rights of an app are what lets these mailboxes send.

    Raises:
        ConfigurationError: A person consented, so Exchange holds the token to that account.
    """
    for party in parties:
        for entry, sender in party.senders:
            if sender.grant_kind != APP_ONLY:
                raise ConfigurationError(
                    f"--check-scope: {entry.address} is not connected by the app's own permission "
                    "(--app-only); the token of a person's consent opens what that person may open"
                )


async def look_at(
    context: Context,
    parties: Sequence[Party],
    *,
    wish: Wish,
    take: Callable[[Chain], None],
    tick: Callable[[Tick], None],
) -> None:
    """
    Look at tenants and their mailboxes, several at once.

    Args:
        context: Open resources.
        parties: From ``concerned``.
        wish: What is wanted besides: a mail from each mailbox at the end.
        take: Given each chain, in order, once it and those before it are done.
        tick: Told whenever a mailbox is done.

    Raises:
        InvalidAlert: The mail's recipient is no address; nothing was looked at.
    """
    if wish.to is not None and parties:
        alert_for_test(parties[0].senders[0][1], wish.to, command="alertpost doctor")
    total = sum(len(party.senders) for party in parties)
    done = 0

    def count(_: asyncio.Task[Chain]) -> None:
        nonlocal done
        done += 1
        tick(Tick(done, total))

    places = Places(
        tls=TlsContexts(context.settings.ca_file),
        settings=context.settings.smtp,
        at_once=asyncio.Semaphore(AT_ONCE),
    )
    turns = asyncio.Semaphore(AT_ONCE)
    tasks: list[asyncio.Task[Chain]] = []
    for party in parties:
        first = asyncio.create_task(_tenant(context, party, places))
        tasks.append(first)
        for pair in party.senders:
            box = asyncio.create_task(
                _mailbox(context, party, pair, first=first, turns=turns, wish=wish)
            )
            box.add_done_callback(count)
            tasks.append(box)
    try:
        for task in tasks:
            take(await task)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _tenant(context: Context, party: Party, places: Places) -> Chain:
    chain = Chain(party.tenant.slug)
    await tenant.examine(context, party, chain, places)
    return chain


async def _mailbox(
    context: Context,
    party: Party,
    pair: tuple[MailboxEntry, Sender],
    *,
    first: asyncio.Task[Chain],
    turns: asyncio.Semaphore,
    wish: Wish,
) -> Chain:
    entry, sender = pair
    before = await first
    async with turns:
        chain = Chain(entry.address, before)
        if party.app is None:
            chain.skip(
                ("grant", "token", "token_claims", "slot", "smtp_auth", "sender", "standing"),
                because="credential",
            )
            return chain
        who = Account(entry, sender, CredentialTurns(party.app))
        await access.examine(context, who, chain, wish=wish)
    return chain


def _party(
    conn: Connection, vault: Vault, slug: str, pairs: Sequence[tuple[MailboxEntry, Sender]]
) -> Party:
    entry = tenants.tenant(conn, slug)
    try:
        app = app_registrations.open_app(conn, vault, pairs[0][1].app_id)
    except (VaultError, NotFound) as error:
        return Party(entry, tuple(pairs), None, str(error))
    return Party(entry, tuple(pairs), app)


def nobody(target: str | None) -> Finding:
    """Say that there is no mailbox to look at."""
    return failed(
        "there is none yet",
        "Alerts are sent from a mailbox of the tenant.",
        f"`alertpost mailboxes add {target or 'TENANT'} ADDRESS`, once there is a tenant: "
        "`alertpost tenants add --help`",
    )
