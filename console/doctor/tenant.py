"""What all mailboxes of a tenant share: its sign-in service, its credential, its SMTP server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from console.context import Context
from console.credential_check import for_itself, record_all, try_all
from console.doctor import places_meaning, sign_in_meaning
from console.doctor.checks import Chain, Finding, failed
from console.doctor.places import Place, Places
from console.doctor.sign_in import discover, sign_in_place
from models import app_credentials, credential_commands
from models.app_registrations import OpenedApp
from models.credential_standing import Standing
from models.database import read, write
from models.mailboxes import MailboxEntry
from models.proxies import Proxies, Proxy
from models.senders import Sender
from models.tenants import TenantEntry

_SIGN_IN = ("sign_in_dns", "sign_in_connect", "sign_in_tls", "discovery", "clock")
_SMTP = ("smtp_dns", "smtp_connect", "smtp_tls", "smtp_features")


@dataclass(frozen=True, slots=True)
class Party:
    """
    A tenant with those of its mailboxes that are concerned.

    Attributes:
        senders: Beside each mailbox what a visit knows of it; never empty.
        app: The app registration that it trusts; None where no key opens its credentials.
        sealed: Why not.
    """

    tenant: TenantEntry
    senders: tuple[tuple[MailboxEntry, Sender], ...]
    app: OpenedApp | None
    sealed: str = ""


async def examine(context: Context, party: Party, chain: Chain, places: Places) -> None:
    """
    Look at what a tenant's mailboxes share.

    Args:
        context: Open resources.
        party: The tenant.
        chain: Where findings go.
        places: Looks at hosts, each once for all tenants.
    """
    sender = party.senders[0][1]
    ca_file = places.tls.ca_file(sender.ca_file)
    await _sign_in(context, sender, chain, places, ca_file)
    asked = chain.missing(*_SIGN_IN) is None
    chain.add("credential", await _credential(context, party, sender, places, asked=asked))
    await _smtp(sender, chain, places, ca_file)


async def _sign_in(
    context: Context, sender: Sender, chain: Chain, places: Places, ca_file: str
) -> None:
    place, slug, role = sign_in_place(sender), sender.tenant_slug, places_meaning.SIGN_IN
    proxies = Proxies.of(context.settings.https_proxy)
    proxy = proxies.for_host(place.host, place.port)
    if proxy is not None:
        if not await _proxy(proxy, place, chain, places, slug, ca_file):
            return
    else:
        seen = await places.names(place)
        if not chain.add("sign_in_dns", places_meaning.names(place, role, slug, seen)):
            chain.skip(_SIGN_IN[1:], because="sign_in_dns")
            return
        seen = await places.connection(place)
        if not chain.add("sign_in_connect", places_meaning.connection(place, role, slug, seen)):
            chain.skip(_SIGN_IN[2:], because="sign_in_connect")
            return
        seen = await places.handshake(place)
        if not chain.add("sign_in_tls", places_meaning.handshake(place, slug, ca_file, seen)):
            chain.skip(_SIGN_IN[3:], because="sign_in_tls")
            return
    async with places.at_once:
        found = await asyncio.to_thread(
            discover,
            sender,
            ca_file=ca_file,
            timeout_seconds=context.settings.lease.request_timeout_seconds,
            hosts=context.hosts,
            proxies=proxies,
        )
    chain.add("discovery", sign_in_meaning.discovery(sender, found))
    if found.error:
        chain.skip(["clock"], because="discovery")
        return
    chain.add("clock", sign_in_meaning.clock(found))


async def _proxy(  # noqa: PLR0917 - what ``_sign_in`` has at hand
    proxy: Proxy, place: Place, chain: Chain, places: Places, tenant: str, ca_file: str
) -> bool:
    """Look at the proxy in place of the host behind it, whose name only the proxy may know."""
    if proxy.trouble:
        chain.add("sign_in_dns", places_meaning.proxy_unusable(proxy))
        chain.skip(_SIGN_IN[1:], because="sign_in_dns")
        return False
    there = Place(*proxy.place)
    seen = await places.names(there)
    if not chain.add("sign_in_dns", places_meaning.proxy_names(proxy, place, seen)):
        chain.skip(_SIGN_IN[1:], because="sign_in_dns")
        return False
    seen = await places.connection(there)
    if not chain.add("sign_in_connect", places_meaning.proxy_connection(proxy, there, seen)):
        chain.skip(_SIGN_IN[2:], because="sign_in_connect")
        return False
    if proxy.url.startswith("https:"):
        # TLS within TLS: the tenant's configuration is asked for that way below.
        return chain.add("sign_in_tls", places_meaning.within_tls(proxy))
    seen = await places.tunnelled(place, proxy)
    if seen.kind == "proxy":
        judged = places_meaning.proxy_refusal(proxy, place, seen)
    else:
        judged = places_meaning.handshake(place, tenant, ca_file, seen)
    if not chain.add("sign_in_tls", judged):
        chain.skip(_SIGN_IN[3:], because="sign_in_tls")
        return False
    return True


async def _credential(
    context: Context, party: Party, sender: Sender, places: Places, *, asked: bool
) -> Finding:
    """Judge what proves who we are, by what Entra says of it now; each app is asked about once."""
    app, name = party.app, party.tenant.app
    if app is None:
        return failed(
            party.sealed,
            "The credential is stored and cannot be opened, so no token can be asked for.",
            "give ALERTPOST_SECRET_KEYS the key that sealed it, or a new secret, by "
            f"`{credential_commands.new_secret(name, replace=True)}`",
        )
    with read(context.engine) as conn:
        known = app_credentials.standings(conn, app.id).get(app.id, [])
    if asked and known:
        async with places.turn_of(app.id), places.at_once:
            if app.id not in places.judged:
                known, judged = await asyncio.to_thread(_ask, context, party, app, sender)
                # Where this directory knows the app not, the next one may.
                if judged:
                    places.judged[app.id] = known
            known = places.judged.get(app.id, known)
    now = datetime.now(UTC)
    if len(known) > 1 or any(one.refused_rule for one in known):
        return sign_in_meaning.credentials(sender, known, name, now)
    return sign_in_meaning.credential(sender, app.credential, name, now)


def _ask(
    context: Context, party: Party, app: OpenedApp, sender: Sender
) -> tuple[list[Standing], bool]:
    """Ask Entra; give how the credentials stand now, and whether it judged them."""
    itself = for_itself(sender, cloud=party.tenant.cloud, scope=party.tenant.scope)
    tried = try_all(context, app, itself)
    with write(context.engine) as conn:
        record_all(conn, tried)
        known = app_credentials.standings(conn, app.id).get(app.id, [])
    return known, any(one.works or one.refusal is not None for one in tried)


async def _smtp(sender: Sender, chain: Chain, places: Places, ca_file: str) -> None:
    place = Place(sender.smtp_host, sender.smtp_port, sender.ca_file)
    slug, role = sender.tenant_slug, places_meaning.SMTP
    seen = await places.names(place)
    if not chain.add("smtp_dns", places_meaning.names(place, role, slug, seen)):
        chain.skip(_SMTP[1:], because="smtp_dns")
        return
    greeting = await places.greeting(place)
    greeted, secured = places_meaning.after_greeting(greeting)
    chain.add("smtp_connect", places_meaning.greeted(place, slug, greeting))
    if not greeted:
        chain.skip(_SMTP[2:], because="smtp_connect")
        return
    chain.add("smtp_tls", places_meaning.secured(place, slug, ca_file, greeting))
    if not secured:
        chain.skip(_SMTP[3:], because="smtp_tls")
        return
    chain.add("smtp_features", places_meaning.offered(place, slug, greeting))
